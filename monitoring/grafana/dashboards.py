"""Writes Grafana's JSON of the dashboards, with the types of Grafana's own schema.

`python -m monitoring.grafana.dashboards` writes the files in `json/` anew.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import (
    common,
    heatmap,
    stat,
    statetimeline,
    text,
    timeseries,
)
from grafana_foundation_sdk.models import dashboard as grafana
from grafana_foundation_sdk.models.prometheus import Dataquery, PromQueryFormat

from monitoring.boards import dashboards
from monitoring.panels import COLUMNS, Dashboard, Event, Kind, Limit, Note, Panel, Unit, Variable
from monitoring.thresholds import read_thresholds

FOLDER = Path(__file__).parent / "json"
# Of all of ours: what a dashboard's links are found by.
TAG = "nuclei"
DATA_SOURCE = grafana.DataSourceRef(type_val="prometheus", uid="${datasource}")
ROW_HEIGHT = 1
GOOD, BAD = "green", "red"
# What only variables of intervals have.
NO_INTERVAL: dict[str, Any] = {"auto": None, "auto_min": None, "auto_count": None}


def uid(name: str) -> str:
    """What a dashboard is called in addresses."""
    return f"nuclei-{name}"


def write(folder: Path = FOLDER) -> None:
    """Write the JSON of each dashboard."""
    folder.mkdir(exist_ok=True)
    for board in dashboards(read_thresholds()):
        (folder / f"{board.name}.json").write_text(as_json(board))


def as_json(board: Dashboard) -> str:
    """The text of a dashboard's file."""
    return json.dumps(_dashboard(board), cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"


class Annotation(grafana.AnnotationQuery):
    """An annotation out of Prometheus, with the text that the schema leaves to the data source."""

    def __init__(self, event: Event) -> None:
        super().__init__(
            name=event.name, datasource=DATA_SOURCE, icon_color=event.colour, expr=event.expression
        )
        self._event = event

    def to_json(self) -> dict[str, object]:
        titles = {"titleFormat": self._event.name, "textFormat": self._event.text}
        return super().to_json() | titles


def _dashboard(board: Dashboard) -> grafana.Dashboard:
    return grafana.Dashboard(
        uid=uid(board.name),
        title=f"Nuclei: {board.title}",
        description=board.question,
        tags=[TAG],
        # It is generated: what is changed in Grafana would be lost.
        editable=False,
        graph_tooltip=grafana.DashboardCursorSync.CROSSHAIR,
        time=grafana.DashboardDashboardTime("now-1h", "now"),
        refresh="30s",
        panels=list(_panels(board)),
        templating=grafana.DashboardDashboardTemplating(
            [_data_source(), *map(_variable, board.variables)]
        ),
        annotations=grafana.AnnotationContainer([Annotation(event) for event in board.events]),
        links=[
            grafana.DashboardLink(
                title="Nuclei",
                type_val=grafana.DashboardLinkType.DASHBOARDS,
                icon="external link",
                tooltip="The other dashboards, for the same time and choice",
                tags=[TAG],
                include_vars=True,
                keep_time=True,
            )
        ],
    )


def _panels(board: Dashboard) -> Iterator[grafana.Panel | grafana.RowPanel]:
    """The panels, row after row; a panel that does not fit beside the last starts a new line."""
    numbers = itertools.count(1)
    y = 0
    for row in board.rows:
        place = grafana.GridPos(h=ROW_HEIGHT, w=COLUMNS, x=0, y=y)
        yield grafana.RowPanel(title=row.title, grid_pos=place, id_val=next(numbers), panels=[])
        x, y, height = 0, y + ROW_HEIGHT, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            place = grafana.GridPos(h=panel.height, w=panel.width, x=x, y=y)
            if isinstance(panel, Note):
                yield _note(panel, next(numbers), place)
            else:
                yield _panel(panel, next(numbers), place)
            x, height = x + panel.width, max(height, panel.height)
        y += height


def _note(note: Note, number: int, place: grafana.GridPos) -> grafana.Panel:
    return grafana.Panel(
        type_val="text",
        id_val=number,
        title=note.title,
        grid_pos=place,
        options=text.Options(mode=text.TextMode.MARKDOWN, content=note.text),
    )


def _panel(panel: Panel, number: int, place: grafana.GridPos) -> grafana.Panel:
    return grafana.Panel(
        type_val=panel.kind,
        id_val=number,
        title=panel.title,
        description=panel.question,
        datasource=DATA_SOURCE,
        grid_pos=place,
        targets=[
            Dataquery(
                expr=query.expression,
                legend_format=query.legend,
                ref_id=chr(ord("A") + position),
                datasource=DATA_SOURCE,
                range_val=True,
                # Dots on the line of a histogram, which lead to traces.
                exemplar=panel.kind is Kind.TIMESERIES and "_bucket" in query.expression,
                format_val=PromQueryFormat.HEATMAP
                if panel.kind is Kind.HEATMAP
                else PromQueryFormat.TIME_SERIES,
            )
            for position, query in enumerate(panel.queries)
        ],
        options=_options(panel),
        field_config=grafana.FieldConfigSource(_field(panel), []),
    )


def _field(panel: Panel) -> grafana.FieldConfig:
    by_limit = panel.kind is Kind.STAT or panel.unit is Unit.YES_NO
    colour = (
        grafana.FieldColorModeId.THRESHOLDS
        if by_limit
        else grafana.FieldColorModeId.PALETTE_CLASSIC
    )
    return grafana.FieldConfig(
        unit=panel.unit,
        min_val=0 if panel.lowest == 0 else None,
        max_val=1 if panel.unit is Unit.SHARE and panel.stacked else None,
        color=grafana.FieldColor(mode=colour),
        thresholds=_thresholds(panel),
        links=[_link(panel.leads_to)] if panel.leads_to else None,
        custom=_custom(panel),
    )


def _thresholds(panel: Panel) -> grafana.ThresholdsConfig:
    limit = Limit(1, below=True) if panel.unit is Unit.YES_NO else panel.limit
    first, then = (BAD, GOOD) if limit and limit.below else (GOOD, BAD)
    steps = [grafana.Threshold(None, first)]
    if limit:
        steps.append(grafana.Threshold(limit.value, then))
    return grafana.ThresholdsConfig(grafana.ThresholdsMode.ABSOLUTE, steps)


def _link(name: str) -> grafana.DashboardLink:
    return grafana.DashboardLink(
        title=f"More: {name}",
        type_val=grafana.DashboardLinkType.LINK,
        url=f"/d/{uid(name)}?${{__url_time_range}}&${{__all_variables}}",
    )


def _custom(panel: Panel) -> object:
    """What only this kind of panel has of a field's settings."""
    if panel.kind is Kind.STEPS:
        return statetimeline.FieldConfig()
    if panel.kind is Kind.HEATMAP:
        return heatmap.FieldConfig()
    if panel.kind is not Kind.TIMESERIES:
        return None
    stacking = common.StackingMode.NORMAL if panel.stacked else common.StackingMode.NONE
    line = common.GraphThresholdsStyleMode.DASHED if panel.limit else None
    return common.GraphFieldConfig(
        draw_style=common.GraphDrawStyle.LINE,
        fill_opacity=30 if panel.stacked else 0,
        stacking=common.StackingConfig(stacking, "A"),
        thresholds_style=common.GraphThresholdsStyleConfig(line) if line else None,
    )


def _options(panel: Panel) -> object:
    match panel.kind:
        case Kind.TIMESERIES:
            return timeseries.Options(legend=_legend(), tooltip=_tooltip())
        case Kind.STEPS:
            return statetimeline.Options(legend=_legend(), tooltip=_tooltip())
        case Kind.STAT:
            last = common.ReduceDataOptions(calcs=["lastNotNull"], values=False)
            return stat.Options(reduce_options=last, graph_mode=common.BigValueGraphMode.AREA)
        case Kind.HEATMAP:
            return heatmap.Options(
                y_axis=heatmap.YAxisConfig(unit=panel.unit),
                color=heatmap.HeatmapColorOptions(
                    mode=heatmap.HeatmapColorMode.SCHEME, scheme="Spectral", steps=64
                ),
                legend=heatmap.HeatmapLegend(show=True),
            )


def _legend() -> common.VizLegendOptions:
    return common.VizLegendOptions(
        display_mode=common.LegendDisplayMode.LIST,
        placement=common.LegendPlacement.BOTTOM,
        show_legend=True,
        calcs=[],
    )


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions(common.TooltipDisplayMode.MULTI, common.SortOrder.DESCENDING)


def _data_source() -> grafana.VariableModel:
    return grafana.VariableModel(
        type_val=grafana.VariableType.DATASOURCE,
        name="datasource",
        label="Prometheus",
        query="prometheus",
        **NO_INTERVAL,
    )


def _variable(variable: Variable) -> grafana.VariableModel:
    if not variable.values:
        return grafana.VariableModel(
            type_val=grafana.VariableType.TEXTBOX,
            name=variable.name,
            label=variable.label,
            query=variable.every,
            **NO_INTERVAL,
        )
    query: dict[str, Any] = {"query": variable.values, "refId": variable.name}
    return grafana.VariableModel(
        type_val=grafana.VariableType.QUERY,
        name=variable.name,
        label=variable.label,
        query=query,
        datasource=DATA_SOURCE,
        refresh=grafana.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=grafana.VariableSort.ALPHABETICAL_ASC,
        multi=True,
        include_all=True,
        all_value=variable.every,
        current=grafana.VariableOption(selected=True, text=["All"], value=["$__all"]),
        **NO_INTERVAL,
    )


if __name__ == "__main__":
    write()
