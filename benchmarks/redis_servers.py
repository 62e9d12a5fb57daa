"""Redis as Debian has it, on loopback: one server, a master with replicas and Sentinels, or a cluster."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis

from benchmarks.served_step import free_ports

HOW_TO_INSTALL = "apt-get install redis-server redis-sentinel"
NODE_TIMEOUT_MS = 1_000
"""After which a silent server counts as gone, here: short, so that fail-over comes soon. Redis' own is 15 s."""
START_TIMEOUT_S = 30.0
MASTER = "trail"


def installed() -> bool:
    """Whether the programs that this needs are there."""
    return all(shutil.which(name) for name in ("redis-server", "redis-sentinel", "redis-cli"))


class Server:
    """One process, with its files in a folder of its own. It can be killed and started again at the same address."""

    def __init__(self, folder: Path, port: int, *lines: str, program: str = "redis-server", tls: bool = False) -> None:
        folder.mkdir(parents=True)
        self.port, self._program, self._config = port, program, folder / "redis.conf"
        where = ["port 0", f"tls-port {port}"] if tls else [f"port {port}"]
        common = ["bind 127.0.0.1", *where, f"dir {folder}", "daemonize no"]
        saving = ['save ""', "appendonly no"] if program == "redis-server" else []
        self._config.write_text("\n".join([*common, *saving, *lines]) + "\n")
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([self._program, str(self._config)], stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL: whatever was not copied elsewhere is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=2)

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@dataclass(frozen=True)
class Servers:
    """`url` is for the services; `master_of` finds the server that may be written for a key now."""

    url: str
    servers: Sequence[Server]
    master_of: Callable[[str], Server]


@contextlib.contextmanager
def single(folder: Path, *lines: str, tls: bool = False) -> Iterator[Server]:
    """One server, with further lines of configuration. With `tls` nobody waits for it to be ready."""
    server = Server(folder / "single", free_ports(1)[0], *lines, tls=tls)
    with _running([server]):
        if not tls:
            _until(server.answers, "the server answers")
        yield server


@contextlib.contextmanager
def with_sentinels(folder: Path, replicas: int = 2) -> Iterator[Servers]:
    """A master, its replicas, and three Sentinels that replace it."""
    ports = free_ports(1 + replicas + 3)
    master = Server(folder / "master", ports[0])
    copies = [
        Server(folder / f"replica-{number}", port, f"replicaof 127.0.0.1 {master.port}", "repl-diskless-sync-delay 0")
        for number, port in enumerate(ports[1 : 1 + replicas])
    ]
    watch = [
        f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 2",
        f"sentinel down-after-milliseconds {MASTER} {NODE_TIMEOUT_MS}",
        f"sentinel failover-timeout {MASTER} 5000",
    ]
    sentinels = [
        Server(folder / f"sentinel-{number}", port, *watch, program="redis-sentinel")
        for number, port in enumerate(ports[1 + replicas :])
    ]
    data = {server.port: server for server in (master, *copies)}

    def master_of(key: str) -> Server:
        with sentinels[0].client() as client:
            return data[int(client.sentinel_get_master_addr_by_name(MASTER)[1])]

    def is_complete() -> bool:
        with sentinels[0].client() as client:
            seen = client.sentinel_master(MASTER)
        return int(seen["num-slaves"]) == replicas and int(seen["num-other-sentinels"]) == 2

    with _running([master, *copies]):
        for server in (master, *copies):
            _until(server.answers, "the servers answer")
        for copy in copies:
            _until(partial(_follows, copy), "the replicas follow")
        with _running(sentinels):
            for server in sentinels:
                _until(server.answers, "the Sentinels answer")
            _until(is_complete, "the Sentinels know everyone")
            addresses = ",".join(server.address for server in sentinels)
            yield Servers(f"redis+sentinel://{addresses}/{MASTER}", (master, *copies), master_of)


@contextlib.contextmanager
def cluster(folder: Path, masters: int = 3) -> Iterator[Servers]:
    """So many masters with one replica each."""
    ports = free_ports(4 * masters)
    nodes = [
        Server(
            folder / f"node-{number}",
            port,
            "cluster-enabled yes",
            f"cluster-port {bus}",
            f"cluster-node-timeout {NODE_TIMEOUT_MS}",
            # Engines whose master lives go on.
            "cluster-require-full-coverage no",
            "repl-diskless-sync-delay 0",
        )
        for number, (port, bus) in enumerate(zip(ports[: 2 * masters], ports[2 * masters :], strict=True))
    ]
    by_port = {server.port: server for server in nodes}
    alive = nodes[:]

    def master_of(key: str) -> Server:
        for server in alive:
            with contextlib.suppress(redis.RedisError), server.client() as client:
                slot = int(client.execute_command("CLUSTER", "KEYSLOT", key))
                for first, last, owner, *_ in client.execute_command("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return by_port[int(owner[1])]
        raise RuntimeError(f"nobody has the slot of {key}")

    with _running(nodes):
        for server in nodes:
            _until(server.answers, "the nodes answer")
        addresses = [server.address for server in nodes]
        create = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(create, check=True, capture_output=True, timeout=START_TIMEOUT_S)
        for server in nodes:
            _until(partial(_is_ready, server, len(nodes)), "the cluster is whole")
        yield Servers(f"redis+cluster://{','.join(addresses)}", nodes, master_of)


@contextlib.contextmanager
def _running(servers: Sequence[Server]) -> Iterator[None]:
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.kill()


def _follows(server: Server) -> bool:
    with server.client() as client:
        return bool(client.execute_command("ROLE")[3] == b"connected")


def _is_ready(server: Server, nodes: int) -> bool:
    with server.client() as client:
        info = client.execute_command("CLUSTER", "INFO")
        role = client.execute_command("ROLE")
    whole = b"cluster_state:ok" in info and b"cluster_known_nodes:%d\r" % nodes in info
    return whole and (role[0] == b"master" or role[3] == b"connected")


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"never: {what}")
        time.sleep(0.05)
