"""What is asked of vLLM's own client, and what is made of its answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench_serve import prompts, summarise, table
from benchmarks.vllm_client import FIGURES, METRICS, ClientError, Traffic, samples, saturated_rps

TRAFFIC = Traffic(Path("llm"), Path("prompts.jsonl"), 400, 0.7, 0.95)


def answered(starts: list[float], ttft_s: list[float], gaps_s: list[list[float]]) -> dict[str, Any]:
    lengths = [1 + len(gaps) for gaps in gaps_s]
    return {
        "start_times": starts, "ttfts": ttft_s, "itls": gaps_s, "output_lens": lengths, "input_lens": [3] * len(starts),
    }  # fmt: skip


def run(side: str, seed: int, figure: float, lengths: list[int]) -> dict[str, Any]:
    figures = {f"{figure_}_{metric}_ms": figure for figure_ in FIGURES for metric in METRICS}
    figures["output_tokens_per_s"] = 100.0
    return {
        "side": side, "seed": seed, "preemptions": 0, "figures": figures, "requests": {"output_tokens": lengths},
    }  # fmt: skip


def test_both_sides_are_asked_the_same_but_for_the_port() -> None:
    stock, trail = (TRAFFIC.arguments(port, 60, 2.5, 3, Path("folder/result.json")) for port in (8001, 8002))
    assert [pair for pair in zip(stock, trail, strict=True) if pair[0] != pair[1]] == [("8001", "8002")]
    asked = dict(zip(stock, stock[1:], strict=False))
    assert (asked["--seed"], json.loads(asked["--extra-body"])) == ("3", {"seed": 3})
    assert "--ignore-eos" not in stock
    assert "--skip-chat-template" in stock, "the server applies it: twice would be another prompt"


def test_the_capacity_is_counted_while_every_slot_is_taken() -> None:
    """Two slots, four requests of ten tokens: two run at a time, a token every 0.1 s."""
    found = answered([5.0] * 4, [0.1, 0.1, 1.1, 1.6], [[0.1] * 9, [0.1] * 9, [0.1] * 9, [0.1] * 9])
    # One slot stands empty from second 2.0: until then 10 + 10 + 10 + 5 tokens, of 10 a request.
    assert saturated_rps(found, 2) == pytest.approx(3.5 / 2.0)


def test_too_few_requests_to_fill_the_slots_are_an_error() -> None:
    with pytest.raises(ClientError, match="do not fill 2 slots"):
        saturated_rps(answered([0.0] * 2, [0.1] * 2, [[0.1]] * 2), 2)


def test_a_request_ends_with_its_last_token() -> None:
    found = samples(answered([7.0, 7.5], [0.2, 0.1], [[0.1, 0.3], []]))
    assert found["start_s"] == [0.0, 0.5]
    assert found["e2el_s"] == pytest.approx([0.6, 0.1])


def test_only_repeats_that_both_sides_have_are_compared() -> None:
    runs = [
        run("stock", 0, 10.0, [4, 5]), run("trail", 0, 5.0, [4, 6]), run("trail", 1, 30.0, [7, 8]),
        run("stock", 1, 20.0, [7, 8]), run("stock", 2, 999.0, [1, 1]),
    ]  # fmt: skip
    found = summarise(runs)
    mean = found["figures"]["mean_ttft_ms"]
    assert (found["seeds"], found["equal_lengths"]) == ([0, 1], 0.75)
    assert (mean["stock"], mean["trail"], mean["ratio_least"], mean["ratio_most"]) == (15.0, 17.5, 0.5, 1.5)
    assert math.isclose(mean["ratio"], 17.5 / 15.0, abs_tol=1e-4)
    assert summarise(runs[4:]) == {}


def test_the_table_has_a_row_for_each_figure() -> None:
    summary = summarise([run("stock", 0, 10.0, [4]), run("trail", 0, 5.0, [4])])
    told = table({"summary": summary, "requests": 9, "rate_rps": 1.5, "capacity_rps": 2.0, "slots": 4})
    assert "0.75 of stock's most" in told
    assert told.count("| 10.0 | 5.0 | 0.50 (0.50 to 0.50) |") == len(METRICS) * len(FIGURES)


def test_prompts_are_our_own_or_each_lines(tmp_path: Path) -> None:
    assert len(prompts(None)[0]) > 50
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one", "token_ids": [1]}\n{"prompt": "two"}\n')
    assert prompts(file) == (["one", "two"], "prompts.jsonl")
    file.write_text('{"text": "one"}\n')
    with pytest.raises(ValueError, match="'prompt' on each line"):
        prompts(file)
