"""Frames to messages of nuclei.v1, and its answers to results; needs numpy and grpcio only."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuclei import errors
from nuclei.client.acquisition import FrameIndex, Outcome, StagePosition, StreamFrame
from nuclei.v1 import segmentation_pb2 as pb

if TYPE_CHECKING:
    from nuclei.client.acquisition import FrameLike
    from nuclei.results.nuclei import Nuclei
    from nuclei.results.segmentation import Segmentation

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
OVERFLOW = {
    "block": pb.OVERFLOW_POLICY_BLOCK,
    "drop_oldest": pb.OVERFLOW_POLICY_DROP_OLDEST,
    "latest_only": pb.OVERFLOW_POLICY_LATEST_ONLY,
}
PIXEL_TYPES = {"u1": pb.PIXEL_TYPE_UINT8, "u2": pb.PIXEL_TYPE_UINT16}
MAX_TIMEOUT_MS = 2**32 - 1


def segment_request(
    frame: StreamFrame, model: str, tta: bool, outputs: Collection[str]
) -> pb.SegmentRequest:
    """The message that asks for one frame.

    Raises:
        InvalidImage: not an image that can be sent.
        InvalidOption: an output that is not known, or an impossible place.
    """
    request = pb.SegmentRequest()
    _write_request(request, frame, model, tta, outputs)
    return request


class StreamMessages:
    """The messages of one stream, and what its answers mean."""

    def __init__(
        self,
        *,
        overflow: str,
        queue_size: int,
        model: str,
        tta: bool,
        outputs: Collection[str],
        timeout_s: float,
    ) -> None:
        """Check the options of all frames; raises InvalidOption."""
        if overflow not in OVERFLOW:
            raise errors.InvalidOption(
                f"overflow={overflow!r} is not known; expected one of {', '.join(OVERFLOW)}"
            )
        _output_values(outputs)
        self._settings = pb.StreamSettings(overflow=OVERFLOW[overflow], queue_size=queue_size)
        self._model = model
        self._tta = tta
        self._outputs = outputs
        self._timeout_s = timeout_s
        self._sent = 0
        self._local_errors: dict[int, errors.NucleiError] = {}

    def settings(self) -> pb.SegmentStreamRequest:
        """The first message."""
        return pb.SegmentStreamRequest(settings=self._settings)

    def frame(self, given: FrameLike | StreamFrame) -> pb.SegmentStreamRequest:
        """The message of the next frame.

        One that cannot be sent goes without its image: so its answer has its place in the order.
        """
        frame = given if isinstance(given, StreamFrame) else StreamFrame(given)
        message = pb.SegmentStreamRequest()
        timeout_s = self._timeout_s if frame.timeout_s is None else frame.timeout_s
        message.frame.timeout_ms = min(max(1, round(timeout_s * 1e3)), MAX_TIMEOUT_MS)
        try:
            _write_request(message.frame.request, frame, self._model, self._tta, self._outputs)
        except errors.NucleiError as error:
            self._local_errors[self._sent] = error
        self._sent += 1
        return message

    def outcome(self, answer: pb.SegmentStreamResponse) -> Outcome:
        """What an answer says."""
        index = stage_position = segmentation = error = None
        if answer.HasField("index"):
            theirs = answer.index
            index = FrameIndex(
                theirs.acquisition_uid, theirs.position, theirs.t, theirs.c, theirs.z
            )
        if answer.HasField("stage_position"):
            place = answer.stage_position
            z_um = place.z_um if place.HasField("z_um") else None
            stage_position = StagePosition(place.x_um, place.y_um, z_um)
        if answer.HasField("result"):
            segmentation = segmentation_of(answer.result)
        elif not answer.HasField("skipped"):
            told = answer.error
            error = _named_error(told.name, told.message, told.retry_after_ms / 1e3)
            error = self._local_errors.pop(answer.sequence, error)
        return Outcome(
            sequence=answer.sequence,
            request_id=answer.request_id,
            index=index,
            stage_position=stage_position,
            segmentation=segmentation,
            error=error,
            skipped=answer.skipped.reason,
        )


def segmentation_of(response: pb.SegmentResponse) -> Segmentation:
    """The result; what was not asked for is empty or None."""
    # Their modules read images too and need more than numpy.
    from nuclei.formats import decompress_labels
    from nuclei.results.coordinates import PixelSize
    from nuclei.results.segmentation import Segmentation

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
        return _named_error(sent[ERROR_METADATA], detail, int(retry_after_ms) / 1e3)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in detail:
        return errors.FrameTooLarge(f"the server refused the message ({detail}); crop the frame")
    kind: type[errors.NucleiError]
    kind, advice = {
        grpc.StatusCode.UNAVAILABLE: (errors.EngineUnavailable, "start it or check its address"),
        grpc.StatusCode.DEADLINE_EXCEEDED: (errors.DeadlineExceeded, "allow more time"),
        grpc.StatusCode.RESOURCE_EXHAUSTED: (errors.Overloaded, "try again later"),
    }.get(status, (errors.EngineFailed, "is it a nuclei gateway?"))
    return kind(f"the gateway did not answer ({status.name}: {detail}); {advice}")


def _named_error(name: str, detail: str, retry_after_s: float) -> errors.NucleiError:
    if name == errors.Overloaded.__name__ and retry_after_s:
        return errors.Overloaded(detail, retry_after_s)
    kind = getattr(errors, name, None)
    base = errors.NucleiError
    if isinstance(kind, type) and issubclass(kind, base) and kind is not base:
        named: errors.NucleiError = kind(detail)
        return named
    return errors.EngineFailed(detail)


def _write_request(
    request: pb.SegmentRequest,
    frame: StreamFrame,
    model: str,
    tta: bool,
    outputs: Collection[str],
) -> None:
    request.request_id = frame.request_id
    request.model = model
    request.tta = tta
    request.outputs.extend(_output_values(outputs))
    _write_place(request.frame, frame)
    _write_image(request.frame, frame.frame)


def _output_values(outputs: Collection[str]) -> list[pb.Output.ValueType]:
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
    from nuclei.results.nuclei import Nuclei

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
