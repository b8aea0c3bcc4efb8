"""The options of commands that read data sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

DATA_HELP = "Folder or zip of images with their nuclei, in any form of docs/data.md"
DataOption = Annotated[
    list[Path],
    typer.Option(help=f"{DATA_HELP}; repeat for several, which are scored by source, too."),
]
CategoryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--category",
        help="The category whose outlines are nuclei, where COCO, YOLO, GeoJSON or labelme files "
        "have several; repeat for several.",
        show_default=False,
    ),
]


def title_of(data: Sequence[Path]) -> str:
    """What data sets are called, for titles and messages."""
    return ", ".join(path.resolve().name for path in data)
