"""LLMs of random weights, whose steps take as long as a trained one's, and predictors of random weights for them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.unseen_prompts import ARTEFACT, MODELS

CONFIGURATIONS: Mapping[str, Mapping[str, int]] = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 65536},
}  # fmt: skip


def served(llm: Path | None, shape: str, scratch: Path) -> tuple[Path, str, Path | None]:
    """The LLM's folder, and the predictor's model with its folder: the packaged one for `135m`, else a random one.

    Without `llm` the folder, made in `scratch`, has a configuration and no weights.
    """
    if llm is not None and shape == "135m":
        return llm, ARTEFACT, None
    from benchmarks import random_artefacts

    if llm is None:
        llm = scratch / shape
        llm.mkdir()
        (llm / "config.json").write_text(json.dumps(configuration(shape)))
    of_llm = json.loads((llm / "config.json").read_text())
    made = random_artefacts.make(scratch / "models" / shape, MODELS / ARTEFACT, dim=of_llm["hidden_size"])
    manifest = json.loads((made / "manifest.json").read_text()) | {"layers": [of_llm["num_hidden_layers"] // 2]}
    (made / "manifest.json").write_text(json.dumps(manifest))
    return llm, manifest["name"], scratch / "models"


def configuration(shape: str) -> dict[str, Any]:
    """`config.json` of a Llama of that shape."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "hidden_act": "silu",
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, **CONFIGURATIONS[shape],
    }  # fmt: skip
