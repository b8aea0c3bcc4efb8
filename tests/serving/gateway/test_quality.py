"""What is remembered of earlier frames: by itself, and in the replies of a real gateway."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nuclei.client import Client, FrameIndex, StreamFrame
from nuclei.quality.reference import LEVELS, FeatureReference, GroupReference, QualityReference
from nuclei.results.quality import Quality
from serving.gateway.quality import MAX_KEPT, DriftWindows, PreviousFrames

Labels = NDArray[np.uint32]


def nuclei_at(
    seed: int, shift: int = 0, side: int = 1024, radius: int = 15, count: int = 150
) -> Labels:
    """Discs at random places, moved to the right by `shift` pixels, uint32 [side, side]."""
    labels = np.zeros((side, side), np.int32)
    places = np.random.default_rng(seed).integers(0, side, (count, 2))
    for number, (x, y) in enumerate(places.tolist(), 1):
        cv2.circle(labels, (x + shift, y), radius, number, -1)
    return labels.astype(np.uint32)


def agreement(
    previous: PreviousFrames, labels: Labels, t: int, version: str = "1", **place: Any
) -> float | None:
    index = FrameIndex(**{"acquisition_uid": "a", "t": t, **place})
    return previous.compare(labels, index, "unet", version)


def after(before: Labels, labels: Labels) -> float:
    previous = PreviousFrames()
    assert agreement(previous, before, 0) is None
    found = agreement(previous, labels, 1)
    assert found is not None
    return found


def test_the_same_nuclei_agree_fully_and_others_do_not() -> None:
    assert after(nuclei_at(1), nuclei_at(1)) == 1
    assert after(nuclei_at(1), nuclei_at(2)) < 0.4
    empty = np.zeros((1024, 1024), np.uint32)
    assert after(nuclei_at(1), empty) == after(empty, nuclei_at(1)) == 0
    assert after(empty, empty) == 1


def test_agreement_falls_with_the_drift_of_the_stage() -> None:
    falling = [after(nuclei_at(1), nuclei_at(1, shift)) for shift in (0, 2, 8, 16, 60)]
    assert falling == sorted(falling, reverse=True)
    assert falling[1] > 0.9
    assert falling[-1] < 0.4


@pytest.mark.parametrize("shape", [(1, 1), (3, 1000), (127, 129), (520, 696), (2048, 1536)])
def test_frames_of_any_shape_are_compared(shape: tuple[int, int]) -> None:
    labels = np.zeros(shape, np.uint32)
    labels[: shape[0] // 2 + 1] = 1
    assert after(labels, labels) == 1
    assert after(labels, np.zeros_like(labels)) == 0


def test_frames_that_come_late_have_no_previous_one() -> None:
    previous, labels = PreviousFrames(), nuclei_at(1)
    assert [agreement(previous, labels, t) for t in (1, 3, 2, 4)] == [None, 1, None, 1]
    assert agreement(previous, labels, 4) is None
    # An acquisition that starts again.
    assert [agreement(previous, labels, t) for t in (0, 1)] == [None, 1]


@pytest.mark.parametrize(
    "place",
    [{"position": 1}, {"c": 1}, {"z": 1}, {"acquisition_uid": "b"}, {"version": "2"}],
    ids=str,
)
def test_only_frames_of_one_place_and_version_are_compared(place: dict[str, Any]) -> None:
    previous, labels = PreviousFrames(), nuclei_at(1)
    agreement(previous, labels, 0)
    assert agreement(previous, labels, 1, **place) is None
    assert agreement(previous, labels, 1) == 1


def test_frames_of_no_acquisition_and_of_another_size_are_not_compared() -> None:
    previous = PreviousFrames()
    for t in (0, 1):
        assert agreement(previous, nuclei_at(1), t, acquisition_uid="") is None
    agreement(previous, nuclei_at(1), 0)
    assert agreement(previous, nuclei_at(1, side=700), 1) is None


def test_callers_that_name_their_acquisition_alike_share_it() -> None:
    previous = PreviousFrames()
    agreement(previous, nuclei_at(1), 0)
    shared = agreement(previous, nuclei_at(2), 1)
    assert shared is not None
    assert shared < 0.4


def test_old_places_are_forgotten() -> None:
    previous, labels = PreviousFrames(), np.ones((4, 4), np.uint32)
    for position in range(MAX_KEPT + 1):
        agreement(previous, labels, 0, position=position)
    assert agreement(previous, labels, 1, position=0) is None
    assert agreement(previous, labels, 1, position=MAX_KEPT) == 1


def test_replies_of_a_stream_say_the_agreement(
    client: Client, fluorescence: Path, histology: Path
) -> None:
    uid = "test-quality-stream"
    sent = [(fluorescence, 0), (fluorescence, 1), (histology, 2), (histology, 3), (histology, 3)]
    found = []
    # One after the other: frames that are in work together may overtake each other.
    for path, t in sent:
        (outcome,) = client.stream([StreamFrame(path, index=FrameIndex(uid, t=t))])
        assert outcome.segmentation is not None
        assert outcome.segmentation.quality is not None
        found.append(outcome.segmentation.quality.previous_agreement)
    assert found[0] is None
    assert found[1] == 1
    assert found[2] is None  # of another size
    assert found[3] == 1
    assert found[4] is None


def test_replies_of_single_calls_say_the_agreement(client: Client, fluorescence: Path) -> None:
    def segment(t: int, uid: str = "test-quality-single") -> Quality:
        quality = client.segment(fluorescence, index=FrameIndex(uid, t=t)).quality
        assert quality is not None
        return quality

    assert segment(0).previous_agreement is None
    assert segment(5).previous_agreement == 1
    assert segment(4).previous_agreement is None
    assert segment(6, uid="").previous_agreement is None


def feature(drift_threshold: float = 0.2) -> FeatureReference:
    return FeatureReference(LEVELS, (None, None), drift_threshold)


@pytest.fixture
def windows() -> DriftWindows:
    return DriftWindows()


def samples(windows: DriftWindows, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in windows.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_drift_is_shown_once_a_window_is_full(windows: DriftWindows) -> None:
    group = GroupReference(100, 0.01, {"coverage": feature(0.3)})
    reference = QualityReference({"grey": group}, 20, 1000, 0.01)
    for number in range(19):
        windows.add("unet", "3", "grey", Quality(coverage=number / 20), reference)
    window = "nuclei_quality_drift_window_frames"
    assert samples(windows, window) == {("unet", "3", "grey"): 19}
    assert not samples(windows, "nuclei_quality_drift")
    windows.add("unet", "3", "grey", Quality(coverage=1.0), reference)
    key = ("unet", "3", "grey", "coverage")
    assert samples(windows, "nuclei_quality_drift_threshold") == {key: 0.3}
    usual = samples(windows, "nuclei_quality_drift")[key]
    for _ in range(20):
        windows.add("unet", "3", "grey", Quality(coverage=0.99), reference)
    assert usual < 0.3 < samples(windows, "nuclei_quality_drift")[key]
    assert samples(windows, "nuclei_quality_reference") == {
        (*key, str(level)): level for level in (0.05, 0.25, 0.5, 0.75, 0.95)
    }


def test_groups_without_a_reference_have_no_drift(windows: DriftWindows) -> None:
    reference = QualityReference({"grey": GroupReference(100, 0.01, {})}, 20, 1000, 0.01)
    windows.add("unet", "3", "colour", Quality(coverage=0.1), reference)
    assert not samples(windows, "nuclei_quality_drift_window_frames")


def test_versions_that_are_calibrated_anew_begin_anew(windows: DriftWindows) -> None:
    for frames in (1, 2):
        group = GroupReference(100, 0.01, {"coverage": feature()})
        reference = QualityReference({"grey": group}, 20, 1000, 0.01)
        for _ in range(frames):
            windows.add("unet", "3", "grey", Quality(coverage=0.1), reference)
        found = samples(windows, "nuclei_quality_drift_window_frames")
        assert found == {("unet", "3", "grey"): frames}
