"""The self-check, against a real gateway."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nuclei.client import Client
from nuclei.errors import Overloaded
from serving.supervision.self_check import self_check
from serving.triton.server import TritonServer

if TYPE_CHECKING:
    from tests.conftest import Gateway


def test_it_waits_for_a_gateway_that_callers_keep_busy(
    start_gateway: "Callable[..., Gateway]", triton: TritonServer, fluorescence: Path
) -> None:
    gateway = start_gateway(triton.address, NUCLEI_MAX_FRAMES_IN_FLIGHT="1")
    gateway.wait_ready()
    refused, over = threading.Event(), threading.Event()

    def call(client: Client) -> None:
        while not over.is_set():
            try:
                client.segment(fluorescence)
            except Overloaded:
                refused.set()
                over.wait(0.05)

    with Client(gateway.grpc_address) as client, contextlib.ExitStack() as stack:
        threads = [threading.Thread(target=call, args=[client]) for _ in range(2)]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(over.set)
        assert refused.wait(30)
        checks = self_check(client, fluorescence, 60)
    assert {check.segmentation.model for check in checks} == {"unet"}
    assert all(0 < check.latency_ms < 60_000 for check in checks)
