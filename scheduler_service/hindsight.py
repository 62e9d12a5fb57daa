"""Whether preemptions paid, judged once it is known how long both requests really were."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from scheduler_service.messages import Outcome
from scheduler_service.pace import Pace
from scheduler_service.preemption import PlannedPreemption
from scheduler_service.state import EngineState

Verdict = Literal["paid", "unpaid", "unknown"]
_REMEMBERED_PLANS = 256


@dataclass(frozen=True, slots=True)
class Judged:
    """`net_s` is waiting time saved, summed over requests; negative: it cost more than it saved."""

    verdict: Verdict
    net_s: float


@dataclass(slots=True, eq=False)
class _Exchange:
    """One preemption that was done: who it was and how things stood. Lengths in tokens."""

    victim: int
    beneficiary: int
    victim_age: int
    beneficiary_age: int
    beneficiary_prefill: int
    running: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)


class Hindsight:
    """Follows one engine's planned preemptions from the plan over the report to the end of both requests.

    With true lengths in place of predicted ones, the planner's own rule (`preemption`): the victim's remaining service
    less the beneficiary's, less the time that computing the victim's tokens again took of everybody in the batch.
    Tokens computed again are those of the victim's outcome, shared evenly over its preemptions; the pace is today's.
    """

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._planned: OrderedDict[int, int] = OrderedDict()
        self._of_request: dict[int, list[_Exchange]] = {}

    def planned(self, preemptions: Iterable[PlannedPreemption]) -> None:
        """A plan asks for these."""
        for each in preemptions:
            self._planned[each.victim] = each.beneficiary
            self._planned.move_to_end(each.victim)
        while len(self._planned) > _REMEMBERED_PLANS:
            self._planned.popitem(last=False)

    def preempted(self, victims: Iterable[int]) -> None:
        """The engine reports these; called before the state takes the report in."""
        for victim in victims:
            beneficiary = self._planned.pop(victim, None)
            if beneficiary is None or victim not in self._state.requests or beneficiary not in self._state.requests:
                continue
            exchange = self._as_it_stands(victim, beneficiary)
            for handle in (victim, beneficiary):
                self._of_request.setdefault(handle, []).append(exchange)

    def finished(self, outcome: Outcome, places: int) -> list[Judged]:
        """A request ended; what can be judged now, on an engine of so many places."""
        self._planned.pop(outcome.handle, None)
        judged = []
        for exchange in self._of_request.pop(outcome.handle, ()):
            exchange.outcomes[outcome.handle] = outcome
            if len(exchange.outcomes) == 2:
                judged.append(_judge(exchange, self._state.pace, places))
        return judged

    def _as_it_stands(self, victim: int, beneficiary: int) -> _Exchange:
        rows = self._state.requests.rows
        ours, theirs = self._state.requests.row(victim), self._state.requests.row(beneficiary)
        missing = rows["prompt_tokens"][theirs] - rows["computed_tokens"][theirs]
        return _Exchange(
            victim,
            beneficiary,
            victim_age=int(rows["age"][ours]),
            beneficiary_age=int(rows["age"][theirs]),
            beneficiary_prefill=max(int(missing), 0),
            running=int(rows["running"].sum()),
        )


def _judge(exchange: _Exchange, pace: Pace, places: int) -> Judged:
    victim, beneficiary = exchange.outcomes[exchange.victim], exchange.outcomes[exchange.beneficiary]
    if not (victim.whole and beneficiary.whole):
        return Judged("unknown", 0.0)
    step_s, rate = pace.step_duration_s, pace.prefill_tokens_per_s
    victim_s = (victim.output_tokens - exchange.victim_age) * step_s
    beneficiary_s = (beneficiary.output_tokens - exchange.beneficiary_age) * step_s
    if exchange.beneficiary_prefill:
        beneficiary_s += places * (pace.prefill_step_s + exchange.beneficiary_prefill / rate)
    again_s = pace.prefill_step_s + victim.recomputed_tokens / max(victim.preemptions, 1) / rate
    net_s = victim_s - beneficiary_s - exchange.running * again_s
    return Judged("paid" if net_s > 0 else "unpaid", net_s)
