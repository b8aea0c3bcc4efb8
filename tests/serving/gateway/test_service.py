"""The service's life: it follows Triton, and ends without losing requests."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nuclei.client import Client
from nuclei.errors import EngineUnavailable, NucleiError
from serving.triton.server import TritonServer

Status = health_pb2.HealthCheckResponse
StartGateway = Callable[..., Any]


def health(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
        return int(check(health_pb2.HealthCheckRequest(service="nuclei.v1.Segmentation")).status)


def wait_health(address: str, status: int, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while health(address) != status:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_dead_triton_is_reported_at_once_and_found_again(
    own_triton: TritonServer, start_gateway: StartGateway, fluorescence: Path
) -> None:
    gateway = start_gateway(own_triton.address)
    gateway.wait_ready()
    with Client(gateway.grpc_address) as client:
        before = len(client.segment(fluorescence).nuclei)
        assert own_triton.pid is not None
        os.kill(own_triton.pid, signal.SIGKILL)

        started = time.monotonic()
        with pytest.raises(EngineUnavailable):
            client.segment(fluorescence)
        with pytest.raises(EngineUnavailable):
            client.segment(b"nobody looks at it")
        with pytest.raises(EngineUnavailable):
            client.server_info()
        response = httpx.post(f"{gateway.url}/v1/segment", content=fluorescence.read_bytes())
        assert (response.status_code, response.json()["title"]) == (503, "EngineUnavailable")
        assert httpx.get(f"{gateway.url}/readyz").status_code == 503
        assert httpx.get(f"{gateway.url}/livez").status_code == 200
        assert time.monotonic() - started < 2
        wait_health(gateway.grpc_address, Status.NOT_SERVING)

        own_triton.stop()
        own_triton.start()
        gateway.wait_ready(seconds=5)
        wait_health(gateway.grpc_address, Status.SERVING)
        assert len(client.segment(fluorescence).nuclei) == before


def test_gateway_without_triton_lives_but_is_not_ready(start_gateway: StartGateway) -> None:
    gateway = start_gateway("dns:///localhost:1")
    gateway.wait_ready(ready=False)
    deadline = time.monotonic() + 10
    while "(triton: 0 addresses" in (why := httpx.get(f"{gateway.url}/readyz").json()["detail"]):
        assert time.monotonic() < deadline, why
        time.sleep(0.1)
    assert re.search(r"\(triton: [12] address(es)? of localhost\)", why)
    assert httpx.get(f"{gateway.url}/livez").status_code == 200
    assert httpx.get(f"{gateway.url}/v1/models").status_code == 503
    assert health(gateway.grpc_address) == Status.NOT_SERVING


def test_sigterm_lets_running_requests_finish(
    triton: TritonServer, start_gateway: StartGateway, histology: Path
) -> None:
    gateway = start_gateway(triton.address, NUCLEI_DRAIN_S="60")
    gateway.wait_ready()
    # It takes long enough to be worked on while everything else of this test happens.
    _, frame = cv2.imencode(".png", np.tile(cv2.imread(str(histology)), (3, 3, 1)))
    long = frame.tobytes()
    with ThreadPoolExecutor(1) as pool, Client(gateway.grpc_address) as client:
        expected = len(client.segment(long, tta=True, timeout_s=60).nuclei)
        running = pool.submit(client.segment, long, tta=True, timeout_s=60)
        while "nuclei_frames_in_flight 1.0" not in httpx.get(f"{gateway.url}/metrics").text:
            assert not running.done()
        os.kill(gateway.process.pid, signal.SIGTERM)
        time.sleep(0.1)
        # A new one is told to go elsewhere while that is worked on.
        with pytest.raises(EngineUnavailable):
            client.segment(histology)
        assert not running.done()
        assert len(running.result().nuclei) == expected
        deadline = time.monotonic() + 15
        while gateway.process.running:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert gateway.process.exit_code == 0
        with pytest.raises(EngineUnavailable):
            client.segment(histology)


def test_http_frame_that_outlasts_the_drain_gets_an_error(
    triton: TritonServer, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(triton.address, NUCLEI_DRAIN_S="1")
    gateway.wait_ready()
    _, frame = cv2.imencode(".png", np.zeros((8000, 8000), np.uint8))
    url = f"{gateway.url}/v1/segment?tta=true"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, url, content=frame.tobytes(), timeout=60)
        time.sleep(3)
        os.kill(gateway.process.pid, signal.SIGTERM)
        answer = running.result()
    assert answer.status_code == 503
    assert "shutting down" in answer.json()["detail"]
    assert "Traceback" not in gateway.process.log.read_text()


def test_taken_grpc_port_is_reported(triton: TritonServer, start_gateway: StartGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = start_gateway(triton.address, NUCLEI_GRPC_PORT=str(port))
        deadline = time.monotonic() + 30
        while "is the port taken?" not in gateway.process.last_lines(100):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_load_of_frames_leaves_the_event_loop_free(
    gateway: Any, client: Client, histology: Path
) -> None:
    """Liveness answers quickly while frames are worked on."""
    slowest = 0.0
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            try:
                client.segment(histology)
            except NucleiError as error:
                pytest.fail(str(error))

    with ThreadPoolExecutor(3) as pool, httpx.Client(base_url=gateway.url) as http:
        workers = [pool.submit(load) for _ in range(3)]
        for _ in range(20):
            started = time.monotonic()
            assert http.get("/livez").status_code == 200
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.05)
        stop.set()
        for worker in workers:
            worker.result()
    assert slowest < 0.5
