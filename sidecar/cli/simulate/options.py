"""From what was typed to a checked experiment."""

from __future__ import annotations

from pathlib import Path

from engine_adapter.simulated.step_fit import StepFit, fit_step_time, read_steps
from engine_adapter.simulated.step_time import StepTime, constant, load_step_time
from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.loads import Load
from sidecar.cli.simulate.setup import EngineSetup

DEFAULT_STEP_MS = 5.0
KV_BLOCKS_PER_SLOT = 128
LONGEST_REQUESTS = 4
DEFAULT_LOADS = "0.7,0.9,1.1"


def step_time_of(step_ms: float | None, path: Path | None) -> tuple[StepTime, StepFit | None]:
    """A constant step, coefficients from a JSON object, or a fit to measured steps.

    Raises:
        SimulateError: both are given, or the value or file is bad.
    """
    if step_ms is not None and path is not None:
        raise SimulateError("--step-ms and --step-time: give one of them")
    if path is None:
        step_ms = DEFAULT_STEP_MS if step_ms is None else step_ms
        if not 0 < step_ms <= 60_000:
            raise SimulateError(f"--step-ms {step_ms:g}: must be above 0 and at most 60000")
        return constant(step_ms / 1000), None
    try:
        if path.suffix == ".json" and '"a_s"' in path.read_text():
            return load_step_time(path), None
        fit = fit_step_time(*read_steps(path))
    except (OSError, ValueError) as error:
        raise SimulateError(f"--step-time {error}") from None
    return fit.step_time, fit


def kv_blocks_of(given: int | None, load: Load, slots: int, block_tokens: int) -> int:
    """As given; else room for 2,048 tokens a slot (blocks of 16), and for the four longest requests at least."""
    if given is not None:
        return given
    longest = -(-load.most_tokens // max(block_tokens, 1))
    return max(KV_BLOCKS_PER_SLOT * slots, LONGEST_REQUESTS * longest)


def loads_of(text: str | None, load: Load, capacity_rps: float) -> list[float]:
    """Shares of the capacity. None: as the trace was recorded; without recorded times 0.7, 0.9 and 1.1.

    Raises:
        SimulateError: an entry is no number above 0.
    """
    if text is None and load.own_rate is not None:
        return [float(f"{load.own_rate / capacity_rps:.6g}")]
    shares = []
    for entry in (DEFAULT_LOADS if text is None else text).split(","):
        try:
            share = float(entry)
        except ValueError:
            share = -1.0
        if not 0 < share <= 1000:
            raise SimulateError(f"--load {text}: {entry!r} is not a number above 0")
        if share not in shares:
            shares.append(share)
    return shares


def check_load(setup: EngineSetup, load: Load) -> None:
    """Raises SimulateError where some request could never run."""
    rows = load.recorded_lengths
    if rows is not None:
        setup.check_fits(rows)
        return
    blocks = -(-load.most_tokens // setup.block_tokens)
    if blocks > setup.kv_blocks:
        raise SimulateError(
            f"--kv-blocks {setup.kv_blocks}: the longest request has {load.most_tokens} tokens, "
            f"which take {blocks} blocks of {setup.block_tokens}"
        )
