import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from nuclei.errors import InvalidOption
from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.inference.graph import MAP_NETWORK
from nuclei.postprocessing.watershed import WatershedParameters
from tests.training.conftest import MakeSample
from training.families.unet import ARCHITECTURES, UNet, build_network
from training.graphs.maps import map_steps
from training.graphs.step import export_steps
from training.graphs.weights import read_weights
from training.job import n_parameters
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


@pytest.mark.parametrize("keep", ["grey", "colour"])
def test_images_of_the_kept_group_have_the_parents_answers_as_targets(
    shipped_artifacts: Path, neighbours: NDArray[np.uint16], keep: str
) -> None:
    recipe = going_on(shipped_artifacts, keep=keep, border_weight=10)
    torch.manual_seed(0)
    grey, colour = torch.rand(1, 1, 64, 64).expand(1, 3, -1, -1), torch.rand(1, 3, 64, 64)
    kept, other = (grey, colour) if keep == "grey" else (colour, grey)
    images = torch.cat([kept, other])
    parent = recipe.build()
    parent.load_state_dict(read_weights(parent, shipped_artifacts / MAP_NETWORK.filename))
    parent.eval()
    nothing = recipe.targets(np.zeros_like(neighbours))
    truth = recipe.targets(neighbours)

    def loss(images: torch.Tensor, *targets: torch.Tensor) -> float:
        with torch.no_grad():
            return recipe.loss_of(parent, images, torch.stack(targets)).item()

    with torch.no_grad():
        answers = parent(kept).sigmoid()
    lowest = functional.binary_cross_entropy(answers, answers).item()
    assert loss(kept, truth) == pytest.approx(lowest, rel=1e-4)
    assert loss(images, truth, truth) == pytest.approx(loss(images, nothing, truth), rel=1e-6)
    assert loss(other, truth) != pytest.approx(loss(other, nothing), rel=0.01)


def test_a_network_lies_part_of_the_way_from_its_parent(
    shipped_artifacts: Path, make_sample: MakeSample, tmp_path: Path
) -> None:
    schedule = replace(FINE_TUNING, steps=2, batch_size=2, crop_px=64, workers=0, precision="bf16")
    whole = going_on(shipped_artifacts, keep="grey", schedule=schedule)
    samples = [make_sample(f"own-{seed}", "fluorescence", (96, 128), seed) for seed in range(2)]

    def fitted(recipe: UNet) -> dict[str, torch.nn.Parameter]:
        network, _ = recipe.fit(samples, tmp_path, None, lambda *_: None)
        return dict(network.named_parameters())

    before = whole.first_weights()
    assert before is not None
    after = fitted(whole)
    # The second finds the first's training finished.
    for name, value in fitted(replace(whole, mix=0.25)).items():
        torch.testing.assert_close(value, before[name] + 0.25 * (after[name] - before[name]))
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": "red"}, "expected grey or colour"),
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
