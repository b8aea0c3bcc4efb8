from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nuclei.agreement import differences
from nuclei.assembly import OUTPUTS
from nuclei.contract import CONTRACT_FILE, Contract, Method
from nuclei.errors import InvalidData
from nuclei.images import frame_from_array
from nuclei.local import LocalEngine
from nuclei.pipeline import segment
from serving.repository import check_repository, export
from training.consensus import Consensus
from training.dataset import Sample
from training.job import Recipe
from training.mask_rcnn import MaskRCNN
from training.optimisation import Progress, Schedule
from training.unet import UNet

DATA = Path("images")
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
    """Folders as trainings leave them, of networks that learned nothing."""
    torch.manual_seed(0)
    folders = {}
    for name, recipe in RECIPES.items():
        folders[name] = write(tmp_path_factory.mktemp("trainings") / name, recipe)
        torch.save(recipe.build().state_dict(), folders[name] / "best.pt")
        progress = vars(Progress(step=7, best_step=7, seconds=60.0))
        torch.save({"progress": progress}, folders[name] / "checkpoint.pt")
    return folders


@pytest.fixture(scope="module")
def vote(trainings: dict[str, Path]) -> Consensus:
    return Consensus.of(DATA, **trainings, device="cpu")


@pytest.fixture(scope="module")
def network(vote: Consensus, tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    scores = {"val_dsb_score": 0.4}
    network, progress = vote.fit(
        [], tmp_path_factory.mktemp("run"), lambda _: scores, lambda *_: None
    )
    assert (progress.step, progress.best_score, progress.seconds) == (14, 0.4, 120.0)
    return network


@pytest.fixture(scope="module")
def repository(
    vote: Consensus, network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    artifacts = tmp_path_factory.mktemp("artifacts")
    parity = vote.export(network, artifacts)
    assert {"network", "merge", "split", "detector/SCORES"} <= set(parity)
    (artifacts / CONTRACT_FILE).write_text(vote.contract().to_json())
    repository = tmp_path_factory.mktemp("consensus") / "models"
    export(artifacts, repository, 1, registered_model="nuclei-consensus")
    check_repository(repository)
    return repository


def test_its_contract_survives_its_file(vote: Consensus) -> None:
    contract = vote.contract()
    assert contract.method is Method.CONSENSUS
    assert Contract.from_json(contract.to_json()) == contract


def test_its_options_survive_their_file(vote: Consensus, tmp_path: Path) -> None:
    assert Consensus.read(write(tmp_path, vote)) == vote
    assert vote.tags() == {"encoder": "tu-regnetx_002", "backbone": "mobilenet_v3"}


@pytest.mark.parametrize("suffix", ["", "_tta"])
async def test_the_exported_graph_gives_what_both_networks_give(
    suffix: str,
    vote: Consensus,
    network: torch.nn.Module,
    repository: Path,
    samples: list[Sample],
) -> None:
    asked: tuple[Any, ...] = (
        OUTPUTS[Method.CONSENSUS],
        samples[0].pixels[:96, :96].astype(np.uint16),
        np.array([0, 255], np.float32),
        None,
    )
    here = await vote.engine(network, vote.contract(), "fp32").infer("consensus" + suffix, *asked)
    there = await LocalEngine(repository).infer("consensus" + suffix, *asked)
    found = differences(here.outputs, there.outputs)
    assert found["MAPS"] <= 1
    if not suffix:  # what is found in eight views of nothing in particular is merged by chance
        assert found["SCORES"] < 1e-3
        assert found["UNMATCHED"] <= 0.05 * len(here.outputs["SCORES"])


async def test_frames_are_segmented(repository: Path, samples: list[Sample]) -> None:
    frame = frame_from_array(samples[-1].pixels)
    found = await segment(frame, LocalEngine(repository), "consensus")
    assert found.labels.shape == frame.pixels.shape[:2]
    assert found.labels.max(initial=0) == len(found.nuclei)


def test_images_that_one_was_trained_on_are_no_test(
    trainings: dict[str, Path], tmp_path: Path
) -> None:
    other = replace(RECIPES["mask_rcnn"], validation_fraction=0.3)
    with pytest.raises(InvalidData, match="held out different images"):
        Consensus.of(DATA, trainings["unet"], write(tmp_path, other), "cpu")


def test_both_families_are_wanted(trainings: dict[str, Path]) -> None:
    with pytest.raises(InvalidData, match="no folder of a training of mask_rcnn"):
        Consensus.of(DATA, trainings["unet"], trainings["unet"], "cpu")
