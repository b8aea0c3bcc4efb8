"""Answers of Prometheus as SVG, which the style sheet colours.

A chart is as wide as its panel: lines are stretched, texts are not. Places along the time are in
percent, heights in pixels.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import groupby, pairwise
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from monitoring.monitor.prometheus import Window
from monitoring.monitor.units import short, shown, ticks
from monitoring.panels import Limit, Unit

# Colours of the style sheet: s0, s1, ...
COLOURS = 12

_HEIGHT = 150
_ABOVE = 8
_BELOW = 22
# Of the part that is stretched.
_WIDTH = 1000
_TICKS = 6
_SPARK_HEIGHT = 32
_STRIP_HEIGHT = 20
# How far a limit may be above the values and is still drawn.
_LIMIT_IN_SIGHT = 4
_CELL_ROWS = 24
_TIME_TICKS = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600)


def lines(
    window: Window,
    series: Sequence[Sequence[float]],
    unit: Unit,
    label: str,
    *,
    stacked: bool = False,
    limit: Limit | None = None,
    events: Iterable[float] = (),
) -> Markup:
    """Values over time.

    Args:
        window: the moments.
        series: a value at each moment for each series; NaN where there is none.
        unit: of the values.
        label: what a reader of the screen is told.
        stacked: whether the values are parts of a whole.
        limit: drawn as a line, where it is near the values.
        events: moments that are marked.
    """
    tops = _stacked(series) if stacked else series
    lowest, highest = _extent(tops, unit, limit)
    chart, plot = _plot(window, ticks(unit, lowest, highest, _TICKS), lowest, highest)
    chart.set("data-values", json.dumps([[short(v, unit) for v in each] for each in series]))
    chart.set("data-times", json.dumps([_clock(time, window) for time in window.times]))
    chart.set("aria-label", label)
    inner = _inner(plot, _WIDTH, _HEIGHT)
    for event in events:
        _mark(plot, _share(event, window))

    def place(value: float) -> float:
        return round(_HEIGHT * (highest - value) / (highest - lowest), 1)

    below: Sequence[float] = [0.0] * len(window.times)
    for number, values in enumerate(tops):
        colour = f"s{number % COLOURS}"
        if stacked:
            area = _area(values, below, place)
            SubElement(inner, "path", {"class": f"area {colour}", "d": area})
            below = values
        path = _path([None if not math.isfinite(v) else place(v) for v in values])
        SubElement(inner, "path", {"class": f"line {colour}", "d": path})
    if limit is not None and lowest <= limit.value <= highest:
        y = str(_ABOVE + place(limit.value))
        SubElement(plot, "line", {"class": "limit", "x1": "0", "x2": "100%", "y1": y, "y2": y})
    SubElement(plot, "line", {"class": "cursor", "y1": str(_ABOVE), "y2": str(_ABOVE + _HEIGHT)})
    return _markup(chart)


def spark(values: Sequence[float]) -> Markup:
    """The course of one value, without any text."""
    finite = [value for value in values if math.isfinite(value)]
    lowest, highest = min([0.0, *finite]), max([0.0, *finite])
    spread = (highest - lowest) or 1.0
    places = [
        round(1 + (_SPARK_HEIGHT - 2) * (highest - v) / spread, 1) if math.isfinite(v) else None
        for v in values
    ]
    chart = Element(
        "svg",
        {
            "class": "spark",
            "aria-hidden": "true",
            "preserveAspectRatio": "none",
            "viewBox": f"0 0 {_WIDTH} {_SPARK_HEIGHT}",
        },
    )
    SubElement(chart, "path", {"class": "line", "d": _path(places)})
    return _markup(chart)


def strips(
    window: Window, series: Sequence[tuple[str, Sequence[float]]], unit: Unit, label: str
) -> Markup:
    """What has few values, such as a version, over time: a strip for each series.

    Args:
        window: the moments.
        series: name and values of each.
        unit: of the values.
        label: what a reader of the screen is told.
    """
    known = sorted({v for _, values in series for v in values if math.isfinite(v)})
    chart = Element("div", {"class": "strips", "role": "img", "aria-label": label})
    for name, values in series:
        SubElement(chart, "p").text = f"{name}: {shown(values[-1], unit)}"
        strip = SubElement(chart, "svg", {"class": "strip", "height": str(_STRIP_HEIGHT)})
        count = len(values)
        start = 0
        for value, run in groupby(values, key=lambda v: v if math.isfinite(v) else None):
            length = len(list(run))
            if value is not None:
                part = SubElement(
                    strip,
                    "rect",
                    {
                        "class": _state(value, unit, known),
                        "x": _percent(start / count),
                        "width": _percent(length / count),
                        "height": "100%",
                    },
                )
                SubElement(part, "title").text = (
                    f"{shown(value, unit)} from {_clock(window.times[start], window)} "
                    f"to {_clock(window.times[start + length - 1], window)}"
                )
            start += length
    strip = SubElement(chart, "svg", {"class": "strip", "height": str(_BELOW)})
    _times(strip, window, 0)
    return _markup(chart)


def heatmap(
    window: Window, buckets: Sequence[tuple[float, Sequence[float]]], unit: Unit, label: str
) -> Markup:
    """A histogram over time: the darker a cell, the more observations.

    Args:
        window: the moments.
        buckets: upper bound and cumulative rate at each moment of each bucket, by bound.
        unit: of the bounds.
        label: what a reader of the screen is told.
    """
    rows = _in_sight(_parted(buckets))
    most = max((v for _, _, values in rows for v in values), default=0.0)
    step = _HEIGHT / max(1, len(rows))
    every = max(1, math.ceil(len(rows) / _TICKS))
    # From the bottom: the lower bound of every row is a tick.
    marks = [(float(n), shown(rows[n][0], unit)) for n in range(0, len(rows), every)]
    chart, plot = _plot(window, marks, 0.0, float(max(1, len(rows))))
    chart.set("aria-label", label)
    count = len(window.times)
    inner = _inner(plot, count, _HEIGHT)
    for number, (lower, upper, values) in enumerate(rows):
        y = str(round(_HEIGHT - (number + 1) * step, 2))
        for moment, value in enumerate(values):
            if value > 0:
                cell = SubElement(
                    inner,
                    "rect",
                    {
                        "class": "cell",
                        "x": str(moment),
                        "y": y,
                        "width": "1",
                        "height": str(round(step, 2)),
                        "fill-opacity": f"{0.12 + 0.88 * math.sqrt(value / most):.2f}",
                    },
                )
                SubElement(cell, "title").text = (
                    f"{_clock(window.times[moment], window)}, {shown(lower, unit)} to "
                    f"{shown(upper, unit)}: {shown(value, Unit.PER_SECOND)}"
                )
    return _markup(chart)


def _plot(
    window: Window, marks: Sequence[tuple[float, str]], lowest: float, highest: float
) -> tuple[Element, Element]:
    """A chart with its axes, and the part of it beside the axis of values."""
    height = str(_ABOVE + _HEIGHT + _BELOW)
    chart = Element("div", {"class": "chart", "role": "img", "tabindex": "0"})
    axis = SubElement(chart, "svg", {"class": "axis", "height": height, "aria-hidden": "true"})
    plot = SubElement(chart, "svg", {"class": "plot", "height": height, "aria-hidden": "true"})
    for value, text in marks:
        y = round(_ABOVE + _HEIGHT * (highest - value) / (highest - lowest), 1)
        SubElement(axis, "text", {"x": "100%", "y": str(y + 4), "text-anchor": "end"}).text = text
        SubElement(
            plot,
            "line",
            {
                "class": "grid",
                "x1": "0",
                "x2": "100%",
                "y1": str(y),
                "y2": str(y),
            },
        )
    _times(plot, window, _ABOVE + _HEIGHT)
    return chart, plot


def _times(plot: Element, window: Window, y: float) -> None:
    """The ticks of the time, at round times of the day."""
    step = next((s for s in _TIME_TICKS if window.seconds / s < _TICKS), _TIME_TICKS[-1])
    offset = datetime.fromtimestamp(window.end).astimezone().utcoffset()
    shift = 0.0 if offset is None else offset.total_seconds()
    start = window.end - window.seconds
    time = math.ceil((start + shift) / step) * step - shift
    while time <= window.end:
        share = _share(time, window)
        # Those at the ends stay inside.
        anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
        place = {"x": _percent(share), "y": str(y + 16), "text-anchor": anchor}
        SubElement(plot, "text", place).text = datetime.fromtimestamp(time).strftime("%H:%M")
        time += step


def _inner(plot: Element, width: float, height: float) -> Element:
    return SubElement(
        plot,
        "svg",
        {
            "x": "0",
            "y": str(_ABOVE),
            "width": "100%",
            "height": str(_HEIGHT),
            "viewBox": f"0 0 {width} {height}",
            "preserveAspectRatio": "none",
        },
    )


def _mark(plot: Element, share: float) -> None:
    SubElement(
        plot,
        "line",
        {
            "class": "event",
            "x1": _percent(share),
            "x2": _percent(share),
            "y1": str(_ABOVE),
            "y2": str(_ABOVE + _HEIGHT),
        },
    )


def _extent(
    series: Sequence[Sequence[float]], unit: Unit, limit: Limit | None
) -> tuple[float, float]:
    """The lowest and the highest value of the axis."""
    finite = [v for values in series for v in values if math.isfinite(v)]
    lowest, highest = min([0.0, *finite]), max([0.0, *finite])
    if limit is not None and highest < limit.value <= _LIMIT_IN_SIGHT * highest:
        highest = limit.value
    if unit is Unit.YES_NO:
        return 0.0, 1.0
    if highest == lowest:
        highest = lowest + (limit.value if limit is not None and limit.value > 0 else 1.0)
    return lowest, highest + 0.05 * (highest - lowest)


def _stacked(series: Sequence[Sequence[float]]) -> list[list[float]]:
    """Each series on top of those before it; NaN where none has a value."""
    tops: list[list[float]] = []
    for values in series:
        below = tops[-1] if tops else [math.nan] * len(values)
        tops.append(
            [
                (v if math.isfinite(v) else 0.0) + (b if math.isfinite(b) else 0.0)
                if math.isfinite(v) or math.isfinite(b)
                else math.nan
                for v, b in zip(values, below, strict=True)
            ]
        )
    return tops


def _path(places: Sequence[float | None]) -> str:
    """A line through the places; a lone one is a dot."""
    parts = []
    last = max(1, len(places) - 1)
    for known, run in groupby(enumerate(places), key=lambda each: each[1] is not None):
        if known:
            points = [f"{round(_WIDTH * n / last, 1)} {y}" for n, y in run]
            parts.append("M" + "L".join(points) + ("h0" if len(points) == 1 else ""))
    return "".join(parts)


def _area(top: Sequence[float], bottom: Sequence[float], place: Callable[[float], float]) -> str:
    """What is between two lines."""
    parts = []
    last = max(1, len(top) - 1)
    for known, run in groupby(range(len(top)), key=lambda n: math.isfinite(top[n])):
        if known:
            moments = list(run)
            there = [(n, place(top[n])) for n in moments]
            back = [
                (n, place(bottom[n] if math.isfinite(bottom[n]) else 0.0))
                for n in reversed(moments)
            ]
            points = [f"{round(_WIDTH * n / last, 1)} {y}" for n, y in [*there, *back]]
            parts.append("M" + "L".join(points) + "Z")
    return "".join(parts)


def _parted(
    buckets: Sequence[tuple[float, Sequence[float]]],
) -> list[tuple[float, float, list[float]]]:
    """Lower bound, upper bound and own rate of each bucket."""
    if not buckets:
        return []
    nothing = (0.0, [0.0] * len(buckets[0][1]))
    parted = []
    for (lower, less), (upper, values) in pairwise([nothing, *buckets]):
        own = [
            max(0.0, v - (b if math.isfinite(b) else 0.0)) if math.isfinite(v) else 0.0
            for v, b in zip(values, less, strict=True)
        ]
        parted.append((lower, upper, own))
    return parted


def _in_sight(
    rows: list[tuple[float, float, list[float]]],
) -> list[tuple[float, float, list[float]]]:
    """The rows from the first to the last with observations, and one beyond each."""
    filled = [number for number, (_, _, values) in enumerate(rows) if any(values)]
    if not filled:
        return []
    return rows[max(0, filled[0] - 1) : filled[-1] + 2]


def _state(value: float, unit: Unit, known: Sequence[float]) -> str:
    if unit is Unit.YES_NO:
        return "good" if value == 1 else "bad"
    return f"s{known.index(value) % COLOURS}"


def _share(time: float, window: Window) -> float:
    return (time - window.times[0]) / max(1.0, window.end - window.times[0])


def _percent(share: float) -> str:
    return f"{round(100 * share, 2)}%"


def _clock(time: float, window: Window) -> str:
    return datetime.fromtimestamp(time).strftime("%H:%M:%S" if window.step < 60 else "%H:%M")


def _markup(element: Element) -> Markup:
    # ElementTree escapes all texts and attributes.
    return Markup(tostring(element, encoding="unicode", method="html"))
