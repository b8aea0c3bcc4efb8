"""Coverage-guided fuzzing of frame decoding: whatever the bytes are, a frame or an error of ours.

.venv-train/bin/python tests/fuzz/decoding.py -max_total_time=600 NEW tests/fuzz/corpus/decoding

Further options are libFuzzer's (`-help=1`). A crash is written to the current folder; put it into
the corpus once it is fixed.
"""

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["nuclei", "tifffile"]):
    from nuclei.errors import InvalidInput
    from nuclei.imaging.frame_options import FrameOptions
    from nuclei.imaging.images import FrameLimits, probe_frame, read_frame, read_labels
    from nuclei.imaging.selection import EVERYTHING, Selection

LIMITS = FrameLimits(max_side_px=2048, max_pixels=2**20, max_bytes=2**20)
# Of a file with one plane the first one has an answer, of one with several the others.
SELECTIONS = (EVERYTHING, Selection(channel=0, plane=1), Selection(channel=1, project="max"))


def decode(data: bytes) -> None:
    for selection in SELECTIONS:
        with contextlib.suppress(InvalidInput):
            read_as_promised(data, selection)
    with contextlib.suppress(InvalidInput):
        read_labels(data, LIMITS)


def read_as_promised(data: bytes, selection: Selection) -> None:
    header = probe_frame(data, LIMITS, selection)
    frame = read_frame(data, LIMITS, FrameOptions(selection))
    assert frame.pixels.shape[:2] == (header.height, header.width)
    # Three channels may be one in a colour.
    assert frame.pixels.shape[2] in {1, header.channels}
    assert 1 <= header.height * header.width <= LIMITS.max_pixels
    assert header.channels in (1, 3)
    size = frame.pixel_size_um
    assert size is None or (0 < size.y <= 10 and 0 < size.x <= 10)


if __name__ == "__main__":
    atheris.Setup(sys.argv, decode)
    atheris.Fuzz()
