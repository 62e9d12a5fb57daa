"""How many places are left to come free before waiting requests are admitted, all of them in one step."""

from __future__ import annotations

import math

from scheduler_service.pace import LEAST_EXTRA
from scheduler_service.view import EngineView

MOST_SHARE = 0.25
"""Of the engine's places that may be left free for it."""


def admitted_together(view: EngineView, share: float) -> int:
    """``share`` times the number for which a full engine loses least; 1: everybody as soon as there is a place.

    An engine runs a step with any prefill without its full CUDA graph, and so E longer than one without
    (`EngineView.prefill_step_s`), for all k that run. Admitting m at once costs one such step instead of m, and leaves
    (m - 1) / 2 places free on average. With a mean service S of a place, of which one comes free every S / k,

        lost(m) = k E / (m S) + (m - 1) / (2 k),        least at  m = k sqrt(2 E / S)

    which is the economic order quantity (Harris, 1913): k E / S is the demand times the cost of an order.
    """
    service_s = view.mean_output_tokens * view.step_duration_s
    if service_s <= 0:
        return 1
    places = view.capacity.places
    # So much is taken for a prefill's even where it is nothing.
    overhead_s = max(view.prefill_step_s - LEAST_EXTRA * view.step_duration_s, 0.0)
    best = share * places * math.sqrt(2 * overhead_s / service_s)
    return max(1, min(round(best), int(MOST_SHARE * places)))
