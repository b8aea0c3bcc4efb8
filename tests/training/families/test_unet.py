import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nuclei.errors import InvalidData, InvalidOption
from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.postprocessing.watershed import WatershedParameters
from tests.training.networks import used
from training.data.conversion import write_dataset
from training.data.dataset import Sample
from training.families.unet import ARCHITECTURES, UNet, build_network
from training.graphs.maps import map_steps
from training.graphs.step import export_steps
from training.job import n_parameters, train
from training.left_out import train_folds
from training.ranks import ALONE
from training.schedule import FINE_TUNING

ENCODERS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "tu-regnetx_004"]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_build_and_keep_the_size(encoder: str) -> None:
    network = build_network("unet", encoder).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 64, 96)).shape == (1, 3, 64, 96)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("encoder", ["resnet18", "tu-regnetx_004"])
def test_architectures_keep_the_size_and_learn(architecture: str, encoder: str) -> None:
    network = build_network(architecture, encoder)
    logits = network(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, 3, 64, 96)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("architecture", ["linknet", "fcn"])
def test_architectures_are_exported(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    differences = export_steps(
        map_steps(build_network(architecture, "tu-regnetx_002").eval()), tmp_path
    )
    assert differences["network"] <= 1  # of 255 levels


def test_the_default_is_small() -> None:
    assert n_parameters(build_network("unet", "tu-regnetx_004")) < 6_200_000


def test_a_timm_backbone_is_an_encoder() -> None:
    assert n_parameters(build_network("unet", "tu-resnet10t")) > 0


@pytest.mark.parametrize("encoder", ["resnet17", "", "tu-no_such_backbone"])
@pytest.mark.parametrize("architecture", ["unet", "fcn"])
def test_an_unknown_encoder_is_refused(architecture: str, encoder: str) -> None:
    with pytest.raises(InvalidOption, match="encoder"):
        build_network(architecture, encoder)


def test_an_encoder_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidOption, match="no match for linknet"):
        build_network("linknet", "mit_b0")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InvalidOption, match="expected one of unet, linknet"):
        build_network("segnet", "resnet18")


@pytest.fixture(scope="module")
def neighbours() -> NDArray[np.uint16]:
    """Two nuclei, two pixels apart."""
    labels = np.zeros((64, 64), np.uint16)
    labels[20:40, 10:30], labels[20:40, 32:50] = 1, 2
    return labels


def test_border_weights_add_to_the_loss_between_close_nuclei(
    neighbours: NDArray[np.uint16], tmp_path: Path
) -> None:
    plain, weighted = (UNet(data=(tmp_path,), loss="bce", border_weight=w) for w in (0.0, 10.0))
    images = torch.rand(1, 3, 64, 64)
    torch.manual_seed(0)
    network = plain.build().train()

    def loss(recipe: UNet, labels: NDArray[np.uint16]) -> float:
        return recipe.loss_of(network, images, recipe.targets(labels)[None]).item()

    one = neighbours * (neighbours == 1)
    assert loss(weighted, neighbours) > loss(plain, neighbours) + 0.1
    assert loss(weighted, one) == pytest.approx(loss(plain, one))


def going_on(parent: Path, **options: Any) -> UNet:
    return UNet(
        data=(parent,),
        loss="bce",
        parent="unet",
        parent_files=parent,
        parent_licence="x",
        **options,
    )


def test_the_parents_parameters_are_known_for_frames_of_both_kinds(
    shipped_artifacts: Path, tmp_path: Path
) -> None:
    """Tuning then keeps those of the kind of which it has no images."""
    alike = replace(
        Contract.read(shipped_artifacts / CONTRACT_FILE),
        postprocessing=WatershedParameters(h=0.25),
        colour_postprocessing=None,
    )
    parent = shutil.copytree(shipped_artifacts, tmp_path / "parent")
    (parent / CONTRACT_FILE).write_text(alike.to_json())
    contract = going_on(parent).contract()
    assert contract.postprocessing == contract.colour_postprocessing == alike.postprocessing


@pytest.fixture(scope="module")
def parent(shipped_artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a small model of one network."""
    folder = tmp_path_factory.mktemp("parent")
    shutil.copy(shipped_artifacts / CONTRACT_FILE, folder)
    torch.manual_seed(0)
    export_steps(map_steps(used(build_network("cnn", ""))), folder)
    return folder


def trained(recipe: UNet, samples: list[Sample], folder: Path) -> dict[str, torch.Tensor]:
    network, _ = recipe.fit(samples, folder, None, lambda *_: None)
    return dict(network.state_dict())


def small(parent: Path, **options: Any) -> UNet:
    schedule = replace(FINE_TUNING, steps=2, batch_size=2, crop_px=64, workers=0, precision="bf16")
    return going_on(parent, architecture="cnn", schedule=schedule, **options)


@pytest.mark.parametrize(("keep", "other"), [("grey", "colour"), ("colour", "grey")])
def test_the_network_of_the_kept_kind_stays_and_the_other_learns(
    parent: Path,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keep: str,
    other: str,
) -> None:
    recipe = small(parent, keep=keep)
    before = recipe.first_weights()
    assert before is not None
    crops: list[tuple[torch.Tensor, torch.Tensor]] = []
    loss_of = UNet.loss_of

    def noted(
        recipe: UNet, network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        crops.append((images.clone(), targets.clone()))
        return loss_of(recipe, network, images, targets)

    monkeypatch.setattr(UNet, "loss_of", noted)
    after = trained(recipe, samples, tmp_path)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(f"{other}.") for name in changed)
    # Images of the kept kind are not learned from. Distances of two trainings differ by a rounding.
    learned = crops.copy()
    crops.clear()
    without = [one for one in samples if (one.pixels.shape[2] == 1) != (keep == "grey")]
    trained(recipe, without, tmp_path / "without")
    assert len(learned) == len(crops) == recipe.schedule.steps
    for (images, targets), (same, alike) in zip(learned, crops, strict=True):
        assert torch.equal(images, same)
        torch.testing.assert_close(targets, alike)


def test_folds_train_where_something_is_learned(
    parent: Path, samples: list[Sample], tmp_path: Path
) -> None:
    """A source of the kept kind changes no network; without the other nothing is learned."""
    recipe = small(parent, keep="grey", folds=2, fold_steps=1)
    own = [replace(one, source=one.modality) for one in samples]
    network = recipe.build()
    networks = train_folds(recipe, network, own, frozenset(), tmp_path, ALONE)
    assert networks.keys() == {frozenset({"fluorescence"}), frozenset({"histology"})}
    assert networks[frozenset({"fluorescence"})] is network
    before = recipe.first_weights()
    assert before is not None
    for name, value in networks[frozenset({"histology"})].state_dict().items():
        assert torch.equal(value, before[name])


def test_images_of_the_kept_kind_alone_are_refused(
    parent: Path, samples: list[Sample], tmp_path: Path
) -> None:
    write_dataset([one for one in samples if one.pixels.shape[2] == 1], tmp_path / "data", "labels")
    recipe = replace(small(parent, keep="grey"), data=(tmp_path / "data",))
    with pytest.raises(InvalidData, match="kind that is learned"):
        train(recipe, tmp_path / "run", f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_one_goes_on_from_two_networks(parent: Path, samples: list[Sample], tmp_path: Path) -> None:
    """Each learns from images of its kind."""
    first = small(parent, keep="grey")
    network, _ = first.fit(samples, tmp_path / "first", None, lambda *_: None)
    files = shutil.copytree(parent, tmp_path / "files")
    first.export(network, files)
    recipe = small(files)
    assert recipe.by_kind
    before = recipe.first_weights()
    assert before is not None

    def learned(samples: list[Sample], folder: str) -> set[str]:
        after = trained(recipe, samples, tmp_path / folder)
        return {
            name.partition(".")[0]
            for name, value in after.items()
            if not torch.equal(value, before[name])
        }

    grey = [one for one in samples if one.pixels.shape[2] == 1]
    assert learned(grey, "grey") == {"grey"}
    assert learned(samples, "both") == {"grey", "colour"}


def test_a_network_lies_part_of_the_way_from_its_parent(
    parent: Path, samples: list[Sample], tmp_path: Path
) -> None:
    whole = small(parent, keep="grey")
    before = whole.first_weights()
    assert before is not None
    after = trained(whole, samples, tmp_path)
    # The second finds the first's training finished.
    for name, value in trained(replace(whole, mix=0.25), samples, tmp_path).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, before[name] + 0.25 * (after[name] - before[name]))
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": "red"}, "expected grey or colour"),
        ({"keep": "grey", "schedule": replace(FINE_TUNING, steps=0)}, "leave out one"),
        ({"mix": 0.0}, "more than 0"),
        ({"mix": 1.5}, "at most 1"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    shipped_artifacts: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidOption, match=said):
        going_on(shipped_artifacts, **options).check()


@pytest.mark.parametrize("options", [{"keep": "grey"}, {"mix": 0.5}])
def test_nothing_is_kept_without_a_parent(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="give it as --from"):
        UNet(data=(tmp_path,), **options).check()
