"""Frames to messages of nuclei.v1, and its replies to results and errors."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuclei import errors
from nuclei.client.acquisition import FrameLike, StreamFrame
from nuclei.results.coordinates import PixelSize
from nuclei.results.label_codec import decompress_labels
from nuclei.results.nuclei import Nuclei
from nuclei.results.segmentation import Segmentation
from nuclei.v1 import segmentation_pb2 as pb

ERROR_METADATA = "nuclei-error"
RETRY_METADATA = "grpc-retry-pushback-ms"

OUTPUTS = {
    "centroids": pb.OUTPUT_CENTROIDS,
    "boxes": pb.OUTPUT_BOXES,
    "features": pb.OUTPUT_FEATURES,
    "labels": pb.OUTPUT_LABELS,
    "polygons": pb.OUTPUT_POLYGONS,
}
DEFAULT_OUTPUTS = ("centroids", "boxes", "features", "labels")
PIXEL_TYPES = {"u1": pb.PIXEL_TYPE_UINT8, "u2": pb.PIXEL_TYPE_UINT16}


def segment_request(
    frame: StreamFrame, model: str, tta: bool, outputs: Collection[str]
) -> pb.SegmentRequest:
    """The message that asks for one frame.

    Raises:
        InvalidImage: not an image that can be sent.
        InvalidOption: an output that is not known, or an impossible place.
    """
    request = pb.SegmentRequest()
    write_request(request, frame, model, tta, outputs)
    return request


def segmentation_of(response: pb.SegmentResponse) -> Segmentation:
    """The result; what was not asked for is empty or None."""
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
        retry_after_ms = sent.get(RETRY_METADATA, "0")
        return named_error(sent[ERROR_METADATA], detail, int(retry_after_ms) / 1e3)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in detail:
        return errors.FrameTooLarge(f"the server refused the message ({detail}); crop the frame")
    kind: type[errors.NucleiError]
    kind, advice = {
        grpc.StatusCode.UNAVAILABLE: (errors.EngineUnavailable, "start it or check its address"),
        grpc.StatusCode.DEADLINE_EXCEEDED: (errors.DeadlineExceeded, "allow more time"),
        grpc.StatusCode.RESOURCE_EXHAUSTED: (errors.Overloaded, "try again later"),
    }.get(status, (errors.EngineFailed, "is it a nuclei gateway?"))
    return kind(f"the gateway did not answer ({status.name}: {detail}); {advice}")


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


def write_request(
    request: pb.SegmentRequest,
    frame: StreamFrame,
    model: str,
    tta: bool,
    outputs: Collection[str],
) -> None:
    """Fill in the message that asks for one frame; raises what `segment_request` raises."""
    request.request_id = frame.request_id
    request.model = model
    request.tta = tta
    request.outputs.extend(output_values(outputs))
    _write_place(request.frame, frame)
    _write_image(request.frame, frame.frame)


def output_values(outputs: Collection[str]) -> list[pb.Output.ValueType]:
    """What to ask for, only the count for none; raises InvalidOption for an unknown name."""
    for output in outputs:
        if output not in OUTPUTS:
            raise errors.InvalidOption(
                f"output {output!r} is not known; expected some of {', '.join(OUTPUTS)}"
            )
    return [OUTPUTS[output] for output in outputs] or [pb.OUTPUT_COUNT]


def _write_place(message: pb.Frame, frame: StreamFrame) -> None:
    if frame.index is not None:
        index = frame.index
        message.index.acquisition_uid, message.index.position = (
            index.acquisition_uid,
            index.position,
        )
        message.index.t, message.index.c, message.index.z = index.t, index.c, index.z
    if frame.stage_position is not None:
        place = frame.stage_position
        message.stage_position.x_um, message.stage_position.y_um = place.x_um, place.y_um
        if place.z_um is not None:
            message.stage_position.z_um = place.z_um
    if frame.pixel_to_stage is not None:
        _write_affine(message.pixel_to_stage, frame.pixel_to_stage)
    pixel_size_um = frame.pixel_size_um
    if pixel_size_um is None and frame.pixel_to_stage is None:
        pixel_size_um = getattr(frame.frame, "pixel_size_um", None)
    if pixel_size_um is not None:
        message.pixel_size.y_um, message.pixel_size.x_um = pixel_size_um


def _write_affine(affine: pb.Affine, matrix: ArrayLike) -> None:
    numbers = np.asarray(matrix, np.float64)
    if numbers.shape != (2, 3):
        raise errors.InvalidOption(
            f"pixel_to_stage has shape {list(numbers.shape)}; expected [2, 3]: the rows that give "
            "the stage's x and y"
        )
    (affine.xx, affine.xy, affine.x_offset_um), (affine.yx, affine.yy, affine.y_offset_um) = (
        numbers.tolist()
    )


def _write_image(message: pb.Frame, frame: FrameLike) -> None:
    if isinstance(frame, bytes):
        message.encoded = frame
    elif isinstance(frame, Path):
        message.encoded = _read(frame)
    elif isinstance(frame, np.ndarray):
        _write_raw(message.raw, frame)
    else:
        _write_raw(message.raw, frame.pixels)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.InvalidImage(f"{path} cannot be read: {error.strerror}") from error


def _write_raw(raw: pb.RawPixels, pixels: NDArray[Any]) -> None:
    if pixels.dtype.str[1:] not in PIXEL_TYPES or pixels.ndim not in (2, 3):
        raise errors.InvalidImage(
            f"pixels are {pixels.dtype} {list(pixels.shape)}; expected uint8 or uint16, "
            "[height, width] or [height, width, channels]: pick one plane, scale to 16 bit"
        )
    raw.data = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    raw.height, raw.width = pixels.shape[:2]
    raw.channels = pixels.shape[2] if pixels.ndim == 3 else 1
    raw.pixel_type = PIXEL_TYPES[pixels.dtype.str[1:]]


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
