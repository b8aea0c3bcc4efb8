"""What `apply` and `diff` do to a cluster, and what they need of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nuclei.errors import (
    ClusterUnavailable,
    Conflict,
    GpuMissing,
    InvalidData,
    KindMissing,
    MissingPrerequisite,
    NotPermitted,
    NucleiError,
    RegistryUnavailable,
    SecretMissing,
    Unauthenticated,
)
from nuclei.process.ports import LOOPBACK, free_ports
from serving.cluster.api import FIELD_MANAGER, Cluster
from serving.cluster.changes import apply, differences
from serving.cluster.objects import Object, base_name
from tests.serving.cluster.api_server import CUSTOM, ApiServer, Refusal, write_kubeconfig


def settings(items: list[Object], name: str) -> Object:
    (found,) = [item for item in items if (item["kind"], base_name(item)) == ("ConfigMap", name)]
    return found["data"]


def test_all_objects_are_applied_by_our_field_manager(
    server: ApiServer, cluster: Cluster, items: list[Object]
) -> None:
    outcomes = {item["kind"]: outcome for item, outcome in apply(cluster, items)}
    assert outcomes.pop("Namespace") == "changed"
    assert set(outcomes.values()) == {"created"}
    assert server.names("apps/v1/deployments") == {"gateway", "triton", "mlflow"}
    writes = [one for one in server if one.method.value == "PATCH"]
    assert {one.params["fieldManager"] for one in writes} == {FIELD_MANAGER}
    assert {one.headers["Content-Type"] for one in writes} == {"application/apply-patch+yaml"}
    assert not any("force" in one.params for one in writes)


def test_applied_again_nothing_changes(
    server: ApiServer, cluster: Cluster, items: list[Object]
) -> None:
    apply(cluster, items)
    assert not any(differences(cluster, items))
    assert {outcome for _, outcome in apply(cluster, items)} == {"unchanged"}


def test_differences_name_the_lines_and_change_nothing(
    server: ApiServer, cluster: Cluster, items: list[Object]
) -> None:
    apply(cluster, items)
    before = list(server.writes)
    deployment = next(item for item in items if item["kind"] == "Deployment")
    deployment["spec"]["replicas"] = 7
    (found,) = filter(None, differences(cluster, items))
    assert f"+++ Deployment {deployment['metadata']['name']}" in found
    assert "+  replicas: 7\n" in found
    assert server.writes == before


@pytest.mark.parametrize("known", [True, False], ids=["an upgrade", "the first time"])
def test_what_fails_halfway_is_undone(
    known: bool, server: ApiServer, cluster: Cluster, items: list[Object]
) -> None:
    if known:
        apply(cluster, items)
    before = {key: item.raw for key, item in server.objects.items() if not item.deleted}
    for item in items:
        if item["kind"] == "Deployment":
            item["spec"]["replicas"] = 7
    server.refusals.append(
        Refusal("PATCH", "deployments", 500, "etcd is full", after=1, dry_runs=False)
    )
    with pytest.raises(ClusterUnavailable, match=r"failed to patch Deployment .*etcd is full"):
        apply(cluster, items)
    after = {key: item.raw for key, item in server.objects.items() if not item.deleted}
    assert without_versions(after) == without_versions(before)


def without_versions(objects: dict[object, Object]) -> dict[object, Object]:
    for item in objects.values():
        item["metadata"] = {**item["metadata"], "resourceVersion": ""}
    return objects


def test_what_could_not_be_undone_is_named(
    server: ApiServer, cluster: Cluster, items: list[Object]
) -> None:
    server.refusals += [
        Refusal("PATCH", "deployments", 500, "etcd is full", dry_runs=False),
        Refusal("DELETE", "services", 500, "etcd is full"),
    ]
    with pytest.raises(ClusterUnavailable, match=r"could not be undone: .*Service "):
        apply(cluster, items)


@pytest.mark.parametrize(
    ("refusal", "error", "message"),
    [
        (
            Refusal("PATCH", "deployments", 403, 'deployments.apps "gateway" is forbidden'),
            NotPermitted,
            r"patch deployments in namespace nuclei .*kubectl auth can-i patch deployments -n nucl",
        ),
        (
            Refusal("GET", "secrets", 403, "secrets is forbidden"),
            NotPermitted,
            r"not permitted: get secrets in namespace nuclei",
        ),
        (
            Refusal("PATCH", "deployments", 403, 'violates PodSecurity "restricted:latest"'),
            InvalidData,
            r"refuses Deployment \w+: violates PodSecurity",
        ),
        (
            Refusal(
                "PATCH",
                "services",
                422,
                "Service is invalid",
                ({"field": "spec.ports[0].port", "message": "must be between 1 and 65535"},),
            ),
            InvalidData,
            r"refuses Service \w+: Service is invalid\n  spec.ports\[0\].port: must be between",
        ),
        (
            Refusal(
                "PATCH",
                "deployments",
                409,
                "Apply failed with 1 conflict",
                ({"field": ".spec.replicas", "message": "conflict with kube-controller-manager"},),
            ),
            Conflict,
            r"others set: .*\n  .spec.replicas: conflict with kube-con.*\n.*--force-conflicts",
        ),
        (Refusal("GET", "secrets", 401), Unauthenticated, "log in again"),
    ],
)
def test_what_the_cluster_refuses_is_typed_and_nothing_is_applied(
    refusal: Refusal,
    error: type[NucleiError],
    message: str,
    server: ApiServer,
    cluster: Cluster,
    items: list[Object],
) -> None:
    server.refusals.append(refusal)
    with pytest.raises(error, match=message):
        apply(cluster, items)
    assert server.writes == []


def test_conflicts_are_taken_over_where_that_is_asked_for(
    server: ApiServer, cluster: Cluster, items: list[Object]
) -> None:
    apply(cluster, items, force=True)
    forced = [one.params.get("force") for one in server if one.method.value == "PATCH"]
    assert "True" in forced or "true" in forced


def test_missing_kinds_are_named_with_who_brings_them(
    server: ApiServer, cluster: Cluster, items: list[Object]
) -> None:
    scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject"}
    items.append({**scaled, "metadata": {"name": "triton", "namespace": "nuclei"}})
    with pytest.raises(KindMissing, match=r"keda.sh/v1alpha1 ScaledObject: install KEDA"):
        apply(cluster, items)
    assert server.writes == []
    server.install("keda.sh/v1alpha1/scaledobjects")
    assert len(apply(cluster, items)) == len(items)


def test_a_missing_namespace_is_named(
    server: ApiServer, cluster: Cluster, items: list[Object]
) -> None:
    del server.objects["v1/namespaces", None, "nuclei"]
    with pytest.raises(MissingPrerequisite, match="kubectl create namespace nuclei"):
        apply(cluster, items)
    assert server.writes == []


def test_missing_secrets_and_keys_are_named(
    server: ApiServer, cluster: Cluster, built: Callable[[str], list[Object]]
) -> None:
    items = built("cpu")
    with pytest.raises(SecretMissing, match=r"needs the secret nuclei-token.*create secret"):
        apply(cluster, items)
    server.put_secret("nuclei-token", "other")
    cure = r"with the key token,.* delete secret nuclei-token, then .*--from-literal=token=VALUE$"
    with pytest.raises(SecretMissing, match=cure):
        apply(cluster, items)
    assert server.writes == []


def test_the_cure_makes_the_secret_with_all_of_its_keys(
    server: ApiServer, cluster: Cluster, built: Callable[[str], list[Object]]
) -> None:
    server.install(*CUSTOM)
    items = built("production")
    server.put_secret("nuclei-token", "token")
    server.put_secret("nuclei-database", "uri")
    with pytest.raises(SecretMissing, match=r"create secret tls nuclei-tls --cert=FILE --key=FILE"):
        apply(cluster, items)
    server.put_secret("nuclei-tls", "tls.crt", "tls.key")
    cure = r"nuclei-store --from-literal=access-key=VALUE --from-literal=secret-key=VALUE$"
    with pytest.raises(SecretMissing, match=cure):
        apply(cluster, items)
    assert server.writes == []


def test_missing_gpus_are_named(
    server: ApiServer, cluster: Cluster, built: Callable[[str], list[Object]]
) -> None:
    server.put_secret("nuclei-token", "token")
    node: Object = {"metadata": {"name": "node"}, "status": {"allocatable": {"cpu": "4"}}}
    server.add("v1/nodes", node)
    with pytest.raises(
        GpuMissing, match=r"Deployment triton asks for nvidia.com/gpu, which none of 1 nodes"
    ):
        apply(cluster, built("gpu"))
    assert server.writes == []
    node["status"]["allocatable"]["nvidia.com/gpu"] = "1"
    server.add("v1/nodes", node)
    assert apply(cluster, built("gpu"))


@pytest.mark.parametrize("where", ["a Service that is not there", "another machine"])
def test_a_missing_registry_is_named(
    where: str, server: ApiServer, cluster: Cluster, items: list[Object]
) -> None:
    (port,) = free_ports(1)
    elsewhere = f"http://{LOOPBACK}:{port}"
    uri = "http://registry:5000" if where == "a Service that is not there" else elsewhere
    settings(items, "triton")["NUCLEI_SYNC"] = uri
    with pytest.raises(RegistryUnavailable, match=r"settings.triton.NUCLEI_SYNC"):
        apply(cluster, items)
    assert server.writes == []


def test_a_cluster_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "gone"))
    with pytest.raises(ClusterUnavailable, match=r"no Kubernetes cluster is named.*KUBECONFIG"):
        Cluster()
    (port,) = free_ports(1)
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", f"http://{LOOPBACK}:{port}")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    with pytest.raises(ClusterUnavailable, match=rf"{LOOPBACK}:{port} does not answer"):
        Cluster()
    with pytest.raises(ClusterUnavailable, match="elsewhere"):
        Cluster("elsewhere")
