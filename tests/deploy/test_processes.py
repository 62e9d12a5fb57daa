"""What compose file and chart start, started here as plain processes with those very arguments and settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import grpc
import httpx
import pytest
import yaml

from predictor_service.settings import PredictorSettings
from scheduler_service.settings import SchedulerSettings
from sidecar.dial import Credentials
from sidecar.settings import ServerSettings, load
from tests.deploy.processes import Container, Machine, Processes, of_compose, of_pod, trail, until_healthy
from tests.deploy.test_chart import containers, pods
from tests.deploy.tools import DEPLOY, ROOT, flags_of, rendered, variants
from tests.integration.certificates import Authority
from tests.patience import PATIENCE_S
from trail.v1 import predictor_pb2, predictor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc

MODELS = ROOT / "predictor_service" / "models"
SECRETS = {"store-password": "s3cret", "store-url": "redis://store:6379/0", "hugging-face": "token"}
MOUNTED = ("tls/tls.crt", "tls/tls.key", "tls/ca.crt", "access/access.toml", "token/token")
"""Files of Secrets, below /etc/trail."""
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


def machine(tmp_path: Path) -> Machine:
    (tmp_path / "data").mkdir()
    return Machine({"/models": MODELS, "/data": tmp_path / "data"})


def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


def chart_containers(variant: str) -> list[Container]:
    """All containers of the chart, those of the test pod too, in the order in which they may start."""
    found = [each for _, pod in pods(rendered(*flags_of(variant))) for each in containers(pod)]
    return sorted((of_pod(each, SECRETS) for each in found), key=lambda each: each.name != "valkey")


def named(found: Iterable[Container], name: str) -> Container:
    return next(each for each in found if each.name == name)


def test_what_compose_starts_is_healthy_by_its_own_checks_and_answers(tmp_path: Path) -> None:
    parts = {name: of_compose(name, SERVICES[name]) for name in ("valkey", "predictor", "scheduler")}
    here = machine(tmp_path)
    others = SERVICES["predictor"]["deploy"]["replicas"] - 1
    replicas = [here, *(here.another_replica("50061", "9461") for _ in range(others))]
    with Processes(logs(tmp_path)) as processes:
        processes.start(parts["valkey"], here)
        for replica in replicas:
            processes.start(parts["predictor"], replica)
        processes.start(parts["scheduler"], here)
        for name, on in (*(("predictor", replica) for replica in replicas), ("scheduler", here)):
            program, *check = SERVICES[name]["healthcheck"]["test"][1:]
            assert program == "trail"
            assert until_healthy([on.here(part) for part in check], processes).endswith(": serving\n")
        for replica in replicas:
            assert default_model(replica) == "smollm2-135m-instruct"
            assert "trail_predictor" in metrics(replica, "9461")
        assert policy(here) == "trail"
        assert "trail_scheduler" in metrics(here, "9462")


@pytest.mark.parametrize("variant", ["", "engine.yaml", "sidecar.yaml"])
def test_what_the_chart_starts_is_healthy_and_answers(tmp_path: Path, variant: str) -> None:
    found, here = chart_containers(variant), machine(tmp_path)
    with Processes(logs(tmp_path)) as processes:
        for name in ("valkey", "predictor", "scheduler"):
            processes.start(named(found, name), here)
        check = ["health", "predictor:50061", "scheduler:50062"]
        if variant != "sidecar.yaml":
            check = named(found, "health").command
        assert until_healthy([here.here(part) for part in check], processes).count(": serving\n") == 2
        assert default_model(here) == "smollm2-135m-instruct"
        assert policy(here) == "trail"


def test_with_tls_and_tokens_the_chart_s_own_probes_get_through_and_strangers_do_not(tmp_path: Path) -> None:
    found, store = chart_containers("secured.yaml"), machine(tmp_path)
    authority = Authority(tmp_path / "ca")
    ours = authority.sign("services", "DNS:trail.example")
    token = "of-the-engine-5d3f"  # noqa: S105 - of services that live as long as the test
    files = {name: tmp_path / Path(name).name for name in ("access.toml", "token")}
    digest = hashlib.sha256(token.encode()).hexdigest()
    files["access.toml"].write_text(f'[[clients]]\nname = "e"\ntokens_sha256 = ["{digest}"]\nengines = ["*"]\n')
    files["token"].write_text(token)
    paths = (ours.certificate, ours.key, authority.certificate, files["access.toml"], files["token"])
    secrets = {f"/etc/trail/{name}": path for name, path in zip(MOUNTED, paths, strict=True)}
    here = Machine({**store.folders, **secrets}, store.ports)
    with Processes(logs(tmp_path)) as processes:
        for name in ("valkey", "predictor", "scheduler"):
            processes.start(named(found, name), here)
        for name in ("predictor", "scheduler", "health"):
            container = named(found, name)
            environment = {key: here.here(value) for key, value in container.environment.items()}
            check = container.command if name == "health" else probe(name)
            assert ": serving\n" in until_healthy([here.here(part) for part in check], processes, environment)
        engine = named(found, "engine").environment
        dialled = {name: here.here(engine[f"TRAIL_AGENT_{name}"]) for name in ("TLS_CA_FILE", "TOKEN_FILE")}
        server_name, address = engine["TRAIL_AGENT_TLS_SERVER_NAME"], here.here("predictor:50061")
        roots, token_file = Path(dialled["TLS_CA_FILE"]), Path(dialled["TOKEN_FILE"])
        request = predictor_pb2.GetModelRequest()
        with Credentials(roots, server_name=server_name, token_file=token_file).channel(address) as channel:
            assert predictor_pb2_grpc.PredictorServiceStub(channel).GetModel(request, timeout=PATIENCE_S).model.name
        with Credentials(roots, server_name=server_name).channel(address) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                predictor_pb2_grpc.PredictorServiceStub(channel).GetModel(request, timeout=PATIENCE_S)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def probe(component: str) -> list[str]:
    """The arguments of `trail` by which the kubelet asks."""
    [pod] = [pod for name, pod in pods(rendered(*flags_of("secured.yaml"))) if name == f"trail-{component}"]
    [container] = pod["containers"]
    program, *arguments = container["readinessProbe"]["exec"]["command"]
    assert (program, arguments) == ("trail", container["startupProbe"]["exec"]["command"][1:])
    return list(arguments)


def test_a_password_of_the_store_is_asked_for(tmp_path: Path) -> None:
    found, here = chart_containers("engine.yaml"), machine(tmp_path)
    predictor = named(found, "predictor")
    wrong = {name: value.replace("s3cret", "wrong") for name, value in predictor.environment.items()}
    with Processes(logs(tmp_path)) as processes:
        processes.start(named(found, "valkey"), here)
        processes.start(Container("predictor", predictor.command, wrong), here)
        target = here.here("predictor:50061")
        until(lambda: "not serving: store" in trail(["health", target]).stderr, processes)


@pytest.mark.parametrize("variant", variants())
def test_the_services_accept_every_flag_of_the_chart(variant: str, tmp_path: Path) -> None:
    settings: dict[str, type[ServerSettings]] = {"predictor": PredictorSettings, "scheduler": SchedulerSettings}
    checked = 0
    for container in chart_containers(variant):
        if container.name in settings:
            for name in MOUNTED:
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).touch()
            loaded = load(
                settings[container.name], [each.replace("/etc/trail", str(tmp_path)) for each in container.command[1:]]
            )
            assert loaded.unprotected == (variant != "secured.yaml")
            assert str(loaded.metrics_port) in ("9461", "9462")
            checked += 1
    assert checked == 2


def test_the_chart_hands_each_kind_of_setting_over() -> None:
    found = chart_containers("production.yaml")
    predictor = load(PredictorSettings, named(found, "predictor").command[1:])
    scheduler = load(SchedulerSettings, named(found, "scheduler").command[1:])
    assert (predictor.max_engines, predictor.log_level, predictor.model_int8) == (16, "warning", False)
    assert (scheduler.preemption_limit, scheduler.outcomes_max_entries) == (0.8, 2_000_000)
    assert scheduler.tenant_weights == {"free": 1, "paid": 2.5}


def test_a_setting_that_the_service_does_not_know_is_refused_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    [pod] = [pod for name, pod in pods(rendered("--set", "predictor.settings.model_thread=2")) if "predictor" in name]
    with pytest.raises(SystemExit):
        load(PredictorSettings, of_pod(pod["containers"][0], SECRETS).command[1:])
    assert "model-thread" in capsys.readouterr().err


def default_model(on: Machine) -> str:
    with grpc.insecure_channel(on.here("predictor:50061")) as channel:
        stub = predictor_pb2_grpc.PredictorServiceStub(channel)
        return str(stub.GetModel(predictor_pb2.GetModelRequest(), timeout=10).model.name)


def policy(on: Machine) -> str:
    with grpc.insecure_channel(on.here("scheduler:50062")) as channel:
        stub = scheduler_pb2_grpc.SchedulerAdminServiceStub(channel)
        return str(stub.GetPolicy(scheduler_pb2.GetPolicyRequest(), timeout=10).policy.policy)


def metrics(on: Machine, port: str) -> str:
    return httpx.get(f"http://127.0.0.1:{on.ports[port]}/metrics", timeout=10).text


def until(true: Callable[[], bool], processes: Processes) -> None:
    """Waits up to a minute; each look takes a process, so none is missed by pausing."""
    for _ in range(60):
        if true():
            return
    pytest.fail(processes.logs())
