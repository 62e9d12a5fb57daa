"""An engine goes from one artefact to another between two steps; no request, r0 or r1 is lost."""

import numpy as np

from predictor_service.artefact import Artefact
from predictor_service.bins import Array, Bins
from predictor_service.session import EngineSession


def switched(session: EngineSession, artefact: Artefact, *, max_requests: int) -> EngineSession:
    """A session of `artefact`, which reads the same hidden states, with every request that the other one knows.

    Posteriors are carried over, onto the new bins where these differ; what they say is read by the new artefact.
    """
    following = EngineSession(artefact, max_requests=max_requests)
    old, new = session.requests, following.requests
    slots = np.array([old.slot_of_id(request_id) for request_id in old.ids], dtype=np.int64)
    names = zip(old.handle[slots].tolist(), old.ids, old.age[slots].tolist(), strict=True)
    there = np.array([new.add(handle, request_id, age, 0) for handle, request_id, age in names], dtype=np.int64)
    for column in ("step", "stage", "cap", "r0", "r1"):
        getattr(new, column)[there] = getattr(old, column)[slots]
    new.set_posterior(there, rebinned(old.q[slots], session.artefact.bins, artefact.bins))
    following.follow(session)
    return following


def rebinned(q: Array, old: Bins, new: Bins) -> Array:
    """Posteriors [N, old bins] as [N, new bins]: P(length < edge) is kept at every new edge."""
    if np.array_equal(old.edges, new.edges):
        return q
    below = np.stack([old.probability_at_most(q, float(edge)) for edge in new.edges[1:]], axis=1)
    return np.maximum(np.diff(below, axis=1, prepend=0.0, append=1.0), 0.0)
