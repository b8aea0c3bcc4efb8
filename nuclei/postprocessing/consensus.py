"""Two segmentations of one frame as one, by a vote on every nucleus."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.boxes import Window, windows
from nuclei.postprocessing.parameters import Fraction
from nuclei.postprocessing.watershed import WatershedParameters

# Two nuclei with an IoU above this are the same; no third can be the same as well.
SAME_IOU = 0.5

Labels = NDArray[np.uint32]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class ConsensusParameters(WatershedParameters):
    """How probability maps and nuclei found one by one are joined; tuned on validation images.

    Attributes:
        min_score: nuclei with a lower vote are left out, in [0, 1]. The vote is the mean of the
            scores that both segmenters give the nucleus, 0 from one that does not see it.
        overlap: nuclei are left out when nuclei with higher votes cover more than this part of
            them, in [0, 1].
    """

    min_score: Fraction = 0.45
    overlap: Fraction = 0.4


@dataclass(frozen=True)
class _Candidate:
    """A nucleus that one or both segmenters see.

    Attributes:
        vote: for the nucleus, in [0, 1].
        drawn: label image that shows it, uint32 [H, W].
        window: its rows and columns there.
        label: its label there.
    """

    vote: float
    drawn: Labels
    window: Window
    label: int


def consensus(
    first: tuple[Labels, Scores],
    second: tuple[Labels, Scores],
    min_score: float,
    overlap: float,
    min_area_px: int,
    check: Callable[[], None] = lambda: None,
) -> tuple[Labels, Scores]:
    """Keep the nuclei that two segmenters vote for.

    The vote for a nucleus is the mean of both scores, 0 from a segmenter that does not see it.
    Nuclei are rendered by falling vote, and a nucleus is left out when earlier ones cover more than
    a given part of it: where one segmenter sees two nuclei and the other sees one, the higher votes
    decide. A nucleus that both see gets the outline of the first.

    Args:
        first, second: labels uint32 [H, W], 0 is background, 1..N without gaps; and the score of
            each nucleus, float32 [N] in [0, 1].
        min_score: nuclei with a lower vote are left out, in [0, 1].
        overlap: part of its pixels, in [0, 1], that nuclei with higher votes may cover.
        min_area_px: nuclei with fewer free pixels are left out.
        check: called at intervals; an exception that it raises ends the work.

    Returns:
        labels: uint32 [H, W], 0 is background, 1..K without gaps, by falling vote.
        scores: float32 [K], the vote for each.
    """
    candidates = [one for one in _candidates(first, second, check) if one.vote >= min_score]
    candidates.sort(key=lambda one: -one.vote)
    labels = np.zeros_like(first[0])
    kept: list[float] = []
    for one in candidates:
        check()
        mask = one.drawn[one.window] == one.label
        free = mask & (labels[one.window] == 0)
        own, left = int(mask.sum()), int(free.sum())
        if left and left >= min_area_px and own - left <= overlap * own:
            kept.append(one.vote)
            labels[one.window][free] = len(kept)
    return labels, np.array(kept, np.float32)


def _candidates(
    first: tuple[Labels, Scores], second: tuple[Labels, Scores], check: Callable[[], None]
) -> Iterator[_Candidate]:
    """The nuclei of the first, then those that only the second sees."""
    (drawn, scores), (other_drawn, other_scores) = first, second
    other_windows = _windows(other_drawn)
    seen = set()
    for label, window in enumerate(_windows(drawn), start=1):
        check()
        vote = float(scores[label - 1])
        own = other_drawn[window][drawn[window] == label]
        partner, common = _commonest(own)
        if partner:
            area = int(np.sum(other_drawn[other_windows[partner - 1]] == partner))
            if common > SAME_IOU * (len(own) + area - common):
                seen.add(partner)
                vote += float(other_scores[partner - 1])
        yield _Candidate(vote / 2, drawn, window, label)
    for label, window in enumerate(other_windows, start=1):
        if label not in seen:
            yield _Candidate(float(other_scores[label - 1]) / 2, other_drawn, window, label)


def _windows(labels: Labels) -> list[Window]:
    return [window for window in windows(labels) if window is not None]  # no number is missing


def _commonest(labels: Labels) -> tuple[int, int]:
    """The most common label other than 0, and its pixels; 0 and 0 when there is none."""
    found, counts = np.unique(labels[labels > 0], return_counts=True)
    if not len(found):
        return 0, 0
    return int(found[counts.argmax()]), int(counts.max())
