"""The agent between a simulated engine and two recording services, over real gRPC and real rings."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from engine_adapter.records import handle_of
from tests.integration.agent_harness import ENGINE_ID, STEP_S, AgentProcess, Harness
from tests.integration.agent_services import DIM, Predictor, Scheduler, Served
from trail.v1 import scheduler_pb2


class Site:
    """Everything that one test needs."""

    def __init__(self, root: Path) -> None:
        self.predictor, self.scheduler = Predictor(), Scheduler()
        self.predictor_at, self.scheduler_at = Served(self.predictor), Served(self.scheduler)
        self.harness = Harness(root, DIM)
        self.engine = self.harness.engine
        self.agent: AgentProcess | None = None

    async def start_agent(self, **settings: str) -> None:
        targets = (self.predictor_at.target, self.scheduler_at.target)
        self.agent = AgentProcess(self.harness.settings(*targets, **settings))
        await self.agent.start()


@asynccontextmanager
async def running(root: Path, **settings: str) -> AsyncIterator[Site]:
    site = Site(root)
    await site.predictor_at.start()
    await site.scheduler_at.start()
    await site.start_agent(**settings)
    try:
        yield site
    finally:
        assert site.agent is not None
        print(await site.agent.end())
        await site.predictor_at.stop()
        await site.scheduler_at.stop()
        site.engine.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path) as made:
        yield made


async def test_requests_are_declared_on_both_streams_under_one_incarnation(site: Site) -> None:
    names = site.harness.submit(3)
    await site.harness.until(lambda: site.predictor.opens and site.scheduler.opens and site.engine.plan)
    predict, coordinate = site.predictor.opens[0], site.scheduler.opens[0]
    assert {d.request_id for d in predict.requests} == {d.request_id for d in coordinate.requests} == set(names)
    assert predict.epoch.incarnation == coordinate.epoch.incarnation != 0
    assert predict.epoch != coordinate.epoch
    assert (predict.engine_id, predict.dim) == ("engine-test", DIM)
    assert coordinate.capacity.max_running_requests == 4
    assert {d.handle for d in predict.requests} == {handle_of(name) for name in names}
    late = site.harness.submit(1)
    await site.harness.until(lambda: any(d.request_id == late[0] for s in site.predictor.steps for d in s.declared))
    await site.harness.until(lambda: any(d.request_id == late[0] for s in site.scheduler.deltas for d in s.arrived))


async def test_the_newest_rows_arrive_as_the_engine_made_them(site: Site) -> None:
    # The first step tells the agent who lives; the prompts' rows come later.
    await site.harness.until(lambda: site.scheduler.opens and site.predictor.opens)
    name = site.harness.submit(1)[0]
    await site.harness.until(lambda: sum(len(step.decodes.handles) for step in site.predictor.steps) > 5)
    prompts = [step.prompts for step in site.predictor.steps if step.HasField("prompts")]
    assert [list(rows.handles) for rows in prompts] == [[handle_of(name)]]
    assert (prompts[0].last.rows, prompts[0].last.dim) == (1, DIM)
    decodes = [(step.step, step.decodes) for step in site.predictor.steps if step.HasField("decodes")]
    ages = [age for _, rows in decodes for age in rows.ages]
    assert ages == sorted(set(ages))
    numbers = [step.step for step in site.predictor.steps]
    assert numbers == sorted(set(numbers))


async def test_a_plan_reaches_the_engine_with_its_preemptions(site: Site) -> None:
    site.harness.submit(6)
    await site.harness.until(lambda: site.engine.plan)
    victim, waiting = site.engine.model.running[0], site.engine.model.waiting[0]
    site.scheduler.preemptions = [
        scheduler_pb2.Preemption(victim=victim.handle, only_if_age_below=1_000_000, beneficiary=waiting.handle)
    ]
    await site.harness.until(lambda: victim.preemptions)
    await site.harness.until(lambda: any(victim.handle in delta.preempted for delta in site.scheduler.deltas))
    site.scheduler.preemptions = []
    await site.harness.until(lambda: site.harness.statistics()["counters"]["preemptions_by_plan"])


async def test_outcomes_reach_both_services(site: Site) -> None:
    site.harness.submit(1)
    await site.harness.until(lambda: site.engine.plan)
    name = site.harness.submit(1, output_tokens=20)[0]

    def told() -> bool:
        forgotten = any(handle_of(name) in step.finished for step in site.predictor.steps)
        return forgotten and any(o.handle == handle_of(name) for d in site.scheduler.deltas for o in d.finished)

    await site.harness.until(told)
    outcome = next(o for d in site.scheduler.deltas for o in d.finished)
    assert (outcome.output_tokens, outcome.reason) == (20, scheduler_pb2.FINISH_REASON_STOP)
    assert outcome.latency_s >= outcome.time_to_first_token_s > 0


async def test_while_an_answer_is_missing_rows_merge_and_the_newest_wins(tmp_path: Path) -> None:
    async with running(tmp_path, ack_timeout_ms="20000") as site:
        site.harness.submit(2)
        await site.harness.until(lambda: site.predictor.steps)
        site.predictor.answering.clear()
        await asyncio.sleep(0.05)
        sent = len(site.predictor.steps)
        for _ in range(40):
            site.engine.step()
            await asyncio.sleep(0.005)
        newest = {request.handle: request.tapped_age for request in site.engine.model.running}
        assert len(site.predictor.steps) <= sent + 1
        site.predictor.answering.set()
        await site.harness.until(
            lambda: any(
                dict(zip(step.decodes.handles, step.decodes.ages, strict=True)) == newest
                for step in site.predictor.steps[sent:]
            ),
            stepping=False,
        )
        await site.harness.until(lambda: site.harness.statistics()["counters"]["rows_dropped"] > 40)


async def test_a_predictor_that_stops_answering_is_left_for_a_new_stream(tmp_path: Path) -> None:
    async with running(tmp_path, ack_timeout_ms="200") as site:
        site.harness.submit(2)
        await site.harness.until(lambda: site.predictor.steps)
        site.predictor.answering.clear()
        await site.harness.until(lambda: len(site.predictor.opens) >= 2)
        site.predictor.answering.set()
        steps = len(site.predictor.steps)
        await site.harness.until(lambda: len(site.predictor.steps) > steps + 3)
        first, *_, last = site.predictor.opens
        assert first.epoch.incarnation == last.epoch.incarnation
        assert first.epoch.counter < last.epoch.counter
        assert [d.age_tokens > 0 for d in last.requests] == [True, True]


async def test_an_aborted_stream_is_opened_again_with_everything_alive(site: Site) -> None:
    names = site.harness.submit(2)
    await site.harness.until(lambda: site.predictor.steps)
    site.predictor.abort.set()
    await site.harness.until(lambda: len(site.predictor.opens) == 2)
    assert sorted(d.request_id for d in site.predictor.opens[1].requests) == names
    assert len(site.scheduler.opens) == 1


async def test_a_scheduler_that_is_gone_means_the_engines_own_order_at_once_and_its_return_a_plan(site: Site) -> None:
    site.scheduler.ttl_ms = 600_000
    site.harness.submit(3)
    await site.harness.until(lambda: site.engine.plan)
    await site.scheduler_at.stop()
    await site.harness.until(lambda: site.engine.plan is None)
    await site.scheduler_at.start()
    await site.harness.until(lambda: site.engine.plan)
    assert len(site.scheduler.opens[-1].requests) == 3
    assert site.scheduler.opens[-1].epoch.counter > site.scheduler.opens[0].epoch.counter


async def test_a_plan_dies_of_age_where_no_newer_one_comes(site: Site) -> None:
    site.scheduler.ttl_ms = 300
    site.harness.submit(1)
    await site.harness.until(lambda: site.engine.plan)
    await asyncio.sleep(1.0)  # the engine is idle: no delta, no plan
    site.engine.step()
    assert site.engine.plan is None


async def test_a_plan_of_another_epoch_is_ignored(site: Site) -> None:
    site.scheduler.foreign_epochs = True
    site.harness.submit(1)
    await site.harness.until(
        lambda: len(site.scheduler.deltas) > 5 and site.harness.statistics()["counters"]["plans_rejected"] > 2
    )
    assert site.engine.plan is None


async def test_a_scheduler_that_hears_nothing_more_steers_for_one_time_to_live(site: Site) -> None:
    site.scheduler.ttl_ms = 300
    site.harness.submit(3)
    await site.harness.until(lambda: site.engine.plan)
    site.scheduler.deaf = True
    await site.harness.until(lambda: site.engine.plan is None)
    deltas = len(site.scheduler.deltas)
    await site.harness.until(lambda: len(site.scheduler.deltas) > deltas + 20)
    assert site.engine.plan is None
    site.scheduler.deaf = False
    await site.harness.until(lambda: site.engine.plan)


async def test_a_plan_that_comes_again_changes_nothing(site: Site) -> None:
    site.scheduler.replaying = True
    site.harness.submit(1)
    await site.harness.until(lambda: site.engine.plan)
    names = site.harness.submit(2)
    newest = {handle_of(name) for name in names}
    await site.harness.until(lambda: site.engine.plan and newest <= set(site.engine.plan.handles.tolist()))
    for _ in range(50):
        await asyncio.sleep(STEP_S)
        site.engine.step()
        assert site.engine.plan is not None
        assert newest <= set(site.engine.plan.handles.tolist())
    await site.harness.until(lambda: site.harness.statistics()["counters"]["plans_rejected"] > 2)


async def test_sigterm_withdraws_the_plan_and_ends_in_order(site: Site) -> None:
    site.scheduler.ttl_ms = 600_000
    site.harness.submit(2)
    await site.harness.until(lambda: site.engine.plan)
    assert site.agent is not None
    log = await site.agent.end()
    assert site.agent.process is not None
    assert site.agent.process.returncode == 0, log
    site.engine.step()
    assert site.engine.plan is None
    assert "Traceback" not in log


async def test_a_second_agent_for_one_engine_is_refused_with_one_line(site: Site) -> None:
    site.harness.submit(1)
    await site.harness.until(lambda: site.engine.plan)
    second = AgentProcess(site.harness.settings(site.predictor_at.target, site.scheduler_at.target))
    process = await second.start()
    log = await second.end() if await process.wait() else ""
    assert log.splitlines()[-1].startswith("agent: another agent serves engine engine-test")
    await site.harness.until(lambda: site.engine.plan)


async def test_statistics_tell_what_was_used(site: Site) -> None:
    await site.harness.until(lambda: site.scheduler.opens and site.predictor.opens)
    site.harness.submit(6, output_tokens=30)
    await site.harness.until(lambda: not site.engine.living)
    await site.harness.until(lambda: site.harness.statistics()["counters"]["requests_finished"] == 6, stepping=False)
    numbers = site.harness.statistics()
    counters = numbers["counters"]
    shipped = sum(len(s.decodes.handles) + len(s.prompts.handles) for s in site.predictor.steps)
    assert counters["rows_shipped"] == counters["predictions_received"] == shipped
    assert counters["predictions_used"] >= counters["refined_predictions_used"] > 0
    assert counters["plans_applied"] > 3
    # Every prediction says 40 in all, and all requests have 30 tokens.
    assert numbers["mean_absolute_error_tokens"] == 10.0
    assert numbers["prediction_age_tokens_p50"] == pytest.approx(1, abs=2)
    assert numbers["living_requests"] == 0


async def test_prometheus_sees_the_same_numbers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with running(tmp_path, metrics_port=str(port)) as site, httpx.AsyncClient() as client:
        site.harness.submit(2)
        await site.harness.until(lambda: site.engine.plan)
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        assert f'trail_agent_connected{{engine="{ENGINE_ID}",link="scheduler_link"}} 1.0' in text
        assert f'trail_agent_living_requests{{engine="{ENGINE_ID}"}} 2.0' in text
        assert "trail_agent_rows_shipped_total" in text
