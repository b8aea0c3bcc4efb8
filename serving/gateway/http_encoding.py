"""Compressed bodies of HTTP requests, decompressed as they arrive."""

import asyncio
import zlib
from collections import deque

from starlette.types import Message, Receive

from nuclei.errors import InvalidImage, UnsupportedEncoding
from nuclei.quoting import quoted

GZIP = ("gzip", "x-gzip")
# Decompressed at a time, so that the receiver can stop a body that inflates without end.
PIECE_BYTES = 2**20
_GZIP_WBITS = 16 + zlib.MAX_WBITS


def decoded(receive: Receive, content_encoding: str) -> Receive:
    """A receive that gives the body as it was before the caller compressed it.

    Args:
        receive: gives the body as it was sent.
        content_encoding: the header Content-Encoding; gzip, or nothing.

    Raises:
        UnsupportedEncoding: another encoding.
    """
    encodings = [name.strip().lower() for name in content_encoding.split(",")]
    encodings = [name for name in encodings if name not in ("", "identity")]
    if not encodings:
        return receive
    if len(encodings) > 1 or encodings[0] not in GZIP:
        raise UnsupportedEncoding(
            f"the header Content-Encoding is {quoted(content_encoding)}; expected gzip or none: "
            "PNG and compressed TIFF files gain nothing by it"
        )
    return _Inflated(receive).receive


class _Inflated:
    """The body of a request, inflated piece by piece."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._inflate = zlib.decompressobj(_GZIP_WBITS)
        self._waiting: deque[bytes] = deque()
        self._more = True

    async def receive(self) -> Message:
        """The next piece of the body.

        Raises:
            InvalidImage: the data are damaged, or end early.
        """
        await asyncio.sleep(0)  # other requests go on while one chunk gives many pieces
        if not self._waiting and self._more:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._more = message.get("more_body", False)
            self._waiting.append(message.get("body", b""))
        piece = self._next_piece()
        if not (self._waiting or self._more or self._inflate.eof):
            raise InvalidImage("the gzip data of the body end early; send all of them")
        return {
            "type": "http.request",
            "body": piece,
            "more_body": bool(self._waiting) or self._more,
        }

    def _next_piece(self) -> bytes:
        data = self._waiting.popleft() if self._waiting else b""
        try:
            piece = self._inflate.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise InvalidImage(
                f"the gzip data of the body are damaged ({error}); send them again"
            ) from error
        if self._inflate.unused_data:
            raise InvalidImage("the body goes on after the end of its gzip data; send one member")
        if len(piece) == PIECE_BYTES:  # there may be more of it
            self._waiting.append(self._inflate.unconsumed_tail)
        return piece
