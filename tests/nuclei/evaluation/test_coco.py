import contextlib
import io
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from nuclei.errors import InvalidData
from nuclei.evaluation.coco import (
    Candidates,
    Detections,
    ap_interval,
    coco_scores,
    precisions,
)
from nuclei.imaging.images import Frame
from nuclei.imaging.tiles import plan_tiles
from nuclei.inference.contract import Contract
from nuclei.inference.method import MASKS
from nuclei.postprocessing.rendering import RenderingParameters
from nuclei.postprocessing.watershed import WatershedParameters

SIZES = ("", "small", "medium", "large")
MANY = 100_000


def scene(seed: int) -> tuple[NDArray[np.uint16], Candidates]:
    """Discs of all sizes, and a mediocre model's detections, with scores in coarse steps."""
    rng = np.random.default_rng(seed)
    truth, found = np.zeros((2, 300, 400), np.uint16)
    for number in range(1, 40):
        radius = int(rng.choice([3, 6, 10, 18, 30, 62], p=[0.2, 0.3, 0.2, 0.15, 0.1, 0.05]))
        centre = int(rng.integers(400)), int(rng.integers(300))
        if rng.random() < 0.9:
            cv2.circle(truth, centre, radius, number, -1)
        if rng.random() < 0.9:
            moved = tuple(int(c + rng.normal(0, radius / 8)) for c in centre)
            cv2.circle(found, moved, int(radius * rng.uniform(0.8, 1.2)), number, -1)
    numbers = np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.uint16)
    scores = rng.integers(0, 10, int(numbers.max())) / 10
    return truth, Candidates(numbers, scores.astype(np.float32))


def reference(scenes: list[tuple[NDArray[np.uint16], Candidates]], kind: str) -> dict[str, float]:
    """What pycocotools says."""
    truths: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (truth, candidates) in enumerate(scenes):
        for label in np.setdiff1d(truth, [0]):
            rle = coco_masks.encode(np.asfortranarray(truth == label, np.uint8))
            truths.append(
                {
                    **{"id": len(truths) + 1, "image_id": image, "category_id": 1, "iscrowd": 0},
                    **{"segmentation": rle, "area": int((truth == label).sum())},
                    "bbox": coco_masks.toBbox(rle).tolist(),
                }
            )
        for label, score in enumerate(candidates.scores, start=1):
            rle = coco_masks.encode(np.asfortranarray(candidates.labels == label, np.uint8))
            answer = {"segmentation": rle}
            if kind == "bbox":
                answer = {"bbox": coco_masks.toBbox(rle).tolist()}
            results.append(
                {"image_id": image, "category_id": 1, "score": float(score), **answer},
            )
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i, "height": 300, "width": 400} for i in range(len(scenes))],
        "annotations": truths,
        "categories": [{"id": 1, "name": "nucleus"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.params.maxDets = [MANY]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    scores = {}
    for index, size in enumerate(SIZES):
        suffix = f"_{size}" if size else ""
        scores[f"ap{suffix}"] = precision[:, :, 0, index, 0].mean()
        scores[f"ar{suffix}"] = recall[:, 0, index, 0].mean()
    scores["ap_0.50"], scores["ap_0.75"] = precision[[0, 5], :, 0, 0, 0].mean(axis=1)
    return scores


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_pycocotools(kind: str, seed: int) -> None:
    scenes = [scene(100 * seed + number) for number in range(6)]
    of = Detections.of_masks if kind == "segm" else Detections.of_boxes
    ours = coco_scores([of(truth, candidates) for truth, candidates in scenes])
    assert ours == pytest.approx(reference(scenes, kind), abs=1e-9)
    assert 0.05 < ours["ap"] < 0.9


def discs(*radii: int) -> NDArray[np.uint16]:
    labels = np.zeros((100, 100 * len(radii)), np.uint16)
    for number, radius in enumerate(radii, start=1):
        cv2.circle(labels, (100 * number - 50, 50), radius, number, -1)
    return labels


def ones(labels: NDArray[np.uint16]) -> Candidates:
    return Candidates(labels, np.ones(int(labels.max()), np.float32))


def test_the_truth_itself_is_perfect() -> None:
    labels = discs(10, 30)
    scores = coco_scores([Detections.of_masks(labels, ones(labels))])
    assert scores["ap"] == scores["ar"] == scores["ap_small"] == scores["ap_medium"] == 1
    assert np.isnan(scores["ap_large"])


def test_a_doubtful_extra_nucleus_costs_no_precision_at_lower_recalls() -> None:
    truth, found = discs(10, 20), discs(10, 20, 20)
    truth = np.pad(truth, ((0, 0), (0, 100)))
    sure = Candidates(found, np.array([0.9, 0.8, 0.1], np.float32))
    unsure = Candidates(found, np.array([0.9, 0.1, 0.8], np.float32))
    assert coco_scores([Detections.of_masks(truth, sure)])["ap"] == 1
    assert coco_scores([Detections.of_masks(truth, unsure)])["ap"] == pytest.approx(
        (51 * 1 + 50 * 2 / 3) / 101
    )


def test_nothing_found_scores_zero() -> None:
    truth = discs(10)
    nothing = Candidates(np.zeros_like(truth), np.zeros(0, np.float32))
    scores = coco_scores([Detections.of_boxes(truth, nothing)])
    assert (scores["ap"], scores["ar"]) == (0, 0)
    assert (precisions([Detections.of_masks(truth, nothing)]) == 0).all()


def test_the_interval_of_ap_holds_it_and_is_of_images() -> None:
    images = [Detections.of_masks(*scene(number)) for number in range(8)]
    low, high = ap_interval(images)
    assert low < coco_scores(images)["ap"] < high
    low, high = ap_interval(images[:1] * 5)
    assert low == high == pytest.approx(coco_scores(images[:1])["ap"], abs=1e-3)


def test_precision_never_rises_with_recall() -> None:
    curves = precisions([Detections.of_masks(*scene(7))])
    assert curves.shape == (10, 101)
    assert (np.diff(curves, axis=1) <= 0).all()


def test_candidates_hold_what_is_served_and_the_doubtful() -> None:
    rng = np.random.default_rng(6)
    contract = Contract("x", MASKS, maps=(), tile_size=256, halo=64)
    parameters = RenderingParameters(min_score=0.5, overlap=0.3, min_area_px=8)
    corners = rng.uniform(0, 180, (60, 2))
    boxes = np.hstack([corners, corners + rng.uniform(8, 40, (60, 2))]).astype(np.float32)
    scores = rng.random(60).astype(np.float32)
    masks = np.full((60, 28, 28), 255, np.uint8)
    found = contract.method.accumulate(contract.maps, plan_tiles(200, 220, 256, 64, 32))
    found.add(0, {"BOXES": boxes, "SCORES": scores, "MASKS": masks})
    candidates = Candidates.of(found, parameters, Frame(np.zeros((200, 220, 1), np.uint8)))
    served, sure = found.label(parameters, lambda: None)
    assert 0 < len(sure) < len(candidates.scores)
    kept = np.concatenate([[0], candidates.scores]) >= 0.5
    np.testing.assert_array_equal(np.where(kept[candidates.labels], candidates.labels, 0), served)


def test_candidates_of_maps_are_scored_by_their_foreground() -> None:
    contract = Contract("x", tile_size=256)
    maps = np.zeros((1, 3, 96, 96), np.uint8)
    maps[0, 0, 10:30, 10:30], maps[0, 0, 50:80, 50:80] = 250, 170
    maps[0, 2] = maps[0, 0]
    answer = contract.method.accumulate(contract.maps, plan_tiles(96, 96, 256, 64, 32))
    answer.add(0, {"MAPS": maps})
    frame = Frame(np.zeros((96, 96, 1), np.uint8))
    candidates = Candidates.of(answer, WatershedParameters(min_score=0.8), frame)
    assert sorted(candidates.scores) == pytest.approx([170 / 255, 250 / 255])


def test_scores_that_do_not_fit_the_labels_are_refused() -> None:
    labels = discs(10, 20)
    with pytest.raises(InvalidData, match="2 nuclei and 1 scores"):
        Detections.of_masks(labels, Candidates(labels, np.ones(1, np.float32)))
