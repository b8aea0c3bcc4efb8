"""The pixels of a frame over HTTP, of a real gateway."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from nuclei.imaging.images import read_frame
from nuclei.imaging.intensity import intensity_of

TWO_CHANNELS = np.arange(2 * 64 * 96, dtype=np.uint16).reshape(2, 64, 96)


@pytest.fixture(scope="module")
def http(gateway: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=60) as connected:
        yield connected


def ome_tiff(pixels: NDArray[Any], axes: str, **metadata: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(
        file, pixels, ome=True, photometric="minisblack", metadata={"axes": axes, **metadata}
    )
    return file.getvalue()


def picture_of(response: httpx.Response) -> tuple[dict[str, Any], NDArray[Any]]:
    """The description in an answer, and its pixels [H, W, C]."""
    assert response.status_code == 200, response.text
    length = int.from_bytes(response.content[:4], "little")
    about = json.loads(response.content[4 : 4 + length])
    assert (4 + length) % 8 == 0
    stored = np.dtype(about["dtype"]).newbyteorder("<")
    pixels = np.frombuffer(response.content, stored, offset=4 + length)
    return about, pixels.reshape(about["height_px"], about["width_px"], about["channels"])


@pytest.mark.parametrize("name", ["fluorescence.png", "fluorescence_16bit.tif", "histology.png"])
def test_a_frame_is_shown_as_it_is_segmented(http: httpx.Client, name: str) -> None:
    file = Path(__file__).parents[3] / "examples" / name
    about, pixels = picture_of(http.post("/v1/frame", content=file.read_bytes()))
    frame = read_frame(file)
    np.testing.assert_array_equal(pixels, frame.pixels)
    lo, hi = intensity_of(frame).range.tolist()
    assert about["intensity_range"] == {"lo": lo, "hi": hi}
    assert about["choices"]["planes"] == 1
    assert about["warnings"] == list(frame.warnings)


def test_a_choice_that_is_missing_comes_with_what_there_is(http: httpx.Client) -> None:
    file = ome_tiff(TWO_CHANNELS, "CYX", Channel={"Name": ["GFP", "DAPI"]})
    refused = http.post("/v1/frame", content=file)
    assert (refused.status_code, refused.json()["title"]) == (422, "ChoiceRequired")
    assert refused.json()["channels"] == ["GFP", "DAPI"]
    assert refused.json()["planes"] == 1
    about, pixels = picture_of(http.post("/v1/frame", params={"channel": "DAPI"}, content=file))
    np.testing.assert_array_equal(pixels[:, :, 0], TWO_CHANNELS[1])
    assert about["choices"] == {"channels": ["GFP", "DAPI"], "planes": 1}


def test_planes_are_counted_and_chosen_in_a_form(http: httpx.Client) -> None:
    stack = np.repeat(TWO_CHANNELS[:1], 5, axis=0) + np.arange(5, dtype=np.uint16)[:, None, None]
    files = {"file": ("stack.tif", ome_tiff(stack, "ZYX"))}
    assert http.post("/v1/frame", files=files).json()["planes"] == 5
    about, pixels = picture_of(http.post("/v1/frame", files=files, data={"plane": "3"}))
    np.testing.assert_array_equal(pixels[:, :, 0], stack[3])
    assert about["choices"]["planes"] == 5


def test_colours_may_be_chosen_and_grey_that_is_stored_as_colour_has_none(
    http: httpx.Client, histology: Path, fluorescence: Path
) -> None:
    about, _ = picture_of(http.post("/v1/frame", content=histology.read_bytes()))
    assert about["choices"]["channels"] == ["red", "green", "blue"]
    about, _ = picture_of(http.post("/v1/frame", content=fluorescence.read_bytes()))
    assert about["choices"]["channels"] == [""]


def test_names_of_channels_that_are_long_and_many_are_cut(http: httpx.Client) -> None:
    names = ["µ" * 1000] * 300
    file = ome_tiff(np.zeros((300, 8, 8), np.uint8), "CYX", Channel={"Name": names})
    listed = http.post("/v1/frame", content=file).json()["channels"]
    assert listed == ["µ" * 64] * 256


BAD_QUERIES = {"model=unet": "model", "timeout_s=0": "timeout_s", "discard=3": "discard"}


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_options_that_a_picture_does_not_have_are_refused(http: httpx.Client, query: str) -> None:
    refused = http.post(f"/v1/frame?{query}", content=b"")
    assert (refused.status_code, refused.json()["title"]) == (400, "InvalidOption")
    assert BAD_QUERIES[query] in refused.json()["detail"]


def test_bad_frame_is_named(http: httpx.Client, bad_frame: Any) -> None:
    refused = http.post("/v1/frame", content=bad_frame.encoded())
    assert refused.json()["title"] == bad_frame.error.__name__
    assert bad_frame.says in refused.json()["detail"]


def test_a_picture_is_no_segmented_frame_in_the_metrics(
    http: httpx.Client, fluorescence: Path
) -> None:
    def counted() -> list[str]:
        names = ("nuclei_request_seconds_count", "nuclei_counted")
        return [line for line in http.get("/metrics").text.splitlines() if line.startswith(names)]

    before = counted()
    picture_of(http.post("/v1/frame", content=fluorescence.read_bytes()))
    assert counted() == before
