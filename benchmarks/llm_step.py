"""What one decode step of the served LLM takes: the time that a prediction must be small beside."""

from pathlib import Path
from typing import Any

from benchmarks.timing import Budget, call_times

CONTEXT_TOKENS = 128


class DecodeSteps:
    """Forward passes of one token by transformers: bfloat16 on CUDA, float32 on the CPU.

    An engine's kernels are faster: these are upper bounds of its step.
    """

    def __init__(self, llm: Path, *, device: str, seed: int = 0) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self._model: Any = AutoModelForCausalLM.from_pretrained(str(llm), dtype=dtype).to(device).eval()
        self._device = device

    def times(self, batch: int, budget: Budget) -> list[float]:
        """Microseconds of each step of `batch` sequences, with 128 tokens before the new one."""
        import torch

        shape = (batch, CONTEXT_TOKENS + 1)
        tokens = torch.randint(self._model.config.vocab_size, shape, device=self._device)
        with torch.inference_mode():
            cache = self._model(tokens[:, :-1], use_cache=True, logits_to_keep=1).past_key_values

            def decode() -> None:
                self._model(tokens[:, -1:], past_key_values=cache, use_cache=True)
                # Without the token that the pass added, every repeat sees the same context.
                cache.crop(-1)
                if self._device == "cuda":
                    torch.cuda.synchronize()

            return call_times(decode, budget)
