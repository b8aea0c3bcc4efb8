"""A picture of a plate: how many nuclei are in each well."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nuclei.errors import MissingPrerequisite
from nuclei.plates.tables import Well

FORMS = ("png", "svg")
# Inches of a well, and of what is around the plate.
WELL, AROUND = 0.42, (1.6, 1.3)
EMPTY_COLOUR, FAILED_COLOUR = "#f2f2f2", "#c0392b"
# Wells with a number in them, which others would be too small for.
MAX_NUMBERED = 384


def heat_map(
    title: str,
    wells: Mapping[str, Well],
    rows: Sequence[str],
    columns: Sequence[str],
) -> dict[str, bytes]:
    """The plate as a grid of wells, coloured by their nuclei per frame; a picture of each of FORMS.

    Wells that were not segmented are grey. Those with frames that failed have a red rim, and a
    cross where all have.

    Args:
        title: above the picture.
        wells: what was found, by the name of the well: row and column together.
        rows, columns: names of those of the plate.

    Raises:
        MissingPrerequisite: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps, rc_context
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.figure import Figure
        from matplotlib.patches import Circle
    except ModuleNotFoundError:
        raise MissingPrerequisite(
            "the heat map needs matplotlib, which is not installed: run `pip install "
            "'nuclei-serving[plates]'`; wells.csv has the numbers"
        ) from None
    counts = [well.count_per_frame for well in wells.values()]
    most = max([count for count in counts if count is not None] or [0])
    colours = ScalarMappable(Normalize(0, max(most, 1)), colormaps["viridis"])
    size = len(columns) * WELL + AROUND[0], len(rows) * WELL + AROUND[1]
    figure = Figure(figsize=(max(size[0], 4.5), size[1]), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            well = wells.get(f"{row}{column}")
            each = None if well is None else well.count_per_frame
            colour: Any = EMPTY_COLOUR if each is None else colours.to_rgba(np.array(each))
            failed = well is not None and well.failed > 0
            edge = FAILED_COLOUR if failed else "#888888"
            axes.add_patch(
                Circle((x, y), 0.45, facecolor=colour, edgecolor=edge, lw=2 if failed else 0.6)
            )
            text, ink = "", FAILED_COLOUR
            if each is not None and len(rows) * len(columns) <= MAX_NUMBERED:
                text, ink = f"{each:.0f}", "black" if each > 0.6 * most else "white"
            elif failed:
                text = "x"
            axes.text(x, y, text, ha="center", va="center", fontsize=7, color=ink)
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(rows) - 0.4, -0.6), aspect="equal")
    axes.set_xticks(range(len(columns)), [name.lstrip("0") or "0" for name in columns])
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title.replace("$", r"\$"), fontsize=10)
    figure.colorbar(colours, ax=axes, label="nuclei per frame", shrink=0.8)
    # Without random ids and a date, the same plate gives the same file.
    with rc_context({"svg.hashsalt": title}):
        return {form: _drawn(figure, form) for form in FORMS}


def _drawn(figure: Any, form: str) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    figure.savefig(file, format=form, dpi=150, metadata=metadata)
    return file.getvalue()
