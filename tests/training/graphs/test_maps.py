from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from training.families.unet import build_network
from training.graphs.maps import Merge, map_steps
from training.graphs.step import export_steps
from training.graphs.views import Preprocess, Views
from training.job import n_parameters

STEPS = ("preprocess", "tta", "network", "merge")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_network("unet", "tu-regnetx_002").eval()


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    differences = export_steps(map_steps(network), folder)
    assert set(differences) == set(STEPS)
    # A sum in another order may round to the next of the 255 levels.
    assert differences.pop("network") <= 1
    assert max(differences.values()) < 1e-5
    return folder


def session(folder: Path, step: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / f"{step}.onnx", providers=["CPUExecutionProvider"])


def test_views_turned_back_are_the_image() -> None:
    maps = torch.randint(0, 256, (1, 3, 32, 32)).to(torch.uint8)
    merged, disagreement = Merge()(Views()(maps))
    assert torch.equal(merged, maps)
    assert not disagreement.any()


def test_the_eight_views_differ() -> None:
    views = Views()(torch.rand(1, 1, 8, 8))
    assert len({view.numpy().tobytes() for view in views}) == 8


def test_disagreement_is_the_deviation_of_the_foreground() -> None:
    views = torch.zeros(8, 3, 4, 4, dtype=torch.uint8)
    views[:4, 0] = 255
    assert (Merge()(views)[1] == round(0.5 * 255)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocess_scales_each_channel(exported: Path, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 5000, (37, 41, channels)).astype(np.uint16)
    feeds = {"IMAGE": image, "RANGE": np.array([100, 4000], np.float32)}
    (found,) = session(exported, "preprocess").run(None, feeds)
    expected = np.clip((image.astype(np.float32) - 100) / 3900, 0, 1).transpose(2, 0, 1)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    tensors = torch.from_numpy(image), torch.from_numpy(feeds["RANGE"])
    np.testing.assert_allclose(found, Preprocess()(*tensors).numpy(), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 1, 96, 64), (8, 3, 128, 128)])
def test_the_network_takes_any_batch_and_size(
    network: nn.Module, exported: Path, shape: tuple[int, int, int, int]
) -> None:
    images = torch.rand(shape)
    (found,) = session(exported, "network").run(None, {"IMAGE": images.numpy()})
    expected = map_steps(network)["network"].run(images)[0]
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_the_file_of_a_network_is_half_as_large_as_its_weights(
    network: nn.Module, exported: Path
) -> None:
    weights = 4 * n_parameters(network)
    assert (exported / "network.onnx").stat().st_size < 0.6 * weights


def test_grey_is_three_equal_channels(network: nn.Module) -> None:
    grey = torch.rand(2, 1, 64, 64)
    step = map_steps(network)["network"]
    np.testing.assert_array_equal(step.run(grey)[0], step.run(grey.expand(-1, 3, -1, -1))[0])


def test_files_load_in_the_native_backend_without_this_machines_paths(exported: Path) -> None:
    for step in STEPS:
        data = (exported / f"{step}.onnx").read_bytes()
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
        assert model.ir_version <= 10
        assert b"site-packages" not in data
        assert str(Path.cwd()).encode() not in data
