"""What the gateway remembers of earlier frames to judge the quality of the next ones."""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nuclei.client.acquisition import FrameIndex
from nuclei.quality.drift import Drift
from nuclei.quality.reference import GroupReference, QualityReference
from nuclei.results.quality import Quality

# Blocks along the longer side of a frame, over which its nuclei are averaged.
MAX_BLOCKS = 128
# Most frames of which these are kept, 16 KiB each: the positions of a plate in several channels.
MAX_KEPT = 2048
# Of a reference, those that are shown beside the frames.
SHOWN_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_OF_GROUP = ("model", "version", "group")


@dataclass(frozen=True)
class _Kept:
    """The last frame of one place. Attributes: t: its time point; coverage: as `_coverage`."""

    t: int
    coverage: NDArray[np.uint8]


class PreviousFrames:
    """Compares the nuclei of a frame with those of the previous one; may be used in any thread.

    The previous one is the last that was segmented of the same acquisition, position, channel and
    slice by the same version of the same model. Who sends frames of an acquisition does not matter:
    two callers that name theirs alike share it.

    The agreement is the Dice coefficient of shares (1 minus the dissimilarity of Bray and Curtis,
    Ecological Monographs 27, 1957): twice what both frames have in common, divided by all, of the
    shares of nuclei in at most 128 x 128 blocks. A movement far below a block's side costs little;
    where the stage drifts by more, what has moved counts as a change.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def compare(
        self, labels: NDArray[np.uint32], index: FrameIndex, graph: str, version: str
    ) -> float | None:
        """The agreement of a frame with the one before, 0 to 1; the next is compared with it.

        None where there is none before: at first, after a frame of the same or a later time point
        (as they come when frames overtake each other, or an acquisition starts again), and after
        one of another size.

        Args:
            labels: of the frame, uint32 [H, W], 0 is background.
            index: its place; one without `acquisition_uid` has no previous frame.
            graph: what was asked for, such as `unet_tta`.
            version: the one that answered.
        """
        if not index.acquisition_uid:
            return None
        key = (index.acquisition_uid, index.position, index.c, index.z, graph, version)
        newest = _Kept(index.t, _coverage(labels))
        with self._lock:
            before = self._kept.pop(key, None)
            self._kept[key] = newest
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        if before is None or before.t >= index.t:
            return None
        if before.coverage.shape != newest.coverage.shape:
            return None
        return _dice(before.coverage, newest.coverage)


def _coverage(labels: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The share of nuclei in each block, 0 to 255 [H / side, W / side] of square blocks."""
    nuclei = (labels != 0).view(np.uint8)
    nuclei *= 255
    side = math.ceil(max(labels.shape) / MAX_BLOCKS)
    height, width = (math.ceil(length / side) for length in labels.shape)
    shares = cv2.resize(nuclei, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(shares, np.uint8)


def _dice(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Twice what both have, divided by all; 1 where both have nothing."""
    total = int(one.sum(dtype=np.int64)) + int(other.sum(dtype=np.int64))
    common = int(np.minimum(one, other).sum(dtype=np.int64))
    return 2 * common / total if total else 1.0


@dataclass(frozen=True)
class _Window:
    """The last frames of a group. Attributes: reference: what they are measured against."""

    reference: GroupReference
    drift: Drift


class DriftWindows(Collector):
    """The drift of the last frames of each model, version and group, and their reference.

    Nothing is computed until it is read: gauges of Prometheus that collect themselves. It belongs
    to the event loop.
    """

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str, str], _Window] = {}

    def add(
        self, model: str, version: str, group: str, quality: Quality, reference: QualityReference
    ) -> None:
        """Take a frame in.

        Args:
            model, version, group: labels, as in `serving.gateway.metrics`.
            quality: of the frame.
            reference: of the model; a group that it lacks has no drift.
        """
        of_group = reference.groups.get(group)  # type: ignore[call-overload]
        if of_group is None:
            return
        key = (model, version, group)
        window = self._windows.get(key)
        # A version may be exported again, with another reference.
        if window is None or window.reference is not of_group:
            window = self._windows[key] = _Window(of_group, Drift(of_group, reference.window))
        window.drift.add(quality)

    def remove_by_labels(self, labels: dict[str, str]) -> None:
        """Forget a version, as the metrics of prometheus_client do."""
        model, version = labels["model"], labels["version"]
        for key in [key for key in self._windows if key[:2] == (model, version)]:
            del self._windows[key]

    def collect(self) -> Iterator[Metric]:
        """The values now."""
        of_feature = (*_OF_GROUP, "feature")
        drift = GaugeMetricFamily(
            "nuclei_quality_drift",
            "Population stability index of the last frames against the reference.",
            labels=of_feature,
        )
        threshold = GaugeMetricFamily(
            "nuclei_quality_drift_threshold",
            "Index above which the frames are others than those of the reference.",
            labels=of_feature,
        )
        frames = GaugeMetricFamily(
            "nuclei_quality_drift_window_frames", "Frames in the window.", labels=_OF_GROUP
        )
        reference = GaugeMetricFamily(
            "nuclei_quality_reference",
            "Quantiles of the images that the model was calibrated with.",
            labels=(*of_feature, "quantile"),
        )
        for key, window in self._windows.items():
            frames.add_metric(key, window.drift.frames)
            for name, value in window.drift.values().items():
                drift.add_metric((*key, name), value)
            for name, feature in window.reference.features.items():
                threshold.add_metric((*key, name), feature.drift_threshold)
                for level in SHOWN_QUANTILES:
                    reference.add_metric((*key, name, str(level)), feature.quantile(level))
        yield from (drift, threshold, frames, reference)
