"""JPEG: 8 to 16 bit, baseline, progressive or lossless, grey, RGB or CMYK."""

import struct
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidImage
from nuclei.imaging.decoding.decoded import (
    CheckShape,
    Decoded,
    File,
    Header,
    orientation_warning,
)
from nuclei.imaging.decoding.directories import exif_orientation
from nuclei.imaging.selection import Selection

# Writers of progressive files make about ten. Each costs time for every pixel of the frame.
MAX_SCANS = 64
# Long metadata are cut into a few hundred.
MAX_HEADER_SEGMENTS = 4096

_SOI, _EOI, _SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_FRAMES = {
    0xC0: "baseline",
    0xC1: "sequential",
    0xC2: "progressive",
    0xC3: "lossless",
    0xC9: "arithmetic",
    0xCA: "progressive arithmetic",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical"),
    0xCB: "lossless arithmetic",
}
_READ = (
    "baseline",
    "sequential",
    "progressive",
    "lossless",
    "arithmetic",
    "progressive arithmetic",
)
_SAMPLES = (1, 3, 4)


@dataclass(frozen=True)
class Frame:
    """The header of a JPEG stream.

    Attributes:
        process: of its coding, "baseline" for instance.
        precision: bits of a sample.
        height, width: pixels.
        samples: 1 (grey), 3 (colour) or 4 (CMYK).
        is_kept: whether the decoder keeps all coefficients, for scans that complete one another.
        scans_at: where the first scan begins in the stream.
        exif: the EXIF block, empty where there is none.
    """

    process: str
    precision: int
    height: int
    width: int
    samples: int
    is_kept: bool
    scans_at: int
    exif: bytes

    @property
    def itemsize(self) -> int:
        return 1 if self.precision <= 8 else 2

    @property
    def decoding_bytes(self) -> int:
        """What decoding takes at its peak: the coefficients of all scans, and the pixels."""
        pixels = self.height * self.width * self.samples
        coefficients = pixels * 2 if self.is_kept else 0
        # Blocks at the borders are whole; a band of rows is buffered.
        return coefficients + pixels * self.itemsize + (self.height + self.width) * 512


def frame_of(data: bytes) -> Frame:
    """Read the header of a JPEG stream.

    Raises:
        InvalidImage: a coding that is not read.
        ValueError: damaged.
    """
    position, exif = 2, b""
    frame: tuple[str, int, int, int, int] | None = None
    for _ in range(MAX_HEADER_SEGMENTS):
        position = data.find(b"\xff", position)
        while data[position : position + 1] == b"\xff":
            position += 1
        if position <= 0 or position + 3 > len(data):
            raise ValueError("it ends within its header")
        marker = data[position]
        contents = data[
            position + 3 : position + 1 + int.from_bytes(data[position + 1 : position + 3])
        ]
        if marker == _SOS:
            break
        if marker in _FRAMES:
            precision, height, width, samples = struct.unpack(">BHHB", contents[:6])
            frame = _FRAMES[marker], precision, height, width, samples
        elif marker == _APP1 and contents.startswith(b"Exif\0\0") and not exif:
            exif = contents[6:]
        position += 3 + len(contents)
    else:
        raise InvalidImage("the header of the JPEG is made of too many segments; save it again")
    if frame is None:
        raise ValueError("it has no header")
    process, precision, height, width, samples = frame
    if process not in _READ or samples not in _SAMPLES:
        raise InvalidImage(
            f"the JPEG is {process} with {samples} components, which is not read: save it as a "
            "baseline JPEG, grey or RGB, or better as PNG or TIFF"
        )
    is_kept = "progressive" in process or contents[:1] != bytes([samples])
    return Frame(process, precision, height, width, samples, is_kept, position - 1, exif)


def check_scans(data: bytes, frame: Frame) -> None:
    """Check that a JPEG stream is whole, and its decoding bounded.

    Raises:
        InvalidImage: too many scans.
        ValueError: truncated.
    """
    # Within pixels a byte of 255 is followed by 0, so that only true markers are found.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("it ends before its last row")
    scans = data.count(b"\xff\xda", frame.scans_at)
    if scans > MAX_SCANS:
        raise InvalidImage(
            f"the JPEG is made of {scans} scans; at most {MAX_SCANS} are read: save it again"
        )


def probe(data: File, check_shape: CheckShape, selection: Selection) -> Header:
    """As `nuclei.imaging.decoding.probe`."""
    frame = frame_of(bytes(data))
    check_shape(frame.height, frame.width)
    selection.check_single_plane()
    channels = 1 if frame.samples == 1 or selection.channel is not None else 3
    decoding_bytes = frame.decoding_bytes
    if frame.samples == 4:
        decoding_bytes += frame.height * frame.width * (2 * 3 + 3)
    return Header(frame.height, frame.width, channels, frame.itemsize, decoding_bytes)


def decode(data: File, check_shape: CheckShape, selection: Selection) -> Decoded:
    """As `nuclei.imaging.decoding.decode`."""
    data = bytes(data)  # to be searched; it is small beside its pixels
    probe(data, check_shape, selection)
    frame = frame_of(data)
    check_scans(data, frame)
    pixels = imagecodecs.jpeg8_decode(data)
    if pixels.shape[:2] != (frame.height, frame.width):
        raise ValueError("its pixels cannot be decoded")
    if frame.samples == 4:
        pixels = _rgb_of_cmyk(pixels)
    warnings = orientation_warning(exif_orientation(frame.exif))
    is_lossy = "lossless" not in frame.process
    return Decoded(pixels, is_lossy=is_lossy, warnings=warnings).with_colour(selection)


def _rgb_of_cmyk(pixels: NDArray[np.uint8]) -> NDArray[Any]:
    """uint8 [H, W, 3] of uint8 [H, W, 4]; Adobe, whose form it is, stores 255 for no ink."""
    rgb = pixels[:, :, :3].astype(np.uint16)
    rgb *= pixels[:, :, 3:]
    rgb //= 255
    return rgb.astype(np.uint8)
