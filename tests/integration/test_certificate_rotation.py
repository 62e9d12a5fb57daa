"""New certificates without a restart: of the services, and of an agent whose streams move on to them."""

import hashlib
import shutil
from pathlib import Path

import grpc

from engine_adapter.records import Engine
from sidecar.dial import Credentials
from tests.conftest import Valkey
from tests.integration.agent_harness import AgentProcess, Harness
from tests.integration.certificates import Authority, Signed
from tests.integration.secured import TENANT_A, TOKENS, Site, site, until
from tests.patience import PATIENCE_S
from trail.v1 import predictor_pb2, predictor_pb2_grpc

DIM = 16
CAPACITY = Engine(max_running_requests=4, kv_blocks=10_000, kv_block_tokens=16, step_token_budget=256)
OUTPUT_TOKENS = 50_000
NEW_TOKEN = "another-token-7d1c"  # noqa: S105 - of a service that lives as long as the test


def names(made: Site, credentials: Credentials) -> list[str]:
    with credentials.channel(made.predictor.target) as channel:
        stub = predictor_pb2_grpc.PredictorServiceStub(channel)
        answer = stub.ListModels(predictor_pb2.ListModelsRequest(), timeout=PATIENCE_S)
        return [model.name for model in answer.models]


def refused(made: Site, credentials: Credentials) -> bool:
    try:
        names(made, credentials)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def replace(signed: Signed, by: Signed) -> None:
    """First the certificate, then the key, as somebody does who does not think of it."""
    shutil.copy(by.certificate, signed.certificate)
    shutil.copy(by.key, signed.key)


def test_a_service_takes_new_certificates_and_connections_that_are_open_stay(
    tmp_path: Path, valkey_session: Valkey
) -> None:
    with site(tmp_path, valkey_session.url) as made:
        before, serving = made.with_token(TENANT_A), made.folder / "ca" / "server.crt"
        others = Authority(tmp_path / "new-ca")
        after = made.with_token(TENANT_A, ca_file=others.certificate)
        assert refused(made, after)
        with before.channel(made.predictor.target) as channel:
            stub = predictor_pb2_grpc.PredictorServiceStub(channel)
            assert stub.ListModels(predictor_pb2.ListModelsRequest(), timeout=PATIENCE_S).models
            # Half of a pair is not taken, and what was there goes on.
            new = others.sign("server")
            shutil.copy(new.certificate, serving)
            assert names(made, before) == ["tiny"]
            until(lambda: any("were not taken" in line for line in made.predictor.log), "a line that says so")
            shutil.copy(new.key, serving.with_suffix(".key"))
            assert names(made, after) == ["tiny"]
            assert refused(made, before)
            assert stub.ListModels(predictor_pb2.ListModelsRequest(), timeout=PATIENCE_S).models


async def test_an_agent_goes_on_with_new_certificates_and_a_new_token(tmp_path: Path, valkey_session: Valkey) -> None:
    with site(tmp_path, valkey_session.url, client_certificates=True, max_connection_age_s=1) as made:
        made.access_file.write_text(made.access_file.read_text().replace("a-*", "engine-*"))
        mine = made.authority.sign("agent", "DNS:agent.example")
        roots, token_file = tmp_path / "roots.crt", tmp_path / "agent.token"
        shutil.copy(made.authority.certificate, roots)
        token_file.write_text(TOKENS[TENANT_A])
        files = {
            "tls_ca_file": roots,
            "tls_cert_file": mine.certificate,
            "tls_key_file": mine.key,
            "token_file": token_file,
        }
        harness = Harness(tmp_path / "shm", DIM, CAPACITY)
        harness.submit(2, output_tokens=OUTPUT_TOKENS)
        agent = AgentProcess(harness.settings(*made.addresses, **{name: str(path) for name, path in files.items()}))
        await agent.start()
        try:
            await harness.until(lambda: predicted(harness, since=0))
            # From now on nothing of before is good for anything, on either side.
            others = Authority(tmp_path / "new-ca")
            replace(mine, others.sign("agent", "DNS:agent.example"))
            shutil.copy(others.certificate, roots)
            replace(Signed(made.folder / "ca" / "server.crt", made.folder / "ca" / "server.key"), others.sign("server"))
            shutil.copy(others.certificate, made.authority.certificate)
            token_file.write_text(NEW_TOKEN)
            old, new = (hashlib.sha256(each.encode()).hexdigest() for each in (TOKENS[TENANT_A], NEW_TOKEN))
            made.access_file.write_text(made.access_file.read_text().replace(old, new))
            for service in (made.predictor, made.scheduler):
                seen = lambda log=service.log: any("new access file" in line for line in log)  # noqa: E731
                await harness.until(seen)
            opened = streams(harness)
            await harness.until(lambda: streams(harness) >= opened + 3)
            received = harness.statistics()["counters"]["predictions_received"]
            await harness.until(lambda: predicted(harness, since=received))
        finally:
            log = await agent.end()
        for token in (TOKENS[TENANT_A], NEW_TOKEN):
            assert token not in log + "".join(made.predictor.log + made.scheduler.log)


def streams(harness: Harness) -> int:
    counters = harness.statistics()["counters"]
    return int(min(counters["predictor_streams_opened"], counters["scheduler_streams_opened"]))


def predicted(harness: Harness, *, since: int) -> bool:
    """Whether more predictions came, and both streams are open."""
    try:
        found = harness.statistics()
    except (OSError, ValueError):
        return False
    return found["counters"]["predictions_received"] > since and all(found["connected"].values())
