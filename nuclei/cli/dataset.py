"""The options of commands that read a data set."""

from typing import Annotated

import typer

CategoryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--category",
        help="The category whose outlines are nuclei, where COCO, YOLO, GeoJSON or labelme files "
        "have several; repeat for several.",
        show_default=False,
    ),
]
