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
        self.covered: dict[int, int] = {}

    def __call__(self, picked: Picked, layers: list[object]) -> None:
        (layer,) = layers
        rows = layer[torch.from_numpy(picked.at), 0].tolist()
        ages = [*picked.ages.tolist(), *[0] * len(picked.prompt_handles)]
        handles = [*picked.handles.tolist(), *picked.prompt_handles.tolist()]
        for handle, age, value in zip(handles, ages, rows, strict=True):
            number = HANDLES[handle]
            assert value == number * OWNER + PROMPTS[number] + age - 1
            self.ages.setdefault(number, []).append(age)
        parts = zip(picked.prompt_handles.tolist(), picked.covered.tolist(), picked.total.tolist(), strict=True)
        for (handle, covered, total), vector in zip(parts, picked.sums, strict=True):
            number = HANDLES[handle]
            assert total == PROMPTS[number]
            last = range(total - covered, total)
            assert vector.tolist() == [sum(number * OWNER + position for position in last)]
            self.covered[number] = covered


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
        assert shipped.covered.pop(number) == PROMPTS[number]
        tap.forget([f"r{number}", "unknown"])
    assert len(tap._handles) == 1


def test_what_the_prefix_cache_gave_is_not_in_the_sum() -> None:
    shipped = Checked()
    tap = Tap(1, shipped)
    _pass(tap, [5], [8], [5])
    assert shipped.covered == {5: 5}


def test_a_recompute_begins_the_sum_again() -> None:
    shipped = Checked()
    tap = Tap(1, shipped)
    _pass(tap, [5], [0], [7])
    _pass(tap, [5], [2], [4])
    _pass(tap, [5], [6], [7])
    assert shipped.covered == {5: 11}
