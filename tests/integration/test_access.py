"""Who is refused what: every RPC of both services, as their own reflection lists them."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.dial import Credentials
from tests.conftest import Valkey
from tests.integration.secured import (
    ADMIN,
    ENGINE,
    NOBODY,
    TENANT_A,
    TENANT_B,
    TOKENS,
    Rpc,
    Site,
    access_toml,
    rpcs,
    site,
    until,
)
from tests.patience import PATIENCE_S
from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc

OPEN = {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List"}
"""Probes know no secret."""
SHARED = {
    "/trail.v1.PredictorService/Predict",
    "/trail.v1.PredictorService/GetModel",
    "/trail.v1.PredictorService/GetProjection",
    "/trail.v1.PredictorService/ListModels",
    "/trail.v1.SchedulerService/Plan",
}
"""Of no engine: for every client that has engines at all."""
OF_AN_ENGINE = {
    "/trail.v1.PredictorService/StreamPredict",
    "/trail.v1.PredictorService/PutPrediction",
    "/trail.v1.PredictorService/Forget",
    "/trail.v1.SchedulerService/Coordinate",
}
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
OK = grpc.StatusCode.OK


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, valkey_session: Valkey) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("tokens"), valkey_session.url) as made:
        yield made


@pytest.fixture(scope="module")
def everything(secured: Site) -> list[Rpc]:
    """Every RPC that needs something."""
    found = [rpc for address in secured.addresses for rpc in rpcs(address, secured.with_token(ADMIN))]
    assert len({rpc.path for rpc in found}) >= 20, "reflection must list what there is"
    assert {rpc.path for rpc in found} >= OPEN | SHARED | OF_AN_ENGINE
    return [rpc for rpc in found if rpc.path not in OPEN]


def codes(found: list[Rpc], credentials: Credentials) -> dict[str, grpc.StatusCode]:
    return {rpc.path: rpc.refusal(credentials)[0] for rpc in found}


def test_without_a_token_every_rpc_is_refused(secured: Site, everything: list[Rpc]) -> None:
    assert set(codes(everything, Credentials(secured.authority.certificate)).values()) == {UNAUTHENTICATED}


def test_with_a_wrong_token_every_rpc_is_refused_and_the_token_is_told_nobody(
    secured: Site, everything: list[Rpc]
) -> None:
    wrong = "guessed-token-3b1f"
    for rpc in everything:
        code, text = rpc.refusal(secured.with_token(wrong))
        assert code is UNAUTHENTICATED, rpc.path
        assert wrong not in text
    assert not [line for line in secured.predictor.log + secured.scheduler.log if wrong in line]


def test_a_client_that_may_do_nothing_is_refused_at_every_rpc(secured: Site, everything: list[Rpc]) -> None:
    assert set(codes(everything, secured.with_token(NOBODY)).values()) == {DENIED}


def test_a_tenant_is_refused_wherever_another_s_engine_or_all_engines_are_concerned(
    secured: Site, everything: list[Rpc]
) -> None:
    assert {rpc.path for rpc in everything if rpc.names_an_engine} >= OF_AN_ENGINE
    found = codes(everything, secured.with_token(TENANT_B))
    assert {path for path, code in found.items() if code is not DENIED} == SHARED
    for path in SHARED:
        assert found[path] is not UNAUTHENTICATED


def test_a_tenant_gets_through_to_its_own_engine(secured: Site, everything: list[Rpc]) -> None:
    found = codes(everything, secured.with_token(TENANT_A))
    through = {path for path, code in found.items() if code not in (DENIED, UNAUTHENTICATED)}
    assert through == SHARED | OF_AN_ENGINE


def test_an_admin_is_no_engine(secured: Site, everything: list[Rpc]) -> None:
    found = codes(everything, secured.with_token(ADMIN))
    assert {path for path, code in found.items() if code is DENIED} == OF_AN_ENGINE
    assert UNAUTHENTICATED not in found.values()


def test_a_method_that_nobody_offers_is_answered_by_nobody(secured: Site) -> None:
    rpc = Rpc(secured.predictor.target, "/trail.v1.PredictorService/NoSuchMethod", b"")
    assert rpc.refusal(secured.with_token(ADMIN))[0] is grpc.StatusCode.UNIMPLEMENTED


def test_probes_are_answered_without_a_token(secured: Site) -> None:
    for address in secured.addresses:
        with Credentials(secured.authority.certificate).channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            until(lambda: _serving(stub), "SERVING")  # noqa: B023 - it ends within the turn


def test_plain_text_does_not_get_past_the_handshake(secured: Site, everything: list[Rpc]) -> None:
    assert everything[0].refusal(Credentials())[0] is grpc.StatusCode.UNAVAILABLE


def test_no_token_is_in_any_log(secured: Site, everything: list[Rpc]) -> None:
    codes(everything, secured.with_token(TENANT_A))
    lines = "".join(secured.predictor.log + secured.scheduler.log)
    assert not [token for token in TOKENS.values() if token in lines]


def test_a_stream_ends_once_its_client_is_taken_off_the_list(secured: Site) -> None:
    with secured.with_token(TENANT_A).channel(secured.scheduler.target) as channel:
        epoch = engine_pb2.Epoch(incarnation=7, counter=1)
        opening = scheduler_pb2.OpenCoordinate(
            engine_id=ENGINE,
            epoch=epoch,
            capacity=scheduler_pb2.EngineCapacity(
                max_running_requests=4, kv_blocks=10, kv_block_tokens=16, step_token_budget=64
            ),
        )

        def messages() -> Iterator[scheduler_pb2.CoordinateRequest]:
            yield scheduler_pb2.CoordinateRequest(open=opening)
            for step in range(1, 100_000):
                yield scheduler_pb2.CoordinateRequest(delta=scheduler_pb2.StateDelta(epoch=epoch, step=step))
                asked.wait(0.05)

        asked = threading.Event()
        call = scheduler_pb2_grpc.SchedulerServiceStub(channel).Coordinate(messages(), timeout=PATIENCE_S)
        assert next(call).opened.epoch == epoch
        secured.access_file.write_text(access_toml(without=TENANT_A))
        try:
            with pytest.raises(grpc.RpcError) as ended:
                list(call)
            assert ended.value.code() is UNAUTHENTICATED
            everybody_else = predictor_pb2_grpc.PredictorServiceStub
            with secured.with_token(TENANT_B).channel(secured.predictor.target) as other:
                assert everybody_else(other).ListModels(predictor_pb2.ListModelsRequest()).models
            # A file that cannot be read changes nothing.
            secured.access_file.write_text("[[clients]]\nname = 3\n")
            until(lambda: any("was not taken" in line for line in secured.predictor.log), "a line that says so")
            with secured.with_token(TENANT_B).channel(secured.predictor.target) as other:
                assert everybody_else(other).ListModels(predictor_pb2.ListModelsRequest()).models
        finally:
            asked.set()
            secured.access_file.write_text(access_toml())


def test_certificates_tell_who_calls_and_an_expired_one_is_refused_at_every_rpc(
    tmp_path: Path, valkey_session: Valkey
) -> None:
    with site(tmp_path, valkey_session.url, client_certificates=True) as made:
        signed = {
            name: made.with_certificate(made.authority.sign(f"client of {name}", f"DNS:{name}.example"))
            for name in (ADMIN, TENANT_A, TENANT_B, NOBODY)
        }
        stranger = made.with_certificate(made.authority.sign("stranger", "DNS:stranger.example"))
        # What the certificate says beside its alternative names counts for nothing.
        pretender = made.with_certificate(made.authority.sign("a.example", "DNS:pretender.example"))
        expired = made.with_certificate(made.authority.sign("late", "DNS:a.example", expired=True))
        foreign_authority = type(made.authority)(tmp_path / "others")
        foreign = foreign_authority.sign("foreign", "DNS:a.example")
        offered = [rpc for address in made.addresses for rpc in rpcs(address, signed[ADMIN])]
        needing = [rpc for rpc in offered if rpc.path not in OPEN]
        for nobody in (expired, made.with_certificate(foreign), Credentials(made.authority.certificate)):
            assert set(codes(offered, nobody).values()) == {grpc.StatusCode.UNAVAILABLE}
        for unknown in (stranger, pretender):
            assert set(codes(needing, unknown).values()) == {UNAUTHENTICATED}
        assert set(codes(needing, signed[NOBODY]).values()) == {DENIED}
        denied = {path for path, code in codes(needing, signed[TENANT_B]).items() if code is DENIED}
        assert denied == {rpc.path for rpc in needing} - SHARED
        ours = {
            path for path, code in codes(needing, signed[TENANT_A]).items() if code not in (DENIED, UNAUTHENTICATED)
        }
        assert ours == SHARED | OF_AN_ENGINE


def _serving(stub: health_pb2_grpc.HealthStub) -> bool:
    with contextlib.suppress(grpc.RpcError):
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False
