"""The dashboards of `monitoring.boards`, filled with what Prometheus answers.

The queries are the dashboards' own: a reader chooses a dashboard, a range and values that
Prometheus lists, and never writes PromQL.
"""

import asyncio
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from markupsafe import Markup

from monitoring.monitor import charts
from monitoring.monitor.prometheus import (
    Alert,
    Prometheus,
    QueryFailed,
    Series,
    Target,
    Window,
)
from monitoring.monitor.units import NOTHING, short, shown
from monitoring.panels import Dashboard, Event, Kind, Note, Panel, Query, Source, Unit, Variable
from nuclei.errors import InvalidOption
from nuclei.quoting import quoted

RANGES = {"15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400}
DEFAULT_RANGE = "1h"

_MOMENTS = 120
_EVENT_STEP_S = 60
_MOST_EVENTS = 20

_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")
# What has a selector, and what is a metric without one.
_METRIC = re.compile(r"[a-zA-Z_:][\w:]*(?=[{\[])|\b(?:nuclei|nv|node|process|kube|DCGM)_[\w:]+")
_STRING = re.compile(r'"[^"]*"')
_PROMQL_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_ELSEWHERE = {
    Source.CERTIFICATE: "a gateway with TLS has it",
    Source.GPU: "a machine with a GPU has it",
    Source.KUBERNETES: "the exporter of a cluster has it",
}
# Whose metrics they are, by their beginnings; the first that fits.
_JOBS = {
    "nuclei_sync_": "sync",
    "nuclei_probe_": "probe",
    "nuclei_": "gateway",
    "nv_": "triton",
    "node_": "node",
}


@dataclass(frozen=True)
class LegendRow:
    """A series of a chart: its colour in the style sheet, and its values as text."""

    colour: str
    name: str
    last: str
    mean: str
    highest: str


@dataclass(frozen=True)
class Value:
    """A single value, whether it is within the panel's limit ("" without one), and its course."""

    name: str
    text: str
    verdict: str
    spark: Markup


@dataclass(frozen=True)
class Shown:
    """A panel as the page has it.

    Attributes:
        panel: its description.
        chart: None without data, and for single values.
        values: of a panel of single values.
        legend: of a chart of lines.
        limit: what is wrong, in words; empty without a limit.
        remark: why there is no data, what Prometheus says of a query, or what is left out.
        failed: whether Prometheus refused a query.
    """

    panel: Panel
    chart: Markup | None = None
    values: Sequence[Value] = ()
    legend: Sequence[LegendRow] = ()
    limit: str = ""
    remark: str = ""
    failed: bool = False


@dataclass(frozen=True)
class ShownRow:
    """Panels and notes under one heading."""

    title: str
    panels: Sequence[Shown | Note]


@dataclass(frozen=True)
class Choice:
    """A variable that a reader chooses.

    Attributes:
        variable: its description.
        values: those that can be chosen; none where a number is typed.
        chosen: empty for all.
    """

    variable: Variable
    values: Sequence[str]
    chosen: str

    @property
    def every(self) -> str:
        """What is shown without a choice."""
        every = self.variable.every
        return "all" if every == ".*" else every.replace("|", ", ")


@dataclass(frozen=True)
class Moment:
    """An event of the dashboard: when, and what happened."""

    time: float
    text: str

    @property
    def clock(self) -> str:
        return datetime.fromtimestamp(self.time).strftime("%H:%M")


@dataclass(frozen=True)
class Page:
    """One dashboard, at one time.

    Attributes:
        board: its description.
        range: key of `RANGES`.
        rows: from top to bottom.
        choices: of its variables.
        alerts: those that fire or are pending.
        targets: what is scraped.
        events: within the range, the newest first.
        problems: what is wrong with the monitoring itself.
        clock: when it was made, with the time zone.
    """

    board: Dashboard
    range: str
    rows: Sequence[ShownRow]
    choices: Sequence[Choice]
    alerts: Sequence[Alert]
    targets: Sequence[Target]
    events: Sequence[Moment]
    problems: Sequence[str]
    clock: str


@dataclass(frozen=True)
class _Asked:
    """What the panels of a page have in common."""

    prometheus: Prometheus
    board: Dashboard
    window: Window
    interval: str
    chosen: Mapping[str, str]
    metrics: frozenset[str]
    targets: Sequence[Target]
    events: Sequence[Moment] = field(default=())

    def promql(self, expression: str) -> str:
        return self.board.substituted(expression, self.interval, self.chosen)


async def page(
    prometheus: Prometheus,
    board: Dashboard,
    range_name: str,
    chosen: Mapping[str, str],
    scrape_interval_s: int,
) -> Page:
    """A dashboard with its data.

    Args:
        prometheus: which is asked.
        board: the dashboard.
        range_name: key of `RANGES`.
        chosen: values of variables; those that are empty mean all.
        scrape_interval_s: of Prometheus.

    Raises:
        InvalidOption: the range or a value cannot be chosen.
        Unreachable: Prometheus does not answer.
    """
    if range_name not in RANGES:
        raise InvalidOption(f"range is {quoted(range_name)}; expected one of {', '.join(RANGES)}")
    window = _window(RANGES[range_name], scrape_interval_s)
    # As Grafana's $__rate_interval.
    interval = f"{max(4 * scrape_interval_s, window.step + scrape_interval_s)}s"
    choices = await _choices(prometheus, board, window, interval, chosen)
    alerts, targets, metrics, failing = await asyncio.gather(
        prometheus.alerts(), prometheus.targets(), prometheus.metrics(), prometheus.failing_rules()
    )
    values = {each.variable.name: _in_promql(each) for each in choices if each.chosen}
    asked = _Asked(prometheus, board, window, interval, values, metrics, targets)
    events = await _events(asked)
    asked = _Asked(prometheus, board, window, interval, values, metrics, targets, events)
    drawn = iter(await asyncio.gather(*(_panel(asked, panel) for panel in board.panels())))
    rows = [
        ShownRow(row.title, [p if isinstance(p, Note) else next(drawn) for p in row.panels])
        for row in board.rows
    ]
    problems = [f"The rule {name} cannot be evaluated: {why}" for name, why in failing.items()]
    return Page(
        board,
        range_name,
        rows,
        choices,
        alerts,
        targets,
        events[-_MOST_EVENTS:][::-1],
        problems,
        datetime.now().astimezone().strftime("%H:%M:%S %Z"),
    )


def _window(seconds: int, scrape_interval_s: int) -> Window:
    step = math.ceil(seconds / _MOMENTS / scrape_interval_s) * scrape_interval_s
    return Window(time.time(), seconds, step)


async def _choices(
    prometheus: Prometheus,
    board: Dashboard,
    window: Window,
    interval: str,
    chosen: Mapping[str, str],
) -> list[Choice]:
    """What a reader can choose and has chosen, in order: later ones follow earlier ones."""
    choices: list[Choice] = []
    for variable in board.variables:
        given = chosen.get(variable.name, "")
        if not variable.values:
            choices.append(Choice(variable, (), _number(variable, given)))
            continue
        before = {each.variable.name: _in_promql(each) for each in choices if each.chosen}
        query = board.substituted(variable.values, interval, before)
        values = [value for value in await prometheus.values(query, window) if value]
        # One that is gone stays chosen, without data: another version is no answer.
        if given and given not in values:
            if not re.fullmatch(r"[\w.:@/-]{1,128}", given):
                raise InvalidOption(
                    f"{variable.name} is {quoted(given)}; expected one of {', '.join(values)}"
                )
            values = [*values, given]
        choices.append(Choice(variable, values, given))
    return choices


def _number(variable: Variable, given: str) -> str:
    if not given:
        return ""
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise InvalidOption(f"{variable.name} is {quoted(given)}; expected a number, such as 1.5")
    return f"{number:g}"


def _in_promql(choice: Choice) -> str:
    """The chosen value as it stands in the string of a regular expression."""
    if not choice.variable.values:
        return choice.chosen
    escaped = _PROMQL_SPECIAL.sub(lambda special: "\\" + special[0], choice.chosen)
    return escaped.replace("\\", "\\\\").replace('"', '\\"')


async def _events(asked: _Asked) -> list[Moment]:
    """The events of a dashboard within its window, the oldest first."""
    window = Window(asked.window.end, asked.window.seconds, _EVENT_STEP_S)
    found = await asyncio.gather(*(_moments(asked, event, window) for event in asked.board.events))
    return sorted((m for moments in found for m in moments), key=lambda moment: moment.time)


async def _moments(asked: _Asked, event: Event, window: Window) -> list[Moment]:
    try:
        series = await asked.prometheus.over(asked.promql(event.expression), window)
    except QueryFailed:
        return []
    moments = []
    for each in series:
        text = f"{event.name}: {_named(event.text, each.labels)}"
        there = [math.isfinite(value) for value in each.values]
        # Of moments in a row the first.
        starts = [n for n, now in enumerate(there) if now and not (n and there[n - 1])]
        moments += [Moment(window.times[n], text) for n in starts]
    return moments


async def _panel(asked: _Asked, panel: Panel) -> Shown:
    limit = ""
    if panel.limit is not None:
        side = "below" if panel.limit.below else "above"
        limit = f"limit: {side} {shown(panel.limit.value, panel.unit)} is wrong"
    try:
        answers = await asyncio.gather(
            *(
                asked.prometheus.over(asked.promql(query.expression), asked.window)
                for query in panel.queries
            )
        )
    except QueryFailed as error:
        remark = f"Prometheus refuses a query of this panel: {error}"
        return Shown(panel, limit=limit, remark=remark, failed=True)
    named = [
        (_name(query, each), each)
        for query, series in zip(panel.queries, answers, strict=True)
        for each in series
        if any(math.isfinite(value) for value in each.values)
    ]
    if not named:
        return Shown(panel, limit=limit, remark=_why_nothing(asked, panel))
    return _drawn(asked, panel, named, limit)


def _drawn(asked: _Asked, panel: Panel, named: Sequence[tuple[str, Series]], limit: str) -> Shown:
    label = f"{panel.title}. {panel.question}"
    if panel.kind is Kind.HEATMAP:
        buckets = sorted((_bound(series), series.values) for _, series in named)
        chart = charts.heatmap(asked.window, buckets, panel.unit, label)
        return Shown(panel, chart, limit=limit)
    named, remark = _most(named)
    if panel.kind is Kind.STAT:
        return Shown(panel, values=[_value(panel, *each) for each in named], limit=limit)
    if panel.kind is Kind.STEPS:
        strips = [(name, series.values) for name, series in named]
        chart = charts.strips(asked.window, strips, panel.unit, label)
        return Shown(panel, chart, limit=limit, remark=remark)
    chart = charts.lines(
        asked.window,
        [series.values for _, series in named],
        panel.unit,
        label,
        stacked=panel.stacked,
        limit=panel.limit,
        events=[moment.time for moment in asked.events],
    )
    legend = [_legend(panel.unit, number, *each) for number, each in enumerate(named)]
    return Shown(panel, chart, legend=legend, limit=limit, remark=remark)


def _most(named: Sequence[tuple[str, Series]]) -> tuple[Sequence[tuple[str, Series]], str]:
    """The series that can be told apart, those with the largest values, and how many are not."""
    if len(named) <= charts.COLOURS:
        return sorted(named, key=lambda each: each[0]), ""
    largest = sorted(named, key=lambda each: -max(map(_or_zero, each[1].values)))
    remark = (
        f"{len(named) - charts.COLOURS} series with smaller values are not drawn: choose above "
        "what to look at"
    )
    return sorted(largest[: charts.COLOURS], key=lambda each: each[0]), remark


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _value(panel: Panel, name: str, series: Series) -> Value:
    last = series.values[-1]
    verdict = ""
    if math.isfinite(last):
        limit = panel.limit
        if limit is not None:
            wrong = last < limit.value if limit.below else last > limit.value
            verdict = "bad" if wrong else "good"
        elif panel.unit is Unit.YES_NO:
            verdict = "good" if last == 1 else "bad"
    text = shown(last, panel.unit) if math.isfinite(last) else "no data"
    return Value(name, text, verdict, charts.spark(series.values))


def _legend(unit: Unit, number: int, name: str, series: Series) -> LegendRow:
    finite = [value for value in series.values if math.isfinite(value)]
    return LegendRow(
        f"s{number % charts.COLOURS}",
        name,
        short(series.values[-1], unit),
        short(sum(finite) / len(finite), unit),
        short(max(finite), unit),
    )


def _bound(series: Series) -> float:
    return float(series.labels.get("le", "inf"))


def _name(query: Query, series: Series) -> str:
    return " ".join(_named(query.legend, series.labels).split()) or NOTHING


def _named(text: str, labels: Mapping[str, str]) -> str:
    return _LABEL.sub(lambda match: labels.get(match[1], ""), text)


def _why_nothing(asked: _Asked, panel: Panel) -> str:
    """Why a panel has no data."""
    expressions = " ".join(asked.promql(query.expression) for query in panel.queries)
    names = set(_METRIC.findall(_STRING.sub("", expressions)))
    missing = sorted(name for name in names if name not in asked.metrics)
    if not missing:
        return "No data: nothing was counted in this time, or nothing that was chosen above"
    job = next((job for start, job in _JOBS.items() if missing[0].startswith(start)), "")
    why = _ELSEWHERE.get(panel.source) or _why_missing(asked.targets, job)
    return f"No data: Prometheus has no {missing[0]}; {why}"


def _why_missing(targets: Sequence[Target], job: str) -> str:
    if not job:
        return "no target exports it"
    of_job = [target for target in targets if target.job == job]
    if not of_job:
        return f"nothing is scraped as {job}"
    down = [target for target in of_job if not target.up]
    if down:
        return f"{job} at {down[0].address} does not answer: {down[0].error}"
    return f"{job} has counted nothing of that kind since it started"
