"""PNG, JPEG and TIFF: from the bytes of an image file to its header, and to its pixels."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nuclei.errors import InvalidImage, NucleiError
from nuclei.imaging.decoding import jpeg, png, tiff
from nuclei.imaging.decoding.decoded import CheckShape, Decoded, File, Header
from nuclei.imaging.selection import Selection
from nuclei.imaging.silence import silent_decoders

__all__ = ["CheckShape", "Decoded", "File", "Header", "decode", "probe"]


def probe(data: File, check_shape: CheckShape, selection: Selection) -> Header:
    """Read the header of what is selected of an image file; nothing is decompressed.

    Arguments and errors as `decode`, which also checks what follows the header.
    """
    with _refusing_damage():
        return _form_of(data).probe(data, check_shape, selection)


def decode(data: File, check_shape: CheckShape, selection: Selection) -> Decoded:
    """Decode what is selected of an image file.

    Pixels come in the order in which they are stored, whatever a tag for the orientation says, and
    as they are stored: alpha is dropped, no colour profile is applied.

    Args:
        data: a whole PNG, JPEG, TIFF or OME-TIFF file.
        check_shape: called with height and width before anything is decompressed; may raise.
        selection: the plane and the channel, where the file holds several.

    Raises:
        InvalidImage: not an image, truncated, damaged, in a coding that is not read, or it holds
            several planes or channels and none is selected.
        InvalidOption: the file does not hold what is selected.
    """
    with _refusing_damage():
        return _form_of(data).decode(data, check_shape, selection)


@dataclass(frozen=True)
class _Form:
    """The readers of one file format."""

    probe: Callable[[File, CheckShape, Selection], Header]
    decode: Callable[[File, CheckShape, Selection], Decoded]


_PNG, _JPEG = _Form(png.probe, png.decode), _Form(jpeg.probe, jpeg.decode)
_TIFF = _Form(tiff.probe, tiff.decode)
_FORMS = {
    b"\x89PNG\r\n\x1a\n": _PNG,
    b"\xff\xd8\xff": _JPEG,
    b"II*\x00": _TIFF,
    b"MM\x00*": _TIFF,
    b"II+\x00": _TIFF,
    b"MM\x00+": _TIFF,
}


def _form_of(data: File) -> _Form:
    if not data:
        raise InvalidImage("the file is empty; expected a PNG, JPEG or TIFF image")
    start = bytes(data[:8])
    form = next((form for magic, form in _FORMS.items() if start.startswith(magic)), None)
    if form is None:
        raise InvalidImage(
            f"not an image this service reads (it begins with {start!r}); expected PNG, JPEG, "
            "TIFF or OME-TIFF: convert it first"
        )
    return form


@contextmanager
def _refusing_damage() -> Iterator[None]:
    """Turn the exceptions and logs of decoders about damaged bytes into InvalidImage."""
    try:
        with silent_decoders():
            yield
    except (NucleiError, MemoryError):
        raise
    except Exception as error:  # decoders raise any exception on damaged bytes
        raise InvalidImage(
            f"the image is truncated or damaged ({error}); expected a whole file: send it again"
        ) from error
