"""PNG files of arrays."""

import cv2
import numpy as np
from numpy.typing import NDArray


def encode_png(picture: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode uint8 RGB [H, W, 3] or uint8 or uint16 grey [H, W] as PNG."""
    stored = picture if picture.ndim == 2 else picture[:, :, ::-1]
    _, data = cv2.imencode(".png", stored, (cv2.IMWRITE_PNG_COMPRESSION, 1))
    return data.tobytes()
