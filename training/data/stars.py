"""Training targets for star-convex nuclei.

Schmidt et al. 2018, "Cell Detection with Star-convex Polygons": for every cell of a grid, its depth
in a nucleus, and its distances to the nucleus' outline in 32 directions.
"""

import math

import numpy as np
from numba import float32, types, uint16, void
from numpy.typing import NDArray

from nuclei.jit import kernel
from training.data.targets import distance

N_RAYS = 32
GRID_PX = 2
# A ray that leaves the image before it reaches the outline.
UNKNOWN = -1.0
STEP_PX = 0.25

_UINT16_2D = types.Array(uint16, 2, "C", readonly=True)


def star_targets(labels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Targets of one label image.

    A cell of the grid is a square of 2 x 2 pixels, located at its centre, so rotating or mirroring
    an image maps cells onto cells.

    Args:
        labels: uint16 [H, W], 0 is background, H and W even.

    Returns:
        float32 [1 + 32, H / 2, W / 2]: depth, the mean of `targets.distance` in a cell; then the
        distances in pixels from its centre to the edge of the nucleus with its deepest pixel, at
        the angles 2 pi k / 32 from +x towards +y, -1 where the image ends first; 0 in background.
    """
    depth, nucleus = _cells(distance(labels)), _cells(labels)
    deepest = depth.argmax(axis=2)[..., None]
    of_cell = np.ascontiguousarray(np.take_along_axis(nucleus, deepest, axis=2)[..., 0])
    targets = np.zeros((1 + N_RAYS, *of_cell.shape), np.float32)
    targets[0] = depth.mean(axis=2)
    _measure_rays(targets[1:], np.ascontiguousarray(labels), of_cell)
    return targets


def _cells(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """[H, W] to [H / 2, W / 2, 4]."""
    height, width = (side // GRID_PX for side in values.shape)
    blocks = values.reshape(height, GRID_PX, width, GRID_PX).swapaxes(1, 2)
    return blocks.reshape(height, width, GRID_PX**2)


@kernel(void(float32[:, :, ::1], _UINT16_2D, _UINT16_2D))
def _measure_rays(
    rays: NDArray[np.float32], labels: NDArray[np.uint16], of_cell: NDArray[np.uint16]
) -> None:
    """Fill rays [R, H / 2, W / 2], from each cell to the edge of its nucleus."""
    height, width = labels.shape
    n_rays = rays.shape[0]
    centre = (GRID_PX - 1) / 2
    for k in range(n_rays):
        dy, dx = math.sin(2 * math.pi * k / n_rays), math.cos(2 * math.pi * k / n_rays)
        for i in range(of_cell.shape[0]):
            for j in range(of_cell.shape[1]):
                nucleus = of_cell[i, j]
                if nucleus == 0:
                    continue
                y0, x0 = GRID_PX * i + centre + 0.5, GRID_PX * j + centre + 0.5
                length = STEP_PX
                while True:
                    y, x = math.floor(y0 + length * dy), math.floor(x0 + length * dx)
                    if y < 0 or y >= height or x < 0 or x >= width:
                        rays[k, i, j] = UNKNOWN
                        break
                    if labels[y, x] != nucleus:
                        rays[k, i, j] = length - STEP_PX / 2
                        break
                    length += STEP_PX
