"""Losses chosen by name; every one takes logits and targets in [0, 1], float32 [N, C, H, W].

Names join with `+`, each optionally weighted: `bce+dice`, `bce+0.5*focal`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from nuclei.errors import InvalidOption
from nuclei.quoting import quoted

Loss = Callable[[Tensor, Tensor], Tensor]
HARD_FRACTION = 0.25
FOCAL_GAMMA = 2.0
EPSILON = 1.0


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, mean over pixels and maps."""
    return functional.binary_cross_entropy_with_logits(logits, targets)


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - soft Dice of each map, with squared denominators (Milletari et al. 2016, section 3)."""
    return 1 - _soft_dice(logits, targets).mean()


def jaccard(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - soft Jaccard index of each map (Rahman & Wang 2016, equation 3)."""
    overlap = _soft_dice(logits, targets)
    return 1 - (overlap / (2 - overlap)).mean()


def bce_log_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy minus the logarithm of soft Dice (Iglovikov et al. 2018, equation 3)."""
    return bce(logits, targets) - torch.log(_soft_dice(logits, targets)).mean()


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy weighted by |target - p|^2 (Lin et al. 2017, equation 4, for soft targets)."""
    return weighted_bce(logits, targets, (targets - torch.sigmoid(logits)).abs() ** FOCAL_GAMMA)


def weighted_bce(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy of pixels times their weights, mean over pixels and maps.

    Args:
        weights: float32, of the logits' shape or one that broadcasts to it.
    """
    return (weights * _pixel_bce(logits, targets)).mean()


def hard_pixels(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the hardest quarter of each map's pixels (online hard example mining)."""
    losses = _pixel_bce(logits, targets).flatten(2)
    return losses.topk(max(1, int(losses.shape[2] * HARD_FRACTION)), dim=2).values.mean()


LOSSES: dict[str, Loss] = {
    "bce": bce,
    "dice": dice,
    "jaccard": jaccard,
    "bce_log_dice": bce_log_dice,
    "focal": focal,
    "hard_pixels": hard_pixels,
}


def loss_by_name(name: str) -> Loss:
    """Build a loss from its name, or from the weighted sum of several.

    Raises:
        InvalidOption: an unknown name or an impossible weight.
    """
    terms = [_parse_term(term, name) for term in name.split("+")]

    def total(logits: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([weight * loss(logits, targets) for weight, loss in terms]).sum()

    return total


def _parse_term(term: str, name: str) -> tuple[float, Loss]:
    weight, _, loss = term.strip().rpartition("*")
    try:
        return float(weight or 1), LOSSES[loss.strip()]
    except (KeyError, ValueError):
        raise InvalidOption(
            f"loss {quoted(name)}: {quoted(term.strip())} is unknown; join any of "
            f"{', '.join(LOSSES)} with '+', for example bce+0.5*dice"
        ) from None


def _soft_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Soft Dice per map over the whole batch; [C]."""
    p = torch.sigmoid(logits)
    axes = (0, 2, 3)
    overlap = 2 * (p * targets).sum(axes) + EPSILON
    return overlap / ((p * p).sum(axes) + (targets * targets).sum(axes) + EPSILON)


def _pixel_bce(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
