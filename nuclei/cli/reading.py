"""The options that say how a command's frames are read; `FrameOptions.of_text` reads them."""

from typing import Annotated, Any

import typer


def _option(text: str, metavar: str) -> Any:
    return typer.Option(help=text, metavar=metavar, rich_help_panel="How frames are read")


ChannelOption = Annotated[
    str, _option("Channel to segment: its name, or its number from 0.", "NAME")
]
PlaneOption = Annotated[str, _option("Plane of a stack to segment, from 0.", "NUMBER")]
ProjectOption = Annotated[str, _option("One plane of all: max, their largest values.", "max")]
PixelSizeOption = Annotated[
    str, _option("Size of a pixel, micrometres, in place of the file's: 0.325, or y,x.", "UM")
]
IntensityRangeOption = Annotated[
    str, _option("Values of the frame that become black and white for the network.", "LO,HI")
]
IntensityPercentilesOption = Annotated[str, _option("The same as percentiles, 0 to 100.", "LO,HI")]
