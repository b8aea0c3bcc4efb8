from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nuclei.errors import InvalidData
from nuclei.inference.contract import Contract
from nuclei.inference.method import CONSENSUS
from training.families.consensus import Consensus
from training.families.mask_rcnn import MaskRCNN
from training.families.unet import UNet
from training.job import Recipe
from training.optimisation import Progress, finish
from training.schedule import Schedule

DATA = (Path("images"),)
SCHEDULE = Schedule(steps=7, workers=0, precision="fp32")
RECIPES: dict[str, Recipe] = {
    "unet": UNet(data=DATA, encoder="tu-regnetx_002", schedule=SCHEDULE),
    "mask_rcnn": MaskRCNN(data=DATA, backbone="mobilenet_v3", schedule=SCHEDULE),
}


def write(folder: Path, recipe: Recipe) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(recipe.to_json())
    return folder


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as trainings leave them, with untrained networks."""
    torch.manual_seed(0)
    folders = {}
    for name, recipe in RECIPES.items():
        folders[name] = write(tmp_path_factory.mktemp("trainings") / name, recipe)
        torch.save(recipe.build().state_dict(), folders[name] / "best.pt")
        finish(folders[name], Progress(step=7, best_step=7, seconds=60.0), SCHEDULE)
    return folders


@pytest.fixture(scope="module")
def vote(trainings: dict[str, Path]) -> Consensus:
    return Consensus.of(DATA, trainings, "cpu")


def test_two_trainings_become_one_network(vote: Consensus, tmp_path: Path) -> None:
    network, progress = vote.fit([], tmp_path, lambda _: {"val_dsb_score": 0.4}, lambda *_: None)
    assert (progress.step, progress.best_score, progress.seconds) == (14, 0.4, 120.0)
    assert not network.training
    for name, folder in (("unet", vote.unet), ("mask_rcnn", vote.mask_rcnn)):
        weights = torch.load(folder / "best.pt", weights_only=True)
        found = getattr(network, name).state_dict()
        assert all(torch.equal(found[key], value) for key, value in weights.items())


def test_its_contract_survives_its_file(vote: Consensus) -> None:
    contract = vote.contract()
    assert contract.method is CONSENSUS
    assert Contract.from_json(contract.to_json()) == contract


def test_its_options_survive_their_file(vote: Consensus, tmp_path: Path) -> None:
    assert Consensus.read(write(tmp_path, vote)) == vote
    assert vote.tags() == {
        "architecture": "unet",
        "encoder": "tu-regnetx_002",
        "backbone": "mobilenet_v3",
    }


def test_networks_trained_on_different_images_are_refused(
    trainings: dict[str, Path], tmp_path: Path
) -> None:
    other = replace(RECIPES["mask_rcnn"], validation_fraction=0.3)
    with pytest.raises(InvalidData, match="held out different images"):
        Consensus.of(DATA, {**trainings, "mask_rcnn": write(tmp_path, other)}, "cpu")


def test_both_families_are_wanted(trainings: dict[str, Path]) -> None:
    with pytest.raises(InvalidData, match="no folder of a training of mask_rcnn"):
        Consensus.of(DATA, {**trainings, "mask_rcnn": trainings["unet"]}, "cpu")
