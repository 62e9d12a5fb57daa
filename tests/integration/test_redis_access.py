"""TLS with certificates on both sides, and the ACL users of docs/scaling.md: enough for the services, and no more."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import redis
from redis.exceptions import NoPermissionError, RedisError

from benchmarks import redis_servers, replicas
from benchmarks.redis_servers import Servers
from predictor_service.store import Store
from scheduler_service.experiments.pilot import Pilot
from scheduler_service.experiments.store import ExperimentStore
from scheduler_service.experiments.tally import Tally
from sidecar.cli.load.options import LoadOptions
from sidecar.cli.load.run import Load
from sidecar.redis import Access, connect, keys, next_message, subscribe
from tests import artefacts
from tests.integration import real_redis
from tests.integration.certificates import Authority, Signed
from tests.unit.experiments.designs import design
from trail.v1 import experiment_pb2, experiment_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc

DOCS = Path(__file__).parents[2] / "docs" / "scaling.md"
PASSWORD = "correct-horse"  # noqa: S105 - of a server that lives as long as the test
ADMIN = "admin"
DIM = 16
USERS = ("trail-predictor", "trail-scheduler")


def acl_lines() -> dict[str, str]:
    """User name to its line, as the docs have it."""
    lines = [line.strip() for line in DOCS.read_text().splitlines() if line.strip().startswith("user trail-")]
    return {line.split()[1]: line.replace("PASSWORD", PASSWORD) for line in lines}


@dataclass
class Secured:
    """A server that takes TLS with a certificate only, and knows nobody but an administrator and our users."""

    port: int
    authority: Authority
    ours: Signed

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0"

    def access(self, user: str, **changes: object) -> Access:
        files = {"ca_file": self.authority.certificate, "cert_file": self.ours.certificate, "key_file": self.ours.key}
        return Access(user, PASSWORD, **{**files, **changes})  # type: ignore[arg-type]

    def flags(self, user: str) -> dict[str, object]:
        return {
            "redis_url": self.url,
            "redis_username": user,
            "redis_password": PASSWORD,
            "redis_ca_file": self.authority.certificate,
            "redis_cert_file": self.ours.certificate,
            "redis_key_file": self.ours.key,
        }

    def client(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(
            self.url,
            username=user,
            password=PASSWORD,
            ssl_ca_certs=str(self.authority.certificate),
            ssl_certfile=str(self.ours.certificate),
            ssl_keyfile=str(self.ours.key),
        )


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    real_redis.require()
    authority = Authority(tmp_path / "certificates")
    theirs = authority.sign("store")
    lines = [
        f"tls-cert-file {theirs.certificate}",
        f"tls-key-file {theirs.key}",
        f"tls-ca-cert-file {authority.certificate}",
        "tls-auth-clients yes",
        "user default off",
        f"user {ADMIN} on >{PASSWORD} ~* &* +@all",
        *acl_lines().values(),
    ]
    with redis_servers.single(tmp_path, *lines, tls=True) as server:
        found = Secured(server.port, authority, authority.sign("ours"))
        end_s = time.monotonic() + 20
        while True:
            try:
                found.client(ADMIN).ping()
                break
            except RedisError:
                assert time.monotonic() < end_s
                time.sleep(0.05)
        yield found


def test_the_services_do_all_they_do_under_their_users(secured: Secured, tmp_path: Path) -> None:
    model = artefacts.make(tmp_path / "model", hidden_size=DIM)
    predictor = replicas.Replica(
        "predictor_service.main", tmp_path / "predictor.log", model_dir=model, outcome_poll_s=0.5,
        **secured.flags("trail-predictor"),
    )  # fmt: skip
    scheduler = replicas.Replica(
        "scheduler_service.main", tmp_path / "scheduler.log", **secured.flags("trail-scheduler")
    )
    with replicas.running([predictor, scheduler]):
        options = LoadOptions(
            predictor.address, scheduler.address, 1, requests=4, waiting=2, dim=DIM, step_ms=20, output_tokens=10
        )
        with Load(options) as load:
            assert load.connect() == 1
            load.begin()
            with grpc.insecure_channel(scheduler.address) as channel:
                policy = scheduler_pb2.PolicySettings(policy="srpt")
                for engine_id in ("load-0", ""):
                    request = scheduler_pb2.SetPolicyRequest(engine_id=engine_id, policy=policy)
                    scheduler_pb2_grpc.SchedulerAdminServiceStub(channel).SetPolicy(request)
                load.during(2)
                experiments = experiment_pb2_grpc.ExperimentServiceStub(channel)
                arms = [experiment_pb2.ExperimentArm(name=name) for name in ("own", "same")]
                arms += [experiment_pb2.ExperimentArm(name="dark", policy=policy, shadow=True)]
                design = experiment_pb2.ExperimentDesign(name="aa", arms=arms, block_s=1.0, washout_s=0.1, groups=50)
                experiments.CreateExperiment(experiment_pb2.CreateExperimentRequest(design=design))
                experiments.StartExperiment(experiment_pb2.StartExperimentRequest(name="aa"))
                load.during(8)
                counted = experiments.GetExperiment(experiment_pb2.GetExperimentRequest(name="aa"))
                assert sum(block.requests for block in counted.blocks) > 0
                assert counted.shadows[0].plans > 0
                experiments.StopExperiment(experiment_pb2.StopExperimentRequest(name="aa"))
        found = load.result()
    assert found["plans_per_s"] > 0
    assert found["predictions_per_s"] > 0
    assert found["degraded_answers"] == found["row_errors"] == 0
    with secured.client(ADMIN) as admin:
        assert admin.xlen(keys("load-0").outcomes) > 0
        assert admin.exists(keys("load-0").owner, "trail:policies") == 2
        assert admin.acl_log() == []


@pytest.mark.parametrize("user", USERS)
def test_a_user_can_do_nothing_else(secured: Secured, user: str) -> None:
    with secured.client(ADMIN) as admin:
        admin.set("others", "secret")
        admin.hset("others:hash", "a", "b")
    with secured.client(user) as client:
        assert client.ping()
        for command in (
            "FLUSHALL",
            "FLUSHDB",
            "KEYS *",
            "SCAN 0",
            "CONFIG GET *",
            "ACL LIST",
            "EVAL 0 0",
            "FUNCTION FLUSH",
            "FUNCTION DUMP",
            "GET others",
            "HGETALL others:hash",
            "RENAME trail:a others",
            "SSUBSCRIBE others",
            "SUBSCRIBE trail:x",
            "MONITOR",
            "SHUTDOWN",
            "CLIENT LIST",
            "REPLICAOF NO ONE",
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())
        if user == "trail-scheduler":
            for command in ("FUNCTION LOAD x", "FCALL trail_claim_v3 0", "SPUBLISH trail:x y"):
                with pytest.raises(NoPermissionError):
                    client.execute_command(*command.split())


async def test_tls_takes_nobody_without_a_certificate_and_believes_no_foreign_one(
    secured: Secured, tmp_path: Path
) -> None:
    async with connect(secured.url, 2000, secured.access(ADMIN)) as client:
        assert await client.ping()
    async with connect(secured.url, 2000, secured.access(ADMIN, cert_file=None, key_file=None)) as client:
        with pytest.raises((RedisError, OSError)):
            await client.ping()
    foreign = Authority(tmp_path / "foreign")
    async with connect(secured.url, 2000, secured.access(ADMIN, ca_file=foreign.certificate)) as client:
        with pytest.raises((RedisError, OSError)):
            await client.ping()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Servers]:
    real_redis.require()
    with redis_servers.cluster(tmp_path / "redis") as started:
        for server in started.servers:
            with server.client() as client:
                for line in acl_lines().values():
                    client.execute_command("ACL", "SETUSER", *line.split()[1:])
        yield started


async def test_the_users_do_in_a_cluster_too(cluster: Servers) -> None:
    by_predictor = connect(cluster.url, 2000, Access("trail-predictor", PASSWORD))
    by_scheduler = connect(cluster.url, 2000, Access("trail-scheduler", PASSWORD))
    async with by_predictor as writing, by_scheduler as reading:
        store = Store(writing, timeout_ms=2000, expire_s=60)
        await store.prepare()
        for engine_id in ("a", "b", "c"):
            names = keys(engine_id)
            async with reading.pubsub() as pubsub:
                await subscribe(reading, pubsub, names.predictions)
                assert (await next_message(pubsub, 5) or {})["type"] == "ssubscribe"
                await store.claim(engine_id, "1:1", ["x"])
                await store.commit(engine_id, "1:1", {"x": b"1"}, (), b"told")
                assert (await next_message(pubsub, 5) or {})["data"] == b"told"
            assert await reading.hgetall(names.posterior) == {b"x": b"1"}
            async with reading.pipeline(transaction=False) as pipeline:
                pipeline.xadd(names.outcomes, {"a": 1}, maxlen=10)
                await pipeline.execute()
            assert len(await writing.xrange(names.outcomes) or ()) == 1
        async with reading.pipeline(transaction=True) as pipeline:
            pipeline.delete("trail:policies")
            pipeline.hset("trail:policies", "*", "{}")
            await pipeline.execute()
        experiments = ExperimentStore(reading)
        looked = await experiments.look()
        assert await experiments.create(design(), looked.store_s)
        await experiments.seen(["a", "b"], looked.store_s)
        assert await experiments.connected(looked.store_s) == ["a", "b"]
        assert [await experiments.claim(engine_id, "test") for engine_id in "ab"] == ["test"] * 2
        for engine_id in "abc":
            await experiments.count(engine_id, "test", {"0:x": Tally(requests=3).packed()})
            await experiments.void(engine_id, "test", [1], "why")
            await experiments.give_artefact(engine_id, "next")
            await experiments.give_artefact(engine_id, "")
            tallies, void = await experiments.tallies(engine_id, "test")
            assert (tallies[0].requests, void) == (3, {1: "why"})
            assert (await Pilot.read(reading, [engine_id])).requests == 0
        await experiments.release({"a": "test", "b": "test"})
        assert (await experiments.look()).claims == {}
        with pytest.raises(NoPermissionError):
            await writing.get("others")
    await asyncio.sleep(0)
    for server in cluster.servers:
        with server.client() as client:
            denied = [entry["object"] for entry in client.acl_log()]
            assert denied in ([], ["others"])
