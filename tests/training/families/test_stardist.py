import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nuclei.errors import InvalidOption
from nuclei.evaluation.metrics import Overlap
from nuclei.inference.contract import Contract
from nuclei.inference.method import STARS
from nuclei.postprocessing.rendering import RenderingParameters
from training.data.dataset import Sample
from training.data.stars import N_RAYS, star_targets
from training.families.stardist import StarDist, build_star_network, star_loss
from training.optimisation import fit
from training.schedule import Schedule
from training.tuning import labelled, predict_all

ENCODER = "tu-regnetx_002"


def test_its_contract_survives_its_file() -> None:
    contract = StarDist(data=(Path("images"),), pixel_size_um=0.5).contract()
    assert (contract.family, contract.method) == ("stardist", STARS)
    assert Contract.from_json(contract.to_json()) == contract


def test_its_options_survive_their_file(tmp_path: Path) -> None:
    asked = StarDist(data=(tmp_path / "images",), encoder=ENCODER)
    (tmp_path / "options.json").write_text(asked.to_json())
    assert StarDist.read(tmp_path) == asked


def test_it_learns_to_find_discs(
    make_sample: Callable[[str, str, tuple[int, int], int], Sample], tmp_path: Path
) -> None:
    samples = [make_sample(str(seed), "fluorescence", (96, 128), seed) for seed in range(6)]
    schedule = Schedule(
        steps=200,
        batch_size=4,
        crop_px=64,
        learning_rate=5e-3,
        warmup_steps=10,
        validate_every=200,
        workers=0,
    )
    recipe = StarDist(data=(tmp_path,), encoder=ENCODER, schedule=schedule)

    def validate(network: object) -> dict[str, float]:
        return {"val_dsb_score": 0.0}

    network, _ = fit(
        recipe, samples, schedule, tmp_path / "checkpoint.pt", validate, lambda *_: None
    )
    contract = recipe.contract()
    parameters = RenderingParameters(min_score=0.3)  # barely trained, so scores are low
    for tta in (False, True):
        engine = recipe.engine(network, contract, "fp32")
        found = predict_all(samples, engine, engine.served, tta=tta)
        scores = [
            Overlap.of(sample.labels, labelled(answer, parameters)).dsb_score()
            for sample, answer in zip(samples, found, strict=True)
        ]
        assert np.mean(scores) > 0.15


@pytest.fixture
def disc() -> NDArray[np.uint16]:
    """A disc near the edge of its image, label 1; [128, 160]."""
    y, x = np.mgrid[:128, :160]
    return np.where(np.hypot(y - 60.5, x - 10) < 20, 1, 0).astype(np.uint16)


def test_perfect_answers_cost_least(disc: NDArray[np.uint16]) -> None:
    targets = torch.from_numpy(star_targets(disc))[None]
    answers = torch.cat([torch.logit(targets[:, :1], eps=1e-4), targets[:, 1:]], dim=1)
    best = star_loss(answers, targets)
    assert torch.isfinite(best)
    elsewhere = torch.where(targets[:, :1] > 0, 0.0, 5.0)
    unknown = torch.where(targets[:, 1:] < 0, 50.0, 0.0)
    for uncounted in (elsewhere, unknown):
        moved = answers.clone()
        moved[:, 1:] += uncounted
        torch.testing.assert_close(star_loss(moved, targets), best)
    answers[:, 1:] += 1
    torch.testing.assert_close(star_loss(answers, targets), best + 0.2)


def test_an_image_without_nuclei_has_a_loss() -> None:
    assert math.isfinite(star_loss(torch.zeros(1, 33, 8, 8), torch.zeros(1, 33, 8, 8)))


def test_a_network_answers_for_every_cell() -> None:
    network = build_star_network("tu-regnetx_002")
    answers = network(torch.rand(2, 3, 64, 96))
    assert answers.shape == (2, 1 + N_RAYS, 32, 48)
    answers.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(InvalidOption, match="encoder"):
        build_star_network("resnet17")
