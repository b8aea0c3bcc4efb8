"""Tiles with a halo: cut from a frame, their maps put together again.

Every pixel of the result comes from the tile in which it lies deepest, at least `halo` pixels from
any edge of a tile that is not an edge of the frame: a network that looks no further than the halo
gives the same maps with tiles of any size. Where the frame is shorter than a tile, its mirror image
fills the rest of the tile.

All tiles of a frame have one shape, and frames of the same size the same tiles. Which shape that is
depends on the frame: few tiles as large as allowed, with as little in them twice as there can be.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidOption

# What a tile costs besides its pixels, in pixels.
TILE_OVERHEAD_PX = 128 * 128


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
        shape: height and width of every tile, pixels.
        tiles: row by row; together their parts cover the frame once.
    """

    height: int
    width: int
    shape: tuple[int, int]
    tiles: tuple[Tile, ...]

    @property
    def tile_px(self) -> int:
        """Pixels of a tile."""
        return self.shape[0] * self.shape[1]


@lru_cache(maxsize=64)
def plan_tiles(
    height: int, width: int, largest: int, halo: int, stride: int, *, square: bool = False
) -> TilePlan:
    """Choose the shape of tiles that costs least, and place the tiles evenly.

    Args:
        height, width: of the frame, pixels, at least 1.
        largest: no tile has more pixels than a square of this side, pixels, multiple of `stride`.
        halo: context around the used part of a tile, pixels.
        stride: tile sides are multiples of this, pixels.
        square: whether tiles must be as high as they are wide.

    Raises:
        InvalidOption: `largest` is not a multiple of `stride` or not above twice the halo.
    """
    if largest % stride or largest <= 2 * halo:
        raise InvalidOption(
            f"tile size {largest} must be a multiple of {stride} and exceed twice the halo, {halo}"
        )
    rows, columns = _sides(height, halo, stride), _sides(width, halo, stride)
    if square:
        shapes = [
            (side, side)
            for side in {*rows, *columns}
            if side <= largest and (side > 2 * halo or side >= max(height, width))
        ]
    else:
        shapes = [(high, wide) for high in rows for wide in columns if high * wide <= largest**2]

    def cost(shape: tuple[int, int]) -> tuple[int, int, int]:
        high, wide = shape
        count = _count(height, high, halo) * _count(width, wide, halo)
        return count * (high * wide + TILE_OVERHEAD_PX), abs(high - wide), high

    shape = min(shapes, key=cost)
    tiles = tuple(
        Tile(y, x, used_rows, used_columns)
        for y, used_rows in _intervals(height, shape[0], halo)
        for x, used_columns in _intervals(width, shape[1], halo)
    )
    return TilePlan(height, width, shape, tiles)


def mirrored(pixels: NDArray[Any], plan: TilePlan) -> NDArray[Any]:
    """The frame [H, W, C], padded by its mirror image where a side is shorter than a tile."""
    missing = [
        (0, max(0, wanted - side))
        for wanted, side in zip(plan.shape, pixels.shape[:2], strict=True)
    ]
    if not any(after for _, after in missing):
        return pixels
    return np.pad(pixels, [*missing, (0, 0)], mode="symmetric")


def cut(pixels: NDArray[Any], tile: Tile, plan: TilePlan) -> NDArray[np.uint16]:
    """One tile of a frame, uint16 [tile height, tile width, C], a copy.

    Args:
        pixels: uint8 or uint16 [H, W, C], mirrored.
    """
    high, wide = plan.shape
    part = pixels[tile.y : tile.y + high, tile.x : tile.x + wide]
    return part.astype(np.uint16, order="C")


def place(maps: NDArray[np.uint8], tile: Tile, whole: NDArray[np.uint8]) -> None:
    """Copy the part of a tile's maps that is used into the maps of the frame.

    Args:
        maps: uint8 [K, tile height, tile width].
        whole: uint8 [K, H, W].
    """
    rows = slice(tile.rows.start - tile.y, tile.rows.stop - tile.y)
    columns = slice(tile.columns.start - tile.x, tile.columns.stop - tile.x)
    whole[:, tile.rows, tile.columns] = maps[:, rows, columns]


def _sides(length: int, halo: int, stride: int) -> list[int]:
    """Sides that a tile may have along an axis: the shortest for each number of tiles."""
    whole = _multiple(length, stride)
    shortest = _multiple(2 * halo + 1, stride)
    if whole <= shortest:
        return [whole]
    used = length - 2 * halo
    counts = range(2, _count(length, shortest, halo) + 1)
    return sorted({whole, *(_multiple(2 * halo - (-used // count), stride) for count in counts)})


def _multiple(length: int, stride: int) -> int:
    """The least multiple of the stride that is no shorter."""
    return -(-length // stride) * stride


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
