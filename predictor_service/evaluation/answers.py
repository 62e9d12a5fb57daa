"""What an artefact says of requests: through the real service, or computed here from its classifier's outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictor_service.artefact import Artefact
from predictor_service.bins import Array
from predictor_service.evaluation.predicted import Predicted
from predictor_service.evaluation.recorded import Recorded
from predictor_service.evaluation.replay import replay, unrefined
from predictor_service.evaluation.service import Address, running_predictor
from predictor_service.prompt import Prompt
from predictor_service.training.labels import Floats, Ints
from predictor_service.training.refinement import Refinement, refine

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is to do."""


@dataclass(frozen=True)
class Source:
    """An artefact folder; the service that has it loaded, or None to run one of our own."""

    folder: Path
    address: Address | None = None


@dataclass(frozen=True)
class Answers:
    """What one artefact says of all requests. Lengths in tokens, limited to what the cap leaves."""

    artefact: Artefact
    served: Predicted  # at the sampled positions
    unrefined: Predicted  # the classifier alone, at the same
    r0: Floats  # [requests] median of the total length, from the prompt
    r1: Floats  # [requests] the same, after prefill


def ask(
    source: Source, artefact: Artefact, recorded: Recorded, rows: Ints, log_file: Path, progress: Progress
) -> Answers:
    """Replays ``recorded`` through the service; ``rows`` are the sampled positions.

    Raises:
        StackError: the service did not start.
        ReplayError: it did not answer as it should.
    """
    if source.address is None:
        with running_predictor(source.folder, log_file) as address:
            return ask(replace(source, address=address), artefact, recorded, rows, log_file, progress)
    answered = 0

    def count(fresh: int) -> None:
        nonlocal answered
        answered += fresh
        progress(f"predicting with {artefact.name}", answered, len(recorded.age))

    said = replay(source.address, artefact.name, recorded, progress=count)
    alone = unrefined(source.address, artefact.name, recorded, rows)
    return Answers(artefact, said.predicted.take(rows), alone, said.r0_median, said.predicted.median[recorded.start])


def compute(
    artefact: Artefact,
    probabilities: NDArray[np.float32],
    age: Ints,
    prompts: Sequence[NDArray[np.int32]],
    rows: Ints,
    max_tokens: int,
) -> Answers:
    """The same without a service, for where there is none: from classifier outputs at every age, requests end to end.

    ``probabilities`` [rows, bins] and ``age`` [rows] are of all positions, ``rows`` the sampled ones, and ``prompts``
    [requests] token ids.
    """
    evidence = artefact.evidence
    by = Refinement(
        np.array(artefact.manifest.rates), evidence.prior, evidence.tau, evidence.floor, evidence.forgetting,
        artefact.manifest.absorbing,
    )  # fmt: skip
    q = refine(probabilities, age, by)
    start = np.flatnonzero(age == 0)
    request = np.cumsum(age == 0) - 1
    length = np.diff(np.append(start, len(age)))

    def at(some: Ints, posterior: Array) -> Predicted:
        left = np.maximum(max_tokens - age[some], 1.0)
        truth = (length[request] - age)[some].astype(np.float64)
        low, high = artefact.manifest.interval_levels
        p10, median, p90 = (np.minimum(one, left) for one in artefact.bins.quantiles(posterior, (low, 0.5, high)))
        mean = artefact.bins.mean(posterior, left)
        return Predicted(request[some], age[some], truth, mean, median, p10, p90, posterior.astype(np.float32))

    alone = evidence.start(probabilities[rows].astype(np.float64))
    asked = [Prompt(ids.astype(np.uint32), len(ids)) for ids in prompts]
    total = artefact.bins.quantile(evidence.start(artefact.prompt(asked)), 0.5)
    r0 = np.minimum(total, max_tokens)
    return Answers(artefact, at(rows, q[rows]), at(rows, alone), r0, at(start, q[start]).median)
