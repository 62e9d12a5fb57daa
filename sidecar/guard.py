"""The interceptor that looks at every call: who it is, and whether he may."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
import structlog

from sidecar import access
from sidecar.access import Access, AccessError, Client
from sidecar.errors import Refused, abort
from sidecar.permissions import RULES, Need, Rule
from sidecar.watched import fingerprint

LOOK_S = 1.0
"""Seconds between two looks at the access file."""
_SCHEME = "bearer "

Handler = Any
"""grpc.RpcMethodHandler, whose stubs know no behaviours."""


class Guard(grpc.aio.ServerInterceptor):
    """Refuses a call before its handler runs, and an open stream at its next message once its client may no more."""

    def __init__(self, path: Path) -> None:
        """Raises AccessError."""
        self._path, self._seen = path, fingerprint([path])
        self.access: Access = access.read(path)
        self._log = structlog.get_logger("access")

    async def watch(self) -> None:
        """Reads the file again when it changes, until cancelled. One that cannot be used changes nothing."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = fingerprint([self._path])
            if not now or now == self._seen:
                continue
            self._seen = now
            try:
                self.access = await asyncio.to_thread(access.read, self._path)
            except AccessError as error:
                self._log.error("the access file was not taken; what was read before holds", reason=str(error))
            else:
                self._log.info("new access file", clients=len(self.access.clients))

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(details)
        rule = RULES.get(str(details.method))
        if handler is None or (rule is not None and rule.need is Need.NOTHING):
            return handler

        # A stream on this side, whatever the method is: nothing is read from whoever is refused for what he is.
        async def guarded(_: Any, context: Any) -> None:
            call = _Call(self, rule, context)
            try:
                call.admit()
                await _serve(handler, call, context)
            except Refused as error:
                await abort(context, error)

        return grpc.stream_stream_rpc_method_handler(guarded, handler.request_deserializer, handler.response_serializer)


class _Call:
    """A servicer's context that checks the first message, and the client again when the access file has changed."""

    def __init__(self, guard: Guard, rule: Rule | None, context: Any) -> None:
        self._guard, self._rule, self._context = guard, rule, context
        self._token, self._names = _token(context), _certificate_names(context)
        self._engine_id: str | None = None
        self._checked: Access | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def admit(self) -> Client:
        """The client. Raises Refused where it is nobody, or may not call the method whatever he says."""
        client = self._guard.access.identify(self._token, self._names)
        if client is None:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, _unknown(self._token, self._names))
        if self._rule is None:
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, "this method is open to nobody")
        if self._rule.need is Need.ADMIN and not client.admin:
            self._deny(client, "this method is for admins: the access file needs admin = true")
        if self._rule.need is not Need.ADMIN and not (client.engines or client.admin):
            self._deny(client, "the access file gives it no engines")
        return client

    async def read(self) -> Any:
        message = await self._context.read()
        if message is not grpc.aio.EOF and self._checked is not self._guard.access:
            if self._engine_id is None and self._rule is not None:
                self._engine_id = self._rule.engine_of(message)
            self._check()
        return message

    async def write(self, message: Any) -> None:
        if self._checked is not self._guard.access:
            self._check()
        await self._context.write(message)

    async def messages(self) -> AsyncIterator[Any]:
        """For handlers that iterate."""
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    def _check(self) -> None:
        now = self._guard.access
        client = self.admit()
        of_engine = self._rule is not None and self._rule.need is Need.ENGINE
        if of_engine and not client.may_use(self._engine_id or ""):
            self._deny(client, f"engine_id: {self._engine_id!r} is none of its engines")
        self._checked = now

    def _deny(self, client: Client, reason: str) -> NoReturn:
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, f"client {client.name!r}: {reason}")


async def _serve(handler: Handler, call: _Call, context: Any) -> None:
    """Calls the handler in the way of its kind."""
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    request = call.messages() if handler.request_streaming else await call.read()
    if request is grpc.aio.EOF:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "the request is missing")
    answers = behaviour(request, call)
    if inspect.isasyncgen(answers):
        async for each in answers:
            await call.write(each)
    elif handler.response_streaming:
        await answers
    else:
        await context.write(await answers)


def _token(context: Any) -> str | None:
    """What follows "Bearer" in the call's metadata; None where there is no `authorization`; empty where it is another
    scheme, or there are two."""
    given = [str(value) for key, value in context.invocation_metadata() or () if key == "authorization"]
    if not given:
        return None
    if len(given) > 1 or not given[0].lower().startswith(_SCHEME):
        return ""
    return given[0][len(_SCHEME) :].strip()


def _certificate_names(context: Any) -> frozenset[str]:
    """Names in the client's certificate, which the handshake has verified."""
    found = context.auth_context()
    names = found.get("x509_subject_alternative_name") or found.get("x509_common_name") or ()
    return frozenset(name.decode("utf-8", "replace") for name in names)


def _unknown(token: str | None, names: frozenset[str]) -> str:
    if token is not None:
        return "the bearer token is not one of a client in the access file"
    if names:
        return f"the certificate's names ({', '.join(sorted(names))}) are not those of a client in the access file"
    return "who are you? Send `authorization: Bearer TOKEN`, or a client certificate where the service asks for one"
