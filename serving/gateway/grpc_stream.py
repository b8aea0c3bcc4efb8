"""The messages of one SegmentStream call, to and from a FrameStream."""

import asyncio
from contextlib import suppress
from typing import Any, Final

from nuclei.errors import FrameTooLarge, InvalidOption, NucleiError, Overloaded
from nuclei.formats import Check
from nuclei.imaging.images import Frame
from nuclei.inference.deadline import Deadline
from nuclei.results.segmentation import Segmentation
from nuclei.v1 import segmentation_pb2 as pb
from serving.gateway.admission import WAITING_BYTES, Permit
from serving.gateway.completion import first_completed
from serving.gateway.data_plane import DataPlane, Options
from serving.gateway.draining import stream_ended
from serving.gateway.grpc_call import LAST_S, Call
from serving.gateway.grpc_messages import FrameRequest, write_error
from serving.gateway.observation import Observation, Skipped, counted_as, observed
from serving.gateway.settings import GatewaySettings
from serving.gateway.stream import Admitted, FrameStream, OverflowPolicy, waited_too_long
from serving.gateway.upload import Upload

OVERFLOW: dict[int, OverflowPolicy] = {
    pb.OVERFLOW_POLICY_UNSPECIFIED: OverflowPolicy.BLOCK,
    pb.OVERFLOW_POLICY_BLOCK: OverflowPolicy.BLOCK,
    pb.OVERFLOW_POLICY_DROP_OLDEST: OverflowPolicy.DROP_OLDEST,
    pb.OVERFLOW_POLICY_LATEST_ONLY: OverflowPolicy.LATEST_ONLY,
}
PROTOCOL: Final = "stream"
DEFAULT_QUEUE_SIZE: Final = 4
# What is held of a message may hold the begin of the next, as far as flow control lets it come:
# 2.7 MiB were seen. More than a frame that may wait, and this, is not received further.
UNREAD_BYTES: Final = WAITING_BYTES + 5 * 2**20
# From so much on its stream ends at once: gRPC receives all of a message, unless its call ends.
# Until then the frames before it are answered.
REFUSED_BYTES: Final = 2 * WAITING_BYTES
# From so much on a message is on its way, and has to keep coming.
BEGUN_BYTES: Final = 2**16


class StreamCall:
    """One SegmentStream call.

    Attributes:
        data_plane: segments its frames.
        settings: of the gateway.
        metadata: what the caller sent with the call.
        overflow: what happens when frames come faster than they are segmented.
        caller: names the stream.
        live: tells watchers of its frames.
    """

    def __init__(self, call: Call, data_plane: DataPlane, settings: GatewaySettings) -> None:
        self.data_plane = data_plane
        self.settings = settings
        self.metadata = call.metadata
        self._counted_as = counted_as(PROTOCOL, call.metadata)
        self.overflow = OverflowPolicy.BLOCK
        self._call = call
        # One connection may carry several streams.
        self.caller = f"{call.caller}#{id(self)}"
        self.live = data_plane.live.stream()
        # Of the message that arrives, then of its frame.
        self._permit = self._new_permit()
        # Done, with the reason, once too much has come of a message for which there is no memory.
        self._overrun: asyncio.Future[NucleiError] = asyncio.get_running_loop().create_future()
        self._first: pb.SegmentStreamRequest | None = None
        self._received = 0

    async def run(self, draining: asyncio.Event) -> None:
        """Answer the frames of the call; no more are received once `draining` is set.

        Raises:
            Overloaded: there are too many streams, or no memory for a long message that arrives;
                then some of the frames before it may have no answer.
            NucleiError: as `FrameStream.run`.
        """
        with self.data_plane.admission.stream(self._counted_as, self.caller):
            answering = asyncio.ensure_future(self._answer(draining))
            try:
                either: set[asyncio.Future[Any]] = {answering, self._overrun}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    raise self._overrun.result()
                answering.result()
            finally:
                answering.cancel()
                # No answer may be written any more when the call ends.
                await asyncio.wait({answering}, timeout=LAST_S)
                self._permit.release()

    async def _answer(self, draining: asyncio.Event) -> None:
        settings = await self._stream_settings(draining)
        self.overflow = OVERFLOW[settings.overflow]
        stream: FrameStream[pb.SegmentStreamResponse] = FrameStream(
            self.data_plane.admission,
            self.overflow,
            settings.queue_size or DEFAULT_QUEUE_SIZE,
            self.settings.reader_timeout_s,
        )
        await stream.run(self._receive, self._write, draining, self.settings.drain_s)

    async def _stream_settings(self, draining: asyncio.Event) -> pb.StreamSettings:
        """Those of the first message, or the defaults."""
        self._first = await first_completed(self._read(), (draining.wait(), stream_ended()))
        if self._first is None or self._first.WhichOneof("kind") != "settings":
            return pb.StreamSettings()
        settings, self._first = self._first.settings, None
        self._permit.resize(0)
        if settings.overflow not in OVERFLOW:
            raise InvalidOption(
                f"overflow {settings.overflow} is not known; expected a value of "
                "nuclei.v1.OverflowPolicy: update the client or the server"
            )
        return settings

    async def _receive(self) -> "GrpcFrame | None":
        message, self._first = self._first, None
        if message is None:
            message = await self._read()
        if message is None:
            return None
        kind = message.WhichOneof("kind")
        if kind != "frame":
            raise InvalidOption(
                f"message {self._received} holds {kind or 'nothing'}; expected a frame: settings "
                "come once, as the first message"
            )
        frame = GrpcFrame(self, self._received, message.frame, self._permit)
        self._permit = self._new_permit()
        self._received += 1
        return frame

    def _new_permit(self) -> Permit:
        return self.data_plane.admission.arriving(self._counted_as, self.caller)

    async def _read(self) -> pb.SegmentStreamRequest | None:
        """The next message. Its memory is reserved while it arrives; a caller may send none."""
        permit = self._permit
        upload: Upload | None = None

        def arrived(n_bytes: int, came: int) -> None:
            nonlocal upload
            if n_bytes < BEGUN_BYTES:
                if upload is not None:
                    # What came was of another call of the connection.
                    permit.resize(0)
                    upload = None
                return
            upload = upload or Upload(permit)
            try:
                upload.arrived(n_bytes, came)
            except (Overloaded, FrameTooLarge) as error:
                if n_bytes > REFUSED_BYTES and not self._overrun.done():
                    self._overrun.set_result(error)
                if n_bytes > UNREAD_BYTES or isinstance(error, FrameTooLarge):
                    raise

        return await self._call.read(pb.SegmentStreamRequest, arrived)

    async def _write(self, answer: pb.SegmentStreamResponse) -> None:
        await self._call.write(answer.SerializeToString())


class GrpcFrame:
    """One frame of a SegmentStream call: a `serving.gateway.stream.StreamedFrame`."""

    def __init__(
        self, stream: StreamCall, sequence: int, message: pb.StreamFrame, permit: Permit
    ) -> None:
        """Args: permit: holds what was reserved of its memory while it arrived."""
        self._stream = stream
        self._sequence = sequence
        self._request = FrameRequest(message.request)
        self.deadline = Deadline.after(
            message.timeout_ms / 1e3 or stream.settings.default_timeout_s
        )
        index = self._request.index
        self.position = (index.acquisition_uid, index.position)
        self._live = stream.live.frame(index)
        self.n_bytes = self._request.n_bytes
        self.permit = permit
        # One that finds no room for all of it waits for that, as the stream's policy says.
        with suppress(Overloaded, FrameTooLarge):
            self.permit.resize(self.n_bytes)

    async def answer(self, admitted: Admitted) -> pb.SegmentStreamResponse:
        try:
            with observed(PROTOCOL, self._stream.metadata) as observation:
                options = self._request.options(self.deadline, self._stream.caller)
                observation.request_id = options.request_id
                observation.bytes_in = self.n_bytes
                async with admitted as permit:
                    answer = await self._segment(options, observation, permit)
                observation.bytes_out = answer.ByteSize()
                self._live.answered()
        except Skipped as skipped:
            self._live.skipped(str(skipped))
            answer = self._new_answer()
            answer.skipped.reason = str(skipped)
        except NucleiError as error:
            self._live.failed(error)
            answer = self._new_answer()
            write_error(answer.error, error)
        # It may have to wait for the answers before it.
        self.permit.resize(min(self.permit.n_bytes, answer.ByteSize()))
        return answer

    async def _segment(
        self, options: Options, observation: Observation, permit: Permit
    ) -> pb.SegmentStreamResponse:
        """Segment the frame; under BLOCK again once there is the memory that it was refused."""
        data_plane = self._stream.data_plane
        while True:
            try:
                return await data_plane.segment(
                    self._request,
                    options,
                    self._request.encoding(self._result),
                    observation,
                    permit,
                )
            except Overloaded as error:
                if self._stream.overflow is not OverflowPolicy.BLOCK:
                    raise
                refused_bytes = permit.refused_bytes
                permit.resize(max(self.n_bytes, self._request.decoded_bytes))
                try:
                    async with asyncio.timeout(self.deadline.left_s()):
                        if refused_bytes:
                            await data_plane.admission.wait(permit, refused_bytes)
                        else:
                            await asyncio.sleep(error.retry_after_s)
                except TimeoutError:
                    raise waited_too_long() from None

    def _result(
        self, segmentation: Segmentation, frame: Frame, check: Check
    ) -> pb.SegmentStreamResponse:
        answer = self._new_answer()
        self._request.write_result(answer.result, segmentation, frame, check)
        self._live.segmented(segmentation, frame)
        return answer

    def _new_answer(self) -> pb.SegmentStreamResponse:
        answer = pb.SegmentStreamResponse(sequence=self._sequence)
        self._request.echo(answer)
        return answer
