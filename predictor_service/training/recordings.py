"""What the predictor service recorded of a running engine, joined with how the requests ended."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from redis import Redis

from predictor_service.recording import FORMAT
from predictor_service.training.caps import limits, shared_cap
from predictor_service.training.collect import TRAIN, Responses
from predictor_service.training.prompts import Shares, split_of
from predictor_service.training.shards import ShardError, load_npz
from predictor_service.training.states import States
from sidecar.redis import keys

_BATCH = 1000
_UNKNOWN_TOKEN = -1
MAX_TOKENS = 1024


@dataclass(frozen=True)
class Outcome:
    """How a request ended, as the scheduler service noted it; ``reason`` is stop, length, abort or error."""

    engine_id: str
    request_id: str
    output_tokens: int
    reason: str


@dataclass(frozen=True)
class Recordings:
    """Requests of which both rows and outcome are known."""

    responses: Responses
    """Their tokens are the prompts' alone: each generated one, which nobody recorded, is -1."""
    states: States
    layers: tuple[int, ...]
    max_tokens: int
    """The cap that all have now: who went on beyond it counts as cut there."""
    left_out: Mapping[str, int]
    """Requests that cannot be used, counted by why."""


def read_outcomes(client: Redis, engine_id: str) -> list[Outcome]:
    """All entries of the engine's stream ``trail:{engine}:outcomes`` that are still there. Raises RedisError."""
    found: list[Outcome] = []
    after = "-"
    while True:
        entries: Any = client.xrange(keys(engine_id).outcomes, min=after, count=_BATCH)
        found += [_outcome(engine_id, fields) for _, fields in entries]
        if len(entries) < _BATCH:
            return found
        after = f"({entries[-1][0].decode()}"


def load_recordings(
    folder: Path, outcomes: Iterable[Outcome], shares: Shares | None = None, *, max_tokens: int = MAX_TOKENS
) -> Recordings:
    """Reads every file below ``folder`` (`record_dir`) and joins it with ``outcomes``.

    Left out are requests without an outcome, those that were cut short from outside (abort, error), which says nothing
    of their length, and those whose id is in use more than once. Requests are learnt from under the caps that they
    carried (``max_tokens`` where none); held-out ones are left out where theirs is below the cap that all are judged
    by, for what they would have become up to there nobody saw. Outcomes give labels only: hidden states and ages are
    as they were recorded. Prompts are split by a hash of their tokens (``shares.sources`` counts for nothing here).
    Raises ShardError naming a file that is not whole, for recordings of different layers, and where nothing is left.
    """
    files = [_File.read(path) for path in sorted(folder.rglob("*.npz"))]
    if not files:
        raise ShardError(f"{folder}: no recordings in it")
    layers = {file.layers for file in files}
    if len(layers) != 1:
        raise ShardError(f"{folder}: has recordings of {len(layers)} sets of layers {sorted(layers)}, not of one")
    shares = shares or Shares()
    own_ends, left_out = _usable(files, outcomes)
    if not own_ends:
        raise ShardError(f"{folder}: no recorded request has a usable outcome ({dict(left_out)})")
    ended, cap = _capped(files, own_ends, shares, max_tokens, left_out)
    kept = [_kept(file, ended) for file in files]
    if not sum(map(len, kept)):
        raise ShardError(f"{folder}: no recorded request has a usable outcome ({dict(left_out)})")
    numbers = {key: i for i, key in enumerate(sorted({key for file in files for key in file.requests if key in ended}))}
    responses = _responses(files, numbers, ended, shares)
    request = np.concatenate([_numbers(file, numbers)[rows] for file, rows in zip(files, kept, strict=True)])
    age = np.concatenate([file.age[rows] for file, rows in zip(files, kept, strict=True)])
    # Ages of a request in order; of a row that came twice, the first.
    order = np.lexsort((age, request))
    again = (np.diff(request[order], prepend=-1) == 0) & (np.diff(age[order], prepend=-1) == 0)
    chosen = order[~again]
    hidden = np.concatenate([file.hidden[rows] for file, rows in zip(files, kept, strict=True)])[chosen]
    row = request[chosen]
    states = States(hidden, age[chosen], row, responses.lengths[row], responses.finished[row])
    return Recordings(responses, states, layers.pop(), cap, left_out)


_Key = tuple[str, str]  # engine id, request id


@dataclass(frozen=True)
class _File:
    """One file that `predictor_service.recording` wrote."""

    engine_id: str
    incarnation: int
    layers: tuple[int, ...]
    requests: Sequence[_Key]
    prompts: Sequence[NDArray[np.int32]]
    prompt_tokens: NDArray[np.int64]
    max_tokens: NDArray[np.int64]  # the cap that each request carries; 0: none
    request: NDArray[np.int64]  # [rows] index into requests
    age: NDArray[np.int64]  # [rows]
    hidden: NDArray[np.float16]  # [rows, dim]

    @classmethod
    def read(cls, path: Path) -> "_File":
        arrays = load_npz(path)
        if int(arrays.get("format", 0)) != FORMAT:
            raise ShardError(f"{path}: not a recording of format {FORMAT}")
        engine_id = str(arrays["engine_id"])
        return cls(
            engine_id,
            int(arrays["incarnation"]),
            tuple(arrays["layers"].tolist()),
            [(engine_id, request_id) for request_id in arrays["request_id"].tolist()],
            np.split(arrays["prompt"].astype(np.int32), arrays["prompt_ends"][:-1]),
            arrays["prompt_tokens"].astype(np.int64),
            arrays["max_tokens"].astype(np.int64),
            arrays["request"].astype(np.int64),
            arrays["age"].astype(np.int64),
            arrays["hidden"],
        )


def _usable(files: Sequence[_File], outcomes: Iterable[Outcome]) -> tuple[dict[_Key, Outcome], Counter[str]]:
    """The outcome of each request that has just one life and one end of its own, and why others are left out."""
    lives: dict[_Key, set[int]] = defaultdict(set)
    for file in files:
        for key in file.requests:
            lives[key].add(file.incarnation)
    ends: dict[_Key, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        ends[outcome.engine_id, outcome.request_id].append(outcome)
    usable: dict[_Key, Outcome] = {}
    left_out: Counter[str] = Counter()
    for key, incarnations in lives.items():
        known = ends.get(key, [])
        if not known:
            left_out["no outcome"] += 1
        elif len(known) > 1 or len(incarnations) > 1:
            left_out["id in use more than once"] += 1
        elif known[0].reason not in ("stop", "length"):
            left_out["cut short from outside"] += 1
        else:
            usable[key] = known[0]
    return usable, left_out


def _capped(
    files: Sequence[_File], ended: Mapping[_Key, Outcome], shares: Shares, default: int, left_out: Counter[str]
) -> tuple[dict[_Key, Outcome], int]:
    """The outcomes that can be used under one cap, and that cap."""
    carried = {key: cap for file in files for key, cap in zip(file.requests, file.max_tokens.tolist(), strict=True)}
    reached = limits(
        np.array([outcome.output_tokens for outcome in ended.values()]),
        np.array([outcome.reason == "length" for outcome in ended.values()]),
        np.array([carried[key] for key in ended]),
        default,
    )
    cap, prompts = shared_cap(reached), _prompts(files)
    usable: dict[_Key, Outcome] = {}
    for (key, outcome), limit in zip(ended.items(), reached.tolist(), strict=True):
        if limit < cap and split_of(_what_it_says(key, prompts[key]), shares) != TRAIN:
            left_out["held out, with a lower cap"] += 1
        elif outcome.output_tokens > cap:
            usable[key] = replace(outcome, output_tokens=cap, reason="length")
        else:
            usable[key] = outcome
    return usable, cap


def _kept(file: _File, ended: Mapping[_Key, Outcome]) -> NDArray[np.int64]:
    """Rows of usable requests at ages that still had something to come: engines may run a token past the end."""
    lengths = np.array([ended[key].output_tokens if key in ended else 0 for key in file.requests])
    return np.flatnonzero(file.age < lengths[file.request])


def _numbers(file: _File, numbers: Mapping[_Key, int]) -> NDArray[np.int64]:
    """The number among all requests of each row's request [rows]; -1: not used."""
    return np.array([numbers.get(key, -1) for key in file.requests])[file.request]


def _responses(
    files: Sequence[_File], numbers: Mapping[_Key, int], ended: Mapping[_Key, Outcome], shares: Shares
) -> Responses:
    prompts = _prompts(files)
    said = [_what_it_says(key, prompts[key]) for key in numbers]
    same = {text: i for i, text in enumerate(dict.fromkeys(said))}
    lengths = np.array([ended[key].output_tokens for key in numbers])
    prompt_tokens = np.array([len(prompts[key]) for key in numbers])
    rows = [
        np.concatenate([prompts[key], np.full(length, _UNKNOWN_TOKEN, dtype=np.int32)])
        for key, length in zip(numbers, lengths.tolist(), strict=True)
    ]
    return Responses(
        prompt=np.array([same[text] for text in said]),
        split=np.array([split_of(text, shares) for text in said]),
        seed=np.zeros(len(rows), dtype=np.int64),
        prompt_tokens=prompt_tokens,
        finished=np.array([ended[key].reason == "stop" for key in numbers]),
        tokens=np.concatenate(rows),
        offsets=np.concatenate([[0], np.cumsum(prompt_tokens + lengths)]),
    )


def _prompts(files: Sequence[_File]) -> dict[_Key, NDArray[np.int32]]:
    """Token ids of each request's prompt."""
    prompts: dict[_Key, NDArray[np.int32]] = {}
    for file in files:
        for key, ids, tokens in zip(file.requests, file.prompts, file.prompt_tokens.tolist(), strict=True):
            # An engine may say only how long a prompt is.
            prompts[key] = ids if len(ids) else np.full(tokens, _UNKNOWN_TOKEN, dtype=np.int32)
    return prompts


def _what_it_says(key: _Key, prompt: NDArray[np.int32]) -> str:
    """Equal for equal prompts; a prompt that is not known is like no other."""
    known = len(prompt) > 0 and prompt[0] != _UNKNOWN_TOKEN
    return " ".join(map(str, prompt.tolist())) if known else f"{key[0]} {key[1]}"


def _outcome(engine_id: str, fields: Mapping[bytes, bytes]) -> Outcome:
    return Outcome(engine_id, fields[b"request_id"].decode(), int(fields[b"output_tokens"]), fields[b"reason"].decode())
