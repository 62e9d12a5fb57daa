"""An exact simulation of one server with limited preemption: it moves from event to event, never by time steps."""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np

from scheduler_service.theory.sizes import Floats


def response_times(arrival: Floats, size: Floats, prediction: Floats, c: float) -> Floats:
    """[N], in the order of arrival, which must be ascending.

    A request's rank is prediction - age, and the smallest rank runs. An arrival takes the server only if it ranks
    below the request there and that one's age is below c times its prediction; at equal ranks the older stays ahead.
    Waiting ranks stand still and the running one only falls, so order changes at arrivals and ends alone.
    """
    times, predictions, remaining = arrival.tolist(), prediction.tolist(), size.tolist()
    ended = [0.0] * len(times)
    waiting: list[tuple[float, int]] = []
    running, rank, since, end, safe_from = -1, 0.0, 0.0, 0.0, 0.0
    for arriving, now in enumerate([*times, np.inf]):
        while running >= 0 and end <= now:
            ended[running] = end
            if waiting:
                rank, running = heappop(waiting)
                since, end = end, end + remaining[running]
                safe_from = since + rank - (1 - c) * predictions[running]
            else:
                running = -1
        if arriving == len(times):
            break
        new_rank = predictions[arriving]
        if running >= 0:
            now_rank = rank - (now - since)
            if now >= safe_from or new_rank >= now_rank:
                heappush(waiting, (new_rank, arriving))
                continue
            remaining[running] = end - now
            heappush(waiting, (now_rank, running))
        running, rank, since, end = arriving, new_rank, now, now + remaining[arriving]
        safe_from = now + c * new_rank
    return np.array(ended) - arrival


def work_found(arrival: Floats, size: Floats) -> Floats:
    """[N]: the work that each arrival finds at one server, whatever its order (Lindley), so its wait under FCFS."""
    change = np.concatenate([[0.0], size[:-1] - np.diff(arrival)])
    free = np.cumsum(change)
    found: Floats = free - np.minimum.accumulate(free)
    return found
