"""What the served LLM computes on the way: hidden states read with transformers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from predictor_service.training.collect import Responses
from predictor_service.training.generation import require_model_folder
from predictor_service.training.labels import Ints, sample_ages
from predictor_service.training.shards import Shards, load_npz, load_shards, save_npz

Layers = Sequence[int] | Literal["all"]
Progress = Callable[[int], None]  # told how many more responses were read

_FLOAT16_MAX = 65504.0
_BATCH_TOKENS = {"cuda": 65_536, "cpu": 4096}
_DTYPE = {"cuda": "bfloat16", "cpu": "float32"}


@dataclass(frozen=True)
class States:
    """Hidden states of some responses: one row per (response, age), the ages of a response in order."""

    hidden: NDArray[np.float16]  # [rows, layers * hidden_size], layers concatenated in their given order
    age: Ints  # [rows] 0: the last prompt token, a: the a-th generated token
    response: Ints  # [rows] index into Responses
    lengths: Ints  # [rows] length of that response
    finished: NDArray[np.bool_]  # [rows]
    prompt_mean: NDArray[np.float16] | None = None
    """[responses in the order of their first row, layers * hidden_size]: mean over the tokens of the prompt."""

    @property
    def remaining(self) -> Ints:
        """Tokens still to come [rows]; of a cut response, a lower bound."""
        return self.lengths - self.age

    def save(self, path: Path) -> None:
        save_npz(path, self.arrays())

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {name: array for name, array in vars(self).items() if array is not None}

    @classmethod
    def load(cls, path: Path) -> "States":
        """One npz file, or all shards of a folder. Raises ShardError naming what cannot be used."""
        if path.is_dir():
            return cls.joined([cls(**shard) for shard in load_shards(path)])
        return cls(**load_npz(path))

    @classmethod
    def joined(cls, parts: Sequence["States"]) -> "States":
        """The rows of ``parts``, which have no response in common, one after the other."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in parts[0].arrays()})


def read_states(
    llm: Path,
    responses: Responses,
    rows: Ints,
    layers: Layers,
    ages_per_response: int | None,
    seed: int,
    *,
    prompt_mean: bool = False,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> States:
    """Runs ``llm`` over each response in ``rows`` once and keeps ``hidden_states[L]``, L in ``layers``.

    L is counted as transformers does: 0 is what enters the first layer, the number of layers what leaves the final
    norm. ``ages_per_response`` None keeps every age, as a stream in service sees them; which ages are kept depends
    on the seed and the response's index alone. ``dtype`` is that of the LLM's arithmetic: by default bfloat16 on
    CUDA, as it is served, and float32 on the CPU. Raises ValueError for a layer that the LLM lacks.
    """
    reader = Reader(llm, layers, dtype=dtype, prompt_mean=prompt_mean)
    return reader.read(responses, rows, ages_per_response, seed, progress)


def store_states(
    folder: Path,
    llm: Path,
    responses: Responses,
    rows: Ints,
    layers: Layers,
    ages_per_response: int | None,
    seed: int,
    *,
    prompt_mean: bool = False,
    dtype: str | None = None,
    shard_responses: int = 1024,
    progress: Progress | None = None,
) -> None:
    """The same rows in shards on disk, of which only one is in memory at a time; finished shards are not read again.

    `States.load` reads them all; `stored_states` one by one. Raises what `read_states` does, and ShardError.
    """
    reader = Reader(llm, layers, dtype=dtype, prompt_mean=prompt_mean)
    origin = {
        "llm": llm.name,
        "layers": list(reader.layers),
        "rows": [int(row) for row in rows],
        "lengths": responses.lengths[rows].tolist(),
        "ages_per_response": ages_per_response,
        "seed": seed,
        "prompt_mean": prompt_mean,
        "dtype": dtype,
        "shard_responses": shard_responses,
    }
    shards = Shards(folder, origin)
    for number, begin in enumerate(range(0, len(rows), shard_responses)):
        if not shards.is_whole(number):
            chosen = rows[begin : begin + shard_responses]
            shards.save(number, reader.read(responses, chosen, ages_per_response, seed, progress).arrays())


class Reader:
    """An LLM without its head, ready to be run over responses."""

    def __init__(self, llm: Path, layers: Layers, *, dtype: str | None = None, prompt_mean: bool = False) -> None:
        import torch
        from transformers import AutoModel

        require_model_folder(llm)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        chosen = getattr(torch, dtype or _DTYPE[self._device])
        self._model = AutoModel.from_pretrained(str(llm), dtype=chosen).to(self._device).eval()
        stack = _layers_of(self._model)
        self.layers: Sequence[int] = range(len(stack) + 1) if layers == "all" else layers
        missing = [layer for layer in self.layers if not 0 <= layer <= len(stack)]
        if missing:
            raise ValueError(f"layers: {llm} has hidden states 0 to {len(stack)}, not {missing}")
        self._last_layer = len(stack)
        self._stack = stack
        self._prompt_mean = prompt_mean

    def read(
        self,
        responses: Responses,
        rows: Ints,
        ages_per_response: int | None,
        seed: int,
        progress: Progress | None = None,
    ) -> States:
        """States of the responses ``rows``, in that order. Only what is kept leaves the device."""
        ages = [_ages(int(row), int(responses.lengths[row]), ages_per_response, seed) for row in rows]
        counts = np.array([len(kept) for kept in ages])
        begins = np.cumsum(counts) - counts
        width = len(self.layers) * int(self._model.config.get_text_config().hidden_size)
        hidden = np.empty((int(counts.sum()), width), dtype=np.float16)
        means = np.empty((len(rows), width), dtype=np.float16) if self._prompt_mean else None
        sizes = responses.prompt_tokens[rows] + [kept[-1] for kept in ages]
        for batch in _batches(sizes, _BATCH_TOKENS[self._device]):
            padded = np.zeros((len(batch), int(sizes[batch].max())), dtype=np.int64)
            for i, at in enumerate(batch):
                padded[i, : sizes[at]] = responses.sequence(int(rows[at]))[: sizes[at]]
            prompt = responses.prompt_tokens[rows[batch]]
            kept = [prompt[i] - 1 + ages[at] + i * padded.shape[1] for i, at in enumerate(batch)]
            values, mean = self._run(padded, np.concatenate(kept), prompt)
            hidden[np.concatenate([begins[at] + np.arange(counts[at]) for at in batch])] = values
            if means is not None:
                means[batch] = mean
            if progress is not None:
                progress(len(batch))
        response = np.repeat(rows, counts)
        states = States(
            hidden, np.concatenate(ages), response, responses.lengths[response], responses.finished[response]
        )
        return replace(states, prompt_mean=means)

    def _run(
        self, padded: Ints, kept: Ints, prompt_tokens: Ints
    ) -> tuple[NDArray[np.float16], NDArray[np.float16] | None]:
        """The wanted layers at flat positions ``kept`` of ``padded`` [sequences, tokens], and the prompts' means."""
        import torch

        at = torch.from_numpy(kept).to(self._device)
        sizes = torch.from_numpy(prompt_tokens).to(self._device)
        in_prompt = (torch.arange(padded.shape[1], device=self._device) < sizes[:, None]).float()
        values: dict[int, Any] = {}
        means: dict[int, Any] = {}

        def keep(layer: int, states: Any) -> None:
            values[layer] = _half(states.flatten(0, 1)[at])
            if self._prompt_mean:
                means[layer] = _half(torch.einsum("bt,btd->bd", in_prompt, states.float()) / sizes[:, None])

        # Padding on the right needs no mask: attention is causal, and no padded position is read.
        with torch.inference_mode():
            self._forward(torch.from_numpy(padded).to(self._device), keep)
            rows = torch.cat([values[layer] for layer in self.layers], dim=1).cpu().numpy()
            mean = torch.cat([means[layer] for layer in self.layers], dim=1).cpu().numpy() if means else None
        return rows, mean

    def _forward(self, padded: Any, keep: Callable[[int, Any], None]) -> None:
        """Runs the LLM as far as its deepest wanted layer and hands each wanted layer's states to ``keep``."""
        deepest = max(self.layers)

        def entering(layer: int) -> Callable[[Any, Any, Any], None]:
            def hook(_: Any, args: Any, kwargs: Any) -> None:
                keep(layer, args[0] if args else kwargs["hidden_states"])
                if layer == deepest:
                    raise _DeepestSeen

            return hook

        wanted = set(self.layers) - {self._last_layer}
        hooks = [self._stack[layer].register_forward_pre_hook(entering(layer), with_kwargs=True) for layer in wanted]
        try:
            last = self._model(padded, use_cache=False).last_hidden_state
            keep(self._last_layer, last)
        except _DeepestSeen:
            pass
        finally:
            for hook in hooks:
                hook.remove()


class _DeepestSeen(Exception):
    """The rest of the forward pass would be for nothing."""


def _layers_of(model: Any) -> Any:
    """The decoder layers: the list of modules as long as the configuration says."""
    from torch.nn import ModuleList

    count = model.config.get_text_config().num_hidden_layers
    return next(part for part in model.modules() if isinstance(part, ModuleList) and len(part) == count)


def _half(states: Any) -> Any:
    return states.float().clamp(-_FLOAT16_MAX, _FLOAT16_MAX).half()


def _ages(row: int, length: int, most: int | None, seed: int) -> Ints:
    if most is None:
        return np.arange(length, dtype=np.int64)
    return sample_ages(length, most, np.random.default_rng([seed, row]))


def _batches(sizes: Ints, most_tokens: int) -> Iterator[Ints]:
    """Positions in ``sizes``, short ones first, so many that they take at most ``most_tokens`` when padded."""
    order = np.argsort(sizes, kind="stable")
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or int(sizes[order[end]]) * (end + 1 - begin) > most_tokens:
            yield order[begin:end]
            begin = end
