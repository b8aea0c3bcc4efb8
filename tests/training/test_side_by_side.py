from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nuclei.errors import InvalidData
from training.data.conversion import write_dataset
from training.data.dataset import Sample
from training.families.unet import UNet
from training.optimisation import best_network, finished_progress
from training.schedule import Schedule
from training.side_by_side import Together, train_side_by_side

SCHEDULE = Schedule(
    steps=2, batch_size=2, crop_px=64, validate_every=1, workers=0, precision="fp32"
)


def recipe(data: Path, architecture: str, schedule: Schedule = SCHEDULE) -> UNet:
    return UNet(
        data=(data,),
        architecture=architecture,
        encoder="tu-regnetx_002",
        validation_fraction=0.25,
        schedule=schedule,
    )


def test_networks_that_learn_together_learn_what_each_would(tmp_path: Path) -> None:
    recipes = {name: recipe(tmp_path, name) for name in ("cnn", "fcn")}
    together = Together(recipes)
    network = together.build()
    labels = np.zeros((64, 64), np.uint16)
    labels[10:30, 10:30] = 1
    targets = together.targets(labels)[None].repeat(2, 1, 1, 1)
    images = torch.rand(2, 3, 64, 64)
    together.loss_of(network, images, targets).backward()
    for name, own in recipes.items():
        alone = own.build()
        alone.load_state_dict(network.networks[name].state_dict())
        own.loss_of(alone, images, targets).backward()
        for (_, first), (_, second) in zip(
            alone.named_parameters(), network.networks[name].named_parameters(), strict=True
        ):
            torch.testing.assert_close(first.grad, second.grad)


def test_each_leaves_its_own_folder_and_a_failure_stops_no_other(
    samples: list[Sample], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    write_dataset(samples, data, "labels")
    recipes = {name: recipe(data, name) for name in ("cnn", "fcn")}
    broken = replace(recipe(data, "unet", replace(SCHEDULE, steps=3)), encoder="no_such")
    runs = tmp_path / "runs"
    with pytest.raises(InvalidData, match=r"broken: the training failed; see .*broken\.log"):
        train_side_by_side({**recipes, "broken": broken}, runs)
    assert "encoder 'no_such' is unknown" in (runs / "broken.log").read_text()
    for name, own in recipes.items():
        assert finished_progress(runs / name).step == 2
        assert not best_network(UNet.read(runs / name), runs / name).training
        assert UNet.read(runs / name) == own
