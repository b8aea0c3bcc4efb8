"""Callers that send frames to a gateway and record how long each answer takes."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


@dataclass
class Load:
    """The measurements of a load.

    Attributes:
        seconds: how long it ran.
        latency_ms: of each answered frame, milliseconds.
        stage_ms: of each answered frame: time of each step on the server, milliseconds.
        failed: frames without a result.
    """

    seconds: float = 0.0
    latency_ms: list[float] = field(default_factory=list)
    stage_ms: list[dict[str, float]] = field(default_factory=list)
    failed: int = 0

    @property
    def frames_per_s(self) -> float:
        return len(self.latency_ms) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latency_ms, percent))

    def stage_p50_ms(self) -> dict[str, float]:
        names = self.stage_ms[0]
        return {name: float(np.median([ms[name] for ms in self.stage_ms])) for name in names}

    def note(self, started: float, answer: pb.SegmentResponse) -> None:
        self.latency_ms.append((time.perf_counter() - started) * 1e3)
        self.stage_ms.append(dict(answer.stage_ms))


async def unary_load(
    address: str, request: pb.SegmentRequest, callers: int, seconds: float
) -> Load:
    """Callers that each send a frame as soon as the one before is answered."""
    load = Load()
    async with grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) as channel:
        stub: Any = SegmentationStub(channel)
        await asyncio.gather(*(stub.Segment(request) for _ in range(callers)))
        started = time.perf_counter()

        async def call() -> None:
            while time.perf_counter() - started < seconds:
                sent = time.perf_counter()
                try:
                    load.note(sent, await stub.Segment(request))
                except grpc.RpcError:
                    load.failed += 1

        await asyncio.gather(*(call() for _ in range(callers)))
        load.seconds = time.perf_counter() - started
    return load


async def stream_load(
    address: str, request: pb.SegmentRequest, in_flight: int, seconds: float
) -> Load:
    """One stream with a constant number of frames in flight, each of a different position."""
    load = Load()
    free = asyncio.Semaphore(in_flight)
    sent: list[float] = []

    async def frames() -> AsyncIterator[pb.SegmentStreamRequest]:
        while not sent or time.perf_counter() - sent[0] < seconds:
            await free.acquire()
            frame = pb.SegmentRequest()
            frame.CopyFrom(request)
            frame.frame.index.position = len(sent)
            sent.append(time.perf_counter())
            yield pb.SegmentStreamRequest(frame=pb.StreamFrame(request=frame))

    async with grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) as channel:
        stub: Any = SegmentationStub(channel)
        async for answer in stub.SegmentStream(frames()):
            free.release()
            if answer.HasField("result"):
                load.note(sent[answer.sequence], answer.result)
            else:
                load.failed += 1
        load.seconds = time.perf_counter() - sent[0]
    return load
