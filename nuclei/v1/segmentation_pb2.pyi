from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Output(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_UNSPECIFIED: _ClassVar[Output]
    OUTPUT_COUNT: _ClassVar[Output]
    OUTPUT_CENTROIDS: _ClassVar[Output]
    OUTPUT_BOXES: _ClassVar[Output]
    OUTPUT_FEATURES: _ClassVar[Output]
    OUTPUT_POLYGONS: _ClassVar[Output]
    OUTPUT_LABELS: _ClassVar[Output]

class PixelType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PIXEL_TYPE_UNSPECIFIED: _ClassVar[PixelType]
    PIXEL_TYPE_UINT8: _ClassVar[PixelType]
    PIXEL_TYPE_UINT16: _ClassVar[PixelType]
OUTPUT_UNSPECIFIED: Output
OUTPUT_COUNT: Output
OUTPUT_CENTROIDS: Output
OUTPUT_BOXES: Output
OUTPUT_FEATURES: Output
OUTPUT_POLYGONS: Output
OUTPUT_LABELS: Output
PIXEL_TYPE_UNSPECIFIED: PixelType
PIXEL_TYPE_UINT8: PixelType
PIXEL_TYPE_UINT16: PixelType

class RawPixels(_message.Message):
    __slots__ = ("data", "height", "width", "channels", "pixel_type")
    DATA_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    PIXEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    height: int
    width: int
    channels: int
    pixel_type: PixelType
    def __init__(self, data: _Optional[bytes] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[int] = ..., pixel_type: _Optional[_Union[PixelType, str]] = ...) -> None: ...

class FrameIndex(_message.Message):
    __slots__ = ("acquisition_uid", "position", "t", "c", "z")
    ACQUISITION_UID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    T_FIELD_NUMBER: _ClassVar[int]
    C_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    acquisition_uid: str
    position: int
    t: int
    c: int
    z: int
    def __init__(self, acquisition_uid: _Optional[str] = ..., position: _Optional[int] = ..., t: _Optional[int] = ..., c: _Optional[int] = ..., z: _Optional[int] = ...) -> None: ...

class StagePosition(_message.Message):
    __slots__ = ("x_um", "y_um", "z_um")
    X_UM_FIELD_NUMBER: _ClassVar[int]
    Y_UM_FIELD_NUMBER: _ClassVar[int]
    Z_UM_FIELD_NUMBER: _ClassVar[int]
    x_um: float
    y_um: float
    z_um: float
    def __init__(self, x_um: _Optional[float] = ..., y_um: _Optional[float] = ..., z_um: _Optional[float] = ...) -> None: ...

class PixelSize(_message.Message):
    __slots__ = ("x_um", "y_um")
    X_UM_FIELD_NUMBER: _ClassVar[int]
    Y_UM_FIELD_NUMBER: _ClassVar[int]
    x_um: float
    y_um: float
    def __init__(self, x_um: _Optional[float] = ..., y_um: _Optional[float] = ...) -> None: ...

class Affine(_message.Message):
    __slots__ = ("xx", "xy", "x_offset_um", "yx", "yy", "y_offset_um")
    XX_FIELD_NUMBER: _ClassVar[int]
    XY_FIELD_NUMBER: _ClassVar[int]
    X_OFFSET_UM_FIELD_NUMBER: _ClassVar[int]
    YX_FIELD_NUMBER: _ClassVar[int]
    YY_FIELD_NUMBER: _ClassVar[int]
    Y_OFFSET_UM_FIELD_NUMBER: _ClassVar[int]
    xx: float
    xy: float
    x_offset_um: float
    yx: float
    yy: float
    y_offset_um: float
    def __init__(self, xx: _Optional[float] = ..., xy: _Optional[float] = ..., x_offset_um: _Optional[float] = ..., yx: _Optional[float] = ..., yy: _Optional[float] = ..., y_offset_um: _Optional[float] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("encoded", "raw", "pixel_size", "stage_position", "pixel_to_stage", "index")
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    PIXEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    STAGE_POSITION_FIELD_NUMBER: _ClassVar[int]
    PIXEL_TO_STAGE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    encoded: bytes
    raw: RawPixels
    pixel_size: PixelSize
    stage_position: StagePosition
    pixel_to_stage: Affine
    index: FrameIndex
    def __init__(self, encoded: _Optional[bytes] = ..., raw: _Optional[_Union[RawPixels, _Mapping]] = ..., pixel_size: _Optional[_Union[PixelSize, _Mapping]] = ..., stage_position: _Optional[_Union[StagePosition, _Mapping]] = ..., pixel_to_stage: _Optional[_Union[Affine, _Mapping]] = ..., index: _Optional[_Union[FrameIndex, _Mapping]] = ...) -> None: ...

class SegmentRequest(_message.Message):
    __slots__ = ("frame", "request_id", "model", "tta", "outputs")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TTA_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    frame: Frame
    request_id: str
    model: str
    tta: bool
    outputs: _containers.RepeatedScalarFieldContainer[Output]
    def __init__(self, frame: _Optional[_Union[Frame, _Mapping]] = ..., request_id: _Optional[str] = ..., model: _Optional[str] = ..., tta: _Optional[bool] = ..., outputs: _Optional[_Iterable[_Union[Output, str]]] = ...) -> None: ...

class Nuclei(_message.Message):
    __slots__ = ("label", "centroid_x_px", "centroid_y_px", "centroid_stage_x_um", "centroid_stage_y_um", "box_x0_px", "box_y0_px", "box_x1_px", "box_y1_px", "area_px", "area_um2", "eccentricity", "mean_intensity", "score")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CENTROID_X_PX_FIELD_NUMBER: _ClassVar[int]
    CENTROID_Y_PX_FIELD_NUMBER: _ClassVar[int]
    CENTROID_STAGE_X_UM_FIELD_NUMBER: _ClassVar[int]
    CENTROID_STAGE_Y_UM_FIELD_NUMBER: _ClassVar[int]
    BOX_X0_PX_FIELD_NUMBER: _ClassVar[int]
    BOX_Y0_PX_FIELD_NUMBER: _ClassVar[int]
    BOX_X1_PX_FIELD_NUMBER: _ClassVar[int]
    BOX_Y1_PX_FIELD_NUMBER: _ClassVar[int]
    AREA_PX_FIELD_NUMBER: _ClassVar[int]
    AREA_UM2_FIELD_NUMBER: _ClassVar[int]
    ECCENTRICITY_FIELD_NUMBER: _ClassVar[int]
    MEAN_INTENSITY_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    label: _containers.RepeatedScalarFieldContainer[int]
    centroid_x_px: _containers.RepeatedScalarFieldContainer[float]
    centroid_y_px: _containers.RepeatedScalarFieldContainer[float]
    centroid_stage_x_um: _containers.RepeatedScalarFieldContainer[float]
    centroid_stage_y_um: _containers.RepeatedScalarFieldContainer[float]
    box_x0_px: _containers.RepeatedScalarFieldContainer[int]
    box_y0_px: _containers.RepeatedScalarFieldContainer[int]
    box_x1_px: _containers.RepeatedScalarFieldContainer[int]
    box_y1_px: _containers.RepeatedScalarFieldContainer[int]
    area_px: _containers.RepeatedScalarFieldContainer[int]
    area_um2: _containers.RepeatedScalarFieldContainer[float]
    eccentricity: _containers.RepeatedScalarFieldContainer[float]
    mean_intensity: _containers.RepeatedScalarFieldContainer[float]
    score: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, label: _Optional[_Iterable[int]] = ..., centroid_x_px: _Optional[_Iterable[float]] = ..., centroid_y_px: _Optional[_Iterable[float]] = ..., centroid_stage_x_um: _Optional[_Iterable[float]] = ..., centroid_stage_y_um: _Optional[_Iterable[float]] = ..., box_x0_px: _Optional[_Iterable[int]] = ..., box_y0_px: _Optional[_Iterable[int]] = ..., box_x1_px: _Optional[_Iterable[int]] = ..., box_y1_px: _Optional[_Iterable[int]] = ..., area_px: _Optional[_Iterable[int]] = ..., area_um2: _Optional[_Iterable[float]] = ..., eccentricity: _Optional[_Iterable[float]] = ..., mean_intensity: _Optional[_Iterable[float]] = ..., score: _Optional[_Iterable[float]] = ...) -> None: ...

class Polygons(_message.Message):
    __slots__ = ("label", "point_count", "x_px", "y_px")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    POINT_COUNT_FIELD_NUMBER: _ClassVar[int]
    X_PX_FIELD_NUMBER: _ClassVar[int]
    Y_PX_FIELD_NUMBER: _ClassVar[int]
    label: _containers.RepeatedScalarFieldContainer[int]
    point_count: _containers.RepeatedScalarFieldContainer[int]
    x_px: _containers.RepeatedScalarFieldContainer[int]
    y_px: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, label: _Optional[_Iterable[int]] = ..., point_count: _Optional[_Iterable[int]] = ..., x_px: _Optional[_Iterable[int]] = ..., y_px: _Optional[_Iterable[int]] = ...) -> None: ...

class LabelImage(_message.Message):
    __slots__ = ("encoding", "height", "width", "data")
    class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ENCODING_UNSPECIFIED: _ClassVar[LabelImage.Encoding]
        ENCODING_ZSTD_UINT32: _ClassVar[LabelImage.Encoding]
    ENCODING_UNSPECIFIED: LabelImage.Encoding
    ENCODING_ZSTD_UINT32: LabelImage.Encoding
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    encoding: LabelImage.Encoding
    height: int
    width: int
    data: bytes
    def __init__(self, encoding: _Optional[_Union[LabelImage.Encoding, str]] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class SegmentResponse(_message.Message):
    __slots__ = ("request_id", "index", "stage_position", "model", "model_version", "count", "height", "width", "pixel_size", "nuclei", "polygons", "labels", "stage_ms")
    class StageMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STAGE_POSITION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    PIXEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUCLEI_FIELD_NUMBER: _ClassVar[int]
    POLYGONS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STAGE_MS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    index: FrameIndex
    stage_position: StagePosition
    model: str
    model_version: str
    count: int
    height: int
    width: int
    pixel_size: PixelSize
    nuclei: Nuclei
    polygons: Polygons
    labels: LabelImage
    stage_ms: _containers.ScalarMap[str, float]
    def __init__(self, request_id: _Optional[str] = ..., index: _Optional[_Union[FrameIndex, _Mapping]] = ..., stage_position: _Optional[_Union[StagePosition, _Mapping]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., count: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., pixel_size: _Optional[_Union[PixelSize, _Mapping]] = ..., nuclei: _Optional[_Union[Nuclei, _Mapping]] = ..., polygons: _Optional[_Union[Polygons, _Mapping]] = ..., labels: _Optional[_Union[LabelImage, _Mapping]] = ..., stage_ms: _Optional[_Mapping[str, float]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("server_version", "models", "default_model", "limits")
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    server_version: str
    models: _containers.RepeatedCompositeFieldContainer[ModelInfo]
    default_model: str
    limits: Limits
    def __init__(self, server_version: _Optional[str] = ..., models: _Optional[_Iterable[_Union[ModelInfo, _Mapping]]] = ..., default_model: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("name", "version", "tta", "pixel_size_um", "validation")
    class ValidationEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TTA_FIELD_NUMBER: _ClassVar[int]
    PIXEL_SIZE_UM_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    tta: bool
    pixel_size_um: float
    validation: _containers.ScalarMap[str, float]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., tta: _Optional[bool] = ..., pixel_size_um: _Optional[float] = ..., validation: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_side_px", "max_pixels", "max_request_bytes", "default_timeout_ms")
    MAX_SIDE_PX_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    max_side_px: int
    max_pixels: int
    max_request_bytes: int
    default_timeout_ms: int
    def __init__(self, max_side_px: _Optional[int] = ..., max_pixels: _Optional[int] = ..., max_request_bytes: _Optional[int] = ..., default_timeout_ms: _Optional[int] = ...) -> None: ...
