"""Sends the requests, as a client would, and takes the times."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from sidecar.cli.demo.engine import SERVED_NAME

REQUEST_TIMEOUT_S = 600.0
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=0)
"""A connection for each request: a server that stood still for its keep-alive time (vLLM: 5 s) resets a used one, and
the request just sent with it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request's times, seconds from the moment it was sent."""

    latency_s: float
    time_to_first_token_s: float
    output_tokens: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the model samples; every request has a seed of its own."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 192


def send(
    url: str,
    prompts: Sequence[str],
    arrivals_s: Sequence[float],
    sampling: Sampling,
    *,
    seeds: Sequence[int] | None = None,
    lengths: Sequence[int] | None = None,
    done: Callable[[], None] = lambda: None,
) -> list[Sample]:
    """Sends prompt i at ``arrivals_s[i]`` seconds, and waits for all answers.

    Args:
        seeds: of each request's sampling; default: 0, 1, 2, ...
        lengths: true output lengths to declare, for the oracle.
        done: called as each answer ends.

    Raises:
        httpx.HTTPError: a request failed.
    """
    return asyncio.run(_send(url, prompts, arrivals_s, sampling, seeds or range(len(prompts)), lengths, done))


async def _send(
    url: str,
    prompts: Sequence[str],
    arrivals_s: Sequence[float],
    sampling: Sampling,
    seeds: Sequence[int],
    lengths: Sequence[int] | None,
    done: Callable[[], None],
) -> list[Sample]:
    async with httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S, limits=LIMITS) as client:
        start_s = time.perf_counter()

        async def one(index: int) -> Sample:
            await asyncio.sleep(start_s + arrivals_s[index] - time.perf_counter())
            declared = {"trail_output_tokens": lengths[index]} if lengths is not None else {}
            sample = await request(client, prompts[index], seeds[index], sampling, declared)
            done()
            return sample

        return await asyncio.gather(*(one(i) for i in range(len(prompts))))


async def request(
    client: httpx.AsyncClient, prompt: str, seed: int, sampling: Sampling, declared: dict[str, int]
) -> Sample:
    body: dict[str, Any] = {
        "model": SERVED_NAME,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": seed,
        "stream": True,
        "return_token_ids": True,
    }
    if declared:
        body["vllm_xargs"] = declared
    sent_s = time.perf_counter()
    first_s = 0.0
    tokens: list[int] = []
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.is_error:
            await answer.aread()
            raise httpx.HTTPStatusError(answer.text, request=answer.request, response=answer)
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise httpx.RemoteProtocolError(f"the engine answered: {event['error']}", request=answer.request)
            for choice in event["choices"]:
                tokens.extend(choice.get("token_ids") or ())
                if tokens and not first_s:
                    first_s = time.perf_counter()
    return Sample(time.perf_counter() - sent_s, first_s - sent_s, len(tokens), tuple(tokens))
