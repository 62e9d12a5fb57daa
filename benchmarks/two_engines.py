"""Two vLLM servers alike, one of them attached to a running store, predictor and scheduler: what the demo compares."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sidecar.cli.demo.engine import Server, attached_engine, free_port, share_cores, stock_engine
from sidecar.cli.demo.model import smollm2
from sidecar.cli.stack import Stack, running_stack
from trail.v1 import scheduler_pb2

ENGINE_ID = "benchmark"
MODEL = Path("out/models/SmolLM2-135M-Instruct")


@dataclass(frozen=True, slots=True)
class Engines:
    """Both servers, the model's folder, and what the attached one is attached to."""

    stock: Server
    attached: Server
    model: Path
    stack: Stack

    def set_policy(self, policy: scheduler_pb2.PolicySettings) -> None:
        """From the next plan on."""
        self.stack.set_policy(ENGINE_ID, policy)


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
        yield Engines(first, second, model, stack)
