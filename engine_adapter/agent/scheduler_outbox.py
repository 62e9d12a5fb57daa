"""What waits to be sent to the scheduler service: the newest batch wins, everything else adds up."""

from dataclasses import dataclass, field

from engine_adapter.agent.counters import Counters
from engine_adapter.agent.living import declaration
from engine_adapter.records import Arrived, Engine, Finished, Step
from trail.v1 import scheduler_pb2


@dataclass(slots=True)
class _Waiting:
    arrived: dict[int, Arrived] = field(default_factory=dict)
    reused: dict[int, Arrived] = field(default_factory=dict)
    """Arrivals whose handle is still among the finished: they wait for the message after that."""
    finished: dict[int, Finished] = field(default_factory=dict)
    preempted: dict[int, None] = field(default_factory=dict)
    """Each once, in the order of their first preemption."""
    step: Step | None = None
    steps: int = 0


class SchedulerOutbox:
    """Collects while a stream is open or opening; between streams it keeps nothing, for opening tells everything."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._collecting = False
        self._free_kv_blocks = 0
        self._waiting = _Waiting()
        self.engine_step = 0

    def engine(self, engine: Engine) -> None:
        """Until the first step is seen, all KV blocks count as free."""
        self._free_kv_blocks = engine.kv_blocks

    def start(self) -> None:
        """A stream is being opened: its first message names all that is alive now."""
        # The next scheduler never knew whoever ended while the stream moved.
        self._counters.outcomes_lost += len(self._waiting.finished)
        self._waiting = _Waiting()
        self._collecting = True

    def stop(self) -> None:
        """The stream is gone."""
        self._counters.outcomes_lost += len(self._waiting.finished)
        self._waiting = _Waiting()
        self._collecting = False

    def arrived(self, request: Arrived) -> None:
        if not self._collecting:
            return
        waiting = self._waiting
        (waiting.reused if request.handle in waiting.finished else waiting.arrived)[request.handle] = request

    def stepped(self, step: Step) -> None:
        self._free_kv_blocks = step.free_kv_blocks
        if not self._collecting:
            return
        self._waiting.step, self.engine_step = step, step.step
        self._waiting.steps += 1
        self._waiting.preempted |= dict.fromkeys(step.preempted.tolist())

    def finished(self, finished: Finished) -> None:
        if self._collecting:
            self._waiting.finished[finished.handle] = finished
        else:
            self._counters.outcomes_lost += 1

    def take(self) -> scheduler_pb2.StateDelta | None:
        """Everything that waits, as one message without epoch and step; None when nothing does."""
        waiting = self._waiting
        if waiting.step is None and not waiting.arrived and not waiting.finished:
            return None
        message = scheduler_pb2.StateDelta(
            arrived=[declaration(r, r.age_tokens, len(r.prompt_token_ids)) for r in waiting.arrived.values()],
            preempted=list(waiting.preempted),
            finished=[_outcome(finished) for finished in waiting.finished.values()],
            free_kv_blocks=self._free_kv_blocks,
            engine_steps=waiting.steps,
        )
        if waiting.step is not None:
            message.running.CopyFrom(_running(waiting.step))
            message.step_duration_s = waiting.step.duration_s
        self._waiting = _Waiting(arrived=waiting.reused)
        return message


def _running(step: Step) -> scheduler_pb2.RunningRequests:
    return scheduler_pb2.RunningRequests(
        handles=step.running.tolist(), ages=step.ages.tolist(), computed_tokens=step.computed_tokens.tolist()
    )


def _outcome(finished: Finished) -> scheduler_pb2.Outcome:
    """Times are by the engine's wall clock; where that was set back meanwhile they are unknown, which is 0."""
    return scheduler_pb2.Outcome(
        handle=finished.handle,
        reason=scheduler_pb2.FinishReason.ValueType(finished.reason),
        output_tokens=finished.output_tokens,
        latency_s=max(finished.latency_s, 0.0),
        time_to_first_token_s=max(finished.time_to_first_token_s, 0.0),
        preemptions=finished.preemptions,
        recomputed_tokens=finished.recomputed_tokens,
    )
