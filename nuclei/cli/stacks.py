"""The options of a command that say which frames of stacks and plates are taken, and by whom."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nuclei.errors import InvalidOption

if TYPE_CHECKING:
    from nuclei.plates.places import Choice


def _option(text: str, metavar: str, **more: Any) -> Any:
    return typer.Option(help=text, metavar=metavar, rich_help_panel="Stacks and plates", **more)


WellsOption = Annotated[str, _option("Wells to segment: B03,C*.", "NAMES")]
FieldsOption = Annotated[str, _option("Positions to segment, by name: 0,2, or all.", "NAMES")]
TimesOption = Annotated[str, _option("Time points to segment: 0-9,12, or all.", "NUMBERS")]
SlicesOption = Annotated[
    str,
    _option(
        "Slices to segment, each a frame: 3, 0-9 or all; or one made of all: max (largest values) "
        "or sharpest.",
        "NUMBERS|max|sharpest",
    ),
]
TrackOption = Annotated[
    float | None,
    _option(
        "Link the nuclei of a time series, each to the nearest within so many pixels: the column "
        "track of nuclei.csv.",
        "PIXELS",
        min=0.0,
        show_default=False,
    ),
]
DaskOption = Annotated[
    str,
    _option(
        "Run on a Dask cluster: the address of its scheduler, or local:2 for two processes here.",
        "ADDRESS",
    ),
]


def chosen(wells: str, fields: str, t: str, z: str, plane: str, project: str) -> "Choice | None":
    """What is taken of each source; None where nothing is said of it.

    Raises:
        InvalidOption: text that is not what is expected, or options that exclude one another.
    """
    from nuclei.plates.places import Choice

    if not (wells or fields or t or z):
        return None
    if plane or project:
        raise InvalidOption(
            "--plane and --project choose the one frame of a stack, and --wells, --fields, --t and "
            "--z several: give --z in place of them"
        )
    return Choice.of_text(wells, fields, t, z)
