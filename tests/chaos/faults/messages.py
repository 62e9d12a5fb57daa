"""Messages that are wrong, old, repeated, reordered, or of somebody else."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from sidecar.redis import keys
from tests.chaos.fault import Began, Plans, fault
from tests.chaos.proxy import FaultProxy
from tests.chaos.relay import Relay, relayed
from tests.chaos.system import ENGINE_ID, System

NOBODY = 0xDEAD_BEEF_DEAD_BEEF
REMEMBERED = 300


def _through_relay(system: System, began: Began, link: FaultProxy, change: Callable[[Relay], None]) -> Iterator[None]:
    """Plans come through the relay before it begins to change anything."""
    with relayed(system.loop, link) as relay:
        system.until_in_order()
        began.now()
        change(relay)
        yield


@fault(Plans.GO_ON, lasts_s=3)
def plans_name_unknown_and_finished_requests(system: System, began: Began) -> Iterator[None]:
    seen: dict[int, None] = {}

    def change(message: Any) -> list[Any]:
        plan = message.plan
        seen.update(dict.fromkeys(plan.handles))
        strangers = [NOBODY, *list(seen)[:50]]
        for handle in strangers:
            plan.handles.insert(0, handle)
            plan.ranks.insert(0, -1.0)
            plan.predicted_at_ages.insert(0, 0)
        for victim, beneficiary in zip(strangers, reversed(strangers), strict=True):
            plan.preemptions.add(victim=victim, beneficiary=beneficiary, only_if_age_below=2**32 - 1)
        return [message]

    yield from _through_relay(system, began, system.scheduler_link, lambda relay: setattr(relay, "down", change))


@fault(Plans.GO_ON, lasts_s=3)
def plans_of_a_scheduler_gone_mad(system: System, began: Began) -> Iterator[None]:
    """Everybody is to leave the batch at every step, memory is to stay free, ranks are no numbers, and for ever."""
    chance = random.Random(0)

    def change(message: Any) -> list[Any]:
        plan = message.plan
        handles = list(plan.handles)
        for index in range(len(handles)):
            plan.ranks[index] = chance.choice((float("nan"), float("inf"), float("-inf"), 0.0))
        chance.shuffle(handles)
        for victim, beneficiary in zip(handles, reversed(handles), strict=True):
            plan.preemptions.add(victim=victim, beneficiary=beneficiary, only_if_age_below=2**32 - 1)
        plan.reserve_kv_blocks = 2**31
        plan.ttl_ms = 2**32 - 1
        return [message]

    yield from _through_relay(system, began, system.scheduler_link, lambda relay: setattr(relay, "down", change))


@fault(Plans.GO_ON, lasts_s=3)
def plans_replayed_and_reordered(system: System, began: Began) -> Iterator[None]:
    old: deque[Any] = deque(maxlen=REMEMBERED)
    chance = random.Random(0)

    def change(message: Any) -> list[Any]:
        old.append(message)
        again = chance.sample(list(old), min(len(old), 2))
        return chance.sample([message, *again], 1 + len(again))

    yield from _through_relay(system, began, system.scheduler_link, lambda relay: setattr(relay, "down", change))


@fault(Plans.END, lasts_s=3)
def plans_of_another_epoch(system: System, began: Began) -> Iterator[None]:
    def change(message: Any) -> list[Any]:
        message.plan.epoch.counter += 1_000
        return [message]

    yield from _through_relay(system, began, system.scheduler_link, lambda relay: setattr(relay, "down", change))


@fault(Plans.END, lasts_s=3)
def plans_that_contradict_themselves(system: System, began: Began) -> Iterator[None]:
    def change(message: Any) -> list[Any]:
        message.plan.ranks.append(0.0)
        return [message]

    yield from _through_relay(system, began, system.scheduler_link, lambda relay: setattr(relay, "down", change))


@fault(Plans.END, lasts_s=3)
def plans_swallowed(system: System, began: Began) -> Iterator[None]:
    def change(message: Any) -> list[Any]:
        return []

    yield from _through_relay(system, began, system.scheduler_link, lambda relay: setattr(relay, "down", change))


@fault(Plans.MAY_PAUSE, lasts_s=3)
def reports_replayed_and_reordered(system: System, began: Began) -> Iterator[None]:
    """The scheduler hears old deltas again, in any order; new ones that came too late are lost."""
    old: deque[Any] = deque(maxlen=REMEMBERED)
    chance = random.Random(0)

    def change(message: Any) -> list[Any]:
        old.append(message)
        again = chance.sample(list(old), min(len(old), 2))
        return chance.sample([message, *again], 1 + len(again))

    yield from _through_relay(system, began, system.scheduler_link, lambda relay: setattr(relay, "up", change))


@fault(Plans.MAY_PAUSE, lasts_s=3)
def reports_lost(system: System, began: Began) -> Iterator[None]:
    """Every third delta never reaches the scheduler: arrivals, batches and ends."""
    chance = random.Random(0)

    def change(message: Any) -> list[Any]:
        return [] if chance.random() < 0.33 else [message]

    yield from _through_relay(system, began, system.scheduler_link, lambda relay: setattr(relay, "up", change))


@fault(Plans.MAY_PAUSE, lasts_s=3)
def rows_replayed_and_reordered(system: System, began: Began) -> Iterator[None]:
    old: deque[Any] = deque(maxlen=REMEMBERED)
    chance = random.Random(0)

    def change(message: Any) -> list[Any]:
        old.append(message)
        again = chance.sample(list(old), min(len(old), 2))
        return chance.sample([message, *again], 1 + len(again))

    yield from _through_relay(system, began, system.predictor_link, lambda relay: setattr(relay, "up", change))


@fault(Plans.MAY_PAUSE, lasts_s=3)
def rows_that_are_no_numbers(system: System, began: Began) -> Iterator[None]:
    """Requests that arrive are still predicted by their prompts, so plans go on."""

    def change(message: Any) -> list[Any]:
        for rows in (message.step.prompts, message.step.decodes):
            if rows.last.rows:
                rows.last.data = b"\xff\x7f" * (len(rows.last.data) // 2)
        return [message]

    yield from _through_relay(system, began, system.predictor_link, lambda relay: setattr(relay, "up", change))


@fault(Plans.MAY_PAUSE, lasts_s=3)
def predictions_replayed_and_forged(system: System, began: Began) -> Iterator[None]:
    """What was published comes again and again, and so does rubbish."""
    names, chance = keys(ENGINE_ID), random.Random(0)
    heard: list[bytes] = []
    with system.store.client() as client, client.pubsub() as listener:
        listener.ssubscribe(names.predictions)
        end_s = time.monotonic() + 2
        while time.monotonic() < end_s:
            message = listener.get_sharded_message(timeout=0.05)
            if message is not None and message["type"] == "smessage" and len(heard) < REMEMBERED:
                heard.append(message["data"])
            if heard:
                again = chance.choice(heard)
                cut = chance.randrange(len(again) + 1)
                for forged in (again, again[:cut], again[:cut] + chance.randbytes(8) + again[cut:]):
                    client.spublish(names.predictions, forged)
    yield
