"""Objects of Kubernetes as plain dictionaries, and what is read of them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

COMPONENT_LABEL = "app.kubernetes.io/component"
# What is the same for all objects of this service.
SELECTOR = "app.kubernetes.io/part-of=nuclei-serving"
_HASH = re.compile(r"-[2456789bcdfghkmt]{10}$")
# Where the pod template is, by kind.
_TEMPLATES = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}


@dataclass(frozen=True)
class SecretKey:
    """What a pod needs of a secret.

    Attributes:
        secret: its name.
        key: in the secret; None for all that it has.
    """

    secret: str
    key: str | None


def named(item: Object) -> str:
    """Kind and name, for messages: `Deployment gateway`."""
    return f"{item.get('kind', 'object')} {item['metadata']['name']}"


def base_name(item: Object) -> str:
    """The name without the hash of its contents that kustomize adds to a ConfigMap's."""
    return _HASH.sub("", item["metadata"]["name"])


def identity(item: Object) -> tuple[str, str, str | None, str]:
    """What makes an object the same in two lists."""
    metadata = item["metadata"]
    return item["apiVersion"], item["kind"], metadata.get("namespace"), metadata["name"]


def component(item: Object) -> str:
    """`gateway`, `triton`, `mlflow`, `training`, or nothing."""
    return str((item["metadata"].get("labels") or {}).get(COMPONENT_LABEL, ""))


def pod_template(item: Object) -> Object | None:
    """The template of the pods of an object; None where it makes none."""
    path = _TEMPLATES.get(item["kind"])
    if path is None:
        return None
    for name in path:
        item = item[name]
    return item


def templates(items: Iterable[Object]) -> Iterator[tuple[Object, Object]]:
    """The objects that make pods, each with the template of its pods."""
    for item in items:
        template = pod_template(item)
        if template is not None:
            yield item, template


def containers(template: Object) -> list[Object]:
    """All containers of a pod template, those that run first included."""
    spec = template["spec"]
    return [*(spec.get("initContainers") or []), *spec["containers"]]


def secret_keys(template: Object) -> Iterator[SecretKey]:
    """What the pods of a template cannot start without, of secrets."""
    for container in containers(template):
        for source in container.get("envFrom") or []:
            yield from _needed(source.get("secretRef"))
        for variable in container.get("env") or []:
            yield from _needed((variable.get("valueFrom") or {}).get("secretKeyRef"))
    for volume in template["spec"].get("volumes") or []:
        yield from _needed(volume.get("secret"))
        for source in (volume.get("projected") or {}).get("sources") or []:
            yield from _needed(source.get("secret"))


def extended_resources(template: Object) -> set[str]:
    """Resources of devices that the pods of a template ask for: `nvidia.com/gpu`."""
    return {
        name
        for container in containers(template)
        for name in (container.get("resources") or {}).get("limits") or {}
        if "/" in name
    }


def in_order(items: Sequence[Object]) -> list[Object]:
    """The objects, those first that others need: namespaces, then all that runs no pods."""
    return sorted(items, key=_rank)


def _rank(item: Object) -> int:
    if item["kind"] == "Namespace":
        return 0
    return 1 if pod_template(item) is None else 2


def _needed(reference: Object | None) -> Iterator[SecretKey]:
    if not reference or reference.get("optional"):
        return
    name: str = reference.get("name") or reference["secretName"]
    keys = [reference.get("key"), *(item["key"] for item in reference.get("items") or [])]
    given = [key for key in keys if key is not None]
    for key in given or [None]:
        yield SecretKey(name, key)
