"""One step without a stream: for simple clients and for trying a model."""

from dataclasses import replace

import numpy as np

from predictor_service.artefact import Artefact
from predictor_service.engine import ROWS_A_PROMPT, compute
from predictor_service.prompt import Prompt
from predictor_service.session import EngineSession
from predictor_service.step import Declaration, Predictions, Step


async def predict(artefact: Artefact, step: Step, *, max_requests: int) -> Predictions:
    """Predictions of a step whose requests are alive for its duration only; handles need no declaration.

    A request without a prompt or prompt row has r = age + remaining.
    """
    session = EngineSession(artefact, max_requests=max_requests)
    declared = {declaration.handle for declaration in step.declared}
    bare = dict.fromkeys(handle for handle in _handles(step) if handle not in declared)
    nothing = Prompt(np.zeros(0, dtype=np.uint32), 0)
    opening = [Declaration(handle, f"handle {handle}", nothing, 0) for handle in bare]
    await compute(lambda: session.open(opening, {}), ROWS_A_PROMPT * len(opening))
    slots = [slot for handle in bare if (slot := session.requests.slot(handle)) is not None]
    session.requests.r0[slots] = np.nan
    first = replace(step, number=max(step.number, 1))
    found = (await compute(lambda: session.apply(first), step.rows + ROWS_A_PROMPT * len(step.declared))).predictions
    return _with_initial(found, step.number)


def _handles(step: Step) -> list[int]:
    return [*step.prompts.handles.tolist(), *step.decodes.handles.tolist()]


def _with_initial(found: Predictions, number: int) -> Predictions:
    initial = np.where(np.isnan(found.initial), found.ages + found.median, found.initial)
    return replace(found, step=number, initial=initial)
