"""Clients of a running gateway: `Client` blocks, `AsyncClient` is for asyncio.

Both raise the errors of `nuclei.errors` that the server raised. Importing this module needs no
more than numpy and grpcio.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from nuclei import errors
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub

if TYPE_CHECKING:
    from nuclei.images import Frame
    from nuclei.instances import Nuclei
    from nuclei.segmentation import Segmentation

    FrameLike = Frame | NDArray[Any] | bytes | Path

DEFAULT_ADDRESS = "localhost:50051"
MAX_MESSAGE_BYTES = 2**31 - 1
ERROR_METADATA = "nuclei-error"

OUTPUTS = {
    "centroids": pb.OUTPUT_CENTROIDS,
    "boxes": pb.OUTPUT_BOXES,
    "features": pb.OUTPUT_FEATURES,
    "labels": pb.OUTPUT_LABELS,
}
PIXEL_TYPES = {"u1": pb.PIXEL_TYPE_UINT8, "u2": pb.PIXEL_TYPE_UINT16}

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A server that is back is found within a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Client:
    """Segments frames through a gateway; one may be shared between threads.

    >>> with Client("localhost:50051") as client:
    ...     result = client.segment(Path("frame.tif"))
    ...     print(len(result.nuclei), result.labels.shape)
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        token: str = "",
        channel: grpc.Channel | None = None,
    ) -> None:
        """Connect at the first call.

        Args:
            address: host:port of the gateway's gRPC server.
            token: what a gateway with NUCLEI_TOKEN asks for.
            channel: used instead of a new one to `address`: `grpc.secure_channel` for a gateway
                with TLS, with CHANNEL_OPTIONS.
        """
        self._channel = channel or grpc.insecure_channel(address, CHANNEL_OPTIONS)
        self._stub = SegmentationStub(self._channel)
        self._metadata = _authorization(token)

    def segment(
        self,
        frame: FrameLike,
        *,
        model: str = "",
        tta: bool = False,
        outputs: Collection[str] = tuple(OUTPUTS),
        pixel_size_um: tuple[float, float] | None = None,
        request_id: str = "",
        timeout_s: float = 30,
    ) -> Segmentation:
        """Segment one frame.

        Args:
            frame: a Frame, its pixels (uint8 or uint16 [H, W] or [H, W, C]), the bytes of an image
                file, or the path of one.
            model: name of a model; empty for the server's default one.
            tta: average over the 8 rotations and reflections: better, about 8 times dearer.
            outputs: what to fetch, of `centroids`, `boxes`, `features` and `labels`. What is left
                out is empty in the result: `labels` is [0, 0], columns have no rows.
            pixel_size_um: (y, x), micrometres; None for the one of the Frame or the file.
            request_id: names the request in the server's log; empty for a new one.
            timeout_s: seconds until DeadlineExceeded.

        Raises:
            InvalidImage, FrameTooLarge, InvalidOption: the request is wrong.
            ModelNotFound, DeadlineExceeded, Overloaded, EngineUnavailable, EngineFailed.
        """
        request = _request(frame, model, tta, outputs, pixel_size_um, request_id)
        with _translated():
            return _segmentation(
                self._stub.Segment(request, timeout=timeout_s, metadata=self._metadata)
            )

    def server_info(self, timeout_s: float = 5) -> pb.GetServerInfoResponse:
        """The models and limits of the server; raises EngineUnavailable, DeadlineExceeded."""
        with _translated():
            return self._stub.GetServerInfo(
                pb.GetServerInfoRequest(), timeout=timeout_s, metadata=self._metadata
            )

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """Segments frames through a gateway, from one event loop; the calls are those of `Client`.

    >>> async with AsyncClient("localhost:50051") as client:
    ...     results = await asyncio.gather(*(client.segment(path) for path in paths))
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        token: str = "",
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        """Connect at the first call; arguments as in `Client`."""
        self._channel = channel or grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
        self._stub = SegmentationStub(self._channel)
        self._metadata = _authorization(token)

    async def segment(
        self,
        frame: FrameLike,
        *,
        model: str = "",
        tta: bool = False,
        outputs: Collection[str] = tuple(OUTPUTS),
        pixel_size_um: tuple[float, float] | None = None,
        request_id: str = "",
        timeout_s: float = 30,
    ) -> Segmentation:
        """Segment one frame; arguments, result and errors as in `Client.segment`."""
        request = _request(frame, model, tta, outputs, pixel_size_um, request_id)
        with _translated():
            return _segmentation(
                await self._stub.Segment(request, timeout=timeout_s, metadata=self._metadata)
            )

    async def server_info(self, timeout_s: float = 5) -> pb.GetServerInfoResponse:
        """The models and limits of the server; raises EngineUnavailable, DeadlineExceeded."""
        with _translated():
            return await self._stub.GetServerInfo(
                pb.GetServerInfoRequest(), timeout=timeout_s, metadata=self._metadata
            )

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _authorization(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


def _request(
    frame: FrameLike,
    model: str,
    tta: bool,
    outputs: Collection[str],
    pixel_size_um: tuple[float, float] | None,
    request_id: str,
) -> pb.SegmentRequest:
    for output in outputs:
        if output not in OUTPUTS:
            raise errors.InvalidOption(
                f"output {output!r} is not known; expected some of {', '.join(OUTPUTS)}"
            )
    return pb.SegmentRequest(
        frame=_frame(frame, pixel_size_um),
        request_id=request_id,
        model=model,
        tta=tta,
        outputs=[OUTPUTS[output] for output in outputs] or [pb.OUTPUT_COUNT],
    )


def _frame(frame: FrameLike, pixel_size_um: tuple[float, float] | None) -> pb.Frame:
    if isinstance(frame, bytes):
        message = pb.Frame(encoded=frame)
    elif isinstance(frame, Path):
        message = pb.Frame(encoded=_read(frame))
    elif isinstance(frame, np.ndarray):
        message = pb.Frame(raw=_raw(frame))
    else:
        message = pb.Frame(raw=_raw(frame.pixels))
        pixel_size_um = pixel_size_um or frame.pixel_size_um
    if pixel_size_um is not None:
        message.pixel_size.y_um, message.pixel_size.x_um = pixel_size_um
    return message


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.InvalidImage(f"{path} cannot be read: {error.strerror}") from error


def _raw(pixels: NDArray[Any]) -> pb.RawPixels:
    if pixels.dtype.str[1:] not in PIXEL_TYPES or pixels.ndim not in (2, 3):
        raise errors.InvalidImage(
            f"pixels are {pixels.dtype} {list(pixels.shape)}; expected uint8 or uint16, "
            "[height, width] or [height, width, channels]: pick one plane, scale to 16 bit"
        )
    return pb.RawPixels(
        data=pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes(),
        height=pixels.shape[0],
        width=pixels.shape[1],
        channels=pixels.shape[2] if pixels.ndim == 3 else 1,
        pixel_type=PIXEL_TYPES[pixels.dtype.str[1:]],
    )


def _segmentation(response: pb.SegmentResponse) -> Segmentation:
    # Their modules read images too and need more than numpy.
    from nuclei.formats import decompress_labels
    from nuclei.segmentation import Segmentation

    labels = np.zeros((0, 0), np.uint32)
    if response.HasField("labels"):
        image = response.labels
        labels = decompress_labels(image.data, image.height, image.width)
    pixel_size_um = None
    if response.HasField("pixel_size"):
        pixel_size_um = (response.pixel_size.y_um, response.pixel_size.x_um)
    return Segmentation(
        labels=labels,
        nuclei=_nuclei(response),
        pixel_size_um=pixel_size_um,
        model=response.model,
        version=response.model_version,
        stage_ms=dict(response.stage_ms),
    )


def _nuclei(response: pb.SegmentResponse) -> Nuclei:
    from nuclei.instances import Nuclei

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


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise _error(error) from None


def _error(error: Any) -> errors.NucleiError:
    """The error that the server raised, or the one nearest to a failure of gRPC itself."""
    status, detail = error.code(), error.details() or ""
    sent = dict(error.trailing_metadata() or ()).get(ERROR_METADATA, "")
    kind = getattr(errors, str(sent), None)
    if isinstance(kind, type) and issubclass(kind, errors.NucleiError):
        return kind(detail)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in detail:
        return errors.FrameTooLarge(f"the server refused the message ({detail}); crop the frame")
    kind, advice = {
        grpc.StatusCode.UNAVAILABLE: (errors.EngineUnavailable, "start it or check its address"),
        grpc.StatusCode.DEADLINE_EXCEEDED: (errors.DeadlineExceeded, "allow more time"),
        grpc.StatusCode.RESOURCE_EXHAUSTED: (errors.Overloaded, "try again later"),
    }.get(status, (errors.EngineFailed, "is it a nuclei gateway?"))
    return kind(f"the gateway did not answer ({status.name}: {detail}); {advice}")
