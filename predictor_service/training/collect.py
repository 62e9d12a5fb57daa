"""What the served LLM really answers: responses drawn shard by shard, so that a stopped collection goes on."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from predictor_service.training.generation import Advance, Answer, Backend, Sampling, generator
from predictor_service.training.labels import Ints
from predictor_service.training.prompts import SPLITS, TEST, TRAIN, VALIDATION, Prompt, PromptTable
from predictor_service.training.shards import Shards, load_npz, load_shards, require_space, save_npz, write_text

__all__ = [
    "PROMPTS_FILE",
    "RESPONSES_FOLDER",
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Continuations",
    "Responses",
    "Sampling",
    "collect",
    "sample_continuations",
]

PROMPTS_FILE = "prompts.jsonl"
RESPONSES_FOLDER = "responses"
_TOKEN_BYTES = 4
_HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class Responses:
    """Responses of all prompts, flat: row i is tokens[offsets[i] : offsets[i + 1]], the prompt first."""

    prompt: Ints  # [responses] index into the prompts of the collection
    split: Ints  # [responses] TRAIN, VALIDATION or TEST
    seed: Ints  # [responses] of the draw it came from
    prompt_tokens: Ints  # [responses]
    finished: NDArray[np.bool_]  # [responses] False: cut at its cap
    tokens: NDArray[np.int32]
    offsets: Ints  # [responses + 1]

    @property
    def lengths(self) -> Ints:
        """Tokens generated, the end-of-sequence token included, as vLLM counts them [responses]."""
        return np.diff(self.offsets) - self.prompt_tokens

    def sequence(self, row: int) -> NDArray[np.int32]:
        """Prompt and response token ids of one response."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def save(self, path: Path) -> None:
        save_npz(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "Responses":
        """All finished shards of a collection (its folder), or one npz file.

        Raises ShardError naming what is half-written or does not belong to the collection.
        """
        if path.is_dir():
            return cls.joined([cls(**shard) for shard in load_shards(path / RESPONSES_FOLDER)])
        return cls(**load_npz(path))

    @classmethod
    def joined(cls, parts: Sequence["Responses"]) -> "Responses":
        flat = {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
        sizes = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(**flat | {"offsets": np.concatenate([[0], np.cumsum(sizes)])})


@dataclass(frozen=True)
class Continuations:
    """The rest of responses, drawn anew from prefixes."""

    lengths: Ints  # [prefixes, samples] tokens after the prefix
    finished: NDArray[np.bool_]  # [prefixes, samples] False: cut at its cap


def collect(
    work: Path,
    llm: Path,
    prompts: Sequence[Prompt],
    split: Ints,
    sampling: Sampling,
    *,
    backend: Backend = "auto",
    shard_responses: int = 8192,
    part: tuple[int, int] = (1, 1),
    console: Console | None = None,
    **engine: Any,
) -> Responses:
    """Draws responses to all prompts into ``work`` and returns them; finished shards are not drawn again.

    ``part`` (i, n) leaves all shards but every n-th, from the i-th on, to other processes that draw into ``work`` too.

    ``work/prompts.jsonl`` is written first, then ``work/responses/00000.npz`` and so on; prompts are shuffled over the
    shards, so any of them is a fair sample. Each shard has a seed of its own and so does not depend on which others
    were drawn in the same run (how exactly vLLM repeats: `generation`). The engine runs empty at the end of each shard:
    ``shard_responses`` should be many times the requests that it runs at once. ``engine`` are arguments of `vllm.LLM`,
    or `batch_sequences` for transformers.

    Raises ShardError where ``work`` was begun with other arguments, or the disk is too small or full, and ValueError
    where ``llm`` is no model folder.
    """
    console = console or Console(stderr=True)
    table = PromptTable.of(prompts, split).lines()
    origin = {
        "prompts": hashlib.sha256(table.encode()).hexdigest(),
        "tokens": hashlib.sha256(json.dumps([prompt.token_ids for prompt in prompts]).encode()).hexdigest(),
        "sampling": asdict(sampling),
        "LLM": _digest(llm),
        "shard_responses": shard_responses,
    }
    shards = Shards(work / RESPONSES_FOLDER, origin)
    write_text(work / PROMPTS_FILE, table)
    planned = dict(list(enumerate(_plan(split, sampling, shard_responses)))[part[0] - 1 :: part[1]])
    missing = [number for number in planned if not shards.is_whole(number)]
    console.print(_announce(work, prompts, planned, missing, sampling))
    if missing:
        _draw_missing(shards, llm, prompts, split, sampling, planned, missing, backend, console, engine)
    return Responses.load(work)


def sample_continuations(
    llm: Path,
    prefixes: Sequence[Sequence[int]],
    sampling: Sampling,
    samples: int,
    *,
    caps: Sequence[int] | None = None,
    backend: Backend = "auto",
    console: Console | None = None,
    **engine: Any,
) -> Continuations:
    """Draws the rest of a response ``samples`` times from each prefix (token ids: prompt and first answer tokens).

    ``caps`` are the tokens that each prefix has left, by default ``sampling.max_tokens``. ``engine`` as in `collect`.
    """
    left = [sampling.max_tokens] * len(prefixes) if caps is None else list(caps)
    asked = [prefix for prefix in prefixes for _ in range(samples)]
    allowed = [cap for cap in left for _ in range(samples)]
    bar = _progress(console or Console(stderr=True), "continuations", len(asked), 0)
    with generator(llm, sampling, backend, **engine) as drawing, bar as advance:
        answers = drawing.draw(asked, allowed, _seed(sampling.seed, 0), advance)
    return Continuations(
        np.array([len(answer.token_ids) for answer in answers]).reshape(-1, samples),
        np.array([answer.finished for answer in answers]).reshape(-1, samples),
    )


def _draw_missing(
    shards: Shards,
    llm: Path,
    prompts: Sequence[Prompt],
    split: Ints,
    sampling: Sampling,
    planned: Mapping[int, Ints],
    missing: Sequence[int],
    backend: Backend,
    console: Console,
    engine: dict[str, Any],
) -> None:
    total = sum(map(len, planned.values()))
    done = total - sum(len(planned[number]) for number in missing)
    with (
        generator(llm, sampling, backend, **engine) as drawing,
        _progress(console, "responses", total, done) as advance,
    ):
        for number in missing:
            asked, seed = planned[number], _seed(sampling.seed, number)
            ids = [prompts[p].token_ids for p in asked]
            answers = drawing.draw(ids, [sampling.max_tokens] * len(ids), seed, advance)
            shards.save(number, vars(_responses(asked, split, ids, answers, seed)))


def _responses(
    asked: Ints, split: Ints, prompts: Sequence[Sequence[int]], answers: Sequence[Answer], seed: int
) -> Responses:
    rows = [[*prompt, *answer.token_ids] for prompt, answer in zip(prompts, answers, strict=True)]
    return Responses(
        prompt=asked,
        split=split[asked],
        seed=np.full(len(asked), seed),
        prompt_tokens=np.array([len(prompt) for prompt in prompts]),
        finished=np.array([answer.finished for answer in answers]),
        tokens=np.concatenate([np.array(row, dtype=np.int32) for row in rows]),
        offsets=np.cumsum([0, *map(len, rows)]),
    )


def _plan(split: Ints, sampling: Sampling, shard_responses: int) -> list[Ints]:
    """The prompt of each response of each shard."""
    order = np.random.default_rng(sampling.seed).permutation(len(split))
    samples = np.where(split[order] == TRAIN, sampling.samples, sampling.held_out_samples)
    asked = np.repeat(order, samples)
    return [asked[begin : begin + shard_responses] for begin in range(0, len(asked), shard_responses)]


def _announce(
    work: Path, prompts: Sequence[Prompt], planned: Mapping[int, Ints], missing: Sequence[int], sampling: Sampling
) -> str:
    """What is to be done, and the space it takes if every response runs to its cap."""
    tokens = sum(len(prompts[p].token_ids) + sampling.max_tokens for number in missing for p in planned[number])
    space = require_space(work, tokens * _TOKEN_BYTES)
    total = sum(map(len, planned.values()))
    return f"{total} responses in {len(planned)} shards, {len(planned) - len(missing)} of them there: {work} {space}"


@contextmanager
def _progress(console: Console, what: str, total: int, done: int) -> Iterator[Advance]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda more: bar.advance(task, more)


def _seed(seed: int, draw: int) -> int:
    return int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])


def _digest(llm: Path) -> str:
    """Tells LLMs apart without reading gigabytes: the configuration, and size and last MiB of every weight file."""
    digest = hashlib.sha256()
    if (llm / "config.json").exists():
        digest.update((llm / "config.json").read_bytes())
    for path in sorted([*llm.glob("*.safetensors"), *llm.glob("*.bin")]):
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - _HASHED_BYTES))
            digest.update(f"{path.name} {size}".encode() + file.read())
    return digest.hexdigest()
