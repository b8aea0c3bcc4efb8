"""The nuclei of regions that overlap, put together into those of the whole: none is cut or double.

A region is a core, and a halo around it that it shares with its neighbours. A nucleus belongs to
the region whose core holds its centre, where it is whole as long as it is no wider than the halo.
Regions may see a nucleus differently: of two that lie on one another the earlier region's is kept,
and one that no core claims, as its centre is elsewhere in each region, is taken in the end.
The result depends on the regions alone, never on the order in which they were segmented.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.boxes import windows

# A nucleus is another one's double where more than this share of its pixels is taken.
DOUBLE = 0.5
# Rows that are drawn at once.
BAND_ROWS = 256


@dataclass(frozen=True)
class Region:
    """A part of a plane.

    Attributes:
        core: its rows and columns; cores cover the plane once.
        window: rows and columns of the core with its halo.
        halo: how far the windows of its neighbours reach into its core, pixels.
    """

    core: tuple[slice, slice]
    window: tuple[slice, slice]
    halo: int

    @property
    def name(self) -> str:
        rows, columns = self.core
        return f"y{rows.start}_x{columns.start}"


@dataclass(frozen=True, eq=False)
class Seen:
    """The nuclei of a region.

    Attributes:
        labels: uint32 [H, W] of its window, 0 is background, 1..N.
        scores: float32 [N].
    """

    labels: NDArray[np.uint32]
    scores: NDArray[np.float32]


def regions(height: int, width: int, side: int, halo: int) -> list[Region]:
    """Cut a plane into regions, row by row.

    Args:
        height, width: of the plane, pixels.
        side: largest height and width of a core, pixels.
        halo: around it, pixels; at least the width of a nucleus.
    """
    return [
        Region(
            (rows, columns),
            (
                slice(max(0, rows.start - halo), min(height, rows.stop + halo)),
                slice(max(0, columns.start - halo), min(width, columns.stop + halo)),
            ),
            halo,
        )
        for rows, columns in product(_parts(height, side), _parts(width, side))
    ]


def stitch(
    found: Iterable[Region], seen: Callable[[Region], Seen], labels: NDArray[np.uint32]
) -> tuple[NDArray[np.float32], int]:
    """Draw the nuclei of all regions; of each, twice, what was seen of it is in memory.

    Args:
        found: all regions of the plane.
        seen: the nuclei of one.
        labels: uint32 [H, W], zeros; the nuclei are drawn into it, 1..N.

    Returns:
        scores: float32 [N].
        cut: how many nuclei are wider than the halo and may be cut.
    """
    all_of_them = list(found)
    scores: list[NDArray[np.float32]] = []
    count = cut = 0
    for unclaimed in (False, True):
        for region in all_of_them:
            drawing = _Drawing(region, seen(region), labels)
            numbers = drawing.unclaimed() if unclaimed else drawing.claimed()
            taken = drawing.draw(numbers, count)
            cut += 0 if unclaimed else drawing.cut(taken)
            scores.append(drawing.scores[taken - 1])
            count += len(taken)
    return np.concatenate(scores), cut


class _Drawing:
    """The nuclei of one region, and the labels that they are drawn into."""

    def __init__(self, region: Region, seen: Seen, labels: NDArray[np.uint32]) -> None:
        self._labels = labels[region.window]
        self._seen = seen.labels
        self.scores = seen.scores
        height, width = labels.shape
        rows, columns = region.window
        # Of the window: where its core begins and ends, and which sides are inside the plane.
        self._core = np.array(
            [
                [region.core[0].start - rows.start, region.core[0].stop - rows.start],
                [region.core[1].start - columns.start, region.core[1].stop - columns.start],
            ]
        )
        self._inner = np.array(
            [
                [rows.start > 0, rows.stop < height],
                [columns.start > 0, columns.stop < width],
            ]
        )
        self._halo = region.halo
        self._has_neighbour = np.array(
            [
                [region.core[0].start > 0, region.core[0].stop < height],
                [region.core[1].start > 0, region.core[1].stop < width],
            ]
        )
        self._boxes = list(windows(seen.labels))
        # [N, 2, 2]: rows and columns, first and just beyond the last.
        self._sides = np.array(
            [
                [[0, 0], [0, 0]]
                if box is None
                else [[box[0].start, box[0].stop], [box[1].start, box[1].stop]]
                for box in self._boxes
            ],
            np.int64,
        ).reshape(-1, 2, 2)
        self._is_there = self._sides[:, 0, 1] > 0

    def claimed(self) -> NDArray[np.int64]:
        """Numbers of the nuclei whose centre is in the core."""
        return np.flatnonzero(self._is_there & self._centre_is_in(self._core)) + 1

    def unclaimed(self) -> NDArray[np.int64]:
        """Numbers of the others whose centre is within half the halo, and that are whole."""
        size = np.array(self._seen.shape)
        reach = np.stack([self._core[:, 0] // 2, (self._core[:, 1] + size + 1) // 2], axis=1)
        near = self._centre_is_in(reach) & ~self._centre_is_in(self._core)
        return np.flatnonzero(self._is_there & near & ~self._touches_inner_side()) + 1

    def cut(self, numbers: NDArray[np.int64]) -> int:
        return int(self._touches_inner_side()[numbers - 1].sum())

    def draw(self, numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Draw nuclei where nothing is yet, numbered from `count` + 1; return which were."""
        # Where no window of a neighbour reaches, a nucleus lies on nothing.
        alone = np.where(
            self._has_neighbour,
            np.stack([self._core[:, 0] + self._halo, self._core[:, 1] - self._halo], axis=1),
            np.stack([np.zeros(2, np.int64), np.array(self._seen.shape)], axis=1),
        )
        sides = self._sides[numbers - 1]
        within = (sides[:, :, 0] >= alone[:, 0]) & (sides[:, :, 1] <= alone[:, 1])
        is_alone = np.asarray(within.all(axis=1))
        taken = [
            number
            for number, free in zip(numbers.tolist(), is_alone.tolist(), strict=True)
            if free or self._is_free(number)
        ]
        table = np.zeros(len(self._boxes) + 1, np.uint32)
        for number in taken:
            count += 1
            table[number] = count
        for start in range(0, len(self._seen), BAND_ROWS):
            band = slice(start, start + BAND_ROWS)
            drawn = table[self._seen[band]]
            np.copyto(self._labels[band], drawn, where=(drawn > 0) & (self._labels[band] == 0))
        return np.array(taken, np.int64)

    def _is_free(self, number: int) -> bool:
        box = self._boxes[number - 1]
        assert box is not None
        of_nucleus = self._seen[box] == number
        on_others = self._labels[box][of_nucleus] > 0
        return bool(on_others.mean() <= DOUBLE)

    def _centre_is_in(self, part: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the middle of the box is, whose rounding is the same in every region."""
        middle = self._sides.sum(axis=2) // 2
        return np.asarray(((middle >= part[:, 0]) & (middle < part[:, 1])).all(axis=1))

    def _touches_inner_side(self) -> NDArray[np.bool_]:
        first = (self._sides[:, :, 0] == 0) & self._inner[:, 0]
        last = (self._sides[:, :, 1] == np.array(self._seen.shape)) & self._inner[:, 1]
        return np.asarray((first | last).any(axis=1))


def _parts(length: int, side: int) -> list[slice]:
    count = -(-length // side)
    ends = [round(n * length / count) for n in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]
