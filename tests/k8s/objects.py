"""The objects of an overlay, as `kubectl kustomize` renders them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from serving.cluster.objects import Object, containers, pod_template
from serving.cluster.rendering import KUSTOMIZATION, render
from serving.cluster.rendering import OVERLAYS as OURS
from serving.cluster.values import Values

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
# With one of the components that none of ours has, or not alone.
FOLDERS = {
    path.parent.name: path.parent
    for root in (OURS, Path(__file__).parent / "overlays")
    for path in root.glob(f"*/{KUSTOMIZATION}")
}
OVERLAYS = sorted(FOLDERS)


@dataclass(frozen=True)
class Pod:
    """A template of pods, with the object that makes them.

    Attributes:
        owner: such as `Deployment/triton`.
        template: its metadata and spec.
    """

    owner: str
    template: Object

    @property
    def spec(self) -> Object:
        spec: Object = self.template["spec"]
        return spec

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def serves(self) -> bool:
        """Whether it runs until it is stopped."""
        return self.owner.startswith("Deployment/")

    @property
    def containers(self) -> list[Object]:
        """With those that run before the others."""
        return containers(self.template)

    @property
    def ports(self) -> dict[str, int]:
        """The ports of all its containers, by name."""
        ports = [port for each in self.containers for port in each.get("ports", ())]
        return {port["name"]: port["containerPort"] for port in ports}


@cache
def overlay(name: str) -> tuple[Object, ...]:
    """All objects of an overlay."""
    return tuple(render(FOLDERS[name], Values()))


def of_kind(name: str, *kinds: str) -> list[Object]:
    return [each for each in overlay(name) if each["kind"] in kinds]


def pods(name: str) -> list[Pod]:
    """The pods of an overlay."""
    made = (
        (f"{each['kind']}/{each['metadata']['name']}", pod_template(each)) for each in overlay(name)
    )
    return [Pod(owner, template) for owner, template in made if template is not None]


def selected(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector takes these labels; of its expressions, only `In` is known here."""
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def variables(name: str, container: Object) -> dict[str, str]:
    """The environment of a container; what comes from a Secret or from the pod is `REFERENCE`."""
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(name, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]
    for variable in container.get("env", ()):
        assert ("value" in variable) != ("valueFrom" in variable), variable
        found[variable["name"]] = variable.get("value", REFERENCE)
    return found


# Long enough for a token.
REFERENCE = "known-in-the-cluster-alone"


def secrets(node: object) -> Iterator[tuple[str, str]]:
    """Names and keys of the Secrets that an object refers to; "" for all keys."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("secretKeyRef", "credentials") or (key == "secret" and "name" in value):
                yield value["name"], value["key"]
            elif key == "secret" and "secretName" in value:
                yield value["secretName"], ""
            else:
                yield from secrets(value)
    elif isinstance(node, list):
        for each in node:
            yield from secrets(each)
