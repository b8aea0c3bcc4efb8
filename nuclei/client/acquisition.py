"""The frames of an acquisition, and the outcome of each."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any, Protocol

from numpy.typing import ArrayLike, NDArray

from nuclei.errors import NucleiError
from nuclei.results.segmentation import Segmentation


class MeasuredPixels(Protocol):
    """Pixels with their size, such as `nuclei.imaging.images.Frame`.

    Of that class warnings, scale and the intensity range are used as well.

    Attributes:
        pixels: as an array alone.
        pixel_size_um: (y, x), micrometres; None when unknown.
    """

    @property
    def pixels(self) -> NDArray[Any]: ...

    @property
    def pixel_size_um(self) -> tuple[float, float] | None: ...


FrameLike = MeasuredPixels | NDArray[Any] | str | PathLike[str] | bytes | bytearray | memoryview


@dataclass(frozen=True)
class FrameIndex:
    """The place of a frame in its acquisition, as in useq-schema; replies repeat it.

    Attributes:
        acquisition_uid: names the acquisition; empty when there is none.
        position: index of the stage position. Answers of a stream keep the order of the frames of
            one position.
        t: index of the time point.
        c: index of the channel.
        z: index of the slice.
    """

    acquisition_uid: str = ""
    position: int = 0
    t: int = 0
    c: int = 0
    z: int = 0


@dataclass(frozen=True)
class StagePosition:
    """The stage coordinates of the frame's centre, micrometres.

    Attributes:
        x_um: along x.
        y_um: along y.
        z_um: focus; None when unknown.
    """

    x_um: float
    y_um: float
    z_um: float | None = None


@dataclass(frozen=True, eq=False)
class StreamFrame:
    """A frame to segment, and what is known about it.

    Attributes:
        frame: a Frame, its pixels (integers or floats [H, W], [H, W, C] or [C, H, W], or a stack
            of these), the path of an image file, or the bytes of one.
        index: its place in the acquisition; None when it is not part of one.
        stage_position: where the stage stood; with a pixel size, results are on the stage too.
        pixel_size_um: micrometres, one number or (y, x); None for that of the Frame or the file.
        pixel_to_stage: [2, 3], maps (x, y, 1) in pixels to the stage's (x, y) in micrometres, for
            cameras that are turned or mirrored; not together with pixel_size_um.
        request_id: names the frame in answers and the server's log; empty for a new one.
        timeout_s: seconds until DeadlineExceeded; None for that of the call.
    """

    frame: FrameLike
    index: FrameIndex | None = None
    stage_position: StagePosition | None = None
    pixel_size_um: float | tuple[float, float] | None = None
    pixel_to_stage: ArrayLike | None = None
    request_id: str = ""
    timeout_s: float | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of one frame of a stream: exactly one of the last three is set.

    Attributes:
        sequence: number of the frame in the stream, from 0.
        request_id: the frame's, or the one that the server made.
        index: the frame's.
        stage_position: the frame's.
        segmentation: the result; None when there is none.
        error: why there is none; None when there is one.
        skipped: why the frame was dropped in favour of newer ones; empty when it was not.
    """

    sequence: int
    request_id: str
    index: FrameIndex | None
    stage_position: StagePosition | None
    segmentation: Segmentation | None = None
    error: NucleiError | None = None
    skipped: str = ""
