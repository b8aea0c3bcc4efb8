from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from skimage.measure import label, regionprops
from torch import Tensor

from nuclei.inference.parity import differences
from training.families.mask_rcnn import Detector, build_detector
from training.graphs.detections import MergeMasks, detector_steps, example_image
from training.graphs.step import export_steps
from training.graphs.views import Split, Views

STEPS = ("preprocess", "split", "network", "merge_masks")
Instances = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return build_detector("mobilenet_v3").eval()


@pytest.fixture(scope="module")
def exported(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    parity = export_steps(detector_steps(detector), folder)
    assert {name.split("/")[0] for name in parity} == set(STEPS)
    for step in ("network", "merge_masks"):
        # Scores that differ only in their last digits may swap places at a limit.
        assert parity[f"{step}/UNMATCHED"] <= 10
        assert parity[f"{step}/BOXES"] < 1e-2
        assert parity[f"{step}/SCORES"] < 1e-4
        assert parity[f"{step}/MASKS"] <= 1
    assert parity["split"] == 0
    return folder


def session(folder: Path, step: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / f"{step}.onnx", providers=["CPUExecutionProvider"])


def shapes() -> Tensor:
    """Three shapes without symmetry, float32 [1, 1, 96, 96]."""
    image = np.zeros((96, 96), np.float32)
    image[8:30, 10:16] = image[24:30, 16:28] = 1
    image[40:52, 60:90] = image[52:60, 80:90] = 1
    image[70:90, 20:24] = image[70:76, 24:44] = 1
    return torch.from_numpy(image)[None, None]


def find(image: Tensor, score: float = 0.75) -> Instances:
    """The bright shapes of an image, as a detector gives them."""
    regions = regionprops(label(image[0, 0].numpy() > 0.5))
    masks = [
        cv2.resize(region.image.astype(np.uint8) * 255, (28, 28), interpolation=cv2.INTER_AREA)
        for region in regions
    ]
    return (
        torch.tensor([region.bbox for region in regions], dtype=torch.float32).reshape(-1, 4),
        torch.full((len(regions),), score),
        torch.from_numpy(np.array(masks, np.uint8).reshape(-1, 28, 28)),
    )


def nothing() -> Instances:
    return find(torch.zeros(1, 1, 96, 96))


def merged(found: list[Instances]) -> Instances:
    return MergeMasks()(torch.tensor([96]), *(tensor for view in found for tensor in view))


def by_place(found: Instances) -> Instances:
    order = found[0][:, 0].argsort()
    return found[0][order], found[1][order], found[2][order]


def test_views_are_those_of_the_other_graphs() -> None:
    image = torch.rand(1, 3, 32, 32)
    *views, side = Split()(image)
    assert torch.equal(torch.cat(views), Views()(image))
    assert side.tolist() == [32]


def test_what_every_view_shows_is_what_the_image_shows() -> None:
    *views, _ = Split()(shapes())
    boxes, scores, masks = by_place(merged([find(view) for view in views]))
    expected = find(shapes())
    assert torch.equal(boxes, expected[0])
    assert torch.allclose(scores, expected[1])
    assert (masks.int() - expected[2].int()).abs().max() <= 1


def test_the_score_is_the_mean_over_all_views() -> None:
    *views, _ = Split()(shapes())
    found = [find(view) if k % 2 else nothing() for k, view in enumerate(views)]
    boxes, scores, _ = merged(found)
    assert torch.allclose(scores, torch.full((3,), 0.75 / 2))
    assert len(boxes) == 3


def test_a_view_that_shows_a_nucleus_twice_counts_once() -> None:
    *views, _ = Split()(shapes())
    found = [tuple(torch.cat([part, part]) for part in find(view)) for view in views]
    boxes, scores, _ = merged(found)
    assert torch.allclose(scores, torch.full((3,), 0.75))
    assert len(boxes) == 3


def test_a_detection_with_a_high_score_weighs_more() -> None:
    sure, unsure = find(shapes(), 0.9), find(shapes(), 0.1)
    unsure = (unsure[0] + 1, unsure[1], torch.zeros_like(unsure[2]))
    nowhere = [nothing()] * 3
    # In another view the unsure boxes would lie elsewhere, so view 0 holds both.
    boxes, scores, masks = by_place(
        MergeMasks()(
            torch.tensor([96]),
            *(torch.cat(pair) for pair in zip(sure, unsure, strict=True)),
            *(tensor for view in [*nowhere, *nowhere, nothing()] for tensor in view),
        )
    )
    assert torch.allclose(boxes, sure[0] + 0.1, atol=1e-4)
    assert torch.allclose(scores, torch.full((3,), 0.9 / 8))
    assert (masks.int() - sure[2].int() * 0.9).abs().max() <= 1


def test_nothing_in_all_views_is_nothing_in_the_image(exported: Path) -> None:
    for boxes, scores, masks in (
        merged([nothing()] * 8),
        session(exported, "merge_masks").run(None, feeds([nothing()] * 8)),
    ):
        assert boxes.shape == (0, 4)
        assert scores.shape == (0,)
        assert masks.shape == (0, 28, 28)


def feeds(found: list[Instances]) -> dict[str, np.ndarray]:
    names = ("BOXES", "SCORES", "MASKS")
    return {
        "SIDE": np.array([96]),
        **{
            f"{name}_{k}": tensor.numpy()
            for k, view in enumerate(found)
            for name, tensor in zip(names, view, strict=True)
        },
    }


def test_the_merge_takes_other_numbers_in_each_view(exported: Path) -> None:
    *views, _ = Split()(shapes())
    found = [find(view) if k < 5 else nothing() for k, view in enumerate(views)]
    answers = session(exported, "merge_masks").run(None, feeds(found))
    for here, there in zip(merged(found), answers, strict=True):
        np.testing.assert_allclose(here.numpy(), there, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 3, 96, 64), (1, 1, 160, 256)])
def test_the_network_takes_any_size(
    exported: Path, detector: Detector, shape: tuple[int, ...]
) -> None:
    image = torch.rand(shape)
    found = session(exported, "network").run(None, {"IMAGE": image.numpy()})
    with torch.inference_mode():
        expected = [tensor.numpy() for tensor in detector(image)]
    names = ("BOXES", "SCORES", "MASKS")
    apart = differences(
        dict(zip(names, found, strict=True)), dict(zip(names, expected, strict=True))
    )
    assert apart["UNMATCHED"] <= 0.05 * len(found[1])
    assert apart["BOXES"] < 1e-2
    assert apart["SCORES"] < 1e-4
    # Boxes reach the far end of images that are larger than the example.
    far = found[0][:, 2:].max(axis=0)
    assert (np.array(shape[2:]) - 16 <= far).all()
    assert (far <= shape[2:]).all()


def test_the_example_shows_nuclei() -> None:
    assert len(find(example_image())[1]) > 5


def test_files_load_in_the_native_backend_without_this_machines_paths(exported: Path) -> None:
    for step in STEPS:
        data = (exported / f"{step}.onnx").read_bytes()
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
        assert model.ir_version <= 10
        assert b"site-packages" not in data
        assert str(Path.cwd()).encode() not in data
