"""The picture of the README: what the shipped model finds in the frames of `examples/`.

    .venv/bin/python benchmarks/examples_picture.py

Writes docs/examples.jpg: squares of the overlays that `nuclei segment --format overlay` writes.
"""

import argparse
import asyncio
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.formats.overlay import overlay
from nuclei.imaging.images import read_frame
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "examples.jpg"
# The top, the left and the side of a square of each frame, in its pixels.
SQUARES_PX = {
    "fluorescence.png": (40, 0, 320),
    "fluorescence_16bit.tif": (0, 0, 360),
    "histology_2.png": (0, 40, 256),
    "brightfield.png": (330, 0, 640),
}
PANEL_PX = 480
JPEG_QUALITY = 88


def panel(name: str, engine: LocalEngine) -> NDArray[np.uint8]:
    """The square of a frame with its outlines: uint8 RGB [PANEL_PX, PANEL_PX, 3]."""
    frame = read_frame(ROOT / "examples" / name)
    found = asyncio.run(segment(frame, engine, engine.find("unet")))
    picture = overlay(frame, found.labels)
    times = len(picture) // len(frame.pixels)
    top, left, side = (times * value for value in SQUARES_PX[name])
    square = picture[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side > PANEL_PX else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (PANEL_PX, PANEL_PX), interpolation=how), np.uint8)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    engine = LocalEngine(ROOT / "model_repository")
    picture = np.hstack([panel(name, engine) for name in SQUARES_PX])
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    PICTURE.write_bytes(file.tobytes())


if __name__ == "__main__":
    main()
