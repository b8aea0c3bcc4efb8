"""The autoscalers' manifests: both ways do the same, and ignorance never scales down."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.rules import CLUSTER
from monitoring.scaling import scaling_rules
from monitoring.thresholds import ROOT, read_thresholds
from serving.gateway.settings import GatewaySettings

COMPONENTS = ROOT / "k8s" / "components"
PARTS = ("gateway", "triton")
RECORDED = {rule.record for rule in scaling_rules(read_thresholds())}
QUERY = re.compile(r'(namespace:(\w+):count)\{namespace="nuclei"\}')


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def spec_of(way: str, part: str) -> dict[str, Any]:
    spec: dict[str, Any] = read(COMPONENTS / way / f"{part}.yaml")["spec"]
    return spec


@pytest.mark.parametrize("part", PARTS)
def test_what_keda_asks_for_is_recorded(part: str) -> None:
    for trigger in spec_of("keda", part)["triggers"]:
        query = QUERY.fullmatch(trigger["metadata"]["query"])
        assert query, trigger
        assert query[1] in RECORDED
        assert trigger["metadata"]["threshold"] == "1"


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_metric_is_an_error_and_never_scales_down(part: str) -> None:
    spec = spec_of("keda", part)
    for trigger in spec["triggers"]:
        assert trigger["metadata"]["ignoreNullValues"] == "false", trigger["name"]
        # KEDA falls back for no other type.
        assert trigger["metricType"] == "AverageValue"
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    assert spec["minReplicaCount"] >= 1


@pytest.mark.parametrize("part", PARTS)
def test_both_ways_scale_alike(part: str) -> None:
    keda, hpa = spec_of("keda", part), spec_of("hpa", part)
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (
        hpa["minReplicas"],
        hpa["maxReplicas"],
    )
    behavior = keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == hpa["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
    asked = [QUERY.fullmatch(trigger["metadata"]["query"])[2] for trigger in keda["triggers"]]
    assert asked == [metric["external"]["metric"]["name"] for metric in hpa["metrics"]]
    for metric in hpa["metrics"]:
        assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}


def test_the_adapter_offers_what_the_hpas_ask_for() -> None:
    (rule,) = read(COMPONENTS / "hpa" / "adapter.yaml")["rules"]["external"]
    series = re.search(r'__name__=~"([^"]+)"', rule["seriesQuery"])[1].replace("\\\\", "\\")
    offered = {
        re.fullmatch(rule["name"]["matches"], record)[1]
        for record in RECORDED
        if re.fullmatch(series, record)
    }
    assert offered == {
        metric["external"]["metric"]["name"]
        for part in PARTS
        for metric in spec_of("hpa", part)["metrics"]
    }


@pytest.mark.parametrize("way", ["keda", "hpa"])
@pytest.mark.parametrize("part", PARTS)
def test_an_autoscaler_has_a_deployment_whose_replicas_are_its_affair(way: str, part: str) -> None:
    target = spec_of(way, part)["scaleTargetRef"]["name"]
    objects = yaml.safe_load_all((ROOT / "k8s" / "base" / f"{part}.yaml").read_text())
    assert ("Deployment", target) in {(each["kind"], each["metadata"]["name"]) for each in objects}
    (patch,) = read(COMPONENTS / way / "kustomization.yaml")["patches"]
    assert re.fullmatch(patch["target"]["name"], part)
    assert yaml.safe_load(patch["patch"]) == [{"op": "remove", "path": "/spec/replicas"}]


def test_no_overlay_sets_replicas_of_what_is_scaled() -> None:
    for file in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"):
        overlay = read(file)
        scaled = {Path(each).name for each in overlay.get("components", [])} & {"keda", "hpa"}
        assert len(scaled) <= 1, f"{file}: two autoscalers of one Deployment"
        if scaled:
            names = {each["name"] for each in overlay.get("replicas", [])}
            assert not names & set(PARTS), file


def test_pods_are_added_long_before_frames_are_refused() -> None:
    """Frames are refused only once there are as many pods as there may be."""
    settings = GatewaySettings.model_fields
    places = settings["max_frames_in_flight"].default
    scaling = read_thresholds().scaling
    gateways, tritons = (spec_of("keda", part)["maxReplicaCount"] for part in PARTS)
    assert scaling.gateway.held_frames <= places / 2
    waiting = places - settings["max_frames_in_work"].default
    assert gateways * waiting / scaling.triton.waiting_frames >= tritons


def test_the_cluster_records_what_prometheus_of_a_machine_does() -> None:
    ours = read(ROOT / "monitoring" / "prometheus" / "rules" / "scaling.yaml")
    assert read(CLUSTER / "scaling" / "rules.yaml")["spec"] == ours
