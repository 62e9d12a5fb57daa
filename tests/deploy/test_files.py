"""The files of `deploy/` under the linters and schemas that others keep for them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.deploy.tools import DEPLOY, ROOT, checked, missing, program, python_tool, rendered

DOCKERFILES = sorted((DEPLOY / "images").glob("*.Dockerfile"))


def test_the_compose_file_fits_the_schema_of_the_compose_specification() -> None:
    tool = python_tool("check_jsonschema")
    checked([*tool, "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")])


def test_the_files_that_compose_mounts_and_builds_from_are_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        build = service.get("build")
        if build is not None:
            dockerfile = DEPLOY / build["context"] / build["dockerfile"]
            assert f"AS {build['target']}" in dockerfile.read_text(), name
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            if source.startswith(".") and source != "./llm":
                assert (DEPLOY / source).exists(), (name, source)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_is_content(dockerfile: Path) -> None:
    checked([program("hadolint"), "--failure-threshold", "warning", str(dockerfile)])


def test_yamllint_is_content() -> None:
    checked([*python_tool("yamllint"), "--strict", "--config-file", str(DEPLOY / ".yamllint.yaml"), "deploy"])


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_every_image_that_is_shipped_runs_as_a_number_and_tells_its_health(dockerfile: Path) -> None:
    stages = re.split(r"^FROM ", re.sub(r"\\\n", " ", dockerfile.read_text()), flags=re.MULTILINE)[1:]
    text = {stage.split(" AS ")[1].split()[0]: stage for stage in stages}
    for target in ("cpu", "cuda"):
        body, base = text[target], text[target].split()[0]
        inherited = body + text.get(base, "")
        assert "USER 10001:10001" in inherited, target
        assert "HEALTHCHECK" in inherited, target
        assert "org.opencontainers.image.version" in inherited, target


def test_prometheus_takes_its_configuration_beside_compose() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        missing("promtool", "apt-get install prometheus")
    checked([str(promtool), "check", "config", "--syntax-only", str(DEPLOY / "prometheus-compose.yaml")])


def test_prometheus_knows_the_parts_by_the_same_jobs_everywhere_and_finds_them_where_they_are() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus-compose.yaml").read_text())["scrape_configs"]
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for job in scraped:
        [found] = job["dns_sd_configs"]
        for name in found["names"]:
            told = [*services[name]["command"], *services[name].get("environment", {}).values()]
            assert any(str(each) in (f"--metrics-port={found['port']}", str(found["port"])) for each in told), name
    [monitor] = [each for each in rendered("--set", "serviceMonitor.enabled=true") if each["kind"] == "ServiceMonitor"]
    jobs = [rule["replacement"] for endpoint in monitor["spec"]["endpoints"] for rule in endpoint["relabelings"]]
    assert jobs == [job["job_name"] for job in scraped]


def test_locks_of_images_name_what_the_lock_file_names() -> None:
    pinned = set((ROOT / "requirements-cpu.lock").read_text().split())
    lines = (DEPLOY / "images" / "engine-cpu.lock").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#") and line not in pinned] == []
    assert all(
        re.match(r"#|[\w.-]+==[\w.]+$", line) for line in (DEPLOY / "images" / "cuda.lock").read_text().splitlines()
    )


def test_only_what_the_images_are_made_of_goes_to_the_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    for line in lines[1:]:
        if line.startswith("!"):
            assert list(ROOT.glob(line[1:])), line
