"""Strategies for valid and invalid frames and messages."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nuclei.client.messages import PIXEL_TYPES
from nuclei.v1 import segmentation_pb2 as pb

CORPUS = Path(__file__).parent / "corpus"

UINT32 = st.integers(0, 2**32 - 1)
ANY_FLOAT = st.floats(width=64)
SMALL_SIDE = st.integers(1, 40)
# Mostly such as are accepted, so that what comes after them is tried too.
IDS = st.sampled_from(["", "a", "plate-7/A01#3", "x" * 128]) | st.text(max_size=140)


def corpus(name: str) -> list[Path]:
    """The kept cases of one fuzz target."""
    return sorted((CORPUS / name).iterdir())


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def pixels() -> st.SearchStrategy[np.ndarray]:
    """uint8 or uint16 [H, W] or [H, W, 3]."""
    shapes = st.tuples(SMALL_SIDE, SMALL_SIDE) | st.tuples(SMALL_SIDE, SMALL_SIDE, st.just(3))
    dtypes = st.sampled_from([np.uint8, np.uint16])
    return st.tuples(dtypes, shapes).flatmap(lambda kind: hnp.arrays(*kind))


def raw_pixels() -> st.SearchStrategy[np.ndarray]:
    """Pixels [H, W, C] of every type; floats may be infinite or NaN."""
    shapes = st.tuples(SMALL_SIDE, SMALL_SIDE, st.integers(1, 5))
    dtypes = st.sampled_from(sorted(PIXEL_TYPES))
    return st.tuples(dtypes, shapes).flatmap(lambda kind: hnp.arrays(*kind))


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """The bytes cut short, or with some of them overwritten."""

    def overwrite(edits: list[tuple[int, int]]) -> bytes:
        changed = bytearray(data)
        for at, value in edits:
            changed[at % len(changed)] = value
        return bytes(changed)

    edits = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8)
    return st.integers(0, len(data)).map(lambda end: data[:end]) | edits.map(overwrite)


def encoded_frames() -> st.SearchStrategy[bytes]:
    """Files: good, damaged, found by the fuzzer, and noise."""
    good = pixels().map(_png)
    kept = st.sampled_from(corpus("decoding")).map(Path.read_bytes)
    return st.one_of(good, good.flatmap(damaged), kept, kept.flatmap(damaged), st.binary())


def _good_raw(values: np.ndarray) -> pb.RawPixels:
    return pb.RawPixels(
        data=values.tobytes(),
        height=values.shape[0],
        width=values.shape[1],
        channels=values.shape[2],
        pixel_type=PIXEL_TYPES[values.dtype.str[1:]],
    )


def raw_frames() -> st.SearchStrategy[pb.RawPixels]:
    """Raw pixels whose numbers are consistent, and some whose numbers are not."""
    bad = st.builds(
        pb.RawPixels,
        data=st.binary(max_size=64),
        height=UINT32 | SMALL_SIDE,
        width=UINT32 | SMALL_SIDE,
        channels=UINT32 | st.integers(0, 5),
        pixel_type=st.integers(-(2**31), 2**31 - 1) | st.integers(0, 8),
    )
    return raw_pixels().map(_good_raw) | bad


def frames() -> st.SearchStrategy[pb.Frame]:
    """Frame messages."""
    place = {
        "pixel_size": st.none() | st.builds(pb.PixelSize, x_um=ANY_FLOAT, y_um=ANY_FLOAT),
        "stage_position": st.none() | st.builds(pb.StagePosition, x_um=ANY_FLOAT, y_um=ANY_FLOAT),
        "pixel_to_stage": st.none()
        | st.builds(
            pb.Affine,
            **dict.fromkeys(("xx", "xy", "x_offset_um", "yx", "yy", "y_offset_um"), ANY_FLOAT),
        ),
        "channel": st.sampled_from(["", "0", "1", "red"]) | st.text(max_size=20),
        "plane": st.none() | st.integers(0, 2) | UINT32,
        "projection": st.integers(0, 2) | st.integers(-(2**31), 2**31 - 1),
        "index": st.none() | st.builds(pb.FrameIndex, acquisition_uid=IDS, position=UINT32),
    }
    bounds = st.builds(pb.IntensityRange, lo=ANY_FLOAT, hi=ANY_FLOAT)
    percentiles = st.builds(pb.IntensityPercentiles, lo=st.floats(0, 50), hi=ANY_FLOAT)
    intensity = st.one_of(
        st.just({}),
        bounds.map(lambda given: {"intensity_range": given}),
        percentiles.map(lambda given: {"intensity_percentiles": given}),
    )

    def with_intensity(chosen: dict[str, Any]) -> st.SearchStrategy[pb.Frame]:
        return st.one_of(
            st.builds(pb.Frame, encoded=encoded_frames(), **place, **_just(chosen)),
            st.builds(pb.Frame, raw=raw_frames(), **place, **_just(chosen)),
            st.builds(pb.Frame, **place, **_just(chosen)),
        )

    return intensity.flatmap(with_intensity)


def _just(fields: dict[str, Any]) -> dict[str, st.SearchStrategy[Any]]:
    return {name: st.just(value) for name, value in fields.items()}


def requests() -> st.SearchStrategy[pb.SegmentRequest]:
    """SegmentRequest messages."""
    return st.builds(
        pb.SegmentRequest,
        frame=frames(),
        request_id=IDS,
        model=st.sampled_from(["", "unet", "unet_network", "unet_tta"]) | st.text(max_size=40),
        tta=st.booleans(),
        outputs=st.lists(st.integers(0, 8) | st.integers(-(2**31), 2**31 - 1), max_size=8),
    )


def stream_requests() -> st.SearchStrategy[pb.SegmentStreamRequest]:
    """SegmentStreamRequest messages."""
    settings = st.builds(
        pb.StreamSettings, overflow=st.integers(-1, 5), queue_size=UINT32 | st.integers(0, 5)
    )
    frame = st.builds(pb.StreamFrame, request=requests(), timeout_ms=UINT32 | st.just(0))
    return st.one_of(
        st.builds(pb.SegmentStreamRequest, settings=settings),
        st.builds(pb.SegmentStreamRequest, frame=frame),
        st.builds(pb.SegmentStreamRequest),
    )
