"""What a cluster has to have before anything is applied to it."""

from collections import defaultdict
from collections.abc import Sequence
from urllib.parse import urlparse

from nuclei.errors import (
    GpuMissing,
    KindMissing,
    MissingPrerequisite,
    RegistryUnavailable,
    SecretMissing,
)
from nuclei.quoting import without_password
from serving.cluster.api import Cluster
from serving.cluster.objects import (
    Object,
    base_name,
    extended_resources,
    identity,
    named,
    secret_keys,
    templates,
)
from serving.registry import Registry

REGISTRY_VARIABLES = ("NUCLEI_SYNC", "MLFLOW_TRACKING_URI")
# Who brings the kinds of a group.
_BRINGS = {
    "keda.sh": "install KEDA (https://keda.sh/docs/latest/deploy/)",
    "monitoring.coreos.com": "install prometheus-operator",
    "gateway.networking.k8s.io": "install the CRDs of the Gateway API",
    "cert-manager.io": "install cert-manager",
}


def check(cluster: Cluster, items: Sequence[Object]) -> None:
    """Check that a cluster has what the objects need and do not bring.

    Raises:
        MissingPrerequisite: a namespace is not there.
        KindMissing: it does not know a kind; says who brings it.
        SecretMissing: a secret, or a key of it, is not there.
        GpuMissing: no node offers a device that pods ask for.
        RegistryUnavailable: the registry of models does not answer.
        NotPermitted: what is asked for may not be read.
        ClusterUnavailable: it does not answer.
    """
    _check_kinds(cluster, items)
    _check_namespaces(cluster, items)
    _check_secrets(cluster, items)
    _check_devices(cluster, items)
    _check_registry(cluster, items)


def _check_kinds(cluster: Cluster, items: Sequence[Object]) -> None:
    kinds = sorted({(item["apiVersion"], item["kind"]) for item in items})
    for api_version, kind in kinds:
        if not cluster.knows(api_version, kind):
            cure = _BRINGS.get(api_version.partition("/")[0], "install its CRD")
            raise KindMissing(
                f"the cluster does not know {api_version} {kind}: {cure}, or leave the component "
                "out of the overlay"
            )


def _check_namespaces(cluster: Cluster, items: Sequence[Object]) -> None:
    """In a namespace that is not there, a cluster checks nothing, and no secret lies ready."""
    named_by = {item["metadata"].get("namespace"): named(item) for item in items}
    for namespace, user in named_by.items():
        if namespace is not None and cluster.get("v1", "Namespace", namespace) is None:
            raise MissingPrerequisite(
                f"{user} goes into the namespace {namespace}, which is not there: kubectl create "
                f"namespace {namespace}, and the secrets that docs/kubernetes.md names"
            )


def _check_secrets(cluster: Cluster, items: Sequence[Object]) -> None:
    brought = {identity(item) for item in items}
    needed: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    users: dict[tuple[str | None, str], str] = {}
    for item, template in templates(items):
        for one in secret_keys(template):
            place = item["metadata"].get("namespace"), one.secret
            users.setdefault(place, named(item))
            needed[place].update(() if one.key is None else (one.key,))
    for (namespace, name), keys in needed.items():
        if ("v1", "Secret", namespace, name) in brought:
            continue
        found = cluster.get("v1", "Secret", name, namespace)
        lacking = sorted(keys - set((found or {}).get("data") or {}))
        if found is None or lacking:
            raise SecretMissing(
                f"{users[namespace, name]} needs the secret {name}"
                + (f" with the key {', '.join(lacking)}" if lacking else "")
                + f", which namespace {namespace} does not have: "
                + _secret_cure(namespace, name, sorted(keys), found is not None)
            )


def _secret_cure(namespace: str | None, name: str, keys: Sequence[str], exists: bool) -> str:
    """The command that makes a secret with all of its keys."""
    if any(key.startswith("tls.") for key in keys):
        made = f"tls {name} --cert=FILE --key=FILE"
    else:
        values = (f"--from-literal={key}=VALUE" for key in keys or ("KEY",))
        made = " ".join(("generic", name, *values))
    cure = f"kubectl -n {namespace} create secret {made}"
    return f"kubectl -n {namespace} delete secret {name}, then {cure}" if exists else cure


def _check_devices(cluster: Cluster, items: Sequence[Object]) -> None:
    asked: dict[str, str] = {}
    for item, template in templates(items):
        for resource in extended_resources(template):
            asked.setdefault(resource, named(item))
    if not asked:
        return
    nodes = cluster.items("v1", "Node")
    offered = {
        resource
        for node in nodes
        for resource, number in ((node.get("status") or {}).get("allocatable") or {}).items()
        if str(number) != "0"
    }
    for resource, user in sorted(asked.items()):
        if resource not in offered:
            raise GpuMissing(
                f"{user} asks for {resource}, which none of {len(nodes)} nodes offers: add a node "
                "with one and install its device plugin (NVIDIA's GPU operator), or use the "
                "overlay cpu; a node group that is scaled to zero has to have one node first"
            )


def _check_registry(cluster: Cluster, items: Sequence[Object]) -> None:
    """A registry in the cluster has to be a Service there; another one has to answer here."""
    services = {item["metadata"]["name"] for item in items if item["kind"] == "Service"}
    for item in items:
        if item["kind"] != "ConfigMap":
            continue
        namespace = item["metadata"].get("namespace")
        for variable in REGISTRY_VARIABLES:
            uri = (item.get("data") or {}).get(variable, "")
            host = urlparse(uri).hostname
            if not host:
                continue
            field = f"settings.{base_name(item)}.{variable}"
            name, *domain = host.split(".")
            if domain and domain[1:2] != ["svc"]:
                _check_answers(uri, field)
            elif name not in services and not cluster.get(
                "v1", "Service", name, domain[0] if domain else namespace
            ):
                raise RegistryUnavailable(
                    f"{field} is {without_password(uri)}, and the cluster has no such Service: "
                    "deploy MLflow there, or name another registry"
                )


def _check_answers(uri: str, field: str) -> None:
    try:
        Registry(uri).names("")
    except RegistryUnavailable as error:
        raise RegistryUnavailable(f"{field}: {error}") from error
