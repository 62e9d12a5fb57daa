"""The served LLM as a Hugging Face folder, also where only a GGUF file of it is at hand."""

from pathlib import Path
from typing import Any


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantises ``gguf`` to bfloat16 safetensors in ``folder``, with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, name = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    _begin_as_the_file_says(tokenizer, gguf)
    tokenizer.save_pretrained(folder)


def _begin_as_the_file_says(tokenizer: Any, gguf: Path) -> None:
    """transformers leaves out whether a text begins with the BOS token, and Gemma without it answers nonsense."""
    from gguf import GGUFReader

    said = GGUFReader(gguf).get_field("tokenizer.ggml.add_bos_token")
    if said is not None:
        tokenizer.add_bos_token = bool(said.contents())
