"""Two networks as one: the mean of a U-Net's maps and a LinkNet's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from nuclei.errors import InvalidData
from training.dataset import Sample
from training.job import CHECKPOINT_FILE
from training.optimisation import BEST_FILE, Progress, Report, Validate
from training.unet import UNet

# Keeps the logit of a probability of 0 or 1 finite, far closer than the 255 levels of a map.
EPSILON = 1e-6


class Average(nn.Module):
    """The mean of the probabilities of several networks, as logits."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Take networks from image float32 [N, 3, H, W] to logits float32 [N, K, H, W]."""
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        maps = [torch.sigmoid(network(image).float()) for network in self.networks]
        return torch.logit(torch.stack(maps).mean(dim=0), eps=EPSILON)


@dataclass(frozen=True, kw_only=True)
class UNetLinkNet(UNet):
    """The average of a U-Net and a LinkNet that were trained before; it learns nothing itself.

    What is not named here is as in the training of the U-Net.

    Attributes:
        unet: folder of the U-Net's training.
        linknet: folder of the LinkNet's.
    """

    unet: str
    linknet: str

    family = "unet_linknet"

    @classmethod
    def of(cls, data: Path, unet: Path, linknet: Path, device: str) -> Self:
        """The average of what two trainings gave.

        Args:
            data: the images both were trained on.
            unet, linknet: their folders.
            device: `cuda` or `cpu`.

        Raises:
            InvalidData: a folder is of no such training, or the two held out different images.
        """
        first, second = _read(unet, "unet"), _read(linknet, "linknet")
        splits = [(one.validation_fraction, one.schedule.seed) for one in (first, second)]
        if splits[0] != splits[1]:
            raise InvalidData(
                f"{unet} and {linknet} held out different images (fraction and seed {splits[0]} "
                f"and {splits[1]}), so none may be new to both; train them with the same"
            )
        changed = {
            "data": data,
            "architecture": cls.family,
            "schedule": replace(first.schedule, device=device),
            "unet": str(unet.resolve()),
            "linknet": str(linknet.resolve()),
        }
        return cls(**{**vars(first), **changed})

    def build(self) -> nn.Module:
        return Average([recipe.build() for recipe in self._recipes()])

    def fit(
        self, samples: Sequence[Sample], folder: Path, validate: Validate, report: Report
    ) -> tuple[nn.Module, Progress]:
        """The average; as its progress counts what both trainings took."""
        trainings = [
            (recipe, Path(folder))
            for recipe, folder in zip(self._recipes(), (self.unet, self.linknet), strict=True)
        ]
        network = Average([_network(recipe, folder) for recipe, folder in trainings]).eval()
        before = [_progress(folder) for _, folder in trainings]
        step = sum(progress.best_step for progress in before)
        scores = validate(network.to(self.schedule.device))
        report(step, scores)
        seconds = sum(progress.seconds for progress in before)
        return network.cpu(), Progress(step, scores["val_dsb_score"], step, seconds)

    def tags(self) -> Mapping[str, Any]:
        return {"encoder": "+".join(recipe.encoder for recipe in self._recipes())}

    def _recipes(self) -> tuple[UNet, UNet]:
        return _read(Path(self.unet), "unet"), _read(Path(self.linknet), "linknet")


def _read(folder: Path, architecture: str) -> UNet:
    recipe = UNet.read(folder)
    if recipe.architecture != architecture:
        raise InvalidData(
            f"{folder} is a training of {recipe.architecture}; expected one of {architecture}"
        )
    return recipe


def _network(recipe: UNet, folder: Path) -> nn.Module:
    network = recipe.build()
    try:
        weights = torch.load(folder / BEST_FILE, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InvalidData(
            f"{folder} holds no weights yet ({error.strerror}); let its training go on"
        ) from error
    network.load_state_dict(weights)
    return network


def _progress(folder: Path) -> Progress:
    state = torch.load(folder / CHECKPOINT_FILE, map_location="cpu", weights_only=True)
    return Progress(**state["progress"])
