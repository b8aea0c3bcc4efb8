"""Frames over HTTP: how one is received, and how what was made of it is sent."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Protocol, TypeVar

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from nuclei.errors import FrameTooLarge, InvalidImage, NucleiError
from nuclei.imaging.decoding import Header
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import Frame, FrameLimits
from nuclei.quoting import printable, shortened
from serving.gateway.admission import Permit
from serving.gateway.completion import Ending, first_completed
from serving.gateway.data_plane import DataPlane
from serving.gateway.draining import frame_given_up
from serving.gateway.http_encoding import decoded
from serving.gateway.http_options import PARAMETERS
from serving.gateway.peers import name_of
from serving.gateway.settings import ENVELOPE_BYTES
from serving.gateway.upload import PACE_S, UPLOAD_S, Upload, too_long, too_slow

FORM_FIELD = "file"
# Characters of the name of a file.
MAX_NAME = 255
# A list of labels, of a frame full of nuclei.
MAX_FIELD_BYTES = 2**18
# Of an answer as it is handed to the server, which waits for the caller between two of them.
CHUNK_BYTES = 2**18
# Logged by proxies only, the caller has left; nginx's number.
CLIENT_CLOSED_REQUEST = 499

Fields = list[tuple[str, str]]
"""Names and values of the fields of a form, the file left out."""


class CallerLeft(asyncio.CancelledError):
    """The caller hung up while the frame was in work."""


class HeldResponse(Response):
    """An answer that is sent as fast as its caller takes it.

    One with a rest is made while it is sent. What goes wrong then cannot be answered any more: the
    connection ends before the answer does, so that no caller takes a part for the whole.

    Attributes:
        held: closed once it is sent, or the caller has left.
        rest: what follows the body; None where that is all.
        held_bytes: memory that the answer takes until it is sent.
    """

    held: AbstractContextManager[object]

    def __init__(
        self,
        body: bytes,
        media_type: str = "",
        headers: Mapping[str, str] | None = None,
        rest: AsyncIterator[bytes] | None = None,
        rest_bytes: int = 0,
    ) -> None:
        """Make it.

        Args:
            body: all of it, or what it begins with.
            media_type, headers: of the answer.
            rest: makes what follows.
            rest_bytes: memory of what the rest is made of.
        """
        super().__init__(body, media_type=media_type or None, headers=headers)
        self.rest = rest
        self.held_bytes = len(body) + rest_bytes
        if rest is not None:
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            with self.held:
                if self.rest is None:
                    await self._send(send)
                else:
                    await first_completed(self._send(send), left(request), stopping(request))
        except (CallerLeft, NucleiError):  # logged by what is held
            return

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        body = memoryview(self.body)
        for start in range(0, len(body), CHUNK_BYTES):
            chunk = body[start : start + CHUNK_BYTES].tobytes()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if self.rest is not None:
            async for piece in self.rest:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class EncodedFrame:
    """The file of a frame: a `serving.gateway.data_plane.FrameSource`."""

    def __init__(self, file: bytes, name: str, options: FrameOptions) -> None:
        """Args: name: of the file, as its caller calls it; empty when unknown."""
        self.file: bytes | None = file
        self._name = name
        self._options = options
        self._decoded: Frame | None = None

    def frame_options(self) -> FrameOptions:
        return self._options

    def take(self, decoded: Frame) -> None:
        self._decoded = replace(decoded, name=self._name)

    def probe(self, limits: FrameLimits) -> Header:
        height, width, channels = self.read(limits).pixels.shape
        return Header(height, width, channels, self.read(limits).pixels.itemsize)

    def read(self, limits: FrameLimits) -> Frame:
        assert self._decoded is not None
        return self._decoded


class Observed(Protocol):
    """What is noted of a request.

    Attributes:
        protocol: for the metrics of admission.
    """

    protocol: str


Noted = TypeVar("Noted", bound=Observed)


async def answered(
    request: Request,
    observing: AbstractContextManager[Noted],
    answer: Callable[[Noted, Permit], Awaitable[HeldResponse]],
) -> Response:
    """The answer to a request with a frame, which holds memory until its caller has taken it.

    Args:
        request: what came.
        observing: measures and logs what happens.
        answer: makes the answer, with the permit of the frame.

    Raises:
        Overloaded: there is no place for the frame now.
        NucleiError: what `answer` raises.
    """
    data_plane: DataPlane = request.app.state.data_plane
    try:
        with ExitStack() as held, ExitStack() as noting:
            observation = noting.enter_context(observing)
            permit = data_plane.admission.admit(observation.protocol, _caller(request))
            held.enter_context(permit)
            response = await answer(observation, permit)
            permit.resize(min(permit.n_bytes, response.held_bytes))
            if response.rest is not None:
                # What is made while it is sent is noted as well.
                held.push(noting.pop_all())
            # Until a slow caller has taken the answer, it is in memory.
            response.held = held.pop_all()
            return response
    except CallerLeft:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


def stopping(request: Request) -> Ending:
    """The end of the time for draining."""
    return request.app.state.drained.wait(), frame_given_up()


def left(request: Request) -> Ending:
    """The caller has hung up; only once the body was received."""
    return _gone(request), CallerLeft()


def server_timing(stage_ms: Mapping[str, float]) -> str:
    """The header Server-Timing with the time of each step, milliseconds."""
    return ", ".join(f"{stage};dur={value:.1f}" for stage, value in stage_ms.items())


async def body_of(request: Request, max_bytes: int, permit: Permit) -> tuple[bytes, str, Fields]:
    """The encoded frame, its file's name and other fields.

    It is the body itself, without a name, or the field `file` of a multipart form.

    Args:
        request: whose body is received.
        max_bytes: longest frame.
        permit: holds memory for what has arrived.

    Raises:
        InvalidImage: a form that cannot be read or has no file, or a caller that hung up.
        FrameTooLarge, Overloaded, DeadlineExceeded: as `serving.gateway.upload`.
        UnsupportedEncoding: compressed in another way than gzip.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = media_type == "multipart/form-data"
    allowed = max_bytes + ENVELOPE_BYTES if is_form else max_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > allowed:
        raise _too_large(allowed)
    inflated = decoded(request.receive, request.headers.get("content-encoding", ""))
    limited = Request(request.scope, _limited(inflated, allowed, permit))
    try:
        async with asyncio.timeout(UPLOAD_S):
            if not is_form:
                return await _joined(limited), "", []
            async with limited.form(
                max_files=1, max_fields=len(PARAMETERS), max_part_size=MAX_FIELD_BYTES
            ) as form:
                upload = form.get(FORM_FIELD)
                if isinstance(upload, UploadFile):
                    name = shortened(printable(upload.filename or ""), MAX_NAME)
                    return await upload.read(), name, _text_fields(form)
    except TimeoutError as error:
        raise too_long() from error
    except ClientDisconnect as error:
        raise InvalidImage("the caller hung up before the whole frame had arrived") from error
    except (MultiPartException, HTTPException) as error:
        raise InvalidImage(
            f"the multipart form cannot be read ({error}); expected one file in the field "
            f"'{FORM_FIELD}', and options as fields"
        ) from error
    raise InvalidImage(f"the form has no file in the field '{FORM_FIELD}'; send the image there")


async def _joined(request: Request) -> bytes:
    """The body; `request.body()` would hold it twice at its end."""
    joined = io.BytesIO()
    async for chunk in request.stream():
        joined.write(chunk)
    return joined.getvalue()


def _text_fields(form: FormData) -> list[tuple[str, str]]:
    return [(name, value) for name, value in form.multi_items() if isinstance(value, str)]


def _limited(receive: Receive, max_bytes: int, permit: Permit) -> Receive:
    """A receive that stops reading a body once it is longer than allowed, too slow, or no memory
    is left for it."""
    received = 0
    upload = Upload(permit)

    async def limited() -> Message:
        nonlocal received
        try:
            async with asyncio.timeout(PACE_S):
                message = await receive()
        except TimeoutError:
            raise too_slow() from None
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(max_bytes)
        upload.arrived(received, received)
        return message

    return limited


def _too_large(max_bytes: int) -> FrameTooLarge:
    return FrameTooLarge(
        f"the request has more than {max_bytes} bytes; expected at most that: crop the frame or "
        "compress it"
    )


def _caller(request: Request) -> str:
    client = request.client
    return "" if client is None else name_of(client.host, client.port)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
