"""Who watches streams, and what is told of their frames."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from nuclei.client import Client, FrameIndex, StreamFrame
from nuclei.errors import InvalidImage, Overloaded
from serving.gateway.http_routes import http_app
from serving.gateway.live import MAX_UNREAD, MAX_WATCHERS, PICTURE_PX, Live
from serving.gateway.security import Token
from serving.gateway.settings import GatewaySettings


async def told(events: AsyncGenerator[bytes, None]) -> dict[str, Any]:
    """The next event that is no comment."""
    async with asyncio.timeout(5):
        while not (event := await anext(events)).startswith(b"data: "):
            pass
    said: dict[str, Any] = json.loads(event.removeprefix(b"data: "))
    return said


async def watching(live: Live) -> AsyncGenerator[bytes, None]:
    events = live.events()
    assert (await anext(events)).startswith(b":")
    return events


async def test_skipped_and_failed_frames_are_told() -> None:
    live = Live()
    stream = live.stream()
    stream.frame(FrameIndex("run")).skipped("before anybody watches")
    events = await watching(live)
    stream.frame(FrameIndex("run", position=3, t=5)).skipped("a newer one came")
    stream.frame(FrameIndex("run", position=4)).failed(InvalidImage("truncated"))
    skipped, failed = await told(events), await told(events)
    assert (skipped["kind"], skipped["reason"]) == ("skipped", "a newer one came")
    assert (skipped["acquisition"], skipped["position"], skipped["t"]) == ("run", 3, 5)
    assert (failed["kind"], failed["error"], failed["detail"]) == (
        *("failed", "InvalidImage"),
        "truncated",
    )
    assert failed["stream"] == skipped["stream"]


async def test_a_watcher_who_does_not_read_learns_what_was_left_out() -> None:
    live = Live()
    events = await watching(live)
    for t in range(MAX_UNREAD + 7):
        live.stream().frame(FrameIndex(t=t)).skipped("")
    assert await told(events) == {"kind": "left_out", "frames": 7}
    assert (await told(events))["t"] == 7


async def test_watchers_are_bounded_and_leave_when_the_service_stops() -> None:
    live = Live()
    all_of_them = [await watching(live) for _ in range(MAX_WATCHERS)]
    with pytest.raises(Overloaded):
        live.events()
    await all_of_them[0].aclose()
    all_of_them[0] = await watching(live)
    live.close()
    for events in all_of_them:
        with pytest.raises(StopAsyncIteration):
            await told(events)


def watched(url: str, frames: int, send: Callable[[], None]) -> list[dict[str, Any]]:
    """Events of a gateway while frames are sent."""
    events = []
    with httpx.stream("GET", f"{url}/v1/live", timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines).startswith(":")
        sending = threading.Thread(target=send)
        sending.start()
        for line in lines:
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
                if len(events) == frames:
                    break
        sending.join()
    return events


def test_frames_of_a_stream_are_told_with_their_nuclei_and_a_picture(
    gateway: Any, client: Client, fluorescence_16bit: Path
) -> None:
    found = client.segment(fluorescence_16bit)
    sent = [StreamFrame(fluorescence_16bit, FrameIndex("run-7", position)) for position in (0, 1)]
    events = watched(gateway.url, 2, lambda: list(client.stream(sent)))
    assert {event["position"] for event in events} == {0, 1}  # each has its own order
    for event in events:
        assert (event["kind"], event["acquisition"]) == ("frame", "run-7")
        assert (event["count"], event["version"]) == (len(found.nuclei), found.version)
        assert event["ms"] > 0
        jpeg = np.frombuffer(base64.b64decode(event["picture"]), np.uint8)
        picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        height, width = found.labels.shape
        assert picture.shape[:2] == (round(height * PICTURE_PX / width), PICTURE_PX)
        colour = picture.max(axis=2).astype(int) - picture.min(axis=2)
        assert (colour > 100).mean() > 0.01  # outlines on a grey picture


async def test_the_live_view_can_be_switched_off() -> None:
    settings = GatewaySettings(live=False)
    transport = httpx.ASGITransport(http_app(settings, Token(settings)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        assert (await http.get("/v1/live")).status_code == 404
