"""Cells of `benchmarks.serving`: which there are, what each arm sets, and the requests that all arms share."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler_service.choice import PolicyChoice
from sidecar.cli.simulate.arms import parse_arm

STOCK, ORACLE = "stock", "oracle"


@dataclass(frozen=True, slots=True)
class Setting:
    """What all cells of one driver have in common; only cells that agree in all of it are compared."""

    llm: str
    vllm: str
    regime: str
    slots: int
    kv_blocks: int | None
    arrivals: str
    seconds: float
    most_requests: int | None
    max_tokens: int
    temperature: float
    top_p: float
    gpu: str
    lengths: str | None = None
    """File of the answers' lengths, which are then declared with an error; None: the model's own, and predicted."""
    sigma: float = 0.0
    """Of the error's logarithm."""

    @property
    def name(self) -> str:
        """As file names begin."""
        blocks = f"-blocks{self.kv_blocks}" if self.kv_blocks else ""
        arrivals = self.arrivals.replace(":", "")
        return f"{self.regime}-slots{self.slots}{blocks}-{arrivals}-{self.seconds:g}s"


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: an arm at a load, with the arrivals and draws of a seed."""

    setting: Setting
    load: float
    seed: int
    arm: str

    def path(self, folder: Path) -> Path:
        arm = self.arm.replace(":", "_").replace("=", "")
        return folder / f"{self.setting.name}-load{self.load:g}-seed{self.seed}-{arm}.json"

    def read(self, folder: Path) -> dict[str, Any] | None:
        """What was measured; None where it was not yet.

        Raises ValueError where the file there is of another setting.
        """
        path = self.path(folder)
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        if found["setting"] != asdict(self.setting):
            raise ValueError(f"{path} was measured with other settings: choose another --cells")
        return found


def cells(setting: Setting, loads: Sequence[float], seeds: Sequence[int], arms: Sequence[str]) -> Iterator[Cell]:
    """In the order in which they are run: stock first, for the others are compared with it; then the arms in turn, from
    another one at each load and seed."""
    others = [arm for arm in arms if arm != STOCK]
    for turn, (seed, load) in enumerate((seed, load) for seed in seeds for load in loads):
        first = turn % len(others) if others else 0
        for arm in [STOCK, *others[first:], *others[:first]]:
            if arm in arms or ORACLE in arms:
                yield Cell(setting, load, seed, arm)


def choice_of(arm: str) -> PolicyChoice:
    """The policy of an arm other than stock.

    `default` is what the service does by itself, `c0.2` the same with another limit; `paper` and `oracle` are those of
    `trail simulate`, whose way of writing policies is understood too. The unit of ranks is the service's, for all arms.
    Raises SimulateError for an unknown name.
    """
    if arm == "shuffled":
        return PolicyChoice(predictor="shuffled")
    if arm in ("sjf-bert", "trail-bert"):
        return replace(_named("paper"), policy=arm.partition("-")[0], predictor="prompt_only")
    if arm[0] == "c" and arm[1:].replace(".", "", 1).isdigit():
        return PolicyChoice(preemption_limit=float(arm[1:]))
    return _named(arm)


def _named(arm: str) -> PolicyChoice:
    choice = parse_arm(arm).choice
    assert choice is not None, f"{arm}: the attached engine always has a policy"
    return choice


def arrivals_s(process: str, rate: float, seconds: float, seed: int, most: int | None = None) -> NDArray[np.float64]:
    """[N] arrival times within `seconds`, `rate` of them a second in the mean.

    `poisson`; `gamma:CV`, gaps of that coefficient of variation; or `burst`, all at once.
    Raises ValueError for another name.
    """
    name, _, given = process.partition(":")
    if name == "burst" and not given:
        times = np.zeros(max(round(rate * seconds), 1))
    elif process == "poisson" or (name == "gamma" and given):
        shape = 1.0 if process == "poisson" else float(given) ** -2
        rng = np.random.default_rng([seed, 1])
        gaps = rng.gamma(shape, 1 / (shape * rate), max(int(4 * rate * seconds), 64))
        times = np.cumsum(gaps)
        times = times[times < seconds] if times[0] < seconds else times[:1]
    else:
        raise ValueError(f"--arrivals {process}: not one of poisson, gamma:CV, burst")
    return times[:most]


def read_lengths(path: Path, most: int) -> NDArray[np.int64]:
    """[N] column `output_token_length` of a CSV, cut at `most`. Raises ValueError where it has none of 1 or more."""
    with path.open(newline="") as file:
        found = np.array([int(row["output_token_length"]) for row in csv.DictReader(file)])
    if not (found > 0).any():
        raise ValueError(f"--lengths {path}: no output_token_length above 0 in it")
    lengths: NDArray[np.int64] = np.minimum(found[found > 0], most)
    return lengths


def lengths_of(lengths: NDArray[np.int64], count: int, seed: int, sigma: float) -> tuple[list[int], list[int]]:
    """[count] how long each answer is, and [count] what is said of it: the same times e^(sigma z), z normal."""
    rng = np.random.default_rng([seed, 4])
    true = rng.choice(lengths, count)
    said = np.maximum(np.rint(true * np.exp(sigma * rng.standard_normal(count))), 1).astype(np.int64)
    return true.tolist(), said.tolist()


def prompts_of(prompts: int, count: int, seed: int) -> NDArray[np.int64]:
    """[count] which prompt each request has: all of them in a random order, then again in another."""
    rng = np.random.default_rng([seed, 2])
    rounds = [rng.permutation(prompts) for _ in range(-(-count // prompts))]
    return np.concatenate(rounds)[:count].astype(np.int64)


def sampling_seeds(count: int, seed: int) -> list[int]:
    """[count] the seed of each request's sampling: the same in all arms."""
    seeds: list[int] = np.random.default_rng([seed, 3]).integers(2**31, size=count).tolist()
    return seeds
