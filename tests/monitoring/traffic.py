"""A service in which all happens that metrics count: frames of every kind, failures, promotions."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import httpx
import numpy as np
from mlflow import MlflowClient
from numpy.typing import NDArray

from nuclei.client import Client, FrameIndex, StreamFrame
from nuclei.errors import NucleiError
from nuclei.imaging.images import read_frame
from nuclei.inference.contract import CONTRACT_FILE
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.reference import write_references
from nuclei.quality.reference import (
    FEATURES,
    FeatureReference,
    GroupReference,
    QualityReference,
    ScoreModel,
)
from serving.promotion.artifacts import digest
from serving.promotion.changes import adopt, promote, record_gates
from serving.promotion.state import Gates, Phase, read_state
from serving.registry import Registry
from serving.repository.export import collect_artifacts
from tests.conftest import EXAMPLES
from tests.serving.promotion.made_models import write_artifacts
from tests.serving.served import Served
from tests.shipped import SHIPPED

# The second has no versions; without it rounds of sync fail.
MODEL, EMPTY = "nuclei-unet", "nuclei-empty"
# Versions: what ships, one that finds other nuclei, one that replaces it, one that cannot serve.
FIRST, OTHER, NEXT, BROKEN = 1, 2, 3, 4
SETTINGS = {
    "NUCLEI_SYNC_MODELS": f"{MODEL},{EMPTY}",
    "NUCLEI_SYNC_INTERVAL_S": "0.5",
    "NUCLEI_SYNC_RETIRE_S": "1",
    "NUCLEI_SYNC_WEBHOOK_SECRET": "a secret of sixteen characters",
    "NUCLEI_ROLLOUT_MIN_FRAMES": "3",
    "NUCLEI_MAX_FRAMES_IN_FLIGHT": "8",
    # Nobody listens there: spans are lost, and exemplars name them.
    "NUCLEI_TRACES": "http://127.0.0.1:9/v1/traces",
}
WAIT_S = 240.0
# A shadow gives way to callers: it needs pauses of several tiles, however long one takes here.
QUIET_S, QUIET_FRAMES = 1.0, 4
# Prometheus scrapes every second.
SCRAPED_S = 1.5
# All measures of grey frames, over the shortest window; every frame is out of focus.
QUALITY = QualityReference(
    {
        "grey": GroupReference(
            100,
            0.01,
            {
                name: FeatureReference(
                    tuple(level / 20 for level in range(21)),
                    (0.5 if name == "focus" else None, None),
                    0.2,
                )
                for name in FEATURES
            },
            ScoreModel(("coverage",), ((0.0, 1.0),), 0.8, (), 0.1, 0.7, 1),
        )
    },
    window=10,
    frames_per_day=2000,
    false_alarms_per_day=0.01,
)


def registered(folder: Path) -> Registry:
    """A registry with the versions."""
    shipped = folder / "shipped"
    shipped.mkdir()
    engine = LocalEngine(SHIPPED)
    served = engine.find("unet")
    collect_artifacts(SHIPPED, "unet", int(served.version), shipped)
    contract = replace(served.contract, pixel_size_um=0.5, quality=QUALITY)
    (shipped / CONTRACT_FILE).write_text(contract.to_json())
    image = read_frame(EXAMPLES / "fluorescence.png").pixels
    write_references([image], engine, served, shipped)

    other = write_artifacts(folder / "other", reach_px=4)
    following = write_artifacts(folder / "next")
    broken = shutil.copytree(other, folder / "broken")
    (broken / "network.onnx").write_bytes(b"no network")

    registry = Registry(f"sqlite:///{folder / 'mlflow.db'}")
    for artifacts in (shipped, other, following, broken):
        version = registry.register(MODEL, artifacts, {"licence": "Apache-2.0"})
        gates = Gates(verdict="passed", reason="all gates passed", digest=digest(artifacts))
        record_gates(registry, MODEL, version, gates)
    adopt(registry, MODEL, FIRST)
    MlflowClient(registry.tracking_uri, registry.tracking_uri).create_registered_model(EMPTY)
    return registry


@dataclass(frozen=True)
class Traffic:
    """Callers of a service, and the registry that it follows."""

    served: Served
    registry: Registry
    sync_url: str

    def frames(self, rounds: int) -> None:
        """Frames by every protocol, good ones and bad ones, a few times."""
        grey = read_frame(EXAMPLES / "fluorescence.png").pixels[..., 0]
        colour = (EXAMPLES / "histology.png").read_bytes()
        medium = np.tile(grey, (3, 3))[:720, :720]
        with Client(self.served.grpc_address) as client, httpx.Client() as http:
            url = f"{self.served.http_url}/v1/segment"
            for number in range(rounds):
                client.segment(grey, pixel_size_um=0.5)
                client.segment(colour)
                client.segment(medium)
                client.segment(cv2.GaussianBlur(grey, (0, 0), 9))
                client.segment(np.zeros_like(grey))
                client.segment(grey[:200, :200], tta=True)
                http.post(url, content=colour).raise_for_status()
                assert http.post(url, content=b"no image").is_client_error
                for wrong in ({"model": "none"}, {"timeout_s": 0.002}):
                    with suppress(NucleiError):
                        client.segment(medium, **wrong)
                for _ in client.stream(_acquisition(grey, number), overflow="latest_only"):
                    pass
                # Rates need scrapes between the rounds.
                time.sleep(SCRAPED_S)
            with ThreadPoolExecutor(16) as callers:
                list(callers.map(lambda _: _tried(client, grey), range(32)))

    def webhook(self) -> None:
        """One that nobody signed."""
        assert httpx.post(f"{self.sync_url}/webhook", content=b"{}").status_code >= 400

    def promotions(self) -> None:
        """A rollout that is aborted, versions that cannot serve, and one that can."""
        canary = Phase(mode="canary", fraction=1, frames=3)
        shadow = Phase(mode="shadow", fraction=1, frames=1000)
        promote(self.registry, MODEL, OTHER, [canary, shadow])
        self._until(lambda: read_state(self.registry, MODEL).find(OTHER).aborted)
        self.registry.set_alias(MODEL, "champion", BROKEN)
        self._until(lambda: read_state(self.registry, MODEL).find(BROKEN).refused)
        client = MlflowClient(self.registry.tracking_uri, self.registry.tracking_uri)
        client.delete_registered_model(EMPTY)
        self._until(lambda: "nuclei_sync_failures_total{" in self._sync_metrics())
        client.create_registered_model(EMPTY)
        promote(self.registry, MODEL, NEXT)
        self._until(lambda: self._version() == str(NEXT))

    def _until(self, happened: Callable[[], object]) -> None:
        """Send frames until something has happened."""
        deadline = time.monotonic() + WAIT_S
        while not happened():
            assert time.monotonic() < deadline, self._progress()
            sent = time.monotonic()
            self._version()
            time.sleep(max(QUIET_S, QUIET_FRAMES * (time.monotonic() - sent)))

    def _progress(self) -> str:
        """How far the rollout is, for whom it takes too long."""
        metrics = httpx.get(f"{self.served.http_url}/metrics").text
        counts = r"^nuclei_shadow\w+_(?:total|count)\{.*$"
        shadows = "\n".join(re.findall(counts, metrics, re.MULTILINE))
        return f"{read_state(self.registry, MODEL)}\n{shadows}\n{self.served.output}"

    def _version(self) -> str:
        """The version that answers a frame now."""
        with Client(self.served.grpc_address) as client:
            return client.segment(EXAMPLES / "fluorescence.png").version

    def _sync_metrics(self) -> str:
        return httpx.get(f"{self.sync_url}/metrics").text


def _acquisition(frame: NDArray[np.uint8], number: int) -> Iterator[StreamFrame]:
    """Two positions of a time-lapse, faster than they are segmented."""
    for t in range(4):
        for position in range(2):
            index = FrameIndex(f"acquisition-{number}", position, t)
            yield StreamFrame(frame, index, pixel_size_um=0.5)


def _tried(client: Client, frame: NDArray[np.uint8]) -> None:
    with suppress(NucleiError):
        client.segment(frame)
