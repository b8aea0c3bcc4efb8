"""Segment Anything, small and with random weights, because real weights are not available here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import SamConfig, SamModel

from nuclei.errors import InvalidData
from nuclei.imaging.images import frame_from_array
from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.inference.method import PROMPTED
from nuclei.inference.routing import Routing
from nuclei.registry import registered_name
from serving.parity import served_parity
from serving.repository.export import export_version, set_routing
from training.data.dataset import Sample
from training.families.mask_rcnn import MaskRCNN, build_detector
from training.families.sam import PromptedDetector, Sam
from training.graphs.detections import detector_steps, example_image
from training.graphs.step import export_steps
from training.optimisation import fit
from training.schedule import Schedule

SIDE = 64
SCHEDULE = Schedule(
    steps=6, batch_size=2, crop_px=64, warmup_steps=1, validate_every=3, workers=0, precision="fp32"
)


def small_sam() -> SamModel:
    size = {"image_size": SIDE, "patch_size": 16}
    torch.manual_seed(0)
    return SamModel(
        SamConfig(
            vision_config={
                **size,
                **{"hidden_size": 32, "output_channels": 32, "num_pos_feats": 16},
                **{"num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64},
                **{"global_attn_indexes": [1], "window_size": 2, "initializer_range": 0.02},
            },
            prompt_encoder_config={**size, "hidden_size": 32, "mask_input_channels": 4},
            mask_decoder_config={
                **{"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2},
                "iou_head_hidden_dim": 32,
            },
        )
    )


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    export_steps(detector_steps(build_detector("mobilenet_v3").eval()), folder)
    (folder / CONTRACT_FILE).write_text(MaskRCNN(data=(folder,)).contract().to_json())
    return folder


@pytest.fixture(scope="module")
def recipe(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Sam:
    weights = tmp_path_factory.mktemp("weights")
    small_sam().save_pretrained(weights)
    return Sam(data=(weights,), weights=weights, detector=detector, schedule=SCHEDULE)


@pytest.fixture(scope="module")
def exported(
    recipe: Sam, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, float]]:
    """Its artifacts, and their differences from torch."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    parity = recipe.export(recipe.build().eval(), artifacts)
    (artifacts / CONTRACT_FILE).write_text(recipe.contract().to_json())
    return artifacts, parity


def test_only_the_mask_decoder_learns(recipe: Sam, samples: list[Sample], tmp_path: Path) -> None:
    before = recipe.build().state_dict()
    network, _ = fit(
        recipe, samples, SCHEDULE, tmp_path / "c.pt", lambda _: {"val_dsb_score": 0.1}, print
    )
    changed = {
        name for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.startswith("sam.mask_decoder") for name in changed)


def test_it_learns_to_draw_one_image(recipe: Sam) -> None:
    labels = np.zeros((64, 64), np.uint16)
    labels[8:24, 8:24], labels[36:60, 30:50] = 1, 2
    images = torch.from_numpy((labels > 0).astype(np.float32)).expand(1, 3, -1, -1)
    network = recipe.build().train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 3e-3)
    torch.manual_seed(0)
    losses = []
    for _ in range(25):
        loss = recipe.loss_of(network, images, [recipe.targets(labels)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_crop_without_a_nucleus_has_no_loss(recipe: Sam) -> None:
    network = recipe.build()
    target = recipe.targets(np.zeros((64, 64), np.uint16))
    loss = recipe.loss_of(network, torch.rand(1, 3, 64, 64), [target])
    loss.backward()
    assert float(loss.detach()) == 0


def test_every_number_of_boxes_is_answered(exported: tuple[Path, dict[str, float]]) -> None:
    artifacts, parity = exported
    assert {"preprocess", "split", "encoder", "decoder"} <= set(parity)
    assert parity["encoder"] < 1e-4
    assert {path.stem for path in artifacts.glob("*.onnx")} == {
        *("preprocess", "split", "merge_masks"),
        *("detector", "encoder", "decoder"),
    }
    decoder = onnxruntime.InferenceSession(artifacts / "decoder.onnx")
    depth, side = 32, SIDE // 16
    for found in (0, 1, 9):
        corners = np.random.default_rng(0).uniform(0, 90, (found, 2)).astype(np.float32)
        boxes, scores, masks = decoder.run(
            None,
            {
                "EMBEDDING": np.zeros((1, depth, side, side), np.float32),
                "SIDE": np.array([128], np.float32),
                "BOXES_FOUND": np.hstack([corners, corners + 20]),
                "SCORES_FOUND": np.linspace(0.1, 0.9, found).astype(np.float32),
            },
        )
        assert (boxes.shape, masks.shape) == ((found, 4), (found, 28, 28))
        np.testing.assert_allclose(scores, np.linspace(0.1, 0.9, found), rtol=1e-6)
        np.testing.assert_allclose(boxes.reshape(-1, 2, 2).mean(axis=1), corners + 10, rtol=1e-5)


def test_the_boxes_are_the_detectors(recipe: Sam, detector: Path) -> None:
    prompted = PromptedDetector(recipe.build().eval(), detector / "network.onnx")
    session = onnxruntime.InferenceSession(detector / "network.onnx")
    image = example_image()
    with torch.inference_mode():
        boxes, scores, masks = prompted(image)
    found = session.run(None, {"IMAGE": image.numpy()})
    np.testing.assert_array_equal(scores.numpy(), found[1])
    assert len(boxes) == len(masks) == len(found[0])


def test_triton_draws_as_this_process_does(
    exported: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    artifacts, _ = exported
    export_version(artifacts, tmp_path / "models", 1, registered_model=registered_name("sam"))
    frame = frame_from_array((example_image()[0] * 255).permute(1, 2, 0).numpy().astype(np.uint8))
    set_routing(tmp_path / "models", "sam", Routing(1))
    for parity in served_parity(tmp_path / "models", "sam", [frame]):
        assert parity.differences["UNMATCHED"] == 0
        assert parity.differences["MASKS"] <= 1


def test_the_contract_is_the_detectors_but_for_the_method(recipe: Sam, detector: Path) -> None:
    contract, found = recipe.contract(), Contract.read(detector / CONTRACT_FILE)
    assert (contract.family, contract.method) == ("sam", PROMPTED)
    assert (contract.tile_size, contract.halo) == (found.tile_size, found.halo)


def test_options_survive_their_file(recipe: Sam, tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text(recipe.to_json())
    assert Sam.read(tmp_path) == recipe


def test_a_folder_without_weights_is_refused(recipe: Sam, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no weights of SAM"):
        replace(recipe, weights=tmp_path).build()


def test_a_model_that_finds_no_boxes_is_refused(recipe: Sam, tmp_path: Path) -> None:
    (tmp_path / CONTRACT_FILE).write_text(Contract("unet").to_json())
    with pytest.raises(InvalidData, match="finds no boxes"):
        replace(recipe, detector=tmp_path).contract()
