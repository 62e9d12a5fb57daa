"""What Helm makes of the chart, held against the schemas of Kubernetes and against what the chart promises."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.deploy.tools import (
    CHART,
    DEPLOY,
    Manifest,
    checked,
    flags_of,
    from_wheel,
    missing,
    rendered,
    run,
    template,
    variants,
)

KUBERNETES = ("1.29", "1.37")
"""Oldest and newest that the chart is held against."""


def pods(manifests: list[Manifest]) -> list[tuple[str, dict[str, Any]]]:
    """Pod specifications by the name of what holds them."""
    found = []
    for each in manifests:
        if each["kind"] in ("Deployment", "Pod"):
            spec = each["spec"]["template"]["spec"] if each["kind"] == "Deployment" else each["spec"]
            found.append((each["metadata"]["name"], spec))
    return found


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    [found] = [each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


@pytest.mark.parametrize("variant", variants())
def test_helm_lint_is_content(variant: str) -> None:
    checked([from_wheel("helm"), "lint", "--strict", str(CHART), *flags_of(variant)])


@pytest.mark.parametrize("variant", variants())
def test_each_manifest_fits_the_schemas_of_kubernetes_strictly(variant: str) -> None:
    try:
        import kubernetes_validate
    except ImportError:
        missing("kubernetes-validate")
    manifests = rendered(*flags_of(variant))
    assert manifests
    for manifest in manifests:
        if manifest["kind"] != "ServiceMonitor":
            for version in KUBERNETES:
                kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("variant", ["production.yaml", "sidecar.yaml"])
def test_the_service_monitor_has_only_what_the_operator_knows(variant: str) -> None:
    try:
        from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor
    except ImportError:
        missing("cloudcoil-models-prometheus-operator")
    [monitor] = [each for each in rendered(*flags_of(variant)) if each["kind"] == "ServiceMonitor"]
    # The model drops what it does not know: what comes out must be what went in.
    known = ServiceMonitor.model_validate(monitor).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert known["spec"] == monitor["spec"]


@pytest.mark.parametrize("variant", variants())
def test_every_container_obeys_the_restricted_pod_security_standard(variant: str) -> None:
    found = pods(rendered(*flags_of(variant)))
    assert found
    for name, pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        allowed = {"emptyDir", "persistentVolumeClaim", "secret", "configMap"}
        assert all(set(volume) - {"name"} <= allowed for volume in pod.get("volumes", [])), name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, (name, container["name"])
            assert "limits" in container["resources"], (name, container["name"])


@pytest.mark.parametrize("variant", variants())
def test_names_that_one_manifest_uses_of_another_exist(variant: str) -> None:
    manifests = rendered(*flags_of(variant))
    pod_labels = [each["spec"]["template"]["metadata"]["labels"] for each in manifests if each["kind"] == "Deployment"]
    for each in manifests:
        spec, name = each.get("spec", {}), (each["kind"], each["metadata"]["name"])
        if each["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            selector = spec.get("podSelector") or spec["selector"]
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= labels.items() for labels in pod_labels), name
        if each["kind"] == "HorizontalPodAutoscaler":
            named(manifests, "Deployment", spec["scaleTargetRef"]["name"])
    for _, pod in pods(manifests):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in containers(pod):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, container["name"]


def test_the_default_store_is_reached_by_the_services_alone() -> None:
    policy = named(rendered(), "NetworkPolicy", "trail-valkey")["spec"]
    [rule] = policy["ingress"]
    components = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]]
    assert sorted(components) == ["predictor", "scheduler"]
    assert policy["egress"] == []


def test_secrets_are_referenced_and_never_inlined() -> None:
    for variant in variants():
        assert not [each for each in rendered(*flags_of(variant)) if each["kind"] == "Secret"]
    services = [pod for name, pod in pods(rendered(*flags_of("production.yaml"))) if name != "trail-health"]
    for pod in services:
        [store] = [each for each in pod["containers"][0]["env"] if each["name"].endswith("REDIS_URL")]
        assert store["valueFrom"] == {"secretKeyRef": {"name": "store-url", "key": "url"}}


def test_an_autoscaled_deployment_leaves_its_replicas_to_the_autoscaler() -> None:
    manifests = rendered(*flags_of("production.yaml"))
    assert "replicas" not in named(manifests, "Deployment", "trail-predictor")["spec"]
    scaler = named(manifests, "HorizontalPodAutoscaler", "trail-predictor")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"], len(scaler["metrics"])) == (3, 8, 2)


def test_beside_an_engine_nothing_can_take_its_pod_out_of_service() -> None:
    """A container that goes on beside the engine and is not ready would make the pod unready."""
    [(_, pod)] = pods(rendered(*flags_of("sidecar.yaml")))
    assert [each["name"] for each in pod["initContainers"]] == ["valkey", "predictor", "scheduler"]
    for each in pod["initContainers"]:
        assert each["restartPolicy"] == "Always"
        assert "readinessProbe" not in each
        assert "startupProbe" in each
    memory = [volume for volume in pod["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert [mounts[volume["name"]] for volume in memory] == ["/dev/shm"]  # noqa: S108 - the mount point itself


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("predictor.replcas=3", "additional properties 'replcas' not allowed"),
        ("predictors.replicas=3", "additional properties 'predictors' not allowed"),
        ("engine.image.tagg=3", "additional properties 'tagg' not allowed"),
        ("predictor.replicas=0", "/predictor/replicas"),
        ("predictor.replicas=two", "/predictor/replicas"),
        ("predictor.autoscaling.targetCPUPercent=700", "/predictor/autoscaling/targetCPUPercent"),
        ("predictor.resources.limits.memory=much", "/predictor/resources/limits/memory"),
        ("mode=both", "/mode"),
        ("networkPolicy.enabled=false", "networkPolicy.enabled: without it anybody"),
        ("security.tlsSecret=tls", "security: tlsSecret and accessSecret belong together"),
        ("engine.enabled=true,security.tlsSecret=tls,security.accessSecret=access", "security.tokenSecret"),
        ("scheduler.settings.unprotected=true", "scheduler.settings.unprotected: the chart sets it"),
        ("store.url=redis://user:secret@store:6379/0", "/store/url"),
        ("engine.sharedMemory=plenty", "/engine/sharedMemory"),
        ("scheduler.settings.port=1", "scheduler.settings.port: the chart sets it"),
        ("valkey.enabled=false", "store.url: valkey.enabled is false"),
        ("predictor.autoscaling.enabled=true,predictor.autoscaling.minReplicas=9", "must be at least minReplicas"),
    ],
)
def test_bad_values_are_refused_with_their_name(flag: str, told: str) -> None:
    done = template("--set", flag)
    assert done.returncode != 0
    assert told in done.stderr


def test_a_store_elsewhere_that_the_network_policy_would_cut_off_is_refused() -> None:
    done = template("--set", "valkey.enabled=false,store.url=redis://store:6379/0")
    assert done.returncode != 0
    assert "networkPolicy.egress" in done.stderr


def test_the_plain_manifests_are_what_the_chart_renders() -> None:
    command = "helm template trail deploy/helm/trail --namespace trail --skip-tests > deploy/manifests/trail.yaml"
    assert (DEPLOY / "manifests" / "trail.yaml").read_text() == template("--skip-tests").stdout, f"run: {command}"


def test_kustomize_puts_the_plain_manifests_into_their_namespace() -> None:
    out = checked([from_wheel("kubectl"), "kustomize", str(DEPLOY / "manifests")])
    manifests = list(yaml.safe_load_all(out))
    assert {each["metadata"].get("namespace", each["metadata"]["name"]) for each in manifests} == {"trail"}
    assert len(manifests) == 1 + len(rendered("--skip-tests"))


def test_the_notes_name_what_there_is() -> None:
    helm = from_wheel("helm")
    done = run([helm, "install", "trail", str(CHART), "--namespace", "trail", "--dry-run=client", "--output", "json"])
    if done.returncode != 0:
        pytest.fail(done.stderr)
    assert "trail-predictor.trail:50061" in done.stdout
