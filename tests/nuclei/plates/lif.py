"""LIF files, laid out as Leica describes them: XML, then the pixels of each image."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

SIZES_M = (5e-7, 2.5e-7, 1e-6)
"""Of a pixel along x and y, and between slices."""


def write_lif(path: Path, images: Mapping[str, NDArray[Any]], tables: tuple[str, ...]) -> None:
    """Images [T, Z, C, Y, X] of 16 bit, and the names of the lookup tables of their channels."""
    elements = "".join(
        _element(name, f"MemBlock_{number}", stack, tables)
        for number, (name, stack) in enumerate(images.items())
    )
    root = _named("a.lif", "MemBlock_r", 0, '<Experiment Path="" IsSavedFlag="1"/>', elements)
    header = f'<LMSDataContainerHeader Version="2">{root}</LMSDataContainerHeader>'
    text = header.encode("utf-16-le")
    with path.open("wb") as file:
        file.write(struct.pack("<IIBI", 0x70, len(text) + 5, 0x2A, len(text) // 2) + text)
        file.write(_memory("MemBlock_r", b""))
        for number, stack in enumerate(images.values()):
            file.write(_memory(f"MemBlock_{number}", stack.tobytes()))


def _memory(name: str, data: bytes) -> bytes:
    text = name.encode("utf-16-le")
    about = struct.pack("<BQBI", 0x2A, len(data), 0x2A, len(text) // 2) + text
    return struct.pack("<II", 0x70, len(about)) + about + data


def _element(name: str, block: str, stack: NDArray[Any], tables: tuple[str, ...]) -> str:
    n_t, n_z, n_c, height, width = stack.shape
    t_step, z_step, c_step, y_step, x_step = stack.strides
    channels = "".join(
        f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" LUTName="{table}" '
        'NameOfMeasuredQuantity="" Min="0" Max="1" Unit="" IsLUTInverted="0" '
        f'BytesInc="{number * c_step}" BitInc="0"/>'
        for number, table in enumerate(tables[:n_c])
    )
    x, y, z = SIZES_M
    axes = [
        (1, width, x, "m", x_step),
        (2, height, y, "m", y_step),
        (3, n_z, z, "m", z_step),
        (4, n_t, 1, "s", t_step),
    ]
    dimensions = "".join(
        f'<DimensionDescription DimID="{number}" NumberOfElements="{count}" Origin="0" '
        f'Length="{size * (count - 1)}" Unit="{unit}" BitInc="0" BytesInc="{step}"/>'
        for number, count, size, unit, step in axes
        if count > 1
    )
    image = (
        "<Image><ImageDescription>"
        f"<Channels>{channels}</Channels><Dimensions>{dimensions}</Dimensions>"
        "</ImageDescription></Image>"
    )
    return _named(name, block, stack.nbytes, image, "")


def _named(name: str, block: str, size: int, data: str, children: str) -> str:
    return (
        f'<Element Name="{name}" Visibility="1" CopyOption="1" UniqueID="{block}">'
        f'<Data>{data}</Data><Memory Size="{size}" MemoryBlockID="{block}"/>'
        f"<Children>{children}</Children></Element>"
    )
