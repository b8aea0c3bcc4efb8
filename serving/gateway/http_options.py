"""What an HTTP request asks for: its query, the fields of its form, and the header Accept."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from nuclei.errors import InvalidOption, NotAcceptable
from nuclei.formats import FORMATS, format_named
from nuclei.imaging.frame_options import FrameOptions
from nuclei.names import version_number
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
PARAMETERS = ("model", "version", "tta", "format", *FRAME_PARAMETERS, *ADJUSTING_PARAMETERS)


@dataclass(frozen=True)
class HttpOptions:
    """How a frame is to be segmented, read and answered.

    Attributes:
        segmentation: options of the data plane.
        frame: how it is to be read.
        format_name: of `nuclei.formats.FORMATS`.
    """

    segmentation: Options
    frame: FrameOptions
    format_name: str

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
        given = _given(query, "query parameter")
        for name, value in _given(form, "form field").items():
            if given.setdefault(name, value) != value:
                raise InvalidOption(
                    f"{name} is {quoted(given[name])} in the query and {quoted(value)} in the "
                    "form; send one of them"
                )
        return cls(
            Options(
                request_id=headers.get(REQUEST_ID_HEADER, ""),
                model=given.get("model", ""),
                version=version_number(given["version"]) if "version" in given else None,
                tta=_flag(given, "tta"),
                adjustments=Adjustments.of_text(
                    *(given.get(name, "") for name in ADJUSTING_PARAMETERS)
                ),
            ),
            FrameOptions.of_text(*(given.get(name, "") for name in FRAME_PARAMETERS)),
            _format_name(given.get("format", ""), headers.get("accept", "")),
        )


def _given(pairs: Iterable[tuple[str, str]], kind: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in PARAMETERS:
            raise InvalidOption(
                f"{kind} {quoted(name)} is not known; expected some of {', '.join(PARAMETERS)}"
            )
        if name in given:
            raise InvalidOption(f"{kind} {quoted(name)} is given more than once; send it once")
        if not value:
            raise InvalidOption(f"{kind} {quoted(name)} is empty; give a value or leave it out")
        given[name] = value
    return given


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
