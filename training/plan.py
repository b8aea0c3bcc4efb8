"""Every model of the project: what `nuclei train all` trains, in this order, and how long."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.families.consensus import Consensus
from training.families.mask_rcnn import MaskRCNN
from training.families.stardist import StarDist
from training.families.unet import UNet
from training.families.unet_linknet import UNetLinkNet
from training.families.yolov8 import YoloV8
from training.folders import writing
from training.job import Recipe
from training.optimisation import FINISHED_FILE
from training.schedule import MASK_RCNN, YOLOV8, Schedule

PLAN_FILE = "plan.json"
ENCODER = "tu-regnetx_004"


class Budget(StrEnum):
    """What the machine can afford."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True)
class Planned:
    """One model of the plan.

    Attributes:
        name: of its folder.
        make: gives its recipe, once the models before it are trained.
        ensemble: whether it is made of other models, and learns nothing itself.
    """

    name: str
    make: Callable[[], Recipe]
    ensemble: bool = False


def budget_of(folder: Path, device: str) -> Budget:
    """The budget that a folder's trainings started with; that of the device if there are none.

    A folder may move between machines: a CPU finishes what a GPU started, with the GPU's budget.
    """
    file = folder / PLAN_FILE
    if file.exists():
        return Budget(json.loads(file.read_text())["budget"])
    return Budget.GPU if device == "cuda" else Budget.CPU


def keep_budget(folder: Path, budget: Budget) -> None:
    """Note the budget that the trainings of a folder start with."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN_FILE).write_text(json.dumps({"budget": budget}))


def carried(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the options of its training, if that is finished.

    Its device is kept, and so is the licence of the data, if it has one.
    """
    if not (folder / FINISHED_FILE).exists():
        return recipe
    before = recipe.read(folder)
    schedule = replace(before.schedule, device=recipe.schedule.device)
    licence = recipe.data_licence or before.data_licence
    return replace(before, data=recipe.data, data_licence=licence, schedule=schedule)


def plan(
    data: tuple[Path, ...],
    folder: Path,
    budget: Budget,
    device: str,
    steps: int | None = None,
    minutes: float | None = None,
    categories: tuple[str, ...] = (),
    data_licence: str = "",
) -> Iterator[Planned]:
    """The models, ensembles after their members; YOLOv8 where it can be trained.

    Args:
        data: folders and zips of images and masks.
        folder: of all trainings, each in a folder of its name.
        budget: how large, and how long.
        device: `cuda` or `cpu`.
        steps: of each training, in place of the plan's.
        minutes: of each training, in place of steps.
        categories, data_licence: as of `Recipe`.
    """
    gpu = budget is Budget.GPU
    licence: dict[str, Any] = {"data_licence": data_licence} if data_licence else {}
    of: dict[str, Any] = {"data": data, "categories": categories, **licence}

    def schedule(base: Schedule, cpu_steps: int, gpu_steps: int, workers: int = 2) -> Schedule:
        sized = replace(base, minutes=minutes, device=device)
        if not gpu:
            return replace(sized, steps=steps or cpu_steps)
        # Steps are fast on a GPU: with the default interval, validation would take longer.
        sized = replace(sized, validate_every=1000, batch_size=16, workers=workers)
        return replace(sized, steps=steps or gpu_steps)

    def folders(*members: str) -> dict[str, Path]:
        return {name: folder / name for name in members}

    def unet(architecture: str, encoder: str = ENCODER, cpu_steps: int = 9000) -> Planned:
        name = architecture if encoder == ENCODER else f"{architecture}_{encoder}"
        settings = schedule(Schedule(), cpu_steps, 12000, workers=12)
        recipe = UNet(**of, architecture=architecture, encoder=encoder, schedule=settings)
        return Planned(name, lambda: recipe)

    yield unet("unet", cpu_steps=13000)
    yield unet("linknet")
    yield Planned(
        "unet_linknet",
        lambda: replace(UNetLinkNet.of(data, folders("unet", "linknet"), device), **licence),
        ensemble=True,
    )
    settings = schedule(Schedule(), 9000, 10000, workers=6)
    yield Planned("stardist", lambda: StarDist(**of, schedule=settings))
    sgd = schedule(MASK_RCNN, 6000, 6000)
    backbone = "resnet18" if gpu else "mobilenet_v3"
    yield Planned("mask_rcnn", lambda: MaskRCNN(**of, backbone=backbone, schedule=sgd))
    yield Planned(
        "consensus",
        lambda: replace(Consensus.of(data, folders("unet", "mask_rcnn"), device), **licence),
        ensemble=True,
    )
    if find_spec("ultralytics") is not None:
        # Smaller crops, because the network sees them enlarged.
        yolo = schedule(replace(YOLOV8, batch_size=4, crop_px=192), 2500, 10000)
        size = "s" if gpu else "n"
        yield Planned("yolov8", lambda: YoloV8(**of, size=size, schedule=yolo))
    if gpu:
        yield unet("unet", "resnet34")
    for architecture in ("fcn", "cnn"):
        yield unet(architecture)
