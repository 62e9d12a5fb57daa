"""Plays the checks to whatever a target serves, and gathers what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc

from sidecar.cli.conformance.service import predictor, scheduler
from sidecar.cli.conformance.service.channel import Check, Limits, Site, connect
from sidecar.cli.conformance.verdict import Broken, Verdict
from trail.v1 import predictor_pb2, scheduler_pb2

CHECKS: dict[str, Check] = predictor.CHECKS | scheduler.CHECKS


class NotServedError(RuntimeError):
    """Nobody answers, or neither service is there; the text says which."""


async def check_service(
    target: str,
    timeout_s: float,
    limits: Limits,
    only: Sequence[str] = (),
    told: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """The verdict of each check of the services that the target has.

    Args:
        target: HOST:PORT.
        timeout_s: how long to wait for anything that should happen.
        limits: what the service was told to accept.
        only: names of checks; none: all.
        told: hears of each check before it is played.

    Raises:
        NotServedError: nobody answers, or neither service is there.
    """
    async with connect(target) as channel:
        site = Site(channel, timeout_s, limits)
        served = await _served(site)
        verdicts = []
        for name, check in served.items():
            if only and name not in only:
                continue
            told(name)
            fresh = Site(channel, timeout_s, limits)
            fresh.model = site.model
            verdicts.append(await _play(name, check, fresh))
        return verdicts


async def _served(site: Site) -> dict[str, Check]:
    """The checks of what is there; a service that is not says UNIMPLEMENTED."""
    found: dict[str, Check] = {}
    try:
        answer = await site.predictor.GetModel(predictor_pb2.GetModelRequest(), timeout=site.timeout_s)
        site.model = answer.model
        found |= predictor.CHECKS
    except grpc.aio.AioRpcError as error:
        _only_absent(error)
    try:
        await site.scheduler.Plan(scheduler_pb2.PlanRequest(), timeout=site.timeout_s)
        found |= scheduler.CHECKS
    except grpc.aio.AioRpcError as error:
        _only_absent(error)
    if not found:
        raise NotServedError("neither trail.v1.PredictorService nor trail.v1.SchedulerService is served there")
    return found


def _only_absent(error: grpc.aio.AioRpcError) -> None:
    if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
        raise NotServedError(f"{error.code().name}: {error.details()}") from None


async def _play(name: str, check: Check, site: Site) -> Verdict:
    promise = " ".join((check.__doc__ or "").split()).rstrip(".")
    try:
        await check(site)
    except Broken as error:
        return Verdict(name, False, f"{promise}: {error.expected}", error.seen)
    except grpc.aio.AioRpcError as error:
        return Verdict(name, False, promise, f"{error.code().name}: {error.details()}")
    return Verdict(name, True, promise)
