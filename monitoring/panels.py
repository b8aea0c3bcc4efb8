"""What dashboards show, described once: Grafana's JSON, the page `/monitor` and the test of every
query are made from it.

An expression is PromQL with variables as Grafana writes them (`$model`, `$__rate_interval`);
`Dashboard.substituted` puts values in their place.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from string import Template

# Of one row of panels, in Grafana's columns.
COLUMNS = 24


class Unit(StrEnum):
    """What a value is measured in; the text is Grafana's name of the unit."""

    BITS = "suffix: bit"
    BYTES = "bytes"
    BYTES_PER_SECOND = "Bps"
    CORES = "suffix: cores"
    COUNT = "short"
    DAYS = "d"
    DOLLARS = "currencyUSD"
    FRAMES_PER_SECOND = "suffix: frames/s"
    MICROSECONDS = "µs"
    MICROSECONDS_PER_SECOND = "suffix: µs/s"
    NUCLEI_PER_SECOND = "suffix: nuclei/s"
    PER_MM2 = "suffix: /mm²"
    PER_SECOND = "suffix: /s"
    PIXELS = "suffix: px"
    RATIO = "none"
    SECONDS = "s"
    SHARE = "percentunit"
    VERSION = "string"
    WATTS = "watt"
    YES_NO = "bool_yes_no"


class Kind(StrEnum):
    """How a panel is drawn; the text is Grafana's name of the panel."""

    HEATMAP = "heatmap"
    STAT = "stat"
    STEPS = "state-timeline"
    TIMESERIES = "timeseries"


class Source(StrEnum):
    """Where a panel's data is from, and so how its queries can be tested."""

    # The service, and the exporter of the machine: the test starts both.
    SERVICE = "service"
    # What no test starts: text such as that part writes is served to Prometheus instead.
    CERTIFICATE = "certificate"
    GPU = "gpu"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        expression: PromQL; each series of its result is a line.
        legend: name of a series, with labels in double braces: `{{protocol}}`.
    """

    expression: str
    legend: str


@dataclass(frozen=True)
class Limit:
    """A value beyond which something is wrong.

    Attributes:
        value: in the panel's unit.
        below: whether it is the lower values that are wrong.
    """

    value: float
    below: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: a few words.
        question: that it answers; shown as the panel's description.
        queries: whose series are drawn together, in one unit.
        unit: of all values.
        kind: how it is drawn. A heatmap has one query, over the buckets of a histogram.
        lowest: least value that makes sense.
        highest: largest value that makes sense.
        stacked: whether the series are parts of a whole.
        limit: drawn as a line, or as the colour of a single value.
        source: where the data is from.
        leads_to: name of the dashboard that says more; "" for none.
        width: of `COLUMNS`.
        height: in Grafana's rows, of about 30 pixels.
    """

    title: str
    question: str
    queries: tuple[Query, ...]
    unit: Unit
    kind: Kind = Kind.TIMESERIES
    lowest: float = 0.0
    highest: float = math.inf
    stacked: bool = False
    limit: Limit | None = None
    source: Source = Source.SERVICE
    leads_to: str = ""
    width: int = 8
    height: int = 8


@dataclass(frozen=True)
class Note:
    """A panel of text, for what no query can show.

    Attributes:
        title: a few words.
        text: Markdown.
        width: of `COLUMNS`.
        height: in Grafana's rows.
    """

    title: str
    text: str
    width: int = 24
    height: int = 4


@dataclass(frozen=True)
class Row:
    """Panels under one heading, from left to right, on as many lines as they need."""

    title: str
    panels: tuple[Panel | Note, ...]


@dataclass(frozen=True)
class Variable:
    """What a reader chooses at the top of a dashboard.

    Attributes:
        name: in expressions, after `$`.
        label: for the reader.
        values: `label_values(METRIC, LABEL)`, the query for its values; "" for a number that the
            reader types.
        every: what stands in expressions until the reader chooses: a regular expression that
            matches all, or the number.
    """

    name: str
    label: str
    values: str
    every: str = ".*"


@dataclass(frozen=True)
class Event:
    """A moment drawn across all panels of a dashboard.

    Attributes:
        name: what happened.
        expression: PromQL; where it has a value, it happened.
        text: of the mark, with labels in double braces.
        colour: Grafana's name.
    """

    name: str
    expression: str
    text: str
    colour: str


@dataclass(frozen=True)
class Dashboard:
    """One dashboard.

    Attributes:
        name: of its file and in addresses.
        title: for the reader.
        question: that it answers.
        rows: from top to bottom.
        variables: from left to right.
        events: drawn across its panels.
    """

    name: str
    title: str
    question: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()
    events: tuple[Event, ...] = field(default=())

    def panels(self) -> Iterator[Panel]:
        """Its panels with queries, in order."""
        for row in self.rows:
            yield from (panel for panel in row.panels if isinstance(panel, Panel))

    def substituted(
        self, expression: str, interval: str, chosen: Mapping[str, str] | None = None
    ) -> str:
        """An expression that Prometheus takes.

        Args:
            expression: of one of its queries or events.
            interval: for rates, such as `1m`: at least four times Prometheus' scrape interval.
            chosen: values of variables; the others mean all.

        Raises:
            KeyError: the expression has a variable that the dashboard has not.
        """
        values = {variable.name: variable.every for variable in self.variables} | dict(chosen or {})
        intervals = {"__rate_interval": interval, "__range": interval, "__interval": interval}
        return Template(expression).substitute(values | intervals)
