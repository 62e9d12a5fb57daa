"""The served LLM as a Hugging Face folder, also where only a GGUF file of it is at hand."""

from pathlib import Path


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantises ``gguf`` to bfloat16 safetensors in ``folder``, with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, name = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)
