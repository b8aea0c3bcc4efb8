from pathlib import Path

import pytest
import timm
import torch

from nuclei.errors import InvalidData, InvalidOption
from training.families.pretrained import load_encoder
from training.families.unet import UNet, build_network

ENCODER = "tu-efficientnet_lite0"


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    """A network of photographs, with weights and statistics unlike those that it is made with."""
    torch.manual_seed(0)
    network = timm.create_model("efficientnet_lite0", num_classes=7).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return network


@pytest.fixture(scope="module")
def file(classifier: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights, under other names."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    weights = {f"_{name}": value for name, value in classifier.state_dict().items()}
    torch.save(weights, path)
    return path


def test_an_encoder_sees_what_the_classifier_saw(classifier: torch.nn.Module, file: Path) -> None:
    network = build_network("unet", ENCODER).eval()
    load_encoder(network, ENCODER, file)
    image = torch.rand(1, 3, 64, 64)
    config = classifier.pretrained_cfg
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        expected = classifier.bn1(classifier.conv_stem((image - mean) / std))
        found = network.encoder.model.bn1(network.encoder.model.conv_stem(image))
    # At the edge the classifier pads with grey, the encoder with black.
    inside = slice(1, -1)
    torch.testing.assert_close(found[..., inside, inside], expected[..., inside, inside])


def test_a_training_starts_with_it(file: Path, tmp_path: Path) -> None:
    weights = UNet(data=(tmp_path,), encoder=ENCODER, encoder_weights=file).first_weights()
    assert weights is not None
    stored = torch.load(file, weights_only=True)
    torch.testing.assert_close(
        weights["encoder.model.blocks.0.0.conv_dw.weight"], stored["_blocks.0.0.conv_dw.weight"]
    )


def test_a_file_of_another_network_is_refused(file: Path, tmp_path: Path) -> None:
    other = build_network("unet", "tu-regnetx_002")
    with pytest.raises(InvalidData, match="has the shape"):
        load_encoder(other, "tu-regnetx_002", file)
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "short.pth")
    with pytest.raises(InvalidData, match="holds 1 tensors"):
        load_encoder(build_network("unet", ENCODER), ENCODER, tmp_path / "short.pth")


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_what_is_no_file_of_weights_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidData, match="cannot be read as weights"):
        UNet(data=(tmp_path,), encoder=ENCODER, encoder_weights=path).check()


def test_it_needs_a_timm_backbone_and_no_parent(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="needs a timm backbone"):
        UNet(data=(tmp_path,), encoder="resnet18", encoder_weights=file).check()
    both = UNet(
        data=(tmp_path,),
        encoder=ENCODER,
        encoder_weights=file,
        parent="unet:3",
        parent_files=tmp_path,
    )
    with pytest.raises(InvalidOption, match="starts from unet:3"):
        both.check()
