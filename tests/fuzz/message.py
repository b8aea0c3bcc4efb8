"""Coverage-guided fuzzing of messages: whatever the bytes are, a frame to segment or InvalidInput.

.venv-train/bin/python tests/fuzz/message.py -max_total_time=600 NEW tests/fuzz/corpus/message
"""

import sys

import atheris
from google.protobuf.message import DecodeError

# Modules with compiled loops cannot be instrumented.
import nuclei.imaging.boxes
import nuclei.imaging.intensity
import nuclei.imaging.resampling
import nuclei.postprocessing.measurement
import nuclei.postprocessing.rendering
import nuclei.postprocessing.shapes
import nuclei.postprocessing.watershed
import nuclei.quality.measures  # noqa: F401

with atheris.instrument_imports(include=["nuclei", "serving"]):
    from nuclei.errors import InvalidInput
    from nuclei.imaging.images import FrameLimits, read_frame
    from serving.gateway.grpc_messages import FrameRequest

from nuclei.v1 import segmentation_pb2 as pb

LIMITS = FrameLimits(max_side_px=2048, max_pixels=2**20, max_bytes=2**20)


def read(data: bytes) -> None:
    try:
        message = pb.SegmentRequest.FromString(data)
    except DecodeError:
        return
    try:
        request = FrameRequest(message)
        check_echo(request)
        request.options(None)
        if request.file is not None:
            request.take(read_frame(request.file, LIMITS))
        frame = request.read(LIMITS)
    except InvalidInput:
        return
    assert frame.pixels.size <= 3 * LIMITS.max_pixels


def check_echo(request: FrameRequest) -> None:
    """What a reply repeats is short and printable, whatever was sent."""
    reply = pb.SegmentResponse()
    request.echo(reply)
    assert reply.ByteSize() < 1000
    assert (reply.request_id + reply.index.acquisition_uid).isprintable()


if __name__ == "__main__":
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
