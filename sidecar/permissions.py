"""What a client needs for each RPC. One that is not listed is refused to everybody, and a service that has one does
not start."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import Any


class Need(Enum):
    NOTHING = "nothing: whoever reaches the port may call it"
    CLIENT = "to be a client that has an engine, whichever, or an admin"
    ENGINE = "to be a client whose engines include that which the first message names"
    ADMIN = "to be an admin"


@dataclass(frozen=True)
class Rule:
    need: Need
    engine: str = ""
    """Field of the first message that names the engine."""

    def engine_of(self, message: Any) -> str:
        """The engine that a call is about; empty where it is about none."""
        return str(attrgetter(self.engine)(message)) if self.engine else ""


_ADMIN, _CLIENT, _NOTHING = Rule(Need.ADMIN), Rule(Need.CLIENT), Rule(Need.NOTHING)
_OF_ENGINE, _OF_STREAM = Rule(Need.ENGINE, "engine_id"), Rule(Need.ENGINE, "open.engine_id")

RULES: Mapping[str, Rule] = {
    f"/{service}/{method}": rule
    for service, methods in {
        "trail.v1.PredictorService": {
            "StreamPredict": _OF_STREAM,
            "PutPrediction": _OF_ENGINE,
            "Forget": _OF_ENGINE,
            # Nothing is kept, and models are the same for all.
            "Predict": _CLIENT,
            "GetModel": _CLIENT,
            "GetProjection": _CLIENT,
            "ListModels": _CLIENT,
        },
        "trail.v1.SchedulerService": {"Coordinate": _OF_STREAM, "Plan": _CLIENT},
        "trail.v1.SchedulerAdminService": {"SetPolicy": _ADMIN, "GetPolicy": _ADMIN, "ListPolicies": _ADMIN},
        "trail.v1.ExperimentService": {
            "CreateExperiment": _ADMIN,
            "StartExperiment": _ADMIN,
            "StopExperiment": _ADMIN,
            "ListExperiments": _ADMIN,
            "GetExperiment": _ADMIN,
        },
        # Probes have no token; they learn whether model and store are there.
        "grpc.health.v1.Health": {"Check": _NOTHING, "Watch": _NOTHING, "List": _NOTHING},
        "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _ADMIN},
    }.items()
    for method, rule in methods.items()
}


def without_rule(methods: Iterable[str]) -> list[str]:
    """Those of the full names that nobody thought of."""
    return sorted(set(methods) - RULES.keys())
