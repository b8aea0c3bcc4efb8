"""`POST /v1/frame`: the pixels of a frame as they would be segmented, to be shown."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from starlette.requests import Request

from nuclei.errors import NucleiError
from nuclei.formats import Check
from nuclei.imaging.images import Frame
from nuclei.imaging.intensity import intensity_of
from nuclei.inference.pipeline import Stopwatch
from nuclei.quoting import sentence
from serving.gateway.admission import Permit
from serving.gateway.completion import first_completed
from serving.gateway.data_plane import DataPlane
from serving.gateway.http_frames import (
    EncodedFrame,
    HeldResponse,
    body_of,
    left,
    server_timing,
    stopping,
)
from serving.gateway.http_options import REQUEST_ID_HEADER, PictureOptions
from serving.gateway.observation import only_known_errors
from serving.logs import Event

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/vnd.nuclei.frame"
# Where pixels begin: readers of 16 bit want them aligned.
ALIGNED_BYTES = 8


class PictureObservation(Stopwatch):
    """One request for a picture, which is logged and not measured: nothing is segmented.

    Attributes:
        protocol: by which it came.
        request_id: its name in the log.
        frame: height x width x channels and dtype.
    """

    def __init__(self) -> None:
        super().__init__()
        self.protocol = "http"
        self.request_id = ""
        self.frame = ""


@contextmanager
def observed_picture() -> Iterator[PictureObservation]:
    """Log the request handled inside; errors are those of `only_known_errors`."""
    observation, started = PictureObservation(), time.perf_counter()
    fields: dict[str, Any] = {"code": "CANCELLED"}
    try:
        with only_known_errors():
            yield observation
        fields = {"code": "OK"}
    except NucleiError as error:
        fields = {
            "code": error.grpc_status,
            "error": type(error).__name__,
            "detail": sentence(error),
        }
        raise
    finally:
        total_ms = round((time.perf_counter() - started) * 1e3, 1)
        stages = {f"{name}_ms": round(ms, 1) for name, ms in observation.stage_ms.items()}
        known = {"request_id": observation.request_id, "frame": observation.frame}
        logger.info(Event("picture", **known, total_ms=total_ms, **stages, **fields))


async def picture(
    request: Request, max_request_bytes: int, observation: PictureObservation, permit: Permit
) -> HeldResponse:
    """The answer to a request.

    Args:
        request: its body is the frame, or a form with it.
        max_request_bytes: longest frame.
        observation: notes what happens.
        permit: of the frame.

    Raises:
        NucleiError: as `DataPlane.read`.
    """
    data_plane: DataPlane = request.app.state.data_plane
    query = request.query_params.multi_items()
    PictureOptions.of(query, (), request.headers)  # before the body is received
    body, name, form = await first_completed(
        body_of(request, max_request_bytes, permit), stopping(request)
    )
    permit.place()
    options = PictureOptions.of(query, form, request.headers)
    observation.request_id = options.request_id
    source = EncodedFrame(body, name, options.frame)
    del body  # only the source holds it, until it is decoded
    content, observation.frame = await first_completed(
        data_plane.read(source, options.deadline, _encoded, observation, permit),
        left(request),
        stopping(request),
    )
    return HeldResponse(
        content,
        media_type=MEDIA_TYPE,
        headers={
            REQUEST_ID_HEADER: options.request_id,
            "Server-Timing": server_timing(observation.stage_ms),
        },
    )


def _encoded(frame: Frame, check: Check) -> tuple[bytes, str]:
    """Length of a description, the description in JSON, and the pixels; and the size in words.

    The length is 4 bytes, little-endian, and the description is filled with spaces to where pixels
    may begin.
    """
    pixels = frame.pixels
    description = json.dumps(_described(frame)).encode()
    description += b" " * (-(4 + len(description)) % ALIGNED_BYTES)
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    content = b"".join([len(description).to_bytes(4, "little"), description, little.data])
    return content, "x".join(map(str, pixels.shape)) + f":{pixels.dtype}"


def _described(frame: Frame) -> dict[str, Any]:
    height, width, channels = frame.pixels.shape
    intensity = intensity_of(frame)
    size = frame.pixel_size_um
    lo, hi = intensity.range.tolist()
    return {
        "height_px": height,
        "width_px": width,
        "channels": channels,
        "dtype": str(frame.pixels.dtype),
        "scale": {"offset": frame.scale.offset, "step": frame.scale.step},
        "intensity_range": {"lo": frame.scale.value(lo), "hi": frame.scale.value(hi)},
        "pixel_size_um": None if size is None else {"x": size.x, "y": size.y},
        "choices": {"channels": frame.choices.channels, "planes": frame.choices.planes},
        "warnings": [*frame.warnings, *intensity.warnings],
    }
