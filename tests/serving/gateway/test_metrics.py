"""/metrics of a real gateway: complete, readable by Prometheus, bounded."""

import platform
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from nuclei.client import Client, FrameIndex
from nuclei.errors import NucleiError
from nuclei.quality.reference import LEVELS, FeatureReference, GroupReference, QualityReference
from nuclei.results.quality import Quality
from nuclei.version import installed_version
from serving.gateway import metrics

STAGES = ("wait", "decode", "tile", "infer", "postprocess", "measure", "quality", "encode")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
REFERENCE = QualityReference(
    {"grey": GroupReference(9, 0.01, {"focus": FeatureReference(LEVELS, (None, None), 0.2)})},
    20,
    1000,
    0.01,
)


@pytest.fixture(scope="module")
def http(gateway: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=60) as connected:
        yield connected


def samples(http: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every value, by name and labels."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def total(http: httpx.Client, name: str, **labels: str) -> float:
    return sum(
        value
        for (sample, found), value in samples(http).items()
        if sample == name and labels.items() <= dict(found).items()
    )


def test_frame_appears_in_every_metric(
    http: httpx.Client, client: Client, fluorescence: Path, version: str
) -> None:
    body = fluorescence.read_bytes()
    before = samples(http)
    answer = http.post("/v1/segment", content=body)
    client.segment(fluorescence)
    after = samples(http)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0)

    for protocol in ("http", "grpc"):
        frame = {"model": "unet", "version": version, "protocol": protocol}
        answered = {**frame, "size": "small", "code": "OK"}
        assert grown("nuclei_request_seconds_count", **answered) == 1
        assert 0.001 < grown("nuclei_request_seconds_sum", **answered) < 60
        assert grown("nuclei_counted_total", **frame) == int(answer.headers["X-Nuclei-Count"])
        for stage in STAGES:
            assert grown("nuclei_stage_seconds_count", **frame, stage=stage) == 1, stage
        assert grown("nuclei_transferred_bytes_total", protocol=protocol, direction="in") == len(
            body
        )
    sent = grown("nuclei_transferred_bytes_total", protocol="http", direction="out")
    assert sent == len(answer.content)


def test_every_measure_of_quality_is_counted(
    http: httpx.Client, client: Client, fluorescence: Path, version: str
) -> None:
    assert metrics.QUALITY_BUCKETS.keys() == {field.name for field in fields(Quality)}
    labels = {"model": "unet", "version": version}
    before = samples(http)
    quality = client.segment(fluorescence, outputs=[]).quality
    after = samples(http)
    assert quality is not None
    assert quality.coverage is not None
    for name, value in vars(quality).items():
        for part, by in (("count", 1), ("sum", value)):
            key = (f"nuclei_quality_{name}_{part}", tuple(sorted(labels.items())))
            grown = after.get(key, 0) - before.get(key, 0)
            assert grown == (0 if value is None else pytest.approx(by)), (name, part)
    key = ("nuclei_quality_frames_total", tuple(sorted({**labels, "group": "grey"}.items())))
    assert after[key] - before.get(key, 0) == 1
    assert total(http, "nuclei_champion_version", model="unet") == int(version)
    assert not total(http, "nuclei_certificate_not_after_timestamp_seconds")


def test_frame_without_nuclei_is_counted_as_empty(http: httpx.Client, client: Client) -> None:
    before = total(http, "nuclei_quality_empty_frames_total", model="unet")
    assert not len(client.segment(np.zeros((64, 64), np.uint8)).nuclei)
    assert total(http, "nuclei_quality_empty_frames_total", model="unet") == before + 1


def test_probes_are_counted_apart(http: httpx.Client, fluorescence: Path, version: str) -> None:
    """Under a protocol of their own, by whatever they come, and in no measure of quality."""
    body = fluorescence.read_bytes()

    def of_callers() -> dict[Any, float]:
        return {
            key: value
            for key, value in samples(http).items()
            if key[0].startswith(("nuclei_quality", "nuclei_request", "nuclei_stage", "nuclei_c"))
            and ("protocol", "probe") not in key[1]
        }

    before = of_callers()
    counted = total(http, "nuclei_request_seconds_count", protocol="probe", version=version)
    answer = http.post("/v1/segment", content=body, headers={"X-Nuclei-Probe": "1"})
    assert answer.status_code == 200
    assert of_callers() == before
    after = total(http, "nuclei_request_seconds_count", protocol="probe", version=version)
    assert after == counted + 1


@pytest.mark.parametrize(
    ("pixels", "size"),
    [
        *((0, ""), (1, "small"), (500_000, "small"), (500_001, "medium")),
        *((2048**2, "medium"), (4_500_001, "large"), (2**28, "large")),
    ],
)
def test_frames_are_classed_by_their_pixels(pixels: int, size: str) -> None:
    assert metrics.size_of(pixels) == size


def test_nothing_stays_in_flight(http: httpx.Client, client: Client, fluorescence: Path) -> None:
    client.segment(fluorescence)
    values = samples(http)
    for name in ("nuclei_frames_in_flight", "nuclei_in_flight_bytes", "nuclei_frames_in_work"):
        assert values[name, ()] == 0, name


def test_process_is_measured(http: httpx.Client) -> None:
    values = samples(http)
    assert 50e6 < values["process_resident_memory_bytes", ()] < 4e9
    assert values["process_open_fds", ()] > 5
    assert values["process_threads", ()] > 2


def test_build_is_named(http: httpx.Client) -> None:
    labels = (("python", platform.python_version()), ("version", installed_version()))
    assert samples(http)["nuclei_build_info", labels] == 1


def test_format_is_what_the_scraper_accepts(http: httpx.Client) -> None:
    plain = http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    rich = http.get("/metrics", headers={"Accept": OPENMETRICS})
    assert rich.headers["content-type"].startswith("application/openmetrics-text")
    assert list(openmetrics_parser.text_string_to_metric_families(rich.text))


def test_stays_bounded_under_hostile_input(
    http: httpx.Client, client: Client, fluorescence: Path
) -> None:
    body = fluorescence.read_bytes()

    def attack(round_: int) -> None:
        for each in range(25):
            name = f"x{round_}-{each}"
            http.post(f"/v1/segment?model={name}", content=body, headers={"X-Request-ID": name})
            http.post("/v1/segment", content=b"x", headers={"X-Request-ID": name})
            http.request(f"METHOD{each}{round_}", f"/{name}")
            http.get(f"/v1/{name}", headers={"User-Agent": name, "Authorization": name})
            with pytest.raises(NucleiError):
                client.segment(fluorescence, model=name)
            small = np.zeros((8, 8), np.uint8)
            client.segment(small, index=FrameIndex(name, each), request_id=name)
            http.post("/v1/segment", content=body[:9], headers={"X-Nuclei-Probe": name})

    def bounded() -> set[tuple[str, Any]]:
        # The drift of each measure is there once a window of frames is full, of whatever caller.
        return {key for key in samples(http) if key[0] != "nuclei_quality_drift"}

    attack(0)
    before = bounded()
    attack(1)
    assert bounded() == before
    assert not [key for key in before if "x0-" in str(key)]


def test_old_versions_are_forgotten() -> None:
    """A model that is promoted again and again."""
    for version in range(1, 200):
        metrics.note_version("promoted", str(version))
        labels = ("promoted", str(version), "grpc")
        metrics.NUCLEI.labels(*labels).inc()
        metrics.REQUEST_SECONDS.labels(*labels, "small", "OK").observe(0.1)
        metrics.STAGE_SECONDS.labels(*labels, "infer").observe(0.1)
        metrics.QUALITY["focus"].labels(*labels[:2]).observe(0.1)
        metrics.DOUBTFUL_FRAMES.labels(*labels[:2], "focus").inc()
        metrics.QUALITY_DRIFT.add(*labels[:2], "grey", Quality(focus=0.1), REFERENCE)
    text = metrics.exposition("")[0].decode()
    for metric in (
        *("nuclei_counted_total", "nuclei_request_seconds_count", "nuclei_stage_seconds"),
        *("nuclei_quality_focus_count", "nuclei_quality_doubtful_frames_total"),
        *("nuclei_quality_drift_window_frames", "nuclei_quality_reference"),
    ):
        kept = {
            family.labels["version"]
            for each in text_string_to_metric_families(text)
            for family in each.samples
            if family.name.startswith(metric) and family.labels.get("model") == "promoted"
        }
        assert kept == {"196", "197", "198", "199"}


def test_models_that_are_gone_have_no_champion() -> None:
    metrics.note_champions({"one": 3, "other": 4})
    metrics.note_champions({"other": 5})
    shown = {
        sample.labels["model"]: sample.value
        for family in text_string_to_metric_families(metrics.exposition("")[0].decode())
        for sample in family.samples
        if sample.name == "nuclei_champion_version"
    }
    metrics.note_champions({})
    assert shown == {"other": 5}
