"""vLLM's scheduler classes with the mixin and without it, side by side over random traffic.

Where no plan has a say they do the same, step by step, to the last field that vLLM tells its workers and clients.
Where plans decide, what vLLM's own tests check of any step still holds.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs

from engine_adapter.ring import RingConsumer
from engine_adapter.vllm.scheduler import TrailAsyncScheduler, TrailScheduler
from tests.integration.vllm_attached import Attached
from tests.integration.vllm_engine import PretendEngine, text
from tests.integration.vllm_traffic import Act, Setup, Traffic

# With more seeds it takes minutes, and finds more.
SEEDS = int(os.environ.get("TRAIL_DIFFERENTIAL_SEEDS", "2"))
BOTH = pytest.mark.parametrize(("scheduler", "depth"), [(TrailScheduler, 1), (TrailAsyncScheduler, 2)])


def plain(value: Any) -> Any:
    """What can be compared of anything that vLLM hands out: every field, down to block ids."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, int | float | str | set) else repr(value)


def told_to_clients(answers: list[EngineCoreOutputs]) -> Any:
    return [([*map(answer, each.outputs)], numbers(each.scheduler_stats)) for each in answers]


def answer(output: EngineCoreOutput) -> Any:
    told = output.request_id, output.new_token_ids, output.finish_reason, output.stop_reason
    return *told, plain(output.prefill_stats)


def numbers(stats: Any) -> Any:
    """How many of those who wait vLLM 0.26 keeps apart is its own affair."""
    told = plain(stats) or {}
    return told | {"waiting": told.pop("num_waiting_reqs", 0) + told.pop("num_skipped_waiting_reqs", 0)}


def do(acts: list[Act], engine: PretendEngine) -> None:
    for act in acts:
        act(engine)


class Twins:
    """The same engine twice: vLLM's own, and one behind the mixin."""

    def __init__(self, folder: Path, scheduler: type, depth: int, setup: Setup) -> None:
        given: dict[str, Any] = {"depth": depth, "blocks": setup.blocks, "slots": setup.slots, **setup.options}
        own = next(base for base in scheduler.__mro__ if base.__module__.startswith("vllm."))
        self.attached = Attached(folder, scheduler, **given)
        self.stock = PretendEngine(folder / "model", own, trail=None, **given)

    def do(self, acts: list[Act]) -> None:
        do(acts, self.attached.engine)
        do(acts, self.stock)

    def step(self, meanwhile: list[Act]) -> None:
        ours, stock = self.attached.engine, self.stock
        told, expected = (plain(engine.step(partial(do, meanwhile, engine))) for engine in (ours, stock))
        assert told == expected
        assert told_to_clients(ours.answers) == told_to_clients(stock.answers)
        assert self.attached.running == [request.request_id for request in stock.scheduler.running]
        assert free_blocks(ours) == free_blocks(stock)


def free_blocks(engine: PretendEngine) -> int:
    return int(engine.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())


def own_order(engine: PretendEngine) -> list[str]:
    """Who runs and who waits, as vLLM would serve them."""
    scheduler = engine.scheduler
    queues = (getattr(scheduler, name, ()) for name in ("kv_holding_waiting", "skipped_waiting", "waiting"))
    return [request.request_id for queue in (scheduler.running, *queues) for request in queue]


def impossible(dice: random.Random, attached: Attached) -> list[tuple[str, int, str]]:
    """Preemptions that contradict the engine's state or each other."""
    running, waiting = attached.running or ["nobody"], attached.waiting or ["nobody"]
    one, other = dice.choice(running), dice.choice(waiting)
    return [
        (one, 999, one), (other, 999, other), (other, 999, one), (one, 0, other),
        ("nobody", 999, other), (one, 999, "nobody"), (one, 999, dice.choice(running)),
    ]  # fmt: skip


def publish_nothing(twins: Twins, dice: random.Random) -> None:
    pass


def publish_expired(twins: Twins, dice: random.Random) -> None:
    """All there is turned round, from a planner that died."""
    attached = twins.attached
    pairs = zip(attached.running, attached.waiting, strict=False)
    attached.plan(
        own_order(twins.stock)[::-1], [(v, 999, b) for v, b in pairs], ttl_s=-1, reserve_blocks=15, admit_together=2
    )


def publish_strangers(twins: Twins, dice: random.Random) -> None:
    twins.attached.plan(["nobody", "gone"], impossible(dice, twins.attached))


def publish_own_order(twins: Twins, dice: random.Random) -> None:
    """First come, first served, as a plan."""
    order = own_order(twins.stock)
    order.insert(dice.randrange(len(order) + 1), "nobody")
    twins.attached.plan(order, impossible(dice, twins.attached))


def publish_own_order_and_reserve(twins: Twins, dice: random.Random) -> None:
    """vLLM itself is told to keep as much memory free, nearly all that is."""
    reserve = dice.choice([0, max(free_blocks(twins.stock) - dice.randrange(5), 0)])
    twins.stock.scheduler.kv_cache_manager.watermark_blocks = reserve
    twins.attached.plan(own_order(twins.stock), reserve_blocks=reserve)


def publish_withdrawal(twins: Twins, dice: random.Random) -> None:
    twins.attached.board.withdraw()


def publish_any_of_these(twins: Twins, dice: random.Random) -> None:
    dice.choice([publish_own_order, publish_expired, publish_strangers, publish_withdrawal])(twins, dice)


@BOTH
@pytest.mark.parametrize(
    "publish",
    [
        publish_nothing,
        publish_expired,
        publish_strangers,
        publish_own_order,
        publish_own_order_and_reserve,
        publish_any_of_these,
    ],
)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_where_no_plan_has_a_say_every_step_is_vllms_own(
    tmp_path: Path, scheduler: type, depth: int, seed: int, publish: Callable[[Twins, random.Random], None]
) -> None:
    dice = random.Random(f"{seed} {publish.__name__}")
    traffic = Traffic(dice, Setup.drawn(dice), count=20, sessions=dice.random() < 0.5)
    twins = Twins(tmp_path, scheduler, depth, traffic.setup)
    everything = free_blocks(twins.stock)
    for _ in range(5000):
        twins.do(traffic.between_steps())
        publish(twins, dice)
        twins.step(traffic.aborts())
        if traffic.over and not twins.stock.scheduler.requests:
            break
    twins.step([])
    assert twins.attached.engine.outputs == twins.stock.outputs
    assert not twins.attached.engine.scheduler.requests
    assert free_blocks(twins.attached.engine) == everything


class Planned:
    """An engine under plans, watched by what vLLM's own tests ask of every step."""

    def __init__(self, folder: Path, scheduler: type, depth: int, setup: Setup) -> None:
        self.setup = setup
        self.attached = Attached(folder, scheduler, depth, blocks=setup.blocks, slots=setup.slots, **setup.options)
        self.engine, self.scheduler = self.attached.engine, self.attached.engine.scheduler
        self.everything = free_blocks(self.engine)
        self.preempted: set[str] = set()
        """Who was preempted and has not been back since."""
        self.came_back = 0

    def plan(self, dice: random.Random) -> None:
        """Any order, and preemptions of all kinds."""
        running, waiting = self.attached.running, self.attached.waiting
        order = [*running, *waiting, "nobody"]
        dice.shuffle(order)
        preempt = impossible(dice, self.attached)
        if running and waiting and dice.random() < 0.5:
            preempt = [(dice.choice(running), dice.choice([5, 999]), dice.choice(waiting)) for _ in range(2)]
        self.attached.plan(
            order,
            preempt,
            ttl_s=dice.choice([60, 60, 60, -1]),
            reserve_blocks=dice.choice([0, 0, 0, 10]),
            admit_together=dice.choice([0, 0, 2, 3, 2**31]),
        )

    def step(self, meanwhile: list[Act]) -> None:
        paused = self.scheduler.pause_state != PauseState.UNPAUSED
        could_run, reset = {*self.attached.running}, {*self.scheduler.reset_preempted_req_ids}
        output = self.engine.step(partial(do, [self._check_memory, *meanwhile], self.engine))
        if output is not None:
            self._check(output, reset, could_run if paused else None)

    def _check(self, output: SchedulerOutput, reset: set[str], could_run: set[str] | None) -> None:
        """``reset``: preempted before the step, to empty the cache; they may come back in it. ``could_run``: nobody
        else may run."""
        new = [each.req_id for each in output.scheduled_new_reqs]
        cached = output.scheduled_cached_reqs
        scheduled = output.num_scheduled_tokens
        assert sorted([*new, *cached.req_ids]) == sorted(scheduled), "nobody is scheduled twice, or without tokens"
        assert all(count > 0 for count in scheduled.values())
        assert sum(scheduled.values()) == output.total_num_scheduled_tokens <= self.setup.options["step_tokens"]
        threshold = self.setup.options["long_prefill_tokens"]
        if threshold and len(self.scheduler.requests) > 1:
            assert max(scheduled.values(), default=0) <= threshold
        assert could_run is None or scheduled.keys() <= could_run, "a paused engine admits nobody"
        assert len(self.attached.running) <= self.setup.slots
        gone = output.preempted_req_ids or set()
        assert not (gone - reset) & scheduled.keys(), "nobody is preempted and resumed in one step"
        self.came_back += len(self.preempted & scheduled.keys())
        assert self.preempted & scheduled.keys() <= {*new, *cached.resumed_req_ids}, "a runner has to hear who is back"
        self.preempted = (self.preempted | gone) - scheduled.keys()

    def _check_memory(self, _: PretendEngine) -> None:
        """Every block is free or held by somebody who runs, or by a session that waits for more."""
        manager = self.scheduler.kv_cache_manager
        held = {
            block
            for name in self.scheduler.requests
            for block in manager.get_block_ids(name)[0]
        }  # fmt: skip
        assert len(held) + free_blocks(self.engine) == self.everything

    def check_nothing_is_left(self) -> None:
        scheduler, reporter = self.scheduler, self.scheduler._reporter
        assert (scheduler.requests, scheduler.running, len(scheduler.waiting)) == ({}, [], 0)
        assert free_blocks(self.engine) == self.everything
        assert scheduler.reset_prefix_cache()
        memory = (reporter._living, reporter._by_handle, reporter._handles, reporter._watched, reporter._unsettled)
        assert not any(map(len, memory))


def complete(traffic: Traffic, name: str, output: list[int], expected: list[int]) -> bool:
    """Whether nothing is missing of an answer: those that were cut short begin as they would have gone on."""
    return output == expected or (name in traffic.aborted and output == expected[: len(output)])


@BOTH
@pytest.mark.parametrize("seed", range(SEEDS))
def test_under_any_plan_each_step_keeps_vllms_rules_and_every_answer_is_complete(
    tmp_path: Path, scheduler: type, depth: int, seed: int
) -> None:
    dice = random.Random(seed)
    traffic = Traffic(dice, Setup.drawn(dice), count=20, sessions=False)
    planned = Planned(tmp_path, scheduler, depth, traffic.setup)
    for step in range(5000):
        do(traffic.between_steps(), planned.engine)
        if dice.random() < 0.02:
            planned.attached.events = RingConsumer(planned.attached.paths.events, 1 << 22)
            planned.attached._newest = None
        if step < 600 and dice.random() < 0.6:
            planned.plan(dice)
        elif step == 600:  # lest the same few give way to each other for ever
            planned.attached.board.withdraw()
        planned.step(traffic.aborts())
        if traffic.over and not planned.scheduler.requests:
            break
    planned.step([])
    planned.check_nothing_is_left()
    stock = PretendEngine(
        tmp_path / "model", Scheduler, trail=None, depth=1, blocks=400, slots=8, **traffic.setup.options
    )
    do([*traffic.arrivals.values()], stock)
    stock.compiling.release()
    stock.finish()
    for name, expected in stock.outputs.items():
        assert complete(traffic, name, planned.engine.outputs[name], expected), name
        pattern = traffic.forms.get(name)
        assert pattern is None or re.fullmatch(f"(?:{pattern})?", text(expected)), text(expected)
