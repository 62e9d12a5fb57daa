"""How requests ended, written to the store as the scheduler service writes it."""

from scheduler_service.choice import PolicyChoice
from scheduler_service.messages import Declaration, Finished, Outcome
from scheduler_service.outcomes import entry
from sidecar.redis import keys
from tests.conftest import Valkey


def write_outcomes(valkey: Valkey, engine_id: str, lengths: dict[int, float], reason: str = "stop") -> None:
    """Of requests by handle, whose ids are r<handle>: total output tokens."""
    with valkey.client() as store:
        for handle, tokens in lengths.items():
            outcome = Outcome(handle, reason, round(tokens))
            finished = Finished(Declaration(handle, f"r{handle}"), outcome, 0.0, 0.0, 0.0, -1)
            store.xadd(keys(engine_id).outcomes, entry(finished, PolicyChoice()))
