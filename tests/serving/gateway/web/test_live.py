"""The pages that watch streams and models, in a real browser with a real gateway."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from playwright.sync_api import Page, expect

from nuclei.client import Client, FrameIndex, StreamFrame
from tests.serving.gateway.web.conftest import violations

OpenPage = Callable[..., AbstractContextManager[Page]]


def test_frames_are_shown_as_they_are_acquired(
    open_page: OpenPage, client: Client, fluorescence: Path
) -> None:
    count = len(client.segment(fluorescence).nuclei)
    frames = [
        StreamFrame(fluorescence, FrameIndex("plate-3-well-B7-" + "0" * 30, position, t))
        for t in range(2)
        for position in (1, 0)
    ]
    with open_page("/live", viewport={"width": 390, "height": 844}, is_mobile=True) as page:
        expect(page.locator("#status")).to_have_text("Watching.")
        assert not violations(page)
        assert len(list(client.stream(frames))) == len(frames)
        positions = page.locator("article")
        expect(positions.locator("h3")).to_have_text(["Position 0", "Position 1"])
        expect(positions.locator("strong")).to_have_text([str(count)] * 2)
        expect(page.locator("#streams h2")).to_contain_text("well-B7")
        expect(page.locator("#streams h2")).to_contain_text("4 frames")
        expect(page.locator("article img").first).to_have_attribute("src", re.compile("^blob:"))
        assert not violations(page)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_streams_that_ended_long_ago_leave_the_page(
    open_page: OpenPage, client: Client, fluorescence: Path
) -> None:
    with open_page("/live") as page:
        page.clock.install()
        page.reload()
        expect(page.locator("#status")).to_have_text("Watching.")
        for number in range(14):
            frame = StreamFrame(fluorescence, FrameIndex(f"run-{number}"))
            assert len(list(client.stream([frame], outputs=["centroids"]))) == 1
        titles = page.locator("#streams h2")
        expect(titles).to_have_count(14)
        page.clock.fast_forward(70_000)
        expect(titles).to_have_count(12)
        expect(page.locator("#streams .silent")).to_have_count(12)
        assert list(client.stream([fluorescence], outputs=["centroids"]))
        page.clock.fast_forward(5_000)
        expect(page.locator("#streams > section").first).not_to_have_class("silent")
        expect(titles).to_have_count(12)
        expect(titles.nth(1)).to_contain_text("run-13")
        expect(titles.last).to_contain_text("run-3")


def test_models_are_listed_with_their_scores(open_page: OpenPage, version: str) -> None:
    with open_page("/models") as page:
        expect(page.locator("#models h2")).to_have_text("unet (the default)")
        expect(page.locator("#models")).to_contain_text(f"Version in use{version}")
        titles = page.locator("#models h3")
        expect(titles).to_have_text([re.compile("left out of"), re.compile("it learned from")])
        expect(page.locator("#models table").nth(1)).to_contain_text(
            re.compile(r"score, tnbc0\.\d")
        )
        expect(page.locator("#change")).to_contain_text("nuclei promote unet")
        assert not violations(page)
