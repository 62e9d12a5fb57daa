import pytest

from engine_adapter.agent import living as module
from engine_adapter.agent.counters import Counters
from engine_adapter.agent.living import LivingRequests
from engine_adapter.records import handle_of
from tests.unit.engine_adapter.samples import arrived, step


def table(max_requests: int = 100) -> tuple[LivingRequests, Counters]:
    counters = Counters()
    return LivingRequests(max_requests, counters), counters


def test_declarations_name_every_living_request_at_its_newest_age() -> None:
    living, _ = table()
    for name in ("a", "b", "c"):
        living.arrived(arrived(name))
    living.stepped(step(1, {"a": 5, "stranger": 9}))
    living.finished(handle_of("b"))
    assert [(d.request_id, d.age_tokens, d.prompt_tokens) for d in living.declarations()] == [("a", 5, 3), ("c", 0, 3)]


def test_a_second_request_with_a_living_handle_is_not_declared_and_counted() -> None:
    living, counters = table()
    assert living.arrived(arrived("first", handle=7))
    assert not living.arrived(arrived("second", handle=7))
    assert counters.handle_collisions == 1
    assert [d.request_id for d in living.declarations()] == ["first"]


def test_declaring_a_request_again_is_no_news_and_no_collision() -> None:
    living, counters = table()
    assert living.arrived(arrived("a"))
    assert not living.arrived(arrived("a"))
    assert counters.handle_collisions == 0


def test_requests_beyond_the_limit_are_not_declared_and_counted() -> None:
    living, counters = table(max_requests=2)
    assert [living.arrived(arrived(name)) for name in "abc"] == [True, True, False]
    assert counters.requests_undeclared == 1
    assert living.finished(handle_of("c")) is None


def test_prompt_ids_beyond_the_budget_are_not_kept_but_their_number_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROMPT_BUDGET_TOKENS", 5)
    living, _ = table()
    for name in ("a", "b"):
        living.arrived(arrived(name))
    assert [(len(d.prompt_token_ids), d.prompt_tokens) for d in living.declarations()] == [(3, 3), (0, 3)]
    living.finished(handle_of("a"))
    living.arrived(arrived("c"))
    assert [len(d.prompt_token_ids) for d in living.declarations()] == [0, 3]
