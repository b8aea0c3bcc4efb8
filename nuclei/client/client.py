"""Clients of a running gateway: `Client` blocks, `AsyncClient` is for asyncio.

Both raise the errors of `nuclei.errors` that the server raised. They need numpy, grpcio, protobuf
and a zstd, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Collection,
    Iterable,
    Iterator,
)
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from numpy.typing import ArrayLike

from nuclei.client.acquisition import (
    FrameIndex,
    FrameLike,
    Outcome,
    StagePosition,
    StreamFrame,
)
from nuclei.client.arguments import (
    DEFAULT_OUTPUTS,
    adjustments,
    check_frames,
    frame_options,
    seconds,
)
from nuclei.client.connection import (
    DEFAULT_ADDRESS,
    authorization,
    channel_options,
    checked_address,
    credentials,
    open_channel,
    translated,
)
from nuclei.client.messages import request_with, segmentation_of, write_frame
from nuclei.client.stream import StreamMessages
from nuclei.imaging.selection import Projection
from nuclei.results.segmentation import Segmentation
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub


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
        tls_ca: str | Path | None = None,
        tls_certificate: str | Path | None = None,
        tls_key: str | Path | None = None,
        channel: grpc.Channel | None = None,
    ) -> None:
        """Connect at the first call.

        Args:
            address: host:port of the gateway's gRPC server; `dns:///host:port` for all gateways
                behind the host, which are called in turn.
            token: what a gateway with NUCLEI_TOKEN asks for.
            tls_ca: PEM file with the authority of the gateway's certificate; connects with TLS.
            tls_certificate: PEM file with the caller's own certificate, for a gateway that asks for
                one; with tls_key and tls_ca.
            tls_key: PEM file with the key of that certificate.
            channel: used instead of a new one to `address`.

        Raises:
            InvalidOption: the address or the token cannot be one; the TLS files cannot be read, or
                some are missing.
        """
        self._metadata = authorization(token)
        self._channel = channel or open_channel(address, tls_ca, tls_certificate, tls_key)
        self._stub = SegmentationStub(self._channel)

    def segment(
        self,
        frame: FrameLike,
        *,
        model: str = "",
        version: int | str | None = None,
        tta: bool = False,
        outputs: Collection[str] = DEFAULT_OUTPUTS,
        threshold: float | None = None,
        min_area_px: int | None = None,
        diameter_px: float | None = None,
        channel: int | str | None = None,
        plane: int | None = None,
        project: Projection | None = None,
        intensity_range: tuple[float, float] | None = None,
        intensity_percentiles: tuple[float, float] | None = None,
        pixel_size_um: float | tuple[float, float] | None = None,
        pixel_to_stage: ArrayLike | None = None,
        index: FrameIndex | None = None,
        stage_position: StagePosition | None = None,
        request_id: str = "",
        timeout_s: float = 30,
    ) -> Segmentation:
        """Segment one frame.

        Args:
            frame: a Frame, its pixels (integers or floats [H, W], [H, W, C] or [C, H, W], or a
                stack of these), the path of an image file, or the bytes of one.
            model: name of a model; empty for the server's default one.
            version: a version of it that is loaded, as a result names it; None for the one in use.
            tta: average over the 8 rotations and reflections: better, about 8 times as slow.
            outputs: what to fetch, of `centroids`, `boxes`, `features`, `labels` and `polygons`.
                What is left out is empty in the result: `labels` is [0, 0], columns have no rows,
                `outlines` is None.
            threshold: the foreground probability from which a pixel belongs to a nucleus, above 0
                and below 1; lower finds more, and more that is none. None for what the model was
                tuned to, as for the next two; `server_info` names it.
            min_area_px: nuclei of fewer pixels are left out.
            diameter_px: what nuclei are expected to measure across, pixels of the frame: the model
                sees it resampled, so that they have the size that it was tuned to. None segments it
                as it is.
            channel: the channel that is segmented, its number from 0 or its name; None for all
                channels of an image in colour, and the only one of any other.
            plane: the plane of a stack that is segmented, from 0.
            project: `max` for the largest value over all planes of a stack.
            intensity_range: (lo, hi), the values that become black and white for the network, in
                the units of the frame; None for what the server finds.
            intensity_percentiles: the same as percentiles, 0 to 100; instead of intensity_range.
            pixel_size_um: micrometres, one number or (y, x); None for that of the Frame or the
                file.
            pixel_to_stage: [2, 3], maps (x, y, 1) in pixels to the stage's (x, y) in micrometres;
                not together with pixel_size_um.
            index: place of the frame in its acquisition.
            stage_position: where the stage stood; with a pixel size, gives centroids on the stage.
            request_id: names the request in the server's log; empty for a new one.
            timeout_s: seconds until DeadlineExceeded, above 0.

        Raises:
            InvalidImage, FrameTooLarge, InvalidOption: the request is wrong.
            Unauthenticated, ModelNotFound, DeadlineExceeded, Overloaded, EngineUnavailable,
            EngineFailed.
        """
        asked = StreamFrame(
            frame, index, stage_position, pixel_size_um, pixel_to_stage, request_id, timeout_s
        )
        tuning = adjustments(threshold, min_area_px, diameter_px)
        request = request_with(model, version, tta, outputs, tuning)
        options = frame_options(channel, plane, project, intensity_range, intensity_percentiles)
        warnings = write_frame(request, asked, options)
        timeout_s = seconds(timeout_s)
        with translated():
            reply = self._stub.Segment(request, timeout=timeout_s, metadata=self._metadata)
        return segmentation_of(reply, warnings)

    def stream(
        self,
        frames: Iterable[FrameLike | StreamFrame],
        *,
        overflow: str = "block",
        queue_size: int = 0,
        model: str = "",
        version: int | str | None = None,
        tta: bool = False,
        outputs: Collection[str] = DEFAULT_OUTPUTS,
        threshold: float | None = None,
        min_area_px: int | None = None,
        diameter_px: float | None = None,
        channel: int | str | None = None,
        plane: int | None = None,
        project: Projection | None = None,
        intensity_range: tuple[float, float] | None = None,
        intensity_percentiles: tuple[float, float] | None = None,
        timeout_s: float = 30,
    ) -> Iterator[Outcome]:
        """Segment the frames of an acquisition while it runs.

        Frames are read in a thread of their own, from the first outcome that is asked for, and
        every one has exactly one outcome. Outcomes of one position keep the order of its frames;
        positions do not wait for each other. Leaving the loop cancels the frames
        without an outcome, and stops reading `frames`.

        >>> for outcome in client.stream(camera(), overflow="latest_only", outputs=["centroids"]):
        ...     if outcome.segmentation:
        ...         print(outcome.index, len(outcome.segmentation.nuclei))

        Args:
            frames: what `segment` takes, or StreamFrame, which adds what is known about each. May
                be endless.
            overflow: what happens when frames come faster than they are segmented. `block`: no more
                are read until the server has caught up. `drop_oldest`: when more than `queue_size`
                wait, the oldest is skipped. `latest_only`: of each position only the newest waits,
                the others are skipped.
            queue_size: for `drop_oldest`; 0 for the server's default.
            model, version, tta, outputs, threshold, min_area_px, diameter_px, channel, plane,
                project, intensity_range, intensity_percentiles: as in `segment`, for all frames.
            timeout_s: time that each frame has from its arrival at the server, seconds.

        Raises:
            InvalidOption, Unauthenticated, Overloaded, EngineUnavailable, DeadlineExceeded: the
                stream as a whole cannot start or go on. An error of one frame is in its
                outcome. What `frames` raises, of any class, is raised as it is, after the outcomes
                of the earlier frames.
        """
        check_frames(frames)
        messages = StreamMessages(
            overflow=overflow,
            queue_size=queue_size,
            model=model,
            version=version,
            tta=tta,
            outputs=outputs,
            adjustments=adjustments(threshold, min_area_px, diameter_px),
            options=frame_options(channel, plane, project, intensity_range, intensity_percentiles),
            timeout_s=timeout_s,
        )
        return self._outcomes(frames, messages)

    def _outcomes(
        self, frames: Iterable[FrameLike | StreamFrame], messages: StreamMessages
    ) -> Iterator[Outcome]:
        failed: list[BaseException] = []

        def requests() -> Iterator[pb.SegmentStreamRequest]:
            yield messages.settings()
            try:
                for frame in frames:
                    yield messages.frame(frame)
            except GeneratorExit:  # the caller has left the loop
                raise
            except BaseException as error:  # gRPC's thread would end without ending the call
                failed.append(error)

        with translated():
            call = self._stub.SegmentStream(requests(), metadata=self._metadata)
            try:
                for answer in call:
                    yield messages.outcome(answer)
            finally:
                call.cancel()
        for error in failed:
            raise error

    def server_info(self, timeout_s: float = 5) -> pb.GetServerInfoResponse:
        """The models and limits of the server; raises EngineUnavailable, DeadlineExceeded."""
        timeout_s = seconds(timeout_s)
        with translated():
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
        tls_ca: str | Path | None = None,
        tls_certificate: str | Path | None = None,
        tls_key: str | Path | None = None,
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        """Connect at the first call; arguments and errors as in `Client`."""
        self._metadata = authorization(token)
        address = checked_address(address)
        tls = credentials(tls_ca, tls_certificate, tls_key)
        if channel is None and tls is not None:
            channel = grpc.aio.secure_channel(address, tls, channel_options(address))
        self._channel = channel or grpc.aio.insecure_channel(address, channel_options(address))
        self._stub = SegmentationStub(self._channel)

    async def segment(
        self,
        frame: FrameLike,
        *,
        model: str = "",
        version: int | str | None = None,
        tta: bool = False,
        outputs: Collection[str] = DEFAULT_OUTPUTS,
        threshold: float | None = None,
        min_area_px: int | None = None,
        diameter_px: float | None = None,
        channel: int | str | None = None,
        plane: int | None = None,
        project: Projection | None = None,
        intensity_range: tuple[float, float] | None = None,
        intensity_percentiles: tuple[float, float] | None = None,
        pixel_size_um: float | tuple[float, float] | None = None,
        pixel_to_stage: ArrayLike | None = None,
        index: FrameIndex | None = None,
        stage_position: StagePosition | None = None,
        request_id: str = "",
        timeout_s: float = 30,
    ) -> Segmentation:
        """Segment one frame; arguments, result and errors as in `Client.segment`."""
        asked = StreamFrame(
            frame, index, stage_position, pixel_size_um, pixel_to_stage, request_id, timeout_s
        )
        tuning = adjustments(threshold, min_area_px, diameter_px)
        request = request_with(model, version, tta, outputs, tuning)
        options = frame_options(channel, plane, project, intensity_range, intensity_percentiles)
        warnings = write_frame(request, asked, options)
        timeout_s = seconds(timeout_s)
        with translated():
            reply = await self._stub.Segment(request, timeout=timeout_s, metadata=self._metadata)
        return segmentation_of(reply, warnings)

    def stream(
        self,
        frames: AsyncIterable[FrameLike | StreamFrame] | Iterable[FrameLike | StreamFrame],
        *,
        overflow: str = "block",
        queue_size: int = 0,
        model: str = "",
        version: int | str | None = None,
        tta: bool = False,
        outputs: Collection[str] = DEFAULT_OUTPUTS,
        threshold: float | None = None,
        min_area_px: int | None = None,
        diameter_px: float | None = None,
        channel: int | str | None = None,
        plane: int | None = None,
        project: Projection | None = None,
        intensity_range: tuple[float, float] | None = None,
        intensity_percentiles: tuple[float, float] | None = None,
        timeout_s: float = 30,
    ) -> AsyncIterator[Outcome]:
        """Segment the frames of an acquisition while it runs.

        As `Client.stream`; `frames` may be asynchronous, and is read in a task: one that is not
        must not block.
        """
        check_frames(frames)
        messages = StreamMessages(
            overflow=overflow,
            queue_size=queue_size,
            model=model,
            version=version,
            tta=tta,
            outputs=outputs,
            adjustments=adjustments(threshold, min_area_px, diameter_px),
            options=frame_options(channel, plane, project, intensity_range, intensity_percentiles),
            timeout_s=timeout_s,
        )
        return self._outcomes(frames, messages)

    async def _outcomes(
        self,
        frames: AsyncIterable[FrameLike | StreamFrame] | Iterable[FrameLike | StreamFrame],
        messages: StreamMessages,
    ) -> AsyncIterator[Outcome]:
        with translated():
            call = self._stub.SegmentStream(metadata=self._metadata)
            sending = asyncio.create_task(_send(call, frames, messages))
            try:
                async for answer in call:
                    yield messages.outcome(answer)
                await sending
            finally:
                sending.cancel()
                call.cancel()

    async def server_info(self, timeout_s: float = 5) -> pb.GetServerInfoResponse:
        """The models and limits of the server; raises EngineUnavailable, DeadlineExceeded."""
        timeout_s = seconds(timeout_s)
        with translated():
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


async def _send(
    call: Any,
    frames: AsyncIterable[FrameLike | StreamFrame] | Iterable[FrameLike | StreamFrame],
    messages: StreamMessages,
) -> None:
    """Send all frames; raises what `frames` raises, after saying that no more come."""
    try:
        await call.write(messages.settings())
        async for frame in _asynchronous(frames):
            await call.write(messages.frame(frame))
    except (grpc.RpcError, asyncio.InvalidStateError):
        return  # the call has ended, and its reader learns why
    finally:
        if not call.done():
            await call.done_writing()


async def _asynchronous(
    frames: AsyncIterable[FrameLike | StreamFrame] | Iterable[FrameLike | StreamFrame],
) -> AsyncIterator[FrameLike | StreamFrame]:
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
    else:
        for frame in frames:
            yield frame
