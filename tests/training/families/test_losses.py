import pytest
import torch

from nuclei.errors import InvalidOption
from training.families.losses import LOSSES, loss_by_name, weighted_bce

TARGETS = (torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16) % 7 < 3).float()


@pytest.mark.parametrize("name", [*LOSSES, "bce+dice", "0.5*bce+2*jaccard", "focal + hard_pixels"])
def test_a_loss_is_small_when_right_and_falls_along_its_gradient(name: str) -> None:
    loss = loss_by_name(name)
    right, wrong = loss(20 * TARGETS - 10, TARGETS), loss(10 - 20 * TARGETS, TARGETS)
    assert abs(right) < 0.05
    assert wrong > right + 0.3
    noise = torch.randn(TARGETS.shape, generator=torch.Generator().manual_seed(0))
    logits = noise.requires_grad_()
    before = loss(logits, TARGETS)
    before.backward()
    assert logits.grad is not None
    assert loss(logits - 10 * logits.grad, TARGETS) < before


def test_hard_pixels_look_at_the_hardest_quarter() -> None:
    logits = torch.full((1, 1, 4, 4), -10.0)
    targets = torch.zeros(1, 1, 4, 4)
    targets[0, 0, 0, :2] = 1
    assert loss_by_name("hard_pixels")(logits, targets) == pytest.approx(5.0, rel=1e-3)


def test_pixels_weigh_what_they_are_given() -> None:
    logits = torch.full((1, 2, 4, 4), 3.0)
    targets = torch.zeros(1, 2, 4, 4)
    left = torch.zeros(1, 1, 4, 4)
    left[..., :2] = 2
    assert weighted_bce(logits, targets, left) == pytest.approx(
        float(LOSSES["bce"](logits, targets))
    )
    targets[..., :2] = 1
    assert weighted_bce(logits, targets, left) < 0.1


def test_sums_are_weighted() -> None:
    logits = torch.zeros_like(TARGETS)
    total = loss_by_name("bce+0.5*dice")(logits, TARGETS)
    expected = LOSSES["bce"](logits, TARGETS) + 0.5 * LOSSES["dice"](logits, TARGETS)
    assert total == pytest.approx(float(expected))


@pytest.mark.parametrize("name", ["", "bce+", "crossentropy", "x*bce", "bce*2"])
def test_an_unknown_loss_names_the_known(name: str) -> None:
    with pytest.raises(InvalidOption, match="hard_pixels"):
        loss_by_name(name)
