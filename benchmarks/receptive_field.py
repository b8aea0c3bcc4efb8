"""The effective receptive field of a trained U-Net, drawn against the largest nuclei of its data.

    .venv-train/bin/python benchmarks/receptive_field.py stage1_train.zip runs/unet-20260101-120000

The gradients are taken at the middle of crops of the validation images.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from nuclei.inference.contract import MAP_NAMES
from training.data.dataset import Sample, read_dataset
from training.data.sampling import CropDataset
from training.data.split import split_samples
from training.families.unet import UNet
from training.optimisation import best_network
from training.receptive_field import (
    effective_receptive_field,
    figure_of_receptive_field,
    size_px,
    weight_within,
)
from training.schedule import Augmentation

PICTURE = Path(__file__).parents[1] / "docs" / "receptive_field.jpg"
REACH_PX = 224
CROP_PX = 512
PARTS = (0.5, 0.9, 0.99)
# No augmentation of the crops except their place and the eight orientations.
AS_IT_IS = Augmentation(**dict.fromkeys(Augmentation.__dataclass_fields__, 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="data set the network was trained on")
    parser.add_argument("run", type=Path, help="folder of the training")
    parser.add_argument("--images", type=int, default=32, help="crops [32]")
    arguments = parser.parse_args()
    recipe = UNet.read(arguments.run)
    network = best_network(recipe, arguments.run)
    samples = read_dataset(arguments.data)
    _, validation = split_samples(samples, recipe.validation_fraction, recipe.schedule.seed)
    crops = CropDataset(validation, np.asarray, CROP_PX, AS_IT_IS, seed=0)
    images = torch.stack([crops[index][0] for index in range(arguments.images)])
    fields = effective_receptive_field(network, images, REACH_PX)
    table = Table("map", "size, pixels", *(f"{part:.0%} within, pixels" for part in PARTS))
    halo = recipe.contract().halo
    table.add_column("within the halo")
    for name, field in zip(MAP_NAMES, fields, strict=True):
        within = weight_within(field)
        reaches = [str(int(np.searchsorted(within, part))) for part in PARTS]
        table.add_row(name, f"{size_px(field):.0f}", *reaches, f"{within[halo]:.1%}")
    nuclei = [
        (f"largest nucleus, {modality}", largest(samples, modality))
        for modality in modalities(samples)
    ]
    figure_of_receptive_field(fields, MAP_NAMES, nuclei, halo).savefig(
        PICTURE, dpi=110, pil_kwargs={"quality": 88}
    )
    console = Console()
    console.print(table)
    for name, mask in nuclei:
        console.print(f"{name}: {mask.shape[0]} x {mask.shape[1]} pixels")


def modalities(samples: list[Sample]) -> list[str]:
    return sorted({sample.modality for sample in samples})


def largest(samples: list[Sample], modality: str) -> NDArray[np.bool_]:
    """Mask of a modality's nucleus with the longest box, bool [h, w]."""
    boxes = [
        (max(rows.stop - rows.start, columns.stop - columns.start), sample, number, (rows, columns))
        for sample in samples
        if sample.modality == modality
        for number, (rows, columns) in enumerate(ndimage.find_objects(sample.labels), start=1)
    ]
    _, sample, number, box = max(boxes, key=lambda found: found[0])
    return np.asarray(sample.labels[box] == number)


if __name__ == "__main__":
    main()
