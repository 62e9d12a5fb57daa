"""Slow, narrow, silent and broken links."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.chaos.fault import Began, Plans, fault
from tests.chaos.proxy import FaultProxy
from tests.chaos.system import System

LINKS: dict[str, Callable[[System], FaultProxy]] = {
    "predictor_link": lambda system: system.predictor_link,
    "scheduler_link": lambda system: system.scheduler_link,
    "store_link": lambda system: system.store.proxy,
}


def _under(name: str, link: str, plans: Plans, lasts_s: float, **conditions: Any) -> None:
    def inject(system: System, began: Began) -> Iterator[None]:
        with LINKS[link](system).with_(**conditions):
            yield

    inject.__name__ = f"{link}_{name}"
    fault(plans, lasts_s=lasts_s)(inject)


def _reset(link: str) -> None:
    def inject(system: System, began: Began) -> Iterator[None]:
        for _ in range(8):
            LINKS[link](system).reset()
            time.sleep(0.25)
        yield

    inject.__name__ = f"{link}_reset_again_and_again"
    fault(Plans.MAY_PAUSE)(inject)


for _link in LINKS:
    _under("slow", _link, Plans.MAY_PAUSE, 3, delay_s=0.1)
    _under("jittery", _link, Plans.MAY_PAUSE, 3, jitter_s=0.2)
    _under("narrow", _link, Plans.MAY_PAUSE, 4, bytes_per_s=20_000)
    _under("half_open", _link, Plans.END, 4, up=False, down=False)
    _under("cut_one_way_up", _link, Plans.END, 4, up=False)
    _under("cut_one_way_down", _link, Plans.END, 4, down=False)
    _reset(_link)


@fault(Plans.END, lasts_s=4)
def store_link_slower_than_its_timeout(system: System, began: Began) -> Iterator[None]:
    delay_s = 0.6
    with system.store.proxy.with_(delay_s=delay_s):
        # What was published before is still on its way, and counts as an answer when it comes.
        time.sleep(delay_s)
        began.now()
        yield


@fault(Plans.END, lasts_s=3)
def all_links_refuse_connections(system: System, began: Began) -> Iterator[None]:
    links = [find(system) for find in LINKS.values()]
    for link in links:
        link.conditions.accepting = False
        link.reset()
    yield
    for link in links:
        link.conditions.accepting = True
