"""Designs that tests are about."""

from typing import Any

from scheduler_service.experiments.analysis.pairs import Block
from scheduler_service.experiments.design import Design, design_of


def design(**more: Any) -> Design:
    given: dict[str, Any] = {
        "name": "test",
        "arms": [{"name": "control", "policy": {"policy": "fcfs"}}, {"name": "treatment"}],
        "engines": ["e0", "e1"],
        "block_s": 100.0,
        "washout_s": 10.0,
        "groups": 10,
    }
    return design_of(given | more)


def block(number: int, arm: str, value: float, *, engine: str = "e0", void: str = "", requests: int = 50) -> Block:
    return Block(engine, number, arm, requests, {"mean_latency": value}, void)
