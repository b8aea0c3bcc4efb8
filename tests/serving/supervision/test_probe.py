"""The probe, on real servers that are healthy, busy, broken and frozen."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from nuclei.process.ports import LOOPBACK, free_ports
from serving.supervision import probe
from serving.supervision.probe import Fault, check_triton
from serving.triton.server import TritonServer


def stub_of(server: TritonServer, model: str) -> psutil.Process:
    for process in psutil.Process(server.pid or 0).children(recursive=True):
        if f"{model}_0_0" in process.cmdline():
            return process
    raise LookupError(model)


def infer_views(server: TritonServer, side_px: int) -> None:
    """Average a tile over its 8 rotations and reflections."""
    image = InferInput("IMAGE", [side_px, side_px, 1], "UINT16")
    image.set_data_from_numpy(np.zeros((side_px, side_px, 1), np.uint16))
    intensity = InferInput("RANGE", [2], "FP32")
    intensity.set_data_from_numpy(np.array([0, 1], np.float32))
    with InferenceServerClient(server.address) as client:
        client.infer("unet_tta", [image, intensity])


def test_a_healthy_server_has_no_fault(triton: TritonServer) -> None:
    check_triton(triton.address)


def test_a_busy_server_is_late_and_has_no_fault(
    triton: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer_views(triton, 256)
    started = time.monotonic()
    infer_views(triton, 256)
    stuck_s = max(2.0, 8 * (time.monotonic() - started))
    monkeypatch.setattr(probe, "_STUCK_S", stuck_s)
    with ThreadPoolExecutor(64) as pool:
        load = [pool.submit(infer_views, triton, 256) for _ in range(64)]
        time.sleep(0.5)
        started = time.monotonic()
        check_triton(triton.address)
        late_s = time.monotonic() - started
        for each in load:
            each.result()
    assert late_s > stuck_s, "the server was not busy enough for this test"


@pytest.mark.parametrize("how", ["kill", "suspend"])
def test_a_stub_that_is_dead_or_frozen_is_a_fault(own_triton: TritonServer, how: str) -> None:
    stub = stub_of(own_triton, "merge")
    getattr(stub, how)()
    assert own_triton.is_ready("unet_tta"), "Triton itself notices, and the probe shows nothing new"
    with pytest.raises(Fault, match=r"^'unet_tta' fails: .*merge_0_0' is not healthy"):
        check_triton(own_triton.address)
    own_triton.stop(0)


def test_a_frozen_server_is_a_fault(
    own_triton: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_SILENT_S", 2.0)
    psutil.Process(own_triton.pid or 0).suspend()
    with pytest.raises(Fault, match="does not answer"):
        check_triton(own_triton.address)
    own_triton.stop(0)


def test_a_server_that_is_not_there_is_a_fault() -> None:
    (port,) = free_ports(1)
    with pytest.raises(Fault, match="does not answer"):
        check_triton(f"{LOOPBACK}:{port}")
