"""Requests of every kind that vLLM takes go through the attached engine, under load, as through stock."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import PROMPTS, SLOTS
from tests.e2e.parts import System, statistics, until
from tests.e2e.test_faults import Load
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.vllm


@pytest.fixture
def busy(system: System) -> Iterator[System]:
    """The engine has more to do than it has slots: plans decide."""
    with Load(system.engine.url) as load:
        yield system
    assert load.failures == []


def complete(system: System, **more: Any) -> dict[str, Any]:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": 24} | more
    answer = httpx.post(f"{system.engine.url}/v1/chat/completions", json=body, timeout=PATIENCE_S)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def counted(name: str) -> int:
    return int(statistics()["counters"][name])


def test_several_answers_to_one_prompt_are_requests_of_their_own(busy: System) -> None:
    before = counted("requests_declared")
    found = complete(busy, n=3, temperature=1.0, seed=1)
    assert len({choice["message"]["content"] for choice in found["choices"]}) > 1
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    until(lambda: counted("requests_declared") >= before + 3, "each is declared")


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        ({"structured_outputs": {"regex": r"[a-f]{6}"}}, r"[a-f]{6}"),
        ({"structured_outputs": {"choice": ["north", "south"]}}, "north|south"),
    ],
)
def test_structured_output_keeps_its_form(busy: System, constraint: dict[str, Any], pattern: str) -> None:
    content = complete(busy, **constraint)["choices"][0]["message"]["content"]
    assert re.fullmatch(pattern, content), content


def test_a_json_schema_is_kept(busy: System) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}, "size": {"type": "integer"}},
        "required": ["city", "size"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}
    found = complete(busy, response_format=form, max_tokens=64, temperature=0)
    if found["choices"][0]["finish_reason"] == "stop":
        assert set(json.loads(found["choices"][0]["message"]["content"])) == {"city", "size"}


def test_the_probabilities_of_tokens_are_told(busy: System) -> None:
    told = complete(busy, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert told
    assert all(len(token["top_logprobs"]) == 2 for token in told)


def test_stop_words_and_bad_input_are_vllms_own(busy: System) -> None:
    assert complete(busy, stop=["e"])["choices"][0]["finish_reason"] in {"stop", "length"}
    body = {"model": "smollm2", "messages": [], "max_tokens": -1}
    assert httpx.post(f"{busy.engine.url}/v1/chat/completions", json=body, timeout=PATIENCE_S).status_code == 400


def test_clients_that_hang_up_leave_nothing_behind(system: System) -> None:
    until(lambda: statistics()["living_requests"] == 0, "the engine is idle")
    before, hung_up = counted("requests_finished"), threading.Barrier(3 * SLOTS + 1)

    def hang_up(index: int) -> None:
        body = {"model": "smollm2", "messages": [{"role": "user", "content": PROMPTS[1]}], "max_tokens": 400}
        url = f"{system.engine.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body | {"stream": True, "ignore_eos": True}, timeout=PATIENCE_S) as answer:
            # Some hang up after their first words, some that wait without any.
            if index < SLOTS:
                next(answer.iter_raw())
        hung_up.wait(60)

    for index in range(3 * SLOTS):
        threading.Thread(target=hang_up, args=(index,), daemon=True).start()
    hung_up.wait(60)
    until(lambda: statistics()["living_requests"] == 0, "all are forgotten")
    until(lambda: counted("requests_finished") >= before + 3 * SLOTS, "and their ends told")
    assert complete(system)["choices"][0]["message"]["content"]
