"""What callers pass, checked and turned into what messages hold."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Collection, Iterable, Iterator
from contextlib import contextmanager
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuclei import errors
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.selection import Projection, Selection
from nuclei.quoting import quoted
from nuclei.results.adjustments import Adjustments
from nuclei.v1 import segmentation_pb2 as pb

OUTPUTS = {
    "centroids": pb.OUTPUT_CENTROIDS,
    "boxes": pb.OUTPUT_BOXES,
    "features": pb.OUTPUT_FEATURES,
    "labels": pb.OUTPUT_LABELS,
    "polygons": pb.OUTPUT_POLYGONS,
}
DEFAULT_OUTPUTS = ("centroids", "boxes", "features", "labels")
# Milliseconds are a uint32 in messages.
MAX_TIMEOUT_S = (2**32 - 1) / 1e3


@contextmanager
def checked(
    name: str,
    given: object,
    expected: str,
    kind: type[errors.InvalidInput] = errors.InvalidOption,
) -> Iterator[None]:
    """Raise what an argument cannot be used for as an error that names it.

    Args:
        name: of the argument.
        given: its value.
        expected: ends the sentence "..., expected".
        kind: the class of the error.
    """
    try:
        yield
    except errors.NucleiError:
        raise
    except Exception as error:  # the conversion runs methods of the caller's own classes
        raise kind(f"{name} is {quoted(given)}; expected {expected}") from error


def set_field(message: Any, field: str, given: object, expected: str) -> None:
    """Set a field of a message; raises InvalidOption for a value that it cannot hold."""
    with checked(field, given, expected):
        setattr(message, field, given)


def seconds(timeout_s: float) -> float:
    """A time limit that gRPC and messages can hold; raises InvalidOption."""
    with checked("timeout_s", timeout_s, "seconds, above 0"):
        number = float(timeout_s)
        if not number > 0:
            raise ValueError(number)
    return min(number, MAX_TIMEOUT_S)


def pixel_size(size_um: float | Iterable[float]) -> tuple[float, float]:
    """(y, x) of one number, for square pixels, or of two; raises InvalidOption."""
    expected = "micrometres: one number, or the two of (y, x)"
    with checked("pixel_size_um", size_um, expected):
        size: Any = size_um
        # An array without axes is one number, and iterable.
        is_one = not isinstance(size, Iterable) or (isinstance(size, np.ndarray) and size.ndim == 0)
        y, x = (size, size) if is_one else _parts(size)
        return float(y), float(x)


def frame_options(
    channel: int | str | None,
    plane: int | None,
    project: Projection | None,
    intensity_range: Iterable[float] | None,
    intensity_percentiles: Iterable[float] | None,
) -> FrameOptions:
    """How frames are to be read; raises InvalidOption."""
    with checked("channel", channel, "the name of a channel, or its number from 0"):
        channel = channel if channel is None or isinstance(channel, str) else index(channel)
    with checked("plane", plane, "the number of a plane from 0"):
        plane = None if plane is None else index(plane)
    return FrameOptions(
        Selection(channel, plane, project),
        intensity_range=_bounds("intensity_range", intensity_range),
        intensity_percentiles=_bounds("intensity_percentiles", intensity_percentiles),
    )


def adjustments(
    threshold: float | None, min_area_px: int | None, diameter_px: float | None
) -> Adjustments:
    """What is set in place of what a model was tuned to; raises InvalidOption."""
    with checked("min_area_px", min_area_px, "a whole number of pixels from 0"):
        min_area_px = None if min_area_px is None else index(min_area_px)
    return Adjustments(
        _number("threshold", threshold, "a probability above 0 and below 1"),
        min_area_px,
        _number("diameter_px", diameter_px, "a number of pixels"),
    )


def _number(name: str, given: float | None, expected: str) -> float | None:
    with checked(name, given, expected):
        if isinstance(given, str | bytes | bytearray):
            raise TypeError(given)
        return None if given is None else float(given)


def _bounds(name: str, given: Iterable[float] | None) -> tuple[float, float] | None:
    if given is None:
        return None
    with checked(name, given, "the two numbers (lo, hi)"):
        lo, hi = _parts(given)
        return float(lo), float(hi)


def _parts(numbers: Iterable[Any]) -> Iterable[Any]:
    """What an argument of several numbers holds; the characters of a text are none."""
    if isinstance(numbers, str | bytes | bytearray):
        raise TypeError(numbers)
    return numbers


def affine(matrix: ArrayLike) -> NDArray[np.float64]:
    """float64 [2, 3]; raises InvalidOption."""
    expected = "numbers [2, 3]: the rows that give the stage's x and y"
    with checked("pixel_to_stage", matrix, expected):
        return np.asarray(matrix, np.float64).reshape(2, 3)


def output_values(outputs: Collection[str]) -> list[pb.Output.ValueType]:
    """What to ask for, only the count for none; raises InvalidOption for an unknown name."""
    with checked("outputs", outputs, f"some of {', '.join(OUTPUTS)}"):
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        return [OUTPUTS[name] for name in names] or [pb.OUTPUT_COUNT]


def check_frames(frames: object) -> None:
    """Raises InvalidOption for what holds no frames, such as a single one."""
    several = isinstance(frames, Iterable | AsyncIterable)
    if not several or isinstance(frames, str | bytes | bytearray | memoryview | os.PathLike):
        raise errors.InvalidOption(
            f"frames is {quoted(frames)}; expected an iterable of frames: put a single one in a "
            "list"
        )
