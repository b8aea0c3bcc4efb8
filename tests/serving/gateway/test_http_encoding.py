import gzip
import zlib

import pytest
from starlette.types import Message

from nuclei.errors import InvalidImage, UnsupportedEncoding
from serving.gateway.http_encoding import PIECE_BYTES, decoded

TEXT = bytes(range(256)) * 5000


class Body:
    """The chunks of a body, as an ASGI server gives them."""

    def __init__(self, data: bytes, chunk: int) -> None:
        self._chunks = [data[start : start + chunk] for start in range(0, len(data), chunk)] or [
            b""
        ]

    async def receive(self) -> Message:
        if not self._chunks:
            return {"type": "http.disconnect"}
        body = self._chunks.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self._chunks)}


async def pieces(data: bytes, encoding: str, chunk: int = 1000) -> list[bytes]:
    receive = decoded(Body(data, chunk).receive, encoding)
    found, more = [], True
    while more:
        message = await receive()
        found.append(message["body"])
        more = message["more_body"]
    return found


@pytest.mark.parametrize("chunk", [1, 1000, 10**7])
@pytest.mark.parametrize("data", [TEXT, b"", bytes(3 * PIECE_BYTES), bytes(PIECE_BYTES)])
async def test_gzip_is_undone(data: bytes, chunk: int) -> None:
    if chunk == 1 and len(data) == len(TEXT):
        data = data[:5000]
    assert b"".join(await pieces(gzip.compress(data), "gzip", chunk)) == data


@pytest.mark.parametrize("encoding", ["", "identity"])
async def test_what_is_not_encoded_stays(encoding: str) -> None:
    assert b"".join(await pieces(TEXT, encoding)) == TEXT


async def test_a_body_that_inflates_comes_in_small_pieces() -> None:
    bomb = gzip.compress(bytes(2**26))
    found = await pieces(bomb, "gzip", len(bomb))
    assert max(map(len, found)) <= PIECE_BYTES


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br"])
async def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="expected gzip"):
        await pieces(TEXT, encoding)


DAMAGED = {
    "cut": gzip.compress(TEXT)[:-20],
    "nothing": b"",
    "plain": TEXT,
    "zlib": zlib.compress(TEXT),
    "flipped": gzip.compress(TEXT)[:-5] + bytes([gzip.compress(TEXT)[-5] ^ 1]) + bytes(4),
    "followed": gzip.compress(TEXT) + b"more",
}


@pytest.mark.parametrize("chunk", [100, 10**7])
@pytest.mark.parametrize("case", DAMAGED)
async def test_damaged_data_are_refused(case: str, chunk: int) -> None:
    with pytest.raises(InvalidImage, match="gzip"):
        await pieces(DAMAGED[case], "gzip", chunk)
