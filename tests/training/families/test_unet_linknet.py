from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nuclei.errors import InvalidData
from nuclei.inference.contract import Contract
from training.data.dataset import Sample
from training.families.unet import UNet
from training.families.unet_linknet import Average, UNetLinkNet
from training.graphs.kinds import ByKind
from training.job import CHECKPOINT_FILE, Recipe
from training.optimisation import fit
from training.schedule import Schedule

SCHEDULE = Schedule(
    steps=2, batch_size=2, crop_px=64, validate_every=1, workers=0, precision="fp32"
)


def recipe(architecture: str) -> UNet:
    return UNet(
        data=(Path("images"),),
        architecture=architecture,
        encoder="tu-regnetx_002",
        validation_fraction=0.25,
        schedule=SCHEDULE,
    )


def write(folder: Path, written: Recipe) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "options.json").write_text(written.to_json())
    return folder


@pytest.fixture(scope="module")
def trainings(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("trainings")
    folders = {}
    for name in ("unet", "linknet"):
        folders[name] = write(home / name, recipe(name))
        fit(
            recipe(name),
            samples,
            SCHEDULE,
            folders[name] / CHECKPOINT_FILE,
            lambda _: {"val_dsb_score": 0.5},
            lambda *_: None,
        )
    return folders


def test_an_average_lies_halfway() -> None:
    images = torch.rand(2, 3, 8, 8)
    networks = [torch.nn.Conv2d(3, 3, 3, padding=1).eval() for _ in range(2)]
    maps = [torch.sigmoid(network(images)) for network in networks]
    found = torch.sigmoid(Average(networks)(images))
    torch.testing.assert_close(found, (maps[0] + maps[1]) / 2)


def test_certainty_stays_finite() -> None:
    certain = torch.nn.Conv2d(3, 3, 1).requires_grad_(False)
    certain.bias.fill_(1000.0)
    logits = Average([certain, certain])(torch.rand(1, 3, 8, 8))
    assert torch.isfinite(logits).all()
    assert (torch.sigmoid(logits) * 255).round().eq(255).all()


def test_two_trainings_become_one_network(
    trainings: dict[str, Path], samples: list[Sample], tmp_path: Path
) -> None:
    average = UNetLinkNet.of((Path("images"),), trainings, "cpu")
    reported: list[int] = []
    network, progress = average.fit(
        samples, tmp_path, lambda _: {"val_dsb_score": 0.6}, lambda step, _: reported.append(step)
    )
    assert not network.training
    assert progress.best_score == 0.6
    assert reported == [progress.step] == [2]
    images = torch.rand(1, 3, 64, 64)
    maps = []
    for name, folder in trainings.items():
        alone = recipe(name).build().eval()
        alone.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
        maps.append(torch.sigmoid(alone(images)))
    found = torch.sigmoid(network(images))
    torch.testing.assert_close(found, (maps[0] + maps[1]) / 2, atol=1e-5, rtol=0)


def test_it_is_a_family_of_its_own(trainings: dict[str, Path], tmp_path: Path) -> None:
    average = UNetLinkNet.of((tmp_path / "images",), trainings, "cpu")
    assert average.contract().family == "unet_linknet"
    assert average.tags() == {"encoder": "tu-regnetx_002+tu-regnetx_002"}
    assert UNetLinkNet.read(write(tmp_path / "run", average)) == average


def test_a_training_of_another_network_is_refused(trainings: dict[str, Path]) -> None:
    with pytest.raises(InvalidData, match="training of unet; expected one of linknet"):
        UNetLinkNet.of((Path("images"),), {**trainings, "linknet": trainings["unet"]}, "cpu")


def test_networks_trained_on_different_images_are_refused(
    trainings: dict[str, Path], tmp_path: Path
) -> None:
    other = write(tmp_path, replace(recipe("linknet"), schedule=replace(SCHEDULE, seed=1)))
    with pytest.raises(InvalidData, match="held out different images"):
        UNetLinkNet.of((Path("images"),), {**trainings, "linknet": other}, "cpu")


def test_networks_that_go_on_from_different_models_are_refused(
    trainings: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "contract.json").write_text(Contract("unet", held_out=("a",)).to_json())
    other = write(tmp_path / "run", replace(recipe("linknet"), parent="x", parent_files=tmp_path))
    with pytest.raises(InvalidData, match="go on from different models"):
        UNetLinkNet.of((Path("images"),), {**trainings, "linknet": other}, "cpu")


def test_networks_by_kind_are_not_averaged(trainings: dict[str, Path]) -> None:
    average = UNetLinkNet.of((Path("images"),), trainings, "cpu")
    networks = [torch.nn.Conv2d(3, 3, 3) for _ in range(3)]
    with pytest.raises(InvalidData, match="without --keep"):
        average.combine([ByKind(*networks[:2]), networks[2]])


def test_a_training_without_weights_is_refused(trainings: dict[str, Path], tmp_path: Path) -> None:
    begun = write(tmp_path, recipe("linknet"))
    average = UNetLinkNet.of((Path("images"),), {**trainings, "linknet": begun}, "cpu")
    with pytest.raises(InvalidData, match="no weights yet"):
        average.fit([], tmp_path, lambda _: {}, lambda *_: None)
