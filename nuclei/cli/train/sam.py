"""`nuclei train sam`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nuclei.cli.train.options import Training, trains
from nuclei.cli.versions import downloaded
from nuclei.errors import InvalidOption
from nuclei.registry import default_tracking_uri, registered_name
from training.schedule import SAM

if TYPE_CHECKING:
    from training.families.sam import Sam

EPILOG = """
**Examples**

nuclei train sam my_images/ --weights sam-vit-base/                  (the boxes of nuclei-mask-rcnn)

nuclei train sam my_images/ --weights sam-vit-base/ --detector nuclei-yolov8 --device cuda

The weights are a folder written by `transformers` on a machine with internet:
SamModel.from_pretrained("facebook/sam-vit-base")
.save_pretrained("sam-vit-base"). Train a detector first.
"""


@trains(SAM)
def sam(
    asked: Training,
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder of SAM's weights (config.json, model.safetensors)."),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(help="Registered model whose boxes are the prompts; its newest version."),
    ] = registered_name("mask_rcnn"),
) -> None:
    """Fine-tune Segment Anything: masks inside the boxes of a Mask R-CNN or YOLOv8.

    The mask decoder is trained on the true boxes of your images; the image encoder is frozen.
    Scores, curves and pictures go to MLflow, as for every model.
    """
    from training.families.sam import Sam

    def make(shared: dict[str, Any]) -> "Sam":
        if weights is None:
            raise InvalidOption("--weights is missing: expected the folder of SAM's weights")
        prompts = _newest(detector, asked.tracking_uri or default_tracking_uri())
        return Sam(**shared, weights=weights.resolve(), detector=prompts)

    asked.start(Sam.read, make)


def _newest(model: str, tracking_uri: str) -> Path:
    """The files of a registered model's newest version."""
    from serving.registry import Registry

    registry = Registry(tracking_uri)
    return downloaded(registry, registry.find(model))
