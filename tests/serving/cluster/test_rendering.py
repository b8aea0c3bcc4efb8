"""Overlays and values, as kustomize makes objects of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nuclei.errors import InvalidData, InvalidOption
from serving.cluster.objects import Object, base_name, pod_template
from serving.cluster.rendering import OVERLAYS, find_overlay, render
from serving.cluster.values import Values, read_values

DIGEST = "sha256:" + "a" * 64


def one(items: list[Object], kind: str, name: str) -> Object:
    (found,) = [item for item in items if (item["kind"], base_name(item)) == (kind, name)]
    return found


def variables_from(item: Object) -> list[str]:
    template = pod_template(item)
    sources = template["spec"]["containers"][0]["envFrom"]
    return [source["configMapRef"]["name"] for source in sources]


def test_an_overlay_is_found_by_its_name_or_its_folder(tmp_path: Path) -> None:
    assert find_overlay("cpu") == OVERLAYS / "cpu"
    (tmp_path / "kustomization.yaml").touch()
    assert find_overlay(str(tmp_path)) == tmp_path
    with pytest.raises(InvalidOption, match=r"'tpu'; expected one of .*cpu, gpu, production"):
        find_overlay("tpu")


def test_namespaces_come_first_and_pods_last(built: Callable[[str], list[Object]]) -> None:
    items = built("cpu")
    assert items[0]["kind"] == "Namespace"
    makes_pods = [pod_template(item) is not None for item in items]
    assert makes_pods == sorted(makes_pods)
    assert any(makes_pods)


def test_values_change_images_replicas_and_settings(built: Callable[[str], list[Object]]) -> None:
    image = f"registry.example:5000/nuclei-serving@{DIGEST}"
    values = Values.model_validate(
        {
            "images": {"nuclei-serving": image},
            "replicas": {"gateway": 3},
            "settings": {"gateway": {"NUCLEI_DRAIN_S": 60}},
        }
    )
    before, after = built("cpu"), render(OVERLAYS / "cpu", values)
    gateway = one(after, "Deployment", "gateway")
    assert gateway["spec"]["replicas"] == 3
    assert pod_template(gateway)["spec"]["containers"][0]["image"] == image
    settings = one(after, "ConfigMap", "gateway")["data"]
    assert settings == {**one(before, "ConfigMap", "gateway")["data"], "NUCLEI_DRAIN_S": "60"}
    # Another name, so the pods are made anew; those of Triton are not.
    assert variables_from(gateway) != variables_from(one(before, "Deployment", "gateway"))
    assert one(after, "ConfigMap", "triton") == one(before, "ConfigMap", "triton")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("replicas: {gatway: 2}", r"replicas.gatway: .* expected one of gateway, mlflow, triton"),
        ("replicas: {gateway: two}", r"replicas.gateway: Input should be a valid integer"),
        ("replicas: {gateway: -1}", r"replicas.gateway: .* greater than or equal to 0"),
        ("images: {nuclei: 'a:1'}", r"images.nuclei: .* nuclei-serving, nuclei-training"),
        ("images: {nuclei-serving: a}", r"images.nuclei-serving: .*by its digest"),
        ("images: {nuclei-serving: 'a:latest'}", r"images.nuclei-serving: .*other than latest"),
        ("settings: {gatewy: {}}", r"settings.gatewy: .* expected one of gateway, mlflow, triton"),
        (
            "settings: {gateway: {NUCLEI_THREDS: 4}}",
            r"settings.gateway: 'NUCLEI_THREDS'.* did you mean NUCLEI_THREADS\?",
        ),
        (
            "settings: {gateway: {NUCLEI_THREADS: none}}",
            r"settings.gateway.NUCLEI_THREADS: .*valid integer",
        ),
        (
            "settings: {triton: {NUCLEI_TOKEN: abc}}",
            r"settings.triton.NUCLEI_TOKEN is a secret.* put it into a Secret",
        ),
        ("replica: {gateway: 2}", r"replica: Extra inputs are not permitted"),
        ("[1, 2]", r"values.yaml: the file: "),
        ("{", r"values.yaml is no YAML"),
    ],
)
def test_a_wrong_value_names_its_field_and_the_cure(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(text)
    with pytest.raises(InvalidOption, match=message):
        render(OVERLAYS / "cpu", read_values(path))


def test_replicas_that_an_autoscaler_sets_are_refused(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text("resources: [objects.yaml]")
    (overlay / "objects.yaml").write_text(
        """
apiVersion: apps/v1
kind: Deployment
metadata: {name: triton}
spec: {template: {spec: {containers: [{name: triton, image: "a:1"}]}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: by-queue}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: triton}, maxReplicas: 4}
"""
    )
    with pytest.raises(InvalidOption, match=r"replicas.triton: the HorizontalPodAutoscaler by-q"):
        render(overlay, Values(replicas={"triton": 2}))


def test_an_overlay_that_cannot_be_built_says_why(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [gone.yaml]")
    with pytest.raises(InvalidData, match=r"gone\.yaml"):
        render(tmp_path, Values())
