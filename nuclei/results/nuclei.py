"""The nuclei of a frame: their features, in columns."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Features of N nuclei, one row per nucleus, by ascending label.

    Coordinates are (y, x) with the centre of the first pixel at (0, 0).

    Attributes:
        label: uint32 [N], value of the nucleus in the label image.
        area_px: int64 [N], number of pixels.
        centroid_px: float32 [N, 2], (y, x).
        box_px: int32 [N, 4], (y0, x0, y1, x1), y1 and x1 just outside.
        eccentricity: float32 [N], of the ellipse with the same second moments; 0 is a circle.
        mean_intensity: float32 [N], mean over pixels and channels, in units of the raw pixels.
        score: float32 [N], mean foreground probability, in [0, 1].
    """

    label: NDArray[np.uint32]
    area_px: NDArray[np.int64]
    centroid_px: NDArray[np.float32]
    box_px: NDArray[np.int32]
    eccentricity: NDArray[np.float32]
    mean_intensity: NDArray[np.float32]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)

    def where(self, kept: NDArray[np.bool_]) -> "Nuclei":
        """Some of them, in the same order; `kept` is bool [N]."""
        return Nuclei(*(getattr(self, field.name)[kept] for field in fields(self)))

    def area_um2(self, pixel_size_um: tuple[float, float]) -> NDArray[np.float32]:
        """Areas, float32 [N], square micrometres; pixel size as (y, x)."""
        size_y, size_x = pixel_size_um
        return np.asarray(self.area_px * (size_y * size_x), np.float32)

    def centroid_um(self, pixel_size_um: tuple[float, float]) -> NDArray[np.float32]:
        """Centroids (y, x), float32 [N, 2], micrometres from the centre of the first pixel."""
        return np.asarray(self.centroid_px * np.array(pixel_size_um), np.float32)

    def box_um(self, pixel_size_um: tuple[float, float]) -> NDArray[np.float32]:
        """Boxes (y0, x0, y1, x1), float32 [N, 4], micrometres from the frame's upper left."""
        return np.asarray(self.box_px * np.tile(pixel_size_um, 2), np.float32)
