"""What an HTTP request asks for: its query, the fields of its form, and the header Accept."""

import math
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from nuclei.errors import InvalidOption, NotAcceptable
from nuclei.formats import FORMATS, format_named
from nuclei.imaging.frame_options import FrameOptions
from nuclei.inference.deadline import Deadline
from nuclei.names import check_id, version_number
from nuclei.quoting import quoted
from nuclei.results.adjustments import Adjustments
from serving.gateway.data_plane import Options

REQUEST_ID_HEADER = "X-Request-ID"
DEFAULT_FORMAT = "json"
FLAGS = {"true": True, "1": True, "false": False, "0": False}
# How the frame is to be read: the arguments of FrameOptions.of_text.
FRAME_PARAMETERS = (
    "channel",
    "plane",
    "project",
    "pixel_size",
    "intensity_range",
    "intensity_percentiles",
)
# What the model was tuned to: the arguments of Adjustments.of_text.
ADJUSTING_PARAMETERS = ("threshold", "min_area", "diameter")
PICTURE_PARAMETERS = (*FRAME_PARAMETERS, "timeout_s")
PARAMETERS = (
    *("model", "version", "tta", "format", "discard"),
    *(*PICTURE_PARAMETERS, *ADJUSTING_PARAMETERS),
)
MAX_TIMEOUT_S = 86_400
_NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?")
_LABELS = re.compile(r"[1-9][0-9]{0,9}(-[1-9][0-9]{0,9})?")


@dataclass(frozen=True)
class HttpOptions:
    """How a frame is to be segmented, read and answered.

    Attributes:
        segmentation: options of the data plane.
        frame: how it is to be read.
        format_name: of `nuclei.formats.FORMATS`.
        discard: first and last of the labels to leave out, both included.
    """

    segmentation: Options
    frame: FrameOptions
    format_name: str
    discard: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(
        cls,
        query: Iterable[tuple[str, str]],
        form: Iterable[tuple[str, str]],
        headers: Mapping[str, str],
    ) -> Self:
        """Read the options; a field of a form is taken as the query parameter of its name.

        Args:
            query: names and values of the query string.
            form: those of the fields beside the file.
            headers: of the request.

        Raises:
            InvalidOption: one is not known, given twice or impossible.
            NotAcceptable: the caller accepts none of the formats, or not the one it asks for.
        """
        given = _given_once(query, form, PARAMETERS)
        return cls(
            Options(
                request_id=headers.get(REQUEST_ID_HEADER, ""),
                model=given.get("model", ""),
                version=version_number(given["version"]) if "version" in given else None,
                tta=_flag(given, "tta"),
                adjustments=Adjustments.of_text(
                    *(given.get(name, "") for name in ADJUSTING_PARAMETERS)
                ),
                deadline=_deadline(given),
            ),
            _frame_options(given),
            _format_name(given.get("format", ""), headers.get("accept", "")),
            _labels(given.get("discard", "")),
        )


@dataclass(frozen=True)
class PictureOptions:
    """How a frame is to be read.

    Attributes:
        request_id: names the request in the log.
        frame: how it is to be read.
        deadline: when the caller gives up; None for the default.
    """

    request_id: str
    frame: FrameOptions
    deadline: Deadline | None

    @classmethod
    def of(
        cls,
        query: Iterable[tuple[str, str]],
        form: Iterable[tuple[str, str]],
        headers: Mapping[str, str],
    ) -> Self:
        """Read the options; arguments and errors as `HttpOptions.of`."""
        given = _given_once(query, form, PICTURE_PARAMETERS)
        request_id = headers.get(REQUEST_ID_HEADER, "") or uuid.uuid4().hex
        check_id(request_id, "request_id")
        return cls(request_id, _frame_options(given), _deadline(given))


def _given_once(
    query: Iterable[tuple[str, str]], form: Iterable[tuple[str, str]], known: Sequence[str]
) -> dict[str, str]:
    given = _given(query, "query parameter", known)
    for name, value in _given(form, "form field", known).items():
        if given.setdefault(name, value) != value:
            raise InvalidOption(
                f"{name} is {quoted(given[name])} in the query and {quoted(value)} in the "
                "form; send one of them"
            )
    return given


def _given(pairs: Iterable[tuple[str, str]], kind: str, known: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise InvalidOption(
                f"{kind} {quoted(name)} is not known; expected some of {', '.join(known)}"
            )
        if name in given:
            raise InvalidOption(f"{kind} {quoted(name)} is given more than once; send it once")
        if not value:
            raise InvalidOption(f"{kind} {quoted(name)} is empty; give a value or leave it out")
        given[name] = value
    return given


def _frame_options(given: Mapping[str, str]) -> FrameOptions:
    return FrameOptions.of_text(*(given.get(name, "") for name in FRAME_PARAMETERS))


def _deadline(given: Mapping[str, str]) -> Deadline | None:
    text = given.get("timeout_s", "")
    if not text:
        return None
    timeout_s = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise InvalidOption(
            f"timeout_s={quoted(text)} is no time; expected seconds, above 0 and at most "
            f"{MAX_TIMEOUT_S}"
        )
    return Deadline.after(timeout_s)


def _labels(text: str) -> tuple[tuple[int, int], ...]:
    """First and last of each range in a list such as `3,7,10-19`."""
    ranges = []
    for part in text.split(",") if text else ():
        if not _LABELS.fullmatch(part.strip()):
            raise InvalidOption(
                f"discard has {quoted(part)}; expected labels of nuclei and ranges of them, such "
                "as 3,7,10-19"
            )
        first, _, last = part.strip().partition("-")
        ranges.append((int(first), int(last or first)))
    return tuple(ranges)


def _flag(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "false")
    if value not in FLAGS:
        raise InvalidOption(
            f"{name}={quoted(value)} is no flag; expected one of {', '.join(FLAGS)}"
        )
    return FLAGS[value]


def _format_name(asked: str, accept: str) -> str:
    """The format that is asked for, else the one that is accepted most; as RFC 9110, 12.5.1.

    Where several are accepted alike, those of the more specific range come first, then JSON, then
    those that FORMATS lists first.
    """
    if asked:
        format_named(asked)
    names = [asked] if asked else [DEFAULT_FORMAT, *FORMATS]
    ranges = _ranges(accept)
    best = max(names, key=lambda name: _quality(FORMATS[name].media_type, ranges))
    if _quality(FORMATS[best].media_type, ranges)[0] > 0:
        return best
    media_types = dict.fromkeys(FORMATS[name].media_type for name in names)
    raise NotAcceptable(
        f"the header Accept is {quoted(accept)}; this request is answered with "
        f"{', '.join(media_types)}: accept one of them"
    )


def _ranges(accept: str) -> dict[str, float]:
    """The media ranges of the header and their qualities; everything where there is none."""
    ranges: dict[str, float] = {}
    for part in accept.lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            ranges[media_range] = float(quality)
        except ValueError:
            raise InvalidOption(
                f"the header Accept has q={quoted(quality)}; expected a number from 0 to 1"
            ) from None
    ranges.pop("", None)
    return ranges or {"*/*": 1.0}


def _quality(media_type: str, ranges: Mapping[str, float]) -> tuple[float, int]:
    """How much a media type is accepted, by the most specific range, and how specific that is."""
    ladder = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    for specificity, media_range in zip((2, 1, 0), ladder, strict=True):
        if media_range in ranges:
            return ranges[media_range], specificity
    return 0.0, 0
