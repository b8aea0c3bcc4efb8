"""Promotions and rollbacks in the whole service, under load; benchmarks/promotion.py runs more."""

import time
from pathlib import Path

import cv2
import httpx
import pytest

from nuclei.process.ports import free_ports
from serving.promotion.state import read_state
from serving.registry import Registry
from tests.conftest import ROOT
from tests.serving.callers import Callers
from tests.serving.promotion.made_models import discs, write_artifacts
from tests.serving.promotion.swaps import MODEL, Foregrounds, Swapping, of_wrong_version, register
from tests.serving.served import Served


def wait_in_step(served: Served) -> None:
    """Wait until the gateway says that sync has done a round."""
    deadline = time.monotonic() + 30
    while "\nsync: last in step with the registry 20" not in (
        said := httpx.get(f"{served.http_url}/readyz", timeout=10).text
    ):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


@pytest.mark.triton
@pytest.mark.slow
def test_frames_are_answered_by_one_version_and_none_is_lost(tmp_path: Path) -> None:
    frame = tmp_path / "frame.png"
    cv2.imwrite(str(frame), discs("frame", side=240).pixels)
    artifacts = [write_artifacts(tmp_path / str(n), reach_px=n) for n in range(2)]
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    register(registry, artifacts)
    (sync_port,) = free_ports(1)
    served = Served(
        ROOT / "model_repository",
        tmp_path,
        NUCLEI_SYNC=registry.tracking_uri,
        NUCLEI_SYNC_PORT=str(sync_port),
        NUCLEI_SYNC_INTERVAL_S="0.5",
        NUCLEI_SYNC_RETIRE_S="1",
    )
    try:
        served.wait_ready()
        wait_in_step(served)
        with Callers(served, frame, Foregrounds(artifacts, frame).judge) as callers:
            swapping = Swapping(registry, callers)
            swapping.promote(2)
            swapping.promote(1)
            swapping.rollback()
        assert [swap.after for swap in swapping.swaps] == [2, 1, 2]
        assert not callers.failures()
        assert not of_wrong_version(callers.answers, swapping.swaps)
        actions = [each.change.action for each in read_state(registry, MODEL).changes]
        assert actions == ["adopt", "promote", "promote", "rollback"]
        served.process.terminate()
        assert served.finish() == 0
    finally:
        served.process.kill()
