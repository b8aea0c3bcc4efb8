"""Frames to messages of nuclei.v1, and its replies to results and errors."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeGuard

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuclei import errors
from nuclei.client.acquisition import (
    FrameIndex,
    FrameLike,
    MeasuredPixels,
    StagePosition,
    StreamFrame,
)
from nuclei.client.arguments import affine, checked, output_values, pixel_size, set_field
from nuclei.imaging.arrays import one_channel, one_plane
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.scaling import AS_STORED, Scale
from nuclei.imaging.selection import EVERYTHING, Projection
from nuclei.names import check_id, check_name, version_number
from nuclei.quoting import quoted
from nuclei.results.adjustments import AS_TUNED, Adjustments
from nuclei.results.coordinates import PixelSize
from nuclei.results.label_codec import decompress_labels
from nuclei.results.nuclei import Nuclei
from nuclei.results.quality import Quality
from nuclei.results.segmentation import Segmentation
from nuclei.v1 import segmentation_pb2 as pb

ERROR_METADATA = "nuclei-error"
RETRY_METADATA = "grpc-retry-pushback-ms"
# All that grpc.aio tells of a call that ended while a message was written.
LOST_STATUS = "Internal error from Core"
# Metadata or HTTP header, of any value, of a frame that is sent to see whether the service works;
# it is counted apart from the frames of callers.
PROBE_METADATA = "x-nuclei-probe"

PIXEL_TYPES = {
    "u1": pb.PIXEL_TYPE_UINT8,
    "u2": pb.PIXEL_TYPE_UINT16,
    "i2": pb.PIXEL_TYPE_INT16,
    "u4": pb.PIXEL_TYPE_UINT32,
    "i4": pb.PIXEL_TYPE_INT32,
    "f4": pb.PIXEL_TYPE_FLOAT32,
    "f8": pb.PIXEL_TYPE_FLOAT64,
}
# Sent as another type that holds all of their values, or nearly.
CONVERTED = {"i1": np.int16, "f2": np.float32, "i8": np.float64, "u8": np.float64}
PROJECTIONS: dict[Projection | None, pb.Projection.ValueType] = {
    None: pb.PROJECTION_UNSPECIFIED,
    "max": pb.PROJECTION_MAX,
}

# A message holds 2 GiB; this leaves room for what is said about the image.
MAX_IMAGE_BYTES = 2**31 - 2**20


def request_with(
    model: str,
    version: int | str | None,
    tta: bool,
    outputs: Collection[str],
    adjustments: Adjustments = AS_TUNED,
) -> pb.SegmentRequest:
    """The message that asks for a frame, without the frame; raises InvalidOption."""
    request = pb.SegmentRequest()
    if _is_given(model):
        check_name(model, "model")
        request.model = model
    if version is not None:
        request.version = version_number(version)
    set_field(request, "tta", tta, "True or False")
    request.outputs.extend(output_values(outputs))
    if adjustments != AS_TUNED:
        # What is None stays absent.
        request.adjustments.CopyFrom(pb.Adjustments(**asdict(adjustments)))
    return request


def write_frame(
    request: pb.SegmentRequest, frame: StreamFrame, options: FrameOptions
) -> tuple[str, ...]:
    """Fill in the frame.

    Args:
        request: all but the frame.
        frame: what is known about it; its pixel size goes before that of the options.
        options: how it is to be read.

    Returns:
        Warnings that the server does not know of: those of reading it in this process.

    Raises:
        InvalidImage: not an image that can be sent.
        InvalidOption: an impossible name or place, or no such plane or channel.
    """
    # First, so that the answer to a frame that cannot be sent keeps its place in the order.
    if frame.index is not None:
        _write_index(request.frame.index, frame.index)
    if _is_given(frame.request_id):
        check_id(frame.request_id, "request_id")
        request.request_id = frame.request_id
    _write_place(request.frame, frame)
    return _write_image(request.frame, frame.frame, options)


def segmentation_of(response: pb.SegmentResponse, warnings: tuple[str, ...] = ()) -> Segmentation:
    """The result; what was not asked for is empty or None.

    Args:
        response: the server's.
        warnings: those of reading the frame in this process, which go before the server's.
    """
    labels = np.zeros((0, 0), np.uint32)
    if response.HasField("labels"):
        image = response.labels
        labels = decompress_labels(image.data, image.height, image.width)
    pixel_size_um = None
    if response.HasField("pixel_size"):
        pixel_size_um = PixelSize(y=response.pixel_size.y_um, x=response.pixel_size.x_um)
    return Segmentation(
        labels=labels,
        nuclei=_nuclei(response),
        pixel_size_um=pixel_size_um,
        model=response.model,
        version=response.model_version,
        stage_ms=dict(response.stage_ms),
        warnings=(*warnings, *response.warnings),
        intensity_range=_bounds(response.intensity_range)
        if response.HasField("intensity_range")
        else None,
        quality=_quality(response.quality) if response.HasField("quality") else None,
        centroids_stage_um=_centroids_stage_um(response.nuclei),
        outlines=_outlines(response.polygons) if response.HasField("polygons") else None,
    )


def error_of(error: Any) -> errors.NucleiError:
    """The error that the server raised, or the one nearest to a failure of gRPC itself.

    Args:
        error: the failed call, a grpc.RpcError.
    """
    status, detail = error.code(), error.details() or ""
    sent = {key: str(value) for key, value in error.trailing_metadata() or ()}
    if ERROR_METADATA in sent:
        return named_error(sent[ERROR_METADATA], detail, _retry_after_s(sent))
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in detail:
        return errors.FrameTooLarge(f"the server refused the message ({detail}); crop the frame")
    if status is grpc.StatusCode.INTERNAL and detail == LOST_STATUS:
        return errors.EngineUnavailable(
            "the call ended while a frame was on its way, and the reason was lost "
            "(github.com/grpc/grpc/issues/36066); send again, fewer frames at once if it repeats: "
            "the gateway's log has the reason"
        )
    kind: type[errors.NucleiError]
    kind, advice = {
        grpc.StatusCode.UNAVAILABLE: (
            errors.EngineUnavailable,
            "start it, or check the address: host and gRPC port, and TLS where it asks for it",
        ),
        grpc.StatusCode.DEADLINE_EXCEEDED: (errors.DeadlineExceeded, "allow more time"),
        grpc.StatusCode.RESOURCE_EXHAUSTED: (errors.Overloaded, "try again later"),
    }.get(status, (errors.EngineFailed, "is it a nuclei gateway?"))
    return kind(f"the gateway did not answer ({status.name}: {detail}); {advice}")


def _retry_after_s(sent: dict[str, str]) -> float:
    """0 when the server says none, or, as gRPC allows, that nothing should be sent again."""
    text = sent.get(RETRY_METADATA, "")
    return int(text) / 1e3 if text.isdecimal() else 0.0


def named_error(name: str, detail: str, retry_after_s: float) -> errors.NucleiError:
    """The error of that class; EngineFailed for a name that this client does not know."""
    if name == errors.Overloaded.__name__ and retry_after_s:
        return errors.Overloaded(detail, retry_after_s)
    kind = getattr(errors, name, None)
    base = errors.NucleiError
    if isinstance(kind, type) and issubclass(kind, base) and kind is not base:
        named: errors.NucleiError = kind(detail)
        return named
    return errors.EngineFailed(detail)


def _is_given(name: object) -> bool:
    return not isinstance(name, str) or name != ""


def _write_index(message: pb.FrameIndex, index: FrameIndex) -> None:
    if not isinstance(index, FrameIndex):
        raise errors.InvalidOption(f"index is {quoted(index)}; expected a FrameIndex")
    for name in ("position", "t", "c", "z"):
        set_field(message, name, getattr(index, name), "a whole number from 0 to 2**32 - 1")
    if _is_given(index.acquisition_uid):
        check_id(index.acquisition_uid, "acquisition_uid")
        message.acquisition_uid = index.acquisition_uid


def _write_place(message: pb.Frame, frame: StreamFrame) -> None:
    if frame.stage_position is not None:
        _write_stage_position(message.stage_position, frame.stage_position)
    if frame.pixel_to_stage is not None:
        _write_affine(message.pixel_to_stage, frame.pixel_to_stage)
    if frame.pixel_size_um is not None:
        message.pixel_size.y_um, message.pixel_size.x_um = pixel_size(frame.pixel_size_um)


def _write_stage_position(message: pb.StagePosition, place: StagePosition) -> None:
    if not isinstance(place, StagePosition):
        raise errors.InvalidOption(f"stage_position is {quoted(place)}; expected a StagePosition")
    for name in ("x_um", "y_um", "z_um"):
        if (number := getattr(place, name)) is not None or name != "z_um":
            set_field(message, name, number, "micrometres")


def _write_affine(message: pb.Affine, matrix: ArrayLike) -> None:
    (message.xx, message.xy, message.x_offset_um), (message.yx, message.yy, message.y_offset_um) = (
        affine(matrix).tolist()
    )


def _write_image(message: pb.Frame, frame: FrameLike, options: FrameOptions) -> tuple[str, ...]:
    """Write the image and how it is to be read; of an array, only what is segmented."""
    expected = (
        "the path of an image file, the bytes of one, or an array of pixels: integers or floats, "
        "[height, width] or [height, width, channels]"
    )
    with checked("the frame", frame, expected, errors.InvalidImage):
        if isinstance(frame, str | os.PathLike):
            message.encoded = _read(Path(os.fsdecode(frame)))
            _write_options(message, options)
            return ()
        if isinstance(frame, bytes | bytearray) or _is_flat(frame):
            _check_size(len(frame))
            message.encoded = bytes(frame)
            _write_options(message, options)
            return ()
        if isinstance(frame, np.ndarray | memoryview):
            return _write_array(message, np.asarray(frame), options)
        return _write_measured(message, frame, options)


def _is_flat(frame: object) -> TypeGuard[memoryview]:
    return isinstance(frame, memoryview) and frame.ndim == 1


def _write_measured(
    message: pb.Frame, frame: MeasuredPixels, options: FrameOptions
) -> tuple[str, ...]:
    if not isinstance(frame.pixels, np.ndarray):
        raise TypeError(frame)
    placed = message.HasField("pixel_size") or message.HasField("pixel_to_stage")
    if not placed and frame.pixel_size_um is not None:
        message.pixel_size.y_um, message.pixel_size.x_um = pixel_size(frame.pixel_size_um)
    scale = getattr(frame, "scale", None)
    if not isinstance(scale, Scale):
        return _write_array(message, frame.pixels, options)
    read: Any = frame  # `nuclei.imaging.images.Frame`, whose module needs more packages
    if options.intensity_range is None and options.intensity_percentiles is None:
        options = replace(options, intensity_range=read.intensity_range)
    warnings = (*read.warnings, *_write_array(message, frame.pixels, options))
    if scale != AS_STORED:
        message.raw.scale.offset, message.raw.scale.step = scale
    return warnings


def _write_array(message: pb.Frame, pixels: NDArray[Any], options: FrameOptions) -> tuple[str, ...]:
    plane, warnings = one_plane(pixels, options.selection)
    if options.selection.channel is not None:
        plane, said = one_channel(plane, options.selection)
        warnings += (said,)
    _write_raw(message.raw, plane)
    _write_options(message, replace(options, selection=EVERYTHING))
    return warnings


def _write_options(message: pb.Frame, options: FrameOptions) -> None:
    selection = options.selection
    if selection.channel is not None:
        number = isinstance(selection.channel, int)
        field, expected = ("channel_number", "from 0") if number else ("channel", "a name")
        set_field(message, field, selection.channel, expected)
    if selection.plane is not None:
        set_field(message, "plane", selection.plane, "the number of a plane from 0")
    message.projection = PROJECTIONS[selection.project]
    if options.intensity_range is not None:
        message.intensity_range.lo, message.intensity_range.hi = options.intensity_range
    if options.intensity_percentiles is not None:
        percentiles = message.intensity_percentiles
        percentiles.lo, percentiles.hi = options.intensity_percentiles


def _read(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise errors.InvalidImage(f"{path} is not a file; expected the path of an image file")
        _check_size(found.st_size)
        return path.read_bytes()
    except OSError as error:
        raise errors.InvalidImage(f"{path} cannot be read: {error.strerror}") from error


def _check_size(n_bytes: int) -> None:
    if n_bytes > MAX_IMAGE_BYTES:
        raise errors.FrameTooLarge(
            f"the frame has {n_bytes} bytes; a message holds {MAX_IMAGE_BYTES}: crop the frame"
        )


def _write_raw(raw: pb.RawPixels, pixels: NDArray[Any]) -> None:
    """Write pixels [H, W, C]."""
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    pixels = pixels.astype(CONVERTED.get(pixels.dtype.str[1:], pixels.dtype), copy=False)
    if pixels.dtype.str[1:] not in PIXEL_TYPES or not pixels.size:
        raise errors.InvalidImage(
            f"pixels are {pixels.dtype} {list(pixels.shape)}; expected integers or floats, at "
            "least one of them: convert them"
        )
    _check_size(pixels.nbytes)
    raw.data = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    raw.height, raw.width, raw.channels = pixels.shape
    raw.pixel_type = PIXEL_TYPES[pixels.dtype.str[1:]]


def _bounds(message: pb.IntensityRange) -> tuple[float, float]:
    return message.lo, message.hi


def _quality(message: pb.Quality) -> Quality:
    return Quality(**{field.name: value for field, value in message.ListFields()})


def _nuclei(response: pb.SegmentResponse) -> Nuclei:
    columns = response.nuclei
    centroid = (columns.centroid_y_px, columns.centroid_x_px)
    box = (columns.box_y0_px, columns.box_x0_px, columns.box_y1_px, columns.box_x1_px)
    return Nuclei(
        label=np.arange(1, response.count + 1, dtype=np.uint32),
        area_px=np.array(columns.area_px, np.int64),
        centroid_px=np.array(centroid, np.float32).T,
        box_px=np.array(box, np.int32).T,
        eccentricity=np.array(columns.eccentricity, np.float32),
        mean_intensity=np.array(columns.mean_intensity, np.float32),
        score=np.array(columns.score, np.float32),
    )


def _centroids_stage_um(columns: pb.Nuclei) -> NDArray[np.float64] | None:
    if not columns.centroid_stage_x_um:
        return None
    centroid = (columns.centroid_stage_x_um, columns.centroid_stage_y_um)
    return np.array(centroid, np.float64).T


def _outlines(polygons: pb.Polygons) -> list[tuple[int, list[NDArray[np.int32]]]]:
    points = np.array((polygons.x_px, polygons.y_px), np.int32).T
    parts = np.split(points, np.cumsum(polygons.point_count)[:-1])
    outlines: dict[int, list[NDArray[np.int32]]] = {}
    for label, part in zip(polygons.label, parts, strict=False):
        outlines.setdefault(label, []).append(part)
    return list(outlines.items())
