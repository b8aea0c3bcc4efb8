"""From messages of nuclei.v1 to frames and options, and from results to messages."""

import uuid
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.descriptor import FieldDescriptor

from nuclei.client.acquisition import FrameIndex
from nuclei.client.messages import PIXEL_TYPES, PROJECTIONS
from nuclei.errors import InvalidImage, InvalidOption, NucleiError, Overloaded
from nuclei.formats import Check
from nuclei.formats.outlines import outlines
from nuclei.imaging.decoding import Header
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import Frame, FrameLimits, frame_from_plane
from nuclei.imaging.scaling import AS_STORED, Scale
from nuclei.imaging.selection import Projection, Selection
from nuclei.inference.contract import Contract
from nuclei.inference.deadline import Deadline
from nuclei.names import check_id, check_name
from nuclei.quoting import sentence
from nuclei.results.adjustments import Adjustments
from nuclei.results.coordinates import PixelSize, StageTransform
from nuclei.results.label_codec import compress_labels
from nuclei.results.nuclei import Nuclei
from nuclei.results.segmentation import Segmentation
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.version import installed_version
from serving.gateway.data_plane import Encoding, Options, ServerInfo

NUCLEI_OUTPUTS = frozenset({pb.OUTPUT_CENTROIDS, pb.OUTPUT_BOXES, pb.OUTPUT_FEATURES})
DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype("<" + kind) for kind, number in PIXEL_TYPES.items()
}
PROJECTIONS_BY_NUMBER: dict[int, Projection | None] = {
    number: projection for projection, number in PROJECTIONS.items()
}
IMAGE = ("encoded", "raw")
# Memory that a reply takes: for a pixel with labels, for a nucleus with its outline and without.
# Measured with 4,096 and 65,536 nuclei in 2048 x 2048 pixels.
LABELS_BYTES_PER_PX = 4
OUTLINE_BYTES, COLUMNS_BYTES = 1500, 100

Result = TypeVar("Result")


class FrameRequest:
    """One frame to segment, and how; keeps its pixels but not the message or the file.

    Attributes:
        request_id: the caller's, or a new one.
        frame: the frame's fields of the message, without its pixels.
        file: the image file until a decoder has it; None for pixels.
        n_bytes: length of the image as it was sent.
    """

    def __init__(self, message: pb.SegmentRequest) -> None:
        self._refused = _impossible_name(message)
        if self._refused is not None:
            # What breaks the rules of names is neither kept nor repeated: it may be a gigabyte.
            message = pb.SegmentRequest()
        self.request_id = message.request_id or uuid.uuid4().hex
        self.frame = pb.Frame()
        for field in pb.Frame.DESCRIPTOR.fields:
            if field.name not in IMAGE:
                _copy_field(message.frame, self.frame, field)
        self._model = message.model
        self._version = message.version or None
        self._tta = message.tta
        self._adjustments = pb.Adjustments()
        self._adjustments.CopyFrom(message.adjustments)
        self._outputs = tuple(message.outputs)
        self._kind = message.frame.WhichOneof("image")
        self.file: bytes | None = None
        self._pixels = b""
        if self._kind == "encoded":
            self.file = message.frame.encoded
        elif self._kind == "raw":
            raw = message.frame.raw
            self._pixels = raw.data
            self.frame.raw.height, self.frame.raw.width = raw.height, raw.width
            self.frame.raw.channels, self.frame.raw.pixel_type = raw.channels, raw.pixel_type
            if raw.HasField("scale"):
                self.frame.raw.scale.CopyFrom(raw.scale)
        self.n_bytes = len(self._pixels if self.file is None else self.file)
        self._decoded: Frame | None = None

    @property
    def decoded_bytes(self) -> int:
        """Length of the pixels that were read from the file; 0 before."""
        return 0 if self._decoded is None else self._decoded.pixels.nbytes

    @property
    def index(self) -> FrameIndex:
        """Its place in its acquisition."""
        sent = self.frame.index
        return FrameIndex(sent.acquisition_uid, sent.position, sent.t, sent.c, sent.z)

    def options(self, deadline: Deadline | None, stream: str = "") -> Options:
        """Options of the data plane.

        Args:
            deadline: when the caller gives up; None for the server's default.
            stream: names the stream of the frame; empty without one.

        Raises:
            InvalidOption: an impossible one.
        """
        if self._refused is not None:
            raise self._refused
        checked_outputs(self._outputs)
        index = self.index
        key = index.acquisition_uid or stream
        return Options(
            request_id=self.request_id,
            model=self._model,
            version=self._version,
            tta=self._tta,
            deadline=deadline,
            key=key,
            index=index,
            adjustments=_adjustments(self._adjustments),
        )

    def frame_options(self) -> FrameOptions:
        """How the frame is to be read; raises InvalidOption for what is impossible."""
        return _frame_options(self.frame)

    def take(self, decoded: Frame) -> None:
        """Hold the frame that the file holds."""
        self._decoded = decoded

    def probe(self, limits: FrameLimits) -> Header:
        """The size of the pixels.

        Raises:
            InvalidImage, FrameTooLarge: as `read`, as far as their number reveals it.
        """
        if self._decoded is not None:
            height, width, channels = self._decoded.pixels.shape
            return Header(height, width, channels, self._decoded.pixels.itemsize)
        if self._kind == "raw":
            return _probe_raw(self._pixels, self.frame.raw, limits)
        raise InvalidImage("the request holds no image; expected encoded bytes or raw pixels")

    def read(self, limits: FrameLimits) -> Frame:
        """The frame, once it has been taken if it came as a file.

        Raises:
            InvalidImage, FrameTooLarge: it cannot be used.
            InvalidOption: its pixel size or place is impossible.
        """
        frame = self._read(limits)
        _stage_map(self.frame, frame)  # raises for an impossible one before any work
        return frame

    def encoding(self, encode: Callable[[Segmentation, Frame, Check], Result]) -> Encoding[Result]:
        """A way to make a reply of what was asked for."""
        of_labels = LABELS_BYTES_PER_PX if pb.OUTPUT_LABELS in self._outputs else 0
        outlined = pb.OUTPUT_POLYGONS in self._outputs
        return Encoding(encode, of_labels, OUTLINE_BYTES if outlined else COLUMNS_BYTES)

    def reply(self, segmentation: Segmentation, frame: Frame, check: Check) -> bytes:
        """The whole reply to a Segment call; the check ends the work by an exception."""
        reply = pb.SegmentResponse()
        self.echo(reply)
        self.write_result(reply, segmentation, frame, check)
        return reply.SerializeToString()

    def write_result(
        self, reply: pb.SegmentResponse, segmentation: Segmentation, frame: Frame, check: Check
    ) -> None:
        """Fill in what was asked for; the caller fills in the echoed fields."""
        outputs, stage_map = checked_outputs(self._outputs), _stage_map(self.frame, frame)
        _write_result(reply, segmentation, outputs, stage_map, check)

    def echo(self, reply: pb.SegmentResponse | pb.SegmentStreamResponse) -> None:
        """Fill in the fields that name the frame."""
        reply.request_id = self.request_id
        if self.frame.HasField("index"):
            reply.index.CopyFrom(self.frame.index)
        if self.frame.HasField("stage_position"):
            reply.stage_position.CopyFrom(self.frame.stage_position)

    def _read(self, limits: FrameLimits) -> Frame:
        if self._decoded is not None:
            return self._decoded
        header = self.probe(limits)
        dtype = DTYPES[self.frame.raw.pixel_type]
        pixels = np.frombuffer(self._pixels, dtype)
        shape = (header.height, header.width, header.channels)
        scale = _scale(self.frame.raw)
        return frame_from_plane(pixels.reshape(shape), self.frame_options(), limits, scale)


def _copy_field(source: pb.Frame, target: pb.Frame, field: FieldDescriptor) -> None:
    if field.has_presence and not source.HasField(field.name):
        return
    value = getattr(source, field.name)
    if field.message_type is None:
        setattr(target, field.name, value)
    else:
        getattr(target, field.name).CopyFrom(value)


def _impossible_name(message: pb.SegmentRequest) -> InvalidOption | None:
    """Why the message's names and ids cannot be used; None when they can. Absent ones are empty."""
    try:
        if message.request_id:
            check_id(message.request_id, "request_id")
        if message.frame.index.acquisition_uid:
            check_id(message.frame.index.acquisition_uid, "acquisition_uid")
        if message.model:
            check_name(message.model, "model")
    except InvalidOption as error:
        return error
    return None


def checked_outputs(requested: Collection[int]) -> frozenset[int]:
    """What a reply is to contain; raises InvalidOption for what is not known."""
    for output in requested:
        if output == pb.OUTPUT_UNSPECIFIED or output not in pb.Output.values():
            raise InvalidOption(
                f"output {output} is not known; expected values of nuclei.v1.Output other than "
                "OUTPUT_UNSPECIFIED: update the client or the server"
            )
    return frozenset(requested) or NUCLEI_OUTPUTS


def _probe_raw(data: bytes, raw: pb.RawPixels, limits: FrameLimits) -> Header:
    if raw.pixel_type not in DTYPES:
        raise InvalidImage(
            f"pixel type {raw.pixel_type} is not known; expected a value of nuclei.v1.PixelType "
            "other than PIXEL_TYPE_UNSPECIFIED: update the client or the server"
        )
    limits.check_shape(raw.height, raw.width)
    header = Header(raw.height, raw.width, raw.channels or 1, DTYPES[raw.pixel_type].itemsize)
    expected = header.height * header.width * header.channels * header.itemsize
    if len(data) != expected:
        raise InvalidImage(
            f"the raw pixels have {len(data)} bytes; expected {expected} for {header.height} x "
            f"{header.width} pixels with {header.channels} channels of {header.itemsize} bytes"
        )
    return header


def _frame_options(frame: pb.Frame) -> FrameOptions:
    if frame.projection not in PROJECTIONS_BY_NUMBER:
        raise InvalidOption(
            f"projection {frame.projection} is not known; expected a value of "
            "nuclei.v1.Projection: update the client or the server"
        )
    asked = frame.WhichOneof("intensity")
    intensity = {} if asked is None else {asked: _bounds(getattr(frame, asked))}
    return FrameOptions(
        Selection(
            frame.channel_number if frame.HasField("channel_number") else frame.channel or None,
            frame.plane if frame.HasField("plane") else None,
            PROJECTIONS_BY_NUMBER[frame.projection],
        ),
        _pixel_size_um(frame),
        **intensity,
    )


def _adjustments(message: pb.Adjustments) -> Adjustments:
    return Adjustments(**{field.name: value for field, value in message.ListFields()})


def _scale(raw: pb.RawPixels) -> Scale:
    if not raw.HasField("scale"):
        return AS_STORED
    if not raw.scale.step > 0:
        raise InvalidOption(
            f"the step of the pixels' scale is {raw.scale.step:g}; expected a number above 0: "
            "value = offset + step * pixel"
        )
    return Scale(raw.scale.offset, raw.scale.step)


def _bounds(message: pb.IntensityRange | pb.IntensityPercentiles) -> tuple[float, float]:
    return message.lo, message.hi


def _pixel_size_um(frame: pb.Frame) -> PixelSize | None:
    """As the request says, None when it does not."""
    if frame.HasField("pixel_size") and frame.HasField("pixel_to_stage"):
        raise InvalidOption("pixel_size and pixel_to_stage both give a size; send one of them")
    if frame.HasField("pixel_to_stage"):
        return _affine(frame.pixel_to_stage).pixel_size_um
    if frame.HasField("pixel_size"):
        return PixelSize(y=frame.pixel_size.y_um, x=frame.pixel_size.x_um)
    return None


def _affine(affine: pb.Affine) -> StageTransform:
    return StageTransform(
        np.array(
            [
                [affine.xx, affine.xy, affine.x_offset_um],
                [affine.yx, affine.yy, affine.y_offset_um],
            ]
        )
    )


def _stage_map(message: pb.Frame, frame: Frame) -> StageTransform | None:
    """The map to the stage, None when the frame's place or its pixel size is unknown."""
    if message.HasField("pixel_to_stage"):
        return _affine(message.pixel_to_stage)
    if message.HasField("stage_position") and frame.pixel_size_um is not None:
        centre_um = (message.stage_position.x_um, message.stage_position.y_um)
        height, width = frame.pixels.shape[:2]
        return StageTransform.centred(centre_um, frame.pixel_size_um, (height, width))
    return None


def _write_result(
    reply: pb.SegmentResponse,
    segmentation: Segmentation,
    outputs: frozenset[int],
    stage_map: StageTransform | None,
    check: Check,
) -> None:
    height, width = segmentation.labels.shape
    reply.model, reply.model_version = segmentation.model, segmentation.version
    reply.server_version = installed_version()
    reply.count = len(segmentation.nuclei)
    reply.height, reply.width = height, width
    reply.stage_ms.update(segmentation.stage_ms)
    reply.warnings.extend(segmentation.warnings)
    if segmentation.intensity_range is not None:
        reply.intensity_range.lo, reply.intensity_range.hi = segmentation.intensity_range
    if segmentation.quality is not None:
        # What is None stays absent.
        reply.quality.CopyFrom(pb.Quality(**asdict(segmentation.quality)))
    if segmentation.pixel_size_um is not None:
        size = segmentation.pixel_size_um
        reply.pixel_size.y_um, reply.pixel_size.x_um = size.y, size.x
    if outputs & NUCLEI_OUTPUTS:
        reply.nuclei.label.extend(segmentation.nuclei.label.tolist())
    if pb.OUTPUT_CENTROIDS in outputs:
        _add_centroids(reply.nuclei, segmentation.nuclei, stage_map)
    if pb.OUTPUT_BOXES in outputs:
        _add_boxes(reply.nuclei, segmentation.nuclei)
    if pb.OUTPUT_FEATURES in outputs:
        _add_features(reply.nuclei, segmentation)
    if pb.OUTPUT_POLYGONS in outputs:
        _add_polygons(reply.polygons, segmentation, check)
    if pb.OUTPUT_LABELS in outputs:
        reply.labels.encoding = pb.LabelImage.ENCODING_ZSTD_UINT32
        reply.labels.height, reply.labels.width = height, width
        reply.labels.data = compress_labels(segmentation.labels)


def _add_centroids(columns: pb.Nuclei, nuclei: Nuclei, stage_map: StageTransform | None) -> None:
    columns.centroid_x_px.extend(nuclei.centroid_px[:, 1].tolist())
    columns.centroid_y_px.extend(nuclei.centroid_px[:, 0].tolist())
    if stage_map is not None:
        x_um, y_um = stage_map.apply(nuclei.centroid_px).T.tolist()
        columns.centroid_stage_x_um.extend(x_um)
        columns.centroid_stage_y_um.extend(y_um)


def _add_boxes(columns: pb.Nuclei, nuclei: Nuclei) -> None:
    y0, x0, y1, x1 = nuclei.box_px.T.tolist()
    columns.box_x0_px.extend(x0)
    columns.box_y0_px.extend(y0)
    columns.box_x1_px.extend(x1)
    columns.box_y1_px.extend(y1)


def _add_features(columns: pb.Nuclei, segmentation: Segmentation) -> None:
    nuclei = segmentation.nuclei
    columns.area_px.extend(nuclei.area_px.tolist())
    if segmentation.pixel_size_um is not None:
        columns.area_um2.extend(nuclei.area_um2(segmentation.pixel_size_um).tolist())
    columns.eccentricity.extend(nuclei.eccentricity.tolist())
    columns.mean_intensity.extend(nuclei.mean_intensity.tolist())
    columns.score.extend(nuclei.score.tolist())


def _add_polygons(columns: pb.Polygons, segmentation: Segmentation, check: Check) -> None:
    for label, polygons in outlines(segmentation.labels, check):
        for polygon in polygons:
            columns.label.append(label)
            columns.point_count.append(len(polygon))
            x, y = polygon.T.tolist()
            columns.x_px.extend(x)
            columns.y_px.extend(y)


def write_error(message: pb.FrameError, error: NucleiError) -> None:
    """Fill in what a failed Segment call would carry in its status and trailing metadata."""
    message.name = type(error).__name__
    message.code = grpc.StatusCode[error.grpc_status].value[0]
    message.message = sentence(error)
    if isinstance(error, Overloaded):
        message.retry_after_ms = retry_after_ms(error)


def retry_after_ms(error: Overloaded) -> int:
    """When to send again, milliseconds."""
    return round(error.retry_after_s * 1e3)


def _tuned(contract: Contract) -> pb.Tuned:
    return pb.Tuned(
        threshold=contract.thresholds,
        min_area_px=contract.min_areas_px,
        diameter_px=contract.diameters_px,
    )


def server_info_message(info: ServerInfo) -> pb.GetServerInfoResponse:
    """What is served, and the limits."""
    return pb.GetServerInfoResponse(
        server_version=info.server_version,
        models=[
            pb.ModelInfo(
                name=served.name,
                version=served.champion.version,
                versions=sorted(served.versions),
                tta=served.tta,
                pixel_size_um=served.champion.contract.pixel_size_um,
                validation=served.champion.contract.validation,
                precision=served.precision,
                tuned=_tuned(served.champion.contract),
            )
            for served in info.models
        ],
        default_model=info.default_model,
        limits=pb.Limits(
            max_side_px=info.limits.max_side_px,
            max_pixels=info.limits.max_pixels,
            max_request_bytes=info.limits.max_bytes,
            default_timeout_ms=round(info.default_timeout_s * 1e3),
            max_frames_in_flight=info.max_frames_in_flight,
            max_bytes_in_flight=info.max_bytes_in_flight,
        ),
    )
