"""Square tiles with a halo: cut from a frame, their maps put together again.

Every pixel of the result comes from the tile in which it lies deepest, at least `halo` pixels from
any edge of a tile that is not an edge of the frame: a network that looks no further than the halo
gives the same maps with tiles of any size. Where the frame is shorter than a tile, its mirror image
fills the rest of the tile.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidOption

TILE_OVERHEAD_PX = 64 * 64


@dataclass(frozen=True)
class Tile:
    """One tile of a frame.

    Attributes:
        y, x: first row and column of the tile, pixels of the frame.
        rows, columns: the part of the frame for which this tile is used.
    """

    y: int
    x: int
    rows: slice
    columns: slice


@dataclass(frozen=True)
class TilePlan:
    """How a frame is cut.

    Attributes:
        height, width: of the frame, pixels.
        size: side of every tile, pixels.
        tiles: row by row; together their parts cover the frame once.
    """

    height: int
    width: int
    size: int
    tiles: tuple[Tile, ...]


@lru_cache(maxsize=64)
def plan_tiles(height: int, width: int, largest: int, halo: int, stride: int) -> TilePlan:
    """Choose the tile size that computes the fewest pixels, and place the tiles evenly.

    Args:
        height, width: of the frame, pixels, at least 1.
        largest: largest side of a tile, pixels, multiple of `stride`.
        halo: context around the used part of a tile, pixels.
        stride: tile sides are multiples of this, pixels.

    Raises:
        InvalidOption: `largest` is not a multiple of `stride` or not above twice the halo.
    """
    if largest % stride or largest <= 2 * halo:
        raise InvalidOption(
            f"tile size {largest} must be a multiple of {stride} and exceed twice the halo, {halo}"
        )
    sizes = [size for size in range(stride, largest + 1, stride) if size > 2 * halo]
    fits = [size for size in range(stride, largest + 1, stride) if size >= max(height, width)]

    def cost(size: int) -> int:
        count = _count(height, size, halo) * _count(width, size, halo)
        return count * (size * size + TILE_OVERHEAD_PX)

    size = min([*fits[:1], *sizes], key=cost)
    tiles = tuple(
        Tile(y, x, rows, columns)
        for y, rows in _intervals(height, size, halo)
        for x, columns in _intervals(width, size, halo)
    )
    return TilePlan(height, width, size, tiles)


def mirrored(pixels: NDArray[Any], plan: TilePlan) -> NDArray[Any]:
    """The frame [H, W, C], padded by its mirror image where a side is shorter than a tile."""
    missing = [(0, max(0, plan.size - side)) for side in pixels.shape[:2]]
    if not any(after for _, after in missing):
        return pixels
    return np.pad(pixels, [*missing, (0, 0)], mode="symmetric")


def cut(pixels: NDArray[Any], tile: Tile, plan: TilePlan) -> NDArray[np.uint16]:
    """One tile of a frame, uint16 [size, size, C], a copy.

    Args:
        pixels: uint8 or uint16 [H, W, C], mirrored.
    """
    part = pixels[tile.y : tile.y + plan.size, tile.x : tile.x + plan.size]
    return part.astype(np.uint16, order="C")


def place(maps: NDArray[np.uint8], tile: Tile, whole: NDArray[np.uint8]) -> None:
    """Copy the part of a tile's maps that is used into the maps of the frame.

    Args:
        maps: uint8 [K, size, size].
        whole: uint8 [K, H, W].
    """
    rows = slice(tile.rows.start - tile.y, tile.rows.stop - tile.y)
    columns = slice(tile.columns.start - tile.x, tile.columns.stop - tile.x)
    whole[:, tile.rows, tile.columns] = maps[:, rows, columns]


def _count(length: int, size: int, halo: int) -> int:
    if length <= size:
        return 1
    return -(-(length - 2 * halo) // (size - 2 * halo))


def _intervals(length: int, size: int, halo: int) -> list[tuple[int, slice]]:
    """(start, used part) of the tiles along one axis."""
    count = _count(length, size, halo)
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)] if count > 1 else [0]
    cuts = [(left + size + right) // 2 for left, right in pairwise(starts)]
    return [
        (start, slice(first, last))
        for start, first, last in zip(starts, [0, *cuts], [*cuts, length], strict=True)
    ]
