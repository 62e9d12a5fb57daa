"""Both services behind TLS and an access file, and clients with and without what they need."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from sidecar.dial import Credentials
from tests import artefacts
from tests.integration.certificates import Authority, Signed
from tests.integration.service_process import ServiceProcess
from tests.patience import PATIENCE_S

ENGINE = "a-1"
"""Of tenant a."""
ADMIN, TENANT_A, TENANT_B, NOBODY = "admin", "a", "b", "nobody"
TOKENS = {name: f"{name}-0f2c7f5ec4b94bd68a" for name in (ADMIN, TENANT_A, TENANT_B, NOBODY)}
DEADLINE_S = PATIENCE_S
_ENGINES = {TENANT_A: ["a-*"], TENANT_B: ["b-*"]}


def access_toml(*, without: str = "") -> str:
    """Four clients: an admin without engines, two tenants, and one that may do nothing at all."""
    entries = []
    for name, token in TOKENS.items():
        if name != without:
            entries.append(
                f'[[clients]]\nname = "{name}"\ntokens_sha256 = ["{hashlib.sha256(token.encode()).hexdigest()}"]\n'
                f'certificates = ["{name}.example"]\nengines = {_ENGINES.get(name, [])}\n'
                f"admin = {str(name == ADMIN).lower()}\n"
            )
    return "\n".join(entries)


@dataclass
class Site:
    """A folder with certificates, tokens and the access file, and the two services."""

    folder: Path
    authority: Authority
    predictor: ServiceProcess
    scheduler: ServiceProcess

    @property
    def access_file(self) -> Path:
        return self.folder / "access.toml"

    @property
    def addresses(self) -> tuple[str, str]:
        return self.predictor.target, self.scheduler.target

    def with_token(self, name: str, *, ca_file: Path | None = None) -> Credentials:
        """Of the client, or of whoever sends this token."""
        file = self.folder / f"{name}.token"
        file.write_text(TOKENS.get(name, name) + "\n")
        return Credentials(ca_file or self.authority.certificate, token_file=file)

    def with_certificate(self, signed: Signed) -> Credentials:
        return Credentials(self.authority.certificate, signed.certificate, signed.key)


@contextlib.contextmanager
def site(folder: Path, redis_url: str, *, client_certificates: bool = False, **flags: object) -> Iterator[Site]:
    """`client_certificates`: clients have to show one."""
    authority = Authority(folder / "ca")
    ours = authority.sign("server")
    (folder / "access.toml").write_text(access_toml())
    artefacts.make(folder / "models" / "tiny", projected=True)
    shared = {
        "redis_url": redis_url,
        "redis_timeout_ms": 10_000,
        "tls_cert_file": ours.certificate,
        "tls_key_file": ours.key,
        "access_file": folder / "access.toml",
        **({"tls_client_ca_file": authority.certificate} if client_certificates else {}),
        **flags,
    }
    predictor = ServiceProcess("predictor_service.main", model_dir=folder / "models", **shared)
    scheduler = ServiceProcess("scheduler_service.main", **shared)
    with contextlib.ExitStack() as ends:
        for each in (predictor, scheduler):
            ends.callback(each.kill)
        with ThreadPoolExecutor() as pool:
            list(pool.map(ServiceProcess.start, (predictor, scheduler)))
        yield Site(folder, authority, predictor, scheduler)


@dataclass(frozen=True)
class Rpc:
    """A method as the service itself describes it; `request` names tenant a's engine where it names one."""

    address: str
    path: str
    request: bytes

    @property
    def names_an_engine(self) -> bool:
        return ENGINE.encode() in self.request

    def refusal(self, credentials: Credentials) -> tuple[grpc.StatusCode, str]:
        """How a call of the client ends; OK where it is answered."""
        with credentials.channel(self.address) as channel:
            # On the wire a unary call is a stream of one message.
            method: Any = channel.stream_stream(self.path)
            call = method(iter([self.request]), timeout=DEADLINE_S)
            try:
                next(call, None)
            except grpc.RpcError as error:
                return error.code(), str(error.details())
            finally:
                call.cancel()
        return grpc.StatusCode.OK, ""


def rpcs(address: str, credentials: Credentials) -> list[Rpc]:
    """All that a service offers, asked of its reflection."""
    with credentials.channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = descriptor_pool.DescriptorPool(database)
        methods = [method for service in database.get_services() for method in pool.FindServiceByName(service).methods]
        return [
            Rpc(address, f"/{method.containing_service.full_name}/{method.name}", _request(method.input_type))
            for method in methods
        ]


def _request(descriptor: Any) -> bytes:
    message: Any = message_factory.GetMessageClass(descriptor)()
    if "engine_id" in descriptor.fields_by_name:
        message.engine_id = ENGINE
    if "open" in descriptor.fields_by_name:
        message.open.engine_id = ENGINE
    return bytes(message.SerializeToString())


def until(condition: Callable[[], object], what: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f"never: {what}"
        time.sleep(0.05)
