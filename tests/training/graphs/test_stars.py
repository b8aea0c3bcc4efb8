import asyncio
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from nuclei.inference.contract import Contract
from nuclei.inference.deadline import NEVER
from nuclei.inference.method import STARS
from training.data.stars import N_RAYS, star_targets
from training.engine import TorchEngine
from training.families.stardist import build_star_network
from training.graphs.stars import (
    MAX_STARS,
    MergeStars,
    SelectStars,
    StarNetwork,
    star_modules,
    star_steps,
)
from training.graphs.step import export_steps
from training.graphs.views import Views

STEPS = ("preprocess", "tta", "network", "merge_stars", "select_stars")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_star_network("tu-regnetx_002").eval()


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    differences = export_steps(star_steps(network), folder)
    assert set(differences) == set(STEPS)
    assert max(differences.values()) < 0.02
    return folder


def run(folder: Path, step: str, tensor: Tensor) -> list[np.ndarray]:
    path = folder / f"{step}.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: tensor.numpy()})
    return found


def ellipses() -> np.ndarray:
    """Labels of two ellipses that every rotation and mirroring changes; [128, 128]."""
    y, x = np.mgrid[:128, :128] - 64.0
    one = ((y + 30) / 12) ** 2 + ((x + 20) / 25) ** 2 < 1
    other = ((y - 25 + 0.5 * x) / 20) ** 2 + ((x - 20) / 15) ** 2 < 1
    return (one + 2 * other).astype(np.uint16)


def test_views_turned_back_are_the_stars() -> None:
    labels = ellipses()
    views = Views()(torch.from_numpy(labels.astype(np.float32))[None, None])[:, 0].numpy()
    stars = np.stack([star_targets(view.astype(np.uint16)) for view in views])
    merged = MergeStars()(torch.from_numpy(stars).to(torch.float16))
    difference = (merged[0].float().numpy() - stars[0])[:, stars[0, 0] > 0.3]
    assert np.abs(difference[0]).max() < 1e-3
    assert np.abs(difference[1:]).mean() < 0.2
    assert np.abs(difference[1:]).max() < 2


def test_one_star_of_a_peak_is_selected() -> None:
    stars = torch.zeros(1, 1 + N_RAYS, 16, 24, dtype=torch.float16)
    stars[0, 0, 4:9, 10:15] = 0.5
    stars[0, 0, 6, 12] = 0.75
    stars[0, 1:, 6, 12] = torch.arange(N_RAYS)
    stars[0, 0, 0, 0] = 0.9
    points, scores, rays = SelectStars()(stars)
    assert points[:2].tolist() == [[0.5, 0.5], [12.5, 24.5]]
    assert scores[:2].tolist() == pytest.approx([0.9, 0.75], abs=1e-3)
    assert rays[1].tolist() == list(range(N_RAYS))


def test_nothing_is_found_in_background(exported: Path) -> None:
    stars = torch.zeros(1, 1 + N_RAYS, 16, 16, dtype=torch.float16)
    for found in (SelectStars()(stars), run(exported, "select_stars", stars)):
        assert [tuple(tensor.shape) for tensor in found] == [(0, 2), (0,), (0, N_RAYS)]


def test_the_most_stars_are_those_with_the_highest_scores(exported: Path) -> None:
    depth = torch.zeros(200, 200)
    depth[::2, ::2] = torch.rand(100, 100) * 0.5 + 0.25
    stars = torch.cat([depth[None], torch.ones(N_RAYS, 200, 200)])[None].to(torch.float16)
    scores = run(exported, "select_stars", stars)[1]
    expected = depth.to(torch.float16).flatten().sort(descending=True).values[:MAX_STARS]
    np.testing.assert_array_equal(scores, expected.float())


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 96, 64), (8, 3, 64, 64)])
def test_the_network_takes_any_batch_size_and_channels(
    network: nn.Module, exported: Path, shape: tuple[int, int, int, int]
) -> None:
    image = torch.rand(shape)
    (found,) = run(exported, "network", image)
    with torch.inference_mode():
        expected = StarNetwork(network)(image)
    assert found.dtype == np.float16
    assert found.shape == (shape[0], 1 + N_RAYS, shape[2] // 2, shape[3] // 2)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_the_engine_runs_what_is_exported(network: nn.Module, exported: Path) -> None:
    contract = Contract("stardist", STARS, maps=(), halo=96)
    engine = TorchEngine(star_modules(network), contract)
    image = np.random.default_rng(0).integers(0, 4000, (64, 64, 1)).astype(np.uint16)
    intensity = np.array([0, 4000], np.float32)
    scaled = torch.from_numpy(image.astype(np.float32) / 4000).permute(2, 0, 1)[None]
    for graph in ("stardist", "stardist_tta"):
        answer = asyncio.run(engine.infer(graph, contract.method.outputs, image, intensity, NEVER))
        if graph == "stardist":
            (stars,) = run(exported, "network", scaled)
        else:
            (views,) = run(exported, "network", Views()(scaled))
            (stars,) = run(exported, "merge_stars", torch.from_numpy(views))
        points, scores, rays = run(exported, "select_stars", torch.from_numpy(stars))
        assert len(scores) == len(answer["SCORES"])
        np.testing.assert_allclose(scores, answer["SCORES"], atol=0.01)
        assert points.shape == answer["POINTS"].shape
        assert rays.shape == answer["RAYS"].shape
