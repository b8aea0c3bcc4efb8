"""ND2 files of version 2, laid out as Nikon's are: chunks, described in XML, and a map of them."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = 0x0ABECEDA
# From the start of a chunk to its data, where a name is reserved so much.
RESERVED = 4088
ALIGNED = 4096
TIME_LOOP, Z_LOOP = 1, 4


def write_nd2(path: Path, stack: NDArray[Any], channels: tuple[str, ...], um: float = 0.5) -> None:
    """A stack [T, Z, C, Y, X] of 16 bit."""
    chunks = {
        b"ImageAttributes!": _attributes(stack),
        b"ImageMetadataSeq|0!": _metadata(channels, um),
        b"ImageMetadata!": _experiment(stack),
    }
    frames = stack.reshape(-1, *stack.shape[2:])
    for number, frame in enumerate(frames):
        pixels = np.ascontiguousarray(np.moveaxis(frame, 0, -1))
        chunks[b"ImageDataSeq|%d!" % number] = struct.pack("<d", number) + pixels.tobytes()
    with path.open("wb") as file:
        name, version = b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver2.1"
        file.write(struct.pack("<IIQ32s64s", MAGIC, 32, 64, name, version))
        listed = b""
        for name, data in chunks.items():
            file.write(bytes(-file.tell() % ALIGNED))
            listed += name + struct.pack("<QQ", file.tell(), len(data))
            file.write(_chunk(name, data, RESERVED - 16))
        file.write(bytes(-file.tell() % ALIGNED))
        listed += b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", file.tell())
        file.write(_chunk(b"ND2 FILEMAP SIGNATURE NAME 0001!", listed, 32))


def _chunk(name: bytes, data: bytes, name_length: int) -> bytes:
    head = struct.pack("<IIQ", MAGIC, name_length, len(data))
    return head + name.ljust(name_length, b"\0") + data


def _attributes(stack: NDArray[Any]) -> bytes:
    n_t, n_z, n_c, height, width = stack.shape
    return _variant(
        uiWidth=width,
        uiHeight=height,
        uiWidthBytes=width * n_c * 2,
        uiComp=n_c,
        uiBpcInMemory=16,
        uiBpcSignificant=16,
        uiSequenceCount=n_t * n_z,
        eCompression=2,
    )


def _metadata(channels: tuple[str, ...], um: float) -> bytes:
    planes = {
        f"a{number}": {
            "uiCompCount": 1,
            "uiColor": 255,
            "sDescription": name,
            "pFluorescentProbe": {"m_sName": name},
        }
        for number, name in enumerate(channels)
    }
    pictures = {"uiCount": len(channels), "uiCompCount": len(channels), "sPlaneNew": planes}
    return _variant(bCalibrated=True, dCalibration=um, dAspect=1.0, sPicturePlanes=pictures)


def _experiment(stack: NDArray[Any]) -> bytes:
    """Time points, and the slices of each."""
    times = {"uiCount": stack.shape[0], "dStart": 0.0, "dPeriod": 1000.0, "dDuration": 0.0}
    slices = {"uiCount": stack.shape[1], "dZStep": 1.0}
    return _variant(
        eType=TIME_LOOP,
        uLoopPars=times,
        ppNextLevelEx={"i0000000000": {"eType": Z_LOOP, "uLoopPars": slices}},
    )


def _variant(**values: Any) -> bytes:
    text = "".join(_tag(name, value) for name, value in {"no_name": values}.items())
    return f'<?xml version="1.0"?><variant version="1.0">{text}</variant>'.encode()


def _tag(name: str, value: Any) -> str:
    match value:
        case dict():
            inside = "".join(_tag(*item) for item in value.items())
            return f'<{name} runtype="CLxListVariant">{inside}</{name}>'
        case bool():
            return f'<{name} runtype="bool" value="{str(value).lower()}"/>'
        case int():
            return f'<{name} runtype="lx_uint32" value="{value}"/>'
        case float():
            return f'<{name} runtype="double" value="{value}"/>'
        case _:
            return f'<{name} runtype="CLxStringW" value="{value}"/>'
