"""What the gateway asks of its decoders, and what they answer.

Requests are pickled. Answers are JSON, of which only what is expected is taken: a file may have
taken over the process that answers.
"""

import json
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from nuclei.errors import ChoiceRequired, NucleiError
from nuclei.imaging.decoding import Header
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import Frame, FrameLimits
from nuclei.imaging.selection import Choices

# A longer answer is none: files cannot make the gateway read more.
MAX_MESSAGE_BYTES = 2**17
MAX_TEXT_LENGTH = 2**12
# Of the channels of a file, which names as many as it likes.
MAX_NAMES, MAX_NAME_LENGTH = 256, 64


@dataclass(frozen=True)
class Probe:
    """Read the header of the file that is in a segment; answered by a Header.

    Attributes:
        n_bytes: length of the file.
        limits: the largest frame.
        options: how the frame is to be read.
        memory_bytes: most memory for it, besides the segments.
    """

    n_bytes: int
    limits: FrameLimits
    options: FrameOptions
    memory_bytes: int


@dataclass(frozen=True)
class Read:
    """Write the pixels of that file into a segment; answered by the rest of a Frame.

    Attributes:
        memory_bytes: most memory for it, besides the segments.
    """

    memory_bytes: int


Request = Probe | Read


def packed_request(request: Request) -> bytes:
    return pickle.dumps(request)


def request_of(data: bytes) -> Request:
    request: Request = pickle.loads(data)
    return request


def packed_header(header: Header) -> bytes:
    return _packed({"header": asdict(header)})


def packed_frame(frame: Frame) -> bytes:
    """All of a frame but the values of its pixels."""
    rest = {field.name: getattr(frame, field.name) for field in fields(frame)}
    pixels = rest.pop("pixels")
    rest["choices"] = Choices(_shown(frame.choices.channels), frame.choices.planes)
    return _packed({"frame": rest | {"shape": pixels.shape, "dtype": pixels.dtype.str}})


def packed_error(error: NucleiError) -> bytes:
    refusal: dict[str, Any] = {
        "name": type(error).__name__,
        "message": str(error)[:MAX_TEXT_LENGTH],
    }
    if isinstance(error, ChoiceRequired):
        refusal["choices"] = Choices(_shown(error.channels), error.planes)
    return _packed({"refusal": refusal})


def packed_failure(trace: str) -> bytes:
    """What an unforeseen exception was; its end says most."""
    return _packed({"failure": trace[-MAX_TEXT_LENGTH:]})


def _shown(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name[:MAX_NAME_LENGTH] for name in names[:MAX_NAMES])


def _packed(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, default=_as_dict).encode()


def _as_dict(value: Any) -> dict[str, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"an answer cannot carry {type(value).__name__}")
