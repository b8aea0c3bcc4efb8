"""When a challenger is aborted: its figures leave their bounds by more than chance explains.

Each figure is an interval at `CONFIDENCE`, of which the side that speaks for the challenger counts.
The level is high because the figures are looked at after every frame.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# One-sided.
CONFIDENCE = 0.9995
# The same on the standard normal distribution.
_DEVIATIONS = 3.29


@dataclass(frozen=True)
class Bounds:
    """What a challenger may be like.

    Attributes:
        error_rate: most of its frames that fail although the champion answers them.
        latency_ratio: its time for a frame, at most, as a multiple of the champion's.
        agreement: least mean AP@.5 of its nuclei against the champion's.
        frames: least number of frames for a verdict.
    """

    error_rate: float
    latency_ratio: float
    agreement: float
    frames: int

    def excess_of_errors(self, failed: int, frames: int) -> str:
        """Why so many failures of so many frames are too many; empty while they may be chance."""
        if frames < self.frames or lowest_rate(failed, frames) <= self.error_rate:
            return ""
        return f"it failed on {failed} of {frames} frames; at most {self.error_rate:.2%} may fail"

    def excess_of_latency(
        self, champion_ms: Sequence[float], challenger_ms: Sequence[float]
    ) -> str:
        """Why these times are too long compared with those; empty while they may be chance."""
        if min(len(champion_ms), len(challenger_ms)) < self.frames:
            return ""
        ratio, least = ratio_of(challenger_ms, champion_ms)
        if least <= self.latency_ratio:
            return ""
        return (
            f"it takes {ratio:.2f} times as long as the champion; at most "
            f"{self.latency_ratio:.2f} times is allowed"
        )

    def lack_of_agreement(self, agreements: Sequence[float]) -> str:
        """Why these values of AP@.5 are too low; empty while they may be chance."""
        if len(agreements) < self.frames or highest_mean(agreements) >= self.agreement:
            return ""
        return (
            f"its nuclei agree with the champion's by AP@.5 = {np.mean(agreements):.3f} over "
            f"{len(agreements)} frames; at least {self.agreement:.3f} is expected"
        )


def lowest_rate(failed: int, frames: int) -> float:
    """Lower limit of a rate (Clopper and Pearson, Biometrika 26, 1934): exact for few frames."""
    if not failed:
        return 0.0
    # Half a second, which a start without a trial does not need.
    from scipy.special import betaincinv

    return float(betaincinv(failed, frames - failed + 1, 1 - CONFIDENCE))


def highest_mean(values: Sequence[float]) -> float:
    """Upper limit of a mean, by the normal distribution."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.inf
    return float(np.mean(values)) + _DEVIATIONS * deviation / math.sqrt(len(values))


def ratio_of(values: Sequence[float], to: Sequence[float]) -> tuple[float, float]:
    """The ratio of two geometric means, and its lower limit (Welch, on logarithms).

    Args:
        values, to: at least two positive numbers each.
    """
    logs = np.log(values), np.log(to)
    difference = float(logs[0].mean() - logs[1].mean())
    error = math.sqrt(sum(float(each.var(ddof=1)) / len(each) for each in logs))
    return math.exp(difference), math.exp(difference - _DEVIATIONS * error)
