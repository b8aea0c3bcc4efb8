"""Whether the roles of k8s/access allow what `nuclei deploy` does."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import yaml

from serving.cluster.api import Cluster
from serving.cluster.bundle import write_bundle
from serving.cluster.changes import apply
from serving.cluster.logs import read_logs
from serving.cluster.objects import Object
from serving.cluster.status import read_status
from tests.k8s.objects import K8S
from tests.serving.cluster.api_server import CUSTOM, ApiServer
from tests.serving.cluster.pods import pod

VERBS = {"PATCH": "patch", "PUT": "update", "DELETE": "delete"}
SECRETS = ("nuclei-token", "nuclei-database", "nuclei-store", "nuclei-tls")


class Right(NamedTuple):
    """What a request needs; the name is empty for a list."""

    group: str
    resource: str
    verb: str
    name: str


def rules(*roles: str) -> list[Object]:
    """The rules of roles, named by kind and name."""
    found = yaml.safe_load_all((K8S / "access" / "roles.yaml").read_text())
    return [
        rule
        for role in found
        if f"{role['kind']}/{role['metadata']['name']}" in roles
        for rule in role["rules"]
    ]


def needed(server: ApiServer) -> Iterator[Right]:
    """What the requests so far needed; the discovery of kinds is everyone's."""
    for request in server:
        resource, verb, name = request.resource, request.method.value, request.name or ""
        if resource is None or (resource.plural is None and request.namespace is None):
            continue
        plural = "/".join(filter(None, (resource.plural, request.subresource)))
        if resource.plural is None:
            plural, name = "namespaces", request.namespace or ""
        yield Right(resource.group or "", plural, VERBS.get(verb, "get" if name else "list"), name)
        if verb == "PATCH":  # server-side apply
            yield Right(resource.group or "", plural, "create", name)


def refused(rights: set[Right], allowed: list[Object]) -> set[Right]:
    return {
        right
        for right in rights
        if not any(
            right.group in rule["apiGroups"]
            and right.resource in rule["resources"]
            and right.verb in rule["verbs"]
            and right.name in rule.get("resourceNames", [right.name])
            for rule in allowed
        )
    }


def test_who_may_view_sees_everything_but_secrets(
    server: ApiServer, cluster: Cluster, tmp_path: Path
) -> None:
    server.install("keda.sh/v1alpha1/scaledobjects")
    server.add("v1/pods", pod("gateway-a", "gateway"))
    read_status(cluster, "nuclei", [], datetime.now(UTC))
    write_bundle(cluster, "nuclei", tmp_path / "bundle.tar.gz", "", datetime.now(UTC))
    list(read_logs(cluster, "nuclei", None, None, 10, False))
    rights = set(needed(server))
    assert {right.resource for right in rights} >= {"pods", "pods/log", "scaledobjects"}
    found = refused(rights, rules("Role/nuclei-view"))
    assert found == {Right("", "secrets", "list", "")}


def test_who_may_deploy_can_apply_every_object_and_undo_it(
    server: ApiServer, cluster: Cluster, built: Callable[[str], list[Object]]
) -> None:
    server.install(*CUSTOM)
    for secret in SECRETS:
        server.put_secret(secret, "token", "uri", "access-key", "secret-key", "tls.crt", "tls.key")
    node: Object = {"metadata": {"name": "node"}, "status": {"allocatable": {"nvidia.com/gpu": 8}}}
    server.add("v1/nodes", node)
    apply(cluster, built("production"))
    rights = set(needed(server))
    undone = {
        right._replace(verb=verb)
        for right in rights
        if right.verb == "create" and right.resource != "namespaces"
        for verb in ("update", "delete")
    }
    allowed = rules("Role/nuclei-deploy", "ClusterRole/nuclei-deploy")
    # The namespace is there: roles lie in it.
    assert refused(rights | undone, allowed) == {Right("", "namespaces", "create", "nuclei")}
