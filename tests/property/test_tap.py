"""The tap under any schedule: chunks of any size, batches in any order, recomputes from any prefix, requests that end.

The pretend model's vector of a token says whose it is and at which position, so every row can be checked by itself.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from engine_adapter.records import handle_of  # noqa: E402
from engine_adapter.vllm.tap import Picked, StepBatch, Tap  # noqa: E402

REQUESTS, OWNER = 6, 1000
PROMPTS = [1, 2, 3, 5, 8, 13]


class Checked:
    """A shipper that looks every row up in the pass that it came from."""

    def __init__(self) -> None:
        self.ages: dict[int, list[int]] = {}
        self.behind = False

    def __call__(self, picked: Picked, layers: list[object]) -> None:
        (layer,) = layers
        rows = layer[torch.from_numpy(picked.at), 0].tolist()
        for handle, age, value in zip(picked.handles.tolist(), picked.ages.tolist(), rows, strict=True):
            number = HANDLES[handle]
            assert value == number * OWNER + PROMPTS[number] + age - 1
            self.ages.setdefault(number, []).append(age)


HANDLES = {handle_of(f"r{number}"): number for number in range(REQUESTS)}


class Request:
    def __init__(self) -> None:
        self.computed, self.generated, self.highest = 0, 0, 0


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 4))
def test_every_age_is_shipped_once_with_its_own_vector(data: st.DataObject, every: int) -> None:
    shipped = Checked()
    tap = Tap(every, shipped, places=data.draw(st.integers(1, 3)))
    requests = [Request() for _ in range(REQUESTS)]
    chosen: list[int] = []
    for _ in range(data.draw(st.integers(1, 30))):
        if not chosen or data.draw(st.booleans()):
            chosen = data.draw(st.lists(st.integers(0, REQUESTS - 1), unique=True, min_size=1))
        for number in chosen:
            if requests[number].computed and data.draw(st.integers(0, 9)) == 0:
                requests[number].computed = data.draw(st.integers(0, requests[number].computed - 1))
        counts = [_scheduled(data, requests[number], PROMPTS[number]) for number in chosen]
        _pass(tap, chosen, [requests[number].computed for number in chosen], counts)
        for number, count in zip(chosen, counts, strict=True):
            request = requests[number]
            request.computed += count
            request.generated += request.computed == PROMPTS[number] + request.generated
            request.highest = max(request.highest, request.computed)
    for number, request in enumerate(requests):
        ages = shipped.ages.get(number, [])
        reached = request.highest - PROMPTS[number]
        assert ages == sorted(set(ages))
        assert set(ages) <= {0, *range(every, reached + 1, every)}
        if reached >= 0:
            assert {age for age in range(reached + 1) if age == 0 or age % every == 0} == set(ages)


def _scheduled(data: st.DataObject, request: Request, prompt: int) -> int:
    """Tokens of one pass: a decode has one, a prefill or a recompute any number of those there are.

    A prompt's end is always reached by itself: the row there would be skipped otherwise, as after a prefix cache hit.
    """
    left = prompt + request.generated - request.computed
    to_end = prompt - request.computed
    return data.draw(st.integers(1, to_end if to_end > 0 and request.highest < prompt else left))


def _pass(tap: Tap, chosen: list[int], computed: list[int], counts: list[int]) -> None:
    tokens = [
        [number * OWNER + position] for number, at, count in zip(chosen, computed, counts, strict=True)
        for position in range(at, at + count)
    ]  # fmt: skip
    layer = torch.tensor([*tokens, [-1], [-1]], dtype=torch.float32)
    prompts = [PROMPTS[number] for number in chosen]
    names = [f"r{number}" for number in chosen]
    tap.capture(StepBatch(names, np.array(computed), np.array(counts), np.array(prompts)), [layer])


def test_a_request_that_ended_leaves_its_place_to_another() -> None:
    shipped = Checked()
    tap = Tap(1, shipped, places=1)
    for number in (3, 4, 3):
        _pass(tap, [number], [0], [2])
        _pass(tap, [number], [2], [PROMPTS[number] - 2])
        assert shipped.ages.pop(number) == [0]
        tap.forget([f"r{number}", "unknown"])
    assert len(tap._handles) == 1


class Clock:
    """Moves by what a capture costs each time that it is read within one."""

    def __init__(self) -> None:
        self.now_s, self.cost_s = 100.0, 0.0

    def __call__(self) -> float:
        self.now_s += self.cost_s
        return self.now_s


def test_captures_take_their_share_of_the_thread_s_time_and_no_more() -> None:
    shipped, clock = Checked(), Clock()
    tap = Tap(1, shipped, share=0.02, clock=clock)
    steps, captures = 2000, 0
    for step in range(steps):
        clock.now_s += 0.0005
        if tap.due:
            clock.cost_s = 0.0001 if step != 500 else 0.05
            _pass(tap, [0], [PROMPTS[0] + step - 1], [1])
            clock.cost_s, captures = 0.0, captures + 1
    assert captures == pytest.approx(steps * 0.0005 * 0.02 / 0.0001, rel=0.1)
    ages = shipped.ages[0]
    assert len(ages) == captures
    assert max(np.diff(ages)) <= 25, "one capture that took long does not silence the tap"


def test_an_engine_that_waits_for_its_device_ships_every_step() -> None:
    shipped, clock = Checked(), Clock()
    tap = Tap(1, shipped, share=0.02, clock=clock)
    clock.cost_s = 0.001
    _pass(tap, [0], [0], [1])
    assert not tap.due
    shipped.behind = True
    assert tap.due
    shipped.behind = False
    assert Tap(1, shipped, share=1, clock=clock).due
