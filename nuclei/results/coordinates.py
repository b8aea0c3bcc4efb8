"""From the pixels of a frame to the micrometres of the microscope's stage."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidOption


class PixelSize(NamedTuple):
    """Height and width of one pixel, micrometres; equal to the bare pair (y, x)."""

    y: float
    x: float


@dataclass(frozen=True, eq=False)
class StageTransform:
    """An affine map: stage (x, y) in micrometres = matrix @ (x, y, 1) with x, y in pixels.

    Attributes:
        matrix: float64 [2, 3], invertible. The centre of the first pixel is (0, 0).
    """

    matrix: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Raises InvalidOption when the matrix is not finite or not invertible."""
        finite = bool(np.isfinite(self.matrix).all())
        if not finite or abs(np.linalg.det(self.matrix[:, :2])) < 1e-12:
            raise InvalidOption(
                f"pixel_to_stage is {self.matrix.tolist()}; expected finite numbers that map every "
                "pixel to a place of its own: calibrate the pixel size of the camera"
            )

    @classmethod
    def centred(
        cls,
        centre_um: tuple[float, float],
        pixel_size_um: tuple[float, float],
        shape: tuple[int, int],
    ) -> Self:
        """The map of a frame whose axes run along those of the stage.

        Args:
            centre_um: stage (x, y) of the centre of the frame, micrometres.
            pixel_size_um: (y, x), micrometres.
            shape: (height, width) of the frame, pixels.

        Raises:
            InvalidOption: numbers that are not finite, or not above 0 for the pixel size.
        """
        size_y, size_x = pixel_size_um
        height, width = shape
        x0 = centre_um[0] - size_x * (width - 1) / 2
        y0 = centre_um[1] - size_y * (height - 1) / 2
        return cls(np.array([[size_x, 0, x0], [0, size_y, y0]], np.float64))

    @property
    def pixel_size_um(self) -> PixelSize:
        """How far one pixel is on the stage, micrometres."""
        (xx, xy, _), (yx, yy, _) = self.matrix.tolist()
        return PixelSize(y=math.hypot(xy, yy), x=math.hypot(xx, yx))

    def apply(self, points_px: NDArray[np.float32]) -> NDArray[np.float64]:
        """Map points.

        Args:
            points_px: [N, 2] of (y, x), pixels.

        Returns:
            float64 [N, 2] of (x, y), stage micrometres.
        """
        return points_px[:, ::-1] @ self.matrix[:, :2].T + self.matrix[:, 2]
