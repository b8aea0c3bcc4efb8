"""Label images as compressed bytes, the way they travel in replies.

zstd (RFC 8878) comes from the standard library, before Python 3.14 from its backport.
"""

import sys

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidData

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def compress_labels(labels: NDArray[np.uint32]) -> bytes:
    """One zstd frame of the label image [H, W]: little-endian uint32, row by row."""
    return zstd.compress(np.ascontiguousarray(labels, "<u4").data, level=1)


def decompress_labels(data: bytes, height: int, width: int) -> NDArray[np.uint32]:
    """Inverse of `compress_labels`: uint32 [height, width].

    Raises:
        InvalidData: damaged, or of another size.
    """
    size = 4 * height * width
    decompressor = zstd.ZstdDecompressor()
    try:
        plain = decompressor.decompress(data, max_length=size + 1)
    except zstd.ZstdError as error:
        raise InvalidData(f"the label image cannot be decompressed ({error})") from error
    if len(plain) != size or not decompressor.eof:
        raise InvalidData(
            f"the label image is not the {size} bytes of {height} x {width} pixels, or is truncated"
        )
    return np.frombuffer(plain, "<u4").astype(np.uint32).reshape(height, width)
