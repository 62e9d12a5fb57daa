"""How long each hop takes from rows in the ring to a plan on the board, and the traces of sampled steps."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
from prometheus_client import Histogram

from engine_adapter.board import NO_PREDICTION_AGE
from engine_adapter.records import Rows
from sidecar.latency import BUCKETS_S
from sidecar.tracing import Span, Tracing

LONGEST_TRACE_S = 1.0
"""A traced step that got no plan by then makes room for the next."""


class Hops:
    """Told of each stage as it is reached. One row at a time is followed to its plan, one step at a time is traced."""

    def __init__(self, engine_id: str, tracing: Tracing) -> None:
        self._engine_id, self._tracing = engine_id, tracing
        self.seconds = Histogram(
            "trail_agent_hop_seconds",
            "From rows read to their message (send), from there to its answer (answer), from rows read to the first "
            "plan that rests on them (plan)",
            ["hop"],
            buckets=BUCKETS_S,
            registry=None,
        )
        self._send, self._answer, self._plan = map(self.seconds.labels, ("send", "answer", "plan"))
        self._read_s = self._sent_s = 0.0
        self._followed: tuple[int, int, float] | None = None
        """A handle, the age of its row, and when that was read."""
        self._trace: _StepTrace | None = None

    def read(self, rows: Rows) -> None:
        """Rows came out of the ring and wait to be sent."""
        now_s = time.perf_counter()
        self._read_s = self._read_s or now_s
        if self._followed is None and len(rows.handles):
            self._followed = int(rows.handles[0]), int(rows.ages[0]), now_s
        if self._tracing.enabled:
            self._sample(rows, now_s)

    def sending(self) -> str:
        """A message goes to the predictor now; returns its trace context, empty where it is not traced."""
        self._sent_s = time.perf_counter()
        if self._read_s:
            self._send.observe(self._sent_s - self._read_s)
            self._read_s = 0.0
        return "" if self._trace is None else self._trace.sending()

    def answered(self) -> None:
        """The predictor answered that message."""
        self._answer.observe(time.perf_counter() - self._sent_s)
        if self._trace is not None:
            self._trace.answered()

    def reporting(self) -> str:
        """A step is reported to the scheduler now; returns the report's trace context."""
        return "" if self._trace is None else self._trace.reporting()

    def planned(
        self, handles: npt.NDArray[np.uint64], at_ages: npt.NDArray[np.uint32], traceparent: str, received_s: float
    ) -> None:
        """A plan [N], by predictions at these ages, is on the board."""
        if self._followed is not None:
            self._follow(*self._followed, handles, at_ages)
        if self._trace is not None and traceparent:
            board = self._tracing.follow("board", traceparent, received_s)
            board.end()
            if board.trace_id == self._trace.step.trace_id:
                self._end_trace()

    def cut(self) -> None:
        """The predictor's stream is gone, and with it what waited."""
        self._read_s, self._followed = 0.0, None
        self._end_trace("the predictor's stream ended")

    def _follow(
        self,
        handle: int,
        age: int,
        read_s: float,
        handles: npt.NDArray[np.uint64],
        at_ages: npt.NDArray[np.uint32],
    ) -> None:
        at_age = at_ages[handles == handle]
        if len(at_age) and (at_age[0] < age or at_age[0] == NO_PREDICTION_AGE):
            return
        self._followed = None
        if len(at_age):  # else the request has ended
            self._plan.observe(time.perf_counter() - read_s)

    def _sample(self, rows: Rows, now_s: float) -> None:
        if self._trace is not None and now_s - self._trace.begun_s < LONGEST_TRACE_S:
            return
        self._end_trace("no plan in time")
        step = self._tracing.sample("step", now_s, engine=self._engine_id, step=rows.step)
        self._trace = None if step is None else _StepTrace(step, now_s)

    def _end_trace(self, fault: str = "") -> None:
        if self._trace is not None:
            self._trace.step.end(fault=fault)
            self._trace = None


class _StepTrace:
    """The spans of one step: ``step`` around ``send`` and ``predict``."""

    def __init__(self, step: Span, begun_s: float) -> None:
        self.step, self.begun_s = step, begun_s
        self._predict: Span | None = None
        self._sent = self._reported = False

    def sending(self) -> str:
        if self._sent:
            return ""
        self._sent = True
        self.step.child("send", self.begun_s).end()
        self._predict = self.step.child("predict")
        return self._predict.traceparent

    def answered(self) -> None:
        if self._predict is not None:
            self._predict.end()
            self._predict = None

    def reporting(self) -> str:
        reported, self._reported = self._reported, True
        return "" if reported else self.step.traceparent
