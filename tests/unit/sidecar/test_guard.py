"""What holds for any handler behind the guard, on a real server with handlers of each kind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from sidecar import access, permissions, server
from sidecar.guard import Guard
from sidecar.health import Health
from sidecar.permissions import RULES, Need, Rule
from sidecar.settings import ServerSettings
from tests.patience import PATIENCE_S
from tests.unit.sidecar.test_access import FILE, TOKEN, digest, written
from trail.v1 import predictor_pb2

CALLER = (("authorization", f"Bearer {TOKEN}"),)


async def _twice(message: bytes, context: Any) -> bytes:
    return 2 * message


async def _each(message: bytes, context: Any) -> AsyncIterator[bytes]:
    while True:
        yield message
        await asyncio.sleep(0.01)


async def _joined(messages: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([each async for each in messages])


async def _echo(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for each in messages:
        yield each


async def _pump(_: Any, context: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message)


HANDLERS: dict[str, Any] = {
    "Twice": grpc.unary_unary_rpc_method_handler(_twice),
    "Each": grpc.unary_stream_rpc_method_handler(_each),
    "Joined": grpc.stream_unary_rpc_method_handler(_joined),
    "Echo": grpc.stream_stream_rpc_method_handler(_echo),
    "Pump": grpc.stream_stream_rpc_method_handler(_pump),
    "Forgotten": grpc.unary_unary_rpc_method_handler(_twice),
}


@pytest.fixture(autouse=True)
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    added = {f"/test.Service/{name}": Rule(Need.CLIENT) for name in HANDLERS if name != "Forgotten"}
    monkeypatch.setattr("sidecar.guard.RULES", {**RULES, **added})


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(written(tmp_path, FILE.replace('"shared"]', '"shared"]\nadmin = true')))


@asynccontextmanager
async def served(guard: Guard) -> AsyncIterator[Any]:
    running = grpc.aio.server(interceptors=[guard])
    running.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", HANDLERS),))
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await running.stop(0)


async def test_handlers_of_each_kind_answer_as_without_it(guard: Guard) -> None:
    async with served(guard) as channel:
        parts = [b"a", b"b"]
        assert await channel.unary_unary("/test.Service/Twice")(b"a", metadata=CALLER) == b"aa"
        assert await channel.stream_unary("/test.Service/Joined")(iter(parts), metadata=CALLER) == b"ab"
        each = channel.unary_stream("/test.Service/Each")(b"a", metadata=CALLER)
        assert [await each.read() for _ in range(3)] == [b"a"] * 3
        for name in ("Echo", "Pump"):
            assert [
                one async for one in channel.stream_stream(f"/test.Service/{name}")(iter(parts), metadata=CALLER)
            ] == parts


async def code(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code()


async def test_a_method_without_a_rule_is_open_to_nobody_not_even_to_an_admin(guard: Guard) -> None:
    async with served(guard) as channel:
        forgotten = channel.unary_unary("/test.Service/Forgotten")
        assert await code(forgotten(b"a", metadata=CALLER)) is grpc.StatusCode.PERMISSION_DENIED
        assert await code(forgotten(b"a")) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", f"Basic {TOKEN}"),),
        (("authorization", TOKEN),),
        (("authorization", "Bearer "),),
        (("authorization", f"Bearer {digest(TOKEN)}"),),
        (*CALLER, *CALLER),
        (("authorization", "Bearer nobody"), *CALLER),
    ],
)
async def test_what_is_not_one_bearer_token_of_a_client_is_refused(guard: Guard, metadata: Any) -> None:
    async with served(guard) as channel:
        call = channel.unary_unary("/test.Service/Twice")(b"a", metadata=metadata)
        assert await code(call) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_call_without_its_message_is_refused(guard: Guard) -> None:
    async with served(guard) as channel:
        call = channel.stream_stream("/test.Service/Twice")(iter([]), metadata=CALLER)
        assert await code(call.read()) is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_client_that_only_listens_is_cut_off_once_it_is_off_the_list(guard: Guard, tmp_path: Path) -> None:
    async with served(guard) as channel:
        call = channel.unary_stream("/test.Service/Each")(b"a", metadata=CALLER)
        assert await call.read() == b"a"
        guard.access = access.read(written(tmp_path, FILE.replace(digest(TOKEN), digest("another"))))

        async def to_the_end() -> None:
            while await call.read() is not grpc.aio.EOF:
                pass

        async with asyncio.timeout(PATIENCE_S):
            assert await code(to_the_end()) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_server_with_a_method_that_has_no_rule_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {name: rule for name, rule in RULES.items() if not name.endswith("/Forget")}
    monkeypatch.setattr(permissions, "RULES", fewer)
    service = predictor_pb2.DESCRIPTOR.services_by_name["PredictorService"].full_name
    with pytest.raises(server.StartError, match=r"no rule for /trail\.v1\.PredictorService/Forget$"):
        await server.run("example", ServerSettings(port=0), lambda _: [service], Health())
