"""/metrics of a real gateway: complete, readable by Prometheus, bounded."""

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from nuclei.client import Client
from nuclei.errors import NucleiError
from nuclei.version import installed_version
from serving.gateway import metrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


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
        assert grown("nuclei_request_seconds_count", **frame, code="OK") == 1
        assert 0.001 < grown("nuclei_request_seconds_sum", **frame, code="OK") < 60
        assert grown("nuclei_counted_total", **frame) == int(answer.headers["X-Nuclei-Count"])
        for stage in ("wait", "decode", "tile", "infer", "postprocess", "measure", "encode"):
            assert grown("nuclei_stage_seconds_count", **frame, stage=stage) == 1, stage
        assert grown("nuclei_transferred_bytes_total", protocol=protocol, direction="in") == len(
            body
        )
    sent = grown("nuclei_transferred_bytes_total", protocol="http", direction="out")
    assert sent == len(answer.content)


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

    attack(0)
    known = set(samples(http))
    attack(1)
    assert set(samples(http)) == known
    assert not [key for key in known if "x0-" in str(key)]


def test_old_versions_are_forgotten() -> None:
    """A model that is promoted again and again."""
    for version in range(1, 200):
        metrics.note_version("promoted", str(version))
        labels = ("promoted", str(version), "grpc")
        metrics.NUCLEI.labels(*labels).inc()
        metrics.REQUEST_SECONDS.labels(*labels, "small", "OK").observe(0.1)
        metrics.STAGE_SECONDS.labels(*labels, "infer").observe(0.1)
    text = metrics.exposition("")[0].decode()
    for metric in ("nuclei_counted_total", "nuclei_request_seconds_count", "nuclei_stage_seconds"):
        kept = {
            family.labels["version"]
            for each in text_string_to_metric_families(text)
            for family in each.samples
            if family.name.startswith(metric) and family.labels.get("model") == "promoted"
        }
        assert kept == {"196", "197", "198", "199"}
