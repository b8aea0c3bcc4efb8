"""Answers of a decoder, as the gateway takes them: only what is expected."""

from dataclasses import fields
from typing import Annotated, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, create_model

from nuclei import errors
from nuclei.errors import ChoiceRequired, InvalidImage, InvalidInput
from nuclei.imaging.decoding import Header
from nuclei.imaging.images import Frame
from nuclei.imaging.selection import ONE_OF_EACH, Choices

_Side = Annotated[int, Field(ge=1)]
# All fields of a frame but its pixels.
_REST = [field.name for field in fields(Frame) if field.name != "pixels"]
_DescribedFrame = create_model(  # type: ignore[call-overload]
    "_DescribedFrame",
    shape=(tuple[_Side, _Side, _Side], ...),
    dtype=(Literal["|u1", "<u2"], ...),
    **{name: (hint, ...) for name, hint in get_type_hints(Frame).items() if name in _REST},
)
_REFUSALS: dict[str, type[InvalidInput]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, InvalidInput)
}


class _Refusal(BaseModel):
    name: str
    message: str
    choices: Choices = ONE_OF_EACH


class _Answer(BaseModel):
    header: Header | None = None
    frame: _DescribedFrame | None = None  # type: ignore[valid-type]
    refusal: _Refusal | None = None
    failure: str = ""


def header_of(answer: bytes) -> Header:
    """The header of a file.

    Raises:
        InvalidInput: the decoder refused the file.
        ValueError: this is no such answer, or it tells of an exception that nobody foresaw.
    """
    header = _checked(answer).header
    if header is None or min(header.height, header.width, header.channels, header.itemsize) < 1:
        raise ValueError("a decoder answered without the header of its file")
    return header


def frame_of(answer: bytes, values: NDArray[np.uint8]) -> Frame:
    """The frame, its pixels a view of these values; errors as `header_of`."""
    described = _checked(answer).frame
    if described is None:
        raise ValueError("a decoder answered without its frame")
    dtype = np.dtype(described.dtype)
    n_bytes = int(np.prod(described.shape)) * dtype.itemsize
    pixels = values[:n_bytes].view(dtype).reshape(described.shape)
    return Frame(pixels, **{name: getattr(described, name) for name in _REST})


def _checked(answer: bytes) -> _Answer:
    checked = _Answer.model_validate_json(answer)
    if checked.failure:
        raise ValueError(f"a decoder failed: {checked.failure}")
    if checked.refusal is not None:
        raise _refused(checked.refusal)
    return checked


def _refused(refusal: _Refusal) -> InvalidInput:
    kind = _REFUSALS.get(refusal.name, InvalidImage)
    if kind is ChoiceRequired:
        choices = refusal.choices
        return ChoiceRequired(refusal.message, "", choices.channels, choices.planes)
    return kind(refusal.message)
