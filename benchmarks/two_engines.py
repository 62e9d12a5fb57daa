"""Two vLLM servers alike, one of them attached to a running store, predictor and scheduler: what the demo compares."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from sidecar.cli.demo.engine import Server, attached_engine, free_port, share_cores, stock_engine
from sidecar.cli.demo.model import smollm2
from sidecar.cli.stack import running_stack
from trail.v1 import scheduler_pb2, scheduler_pb2_grpc

ENGINE_ID = "benchmark"
MODEL = Path("out/models/SmolLM2-135M-Instruct")


@dataclass(frozen=True, slots=True)
class Engines:
    """Both servers, the model's folder, and the scheduler of the attached one."""

    stock: Server
    attached: Server
    model: Path
    scheduler: str

    def set_policy(self, policy: scheduler_pb2.PolicySettings) -> None:
        """From the next plan on."""
        with grpc.insecure_channel(self.scheduler) as channel:
            scheduler_pb2_grpc.SchedulerAdminServiceStub(channel).SetPolicy(
                scheduler_pb2.SetPolicyRequest(engine_id=ENGINE_ID, policy=policy), timeout=10
            )


@contextlib.contextmanager
def running(folder: Path, slots: int) -> Iterator[Engines]:
    """Logs go to `folder`. Settings are the demo's: float32, eager, one core for the engines where there are two."""
    model, cores = smollm2(MODEL), share_cores()
    with contextlib.ExitStack() as parts:
        services = running_stack(
            predictor_port=free_port(), scheduler_port=free_port(), log_file=folder / "services.log"
        )
        stack = parts.enter_context(services)
        attached = attached_engine(
            model, slots, cores, folder / "attached.log", ENGINE_ID, stack.predictor, stack.scheduler
        )
        with ThreadPoolExecutor(2) as both:
            starts = [
                both.submit(parts.enter_context, each)
                for each in (stock_engine(model, slots, cores, folder / "stock.log"), attached)
            ]
        first, second = (start.result() for start in starts)
        if cores is not None:
            cores.share()
        yield Engines(first, second, model, stack.scheduler)
