"""Coverage-guided fuzzing of frame decoding: whatever the bytes are, a frame or InvalidImage.

.venv-train/bin/python tests/fuzz/decoding.py -max_total_time=600 NEW tests/fuzz/corpus/decoding

Further options are libFuzzer's (`-help=1`). A crash is written to the current folder; put it into
the corpus once it is fixed.
"""

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["nuclei", "tifffile"]):
    from nuclei.errors import InvalidImage
    from nuclei.imaging.images import FrameLimits, read_frame, read_labels

from nuclei.errors import InvalidData

LIMITS = FrameLimits(max_side_px=2048, max_pixels=2**20, max_bytes=2**20)


def decode(data: bytes) -> None:
    try:
        frame = read_frame(data, LIMITS)
    except InvalidImage:
        pass
    else:
        height, width, channels = frame.pixels.shape
        assert 1 <= height * width <= LIMITS.max_pixels
        assert channels in (1, 3)
    with contextlib.suppress(InvalidImage, InvalidData):
        read_labels(data, LIMITS)


if __name__ == "__main__":
    atheris.Setup(sys.argv, decode)
    atheris.Fuzz()
