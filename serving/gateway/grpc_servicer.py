"""The gRPC side of the data plane: messages in, messages out."""

from collections.abc import Collection
from typing import Any, NoReturn

import grpc
import numpy as np

from nuclei.client import ERROR_METADATA
from nuclei.errors import InvalidImage, InvalidOption, NucleiError
from nuclei.formats import compress_labels
from nuclei.images import Frame, FrameLimits, frame_from_array, read_frame
from nuclei.instances import Nuclei, outlines
from nuclei.segmentation import Segmentation
from nuclei.stage import StageMap
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationServicer
from serving.gateway.data_plane import DataPlane, Options, ServerInfo
from serving.gateway.observation import observed, only_known_errors

NUCLEI_OUTPUTS = frozenset({pb.OUTPUT_CENTROIDS, pb.OUTPUT_BOXES, pb.OUTPUT_FEATURES})
DTYPES: dict[int, np.dtype[Any]] = {
    pb.PIXEL_TYPE_UINT8: np.dtype("u1"),
    pb.PIXEL_TYPE_UINT16: np.dtype("<u2"),
}

Context = grpc.aio.ServicerContext[Any, Any]


class GrpcServicer(SegmentationServicer):
    """nuclei.v1.Segmentation."""

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane

    async def Segment(  # noqa: N802 - the name in the proto
        self, request: pb.SegmentRequest, context: Context
    ) -> pb.SegmentResponse:
        try:
            return await self._segment(request, context)
        except NucleiError as error:
            await _abort(context, error)

    async def GetServerInfo(  # noqa: N802 - the name in the proto
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        try:
            with only_known_errors():
                return _server_info(await self._data_plane.server_info())
        except NucleiError as error:
            await _abort(context, error)

    async def _segment(self, request: pb.SegmentRequest, context: Context) -> pb.SegmentResponse:
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        with observed("grpc", metadata) as observation:
            options = Options(
                request.request_id, request.model, request.tta, context.time_remaining()
            )
            outputs = _outputs(request.outputs)

            def read(limits: FrameLimits) -> Frame:
                frame = _read(request.frame, limits)
                observation.bytes_in = len(request.frame.encoded) or frame.pixels.nbytes
                _stage_map(request.frame, frame)  # refuses an impossible one before any work
                return frame

            def encode(segmentation: Segmentation, frame: Frame) -> pb.SegmentResponse:
                stage_map = _stage_map(request.frame, frame)
                reply = _reply(segmentation, request.frame, outputs, stage_map)
                reply.request_id = options.request_id
                observation.bytes_out = reply.ByteSize()
                return reply

            return await self._data_plane.segment(read, options, encode, observation)


async def _abort(context: Context, error: NucleiError) -> NoReturn:
    status = grpc.StatusCode[error.grpc_status]
    await context.abort(status, str(error), ((ERROR_METADATA, type(error).__name__),))


def _outputs(requested: Collection[int]) -> frozenset[int]:
    for output in requested:
        if output == pb.OUTPUT_UNSPECIFIED or output not in pb.Output.values():
            raise InvalidOption(
                f"output {output} is not known; expected values of nuclei.v1.Output other than "
                "OUTPUT_UNSPECIFIED: update the client or the server"
            )
    return frozenset(requested) or NUCLEI_OUTPUTS


def _read(frame: pb.Frame, limits: FrameLimits) -> Frame:
    pixel_size_um = _pixel_size_um(frame)
    kind = frame.WhichOneof("image")
    if kind == "encoded":
        read = read_frame(frame.encoded, limits)
        return frame_from_array(read.pixels, pixel_size_um or read.pixel_size_um, limits)
    if kind == "raw":
        return _read_raw(frame.raw, pixel_size_um, limits)
    raise InvalidImage("the request holds no image; expected encoded bytes or raw pixels")


def _read_raw(
    raw: pb.RawPixels, pixel_size_um: tuple[float, float] | None, limits: FrameLimits
) -> Frame:
    if raw.pixel_type not in DTYPES:
        raise InvalidImage(
            f"pixel type {raw.pixel_type} is not known; expected PIXEL_TYPE_UINT8 or "
            "PIXEL_TYPE_UINT16: scale to 16 bit and convert"
        )
    dtype = DTYPES[raw.pixel_type]
    limits.check_shape(raw.height, raw.width)
    shape = (raw.height, raw.width, raw.channels or 1)
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(raw.data) != expected:
        raise InvalidImage(
            f"the raw pixels have {len(raw.data)} bytes; expected {expected} for {shape[0]} x "
            f"{shape[1]} pixels with {shape[2]} channels of {dtype.itemsize} bytes"
        )
    return frame_from_array(np.frombuffer(raw.data, dtype).reshape(shape), pixel_size_um, limits)


def _pixel_size_um(frame: pb.Frame) -> tuple[float, float] | None:
    """(y, x) as the request says, None when it does not."""
    if frame.HasField("pixel_size") and frame.HasField("pixel_to_stage"):
        raise InvalidOption("pixel_size and pixel_to_stage both give a size; send one of them")
    if frame.HasField("pixel_to_stage"):
        return _affine(frame.pixel_to_stage).pixel_size_um
    if frame.HasField("pixel_size"):
        return frame.pixel_size.y_um, frame.pixel_size.x_um
    return None


def _affine(affine: pb.Affine) -> StageMap:
    return StageMap(
        np.array(
            [
                [affine.xx, affine.xy, affine.x_offset_um],
                [affine.yx, affine.yy, affine.y_offset_um],
            ]
        )
    )


def _stage_map(message: pb.Frame, frame: Frame) -> StageMap | None:
    """The map to the stage, None when the frame's place or its pixel size is unknown."""
    if message.HasField("pixel_to_stage"):
        return _affine(message.pixel_to_stage)
    if message.HasField("stage_position") and frame.pixel_size_um is not None:
        centre_um = (message.stage_position.x_um, message.stage_position.y_um)
        height, width = frame.pixels.shape[:2]
        return StageMap.centred(centre_um, frame.pixel_size_um, (height, width))
    return None


def _reply(
    segmentation: Segmentation,
    frame: pb.Frame,
    outputs: frozenset[int],
    stage_map: StageMap | None,
) -> pb.SegmentResponse:
    height, width = segmentation.labels.shape
    reply = pb.SegmentResponse(
        index=frame.index if frame.HasField("index") else None,
        stage_position=frame.stage_position if frame.HasField("stage_position") else None,
        model=segmentation.model,
        model_version=segmentation.version,
        count=len(segmentation.nuclei),
        height=height,
        width=width,
        stage_ms=segmentation.stage_ms,
    )
    if segmentation.pixel_size_um is not None:
        reply.pixel_size.y_um, reply.pixel_size.x_um = segmentation.pixel_size_um
    if outputs & NUCLEI_OUTPUTS:
        reply.nuclei.label.extend(segmentation.nuclei.label.tolist())
    if pb.OUTPUT_CENTROIDS in outputs:
        _add_centroids(reply.nuclei, segmentation.nuclei, stage_map)
    if pb.OUTPUT_BOXES in outputs:
        _add_boxes(reply.nuclei, segmentation.nuclei)
    if pb.OUTPUT_FEATURES in outputs:
        _add_features(reply.nuclei, segmentation)
    if pb.OUTPUT_POLYGONS in outputs:
        _add_polygons(reply.polygons, segmentation)
    if pb.OUTPUT_LABELS in outputs:
        reply.labels.encoding = pb.LabelImage.ENCODING_ZSTD_UINT32
        reply.labels.height, reply.labels.width = height, width
        reply.labels.data = compress_labels(segmentation.labels)
    return reply


def _add_centroids(columns: pb.Nuclei, nuclei: Nuclei, stage_map: StageMap | None) -> None:
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


def _add_polygons(columns: pb.Polygons, segmentation: Segmentation) -> None:
    for label, polygons in outlines(segmentation.labels):
        for polygon in polygons:
            columns.label.append(label)
            columns.point_count.append(len(polygon))
            x, y = polygon.T.tolist()
            columns.x_px.extend(x)
            columns.y_px.extend(y)


def _server_info(info: ServerInfo) -> pb.GetServerInfoResponse:
    return pb.GetServerInfoResponse(
        server_version=info.server_version,
        models=[
            pb.ModelInfo(
                name=served.name,
                version=served.version,
                tta=served.tta,
                pixel_size_um=served.contract.pixel_size_um,
                validation=served.contract.validation,
            )
            for served in info.models
        ],
        default_model=info.default_model,
        limits=pb.Limits(
            max_side_px=info.limits.max_side_px,
            max_pixels=info.limits.max_pixels,
            max_request_bytes=info.limits.max_bytes,
            default_timeout_ms=round(info.default_timeout_s * 1e3),
        ),
    )
