"""What all families of models have in common, from their export to Triton's answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from nuclei.evaluation.metrics import Overlap, scores_of
from nuclei.imaging.images import Frame, frame_from_array, read_frame
from nuclei.imaging.intensity import intensity_range
from nuclei.inference.contract import CONTRACT_FILE
from nuclei.inference.deadline import NEVER
from nuclei.inference.engine import Engine
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.parity import differences
from nuclei.inference.pipeline import segment
from nuclei.inference.reference import Reference, read_references
from nuclei.inference.routing import Routing
from nuclei.postprocessing.accumulation import Outputs
from nuclei.process.ports import free_ports
from nuclei.registry import registered_name
from nuclei.results.segmentation import Segmentation
from serving.engine import TritonEngine
from serving.repository.checks import check_repository
from serving.repository.configuration import CpuAccelerator
from serving.repository.export import collect_artifacts, export_version, set_routing
from serving.triton.server import TritonServer
from tests.shipped import SHIPPED
from training.data.dataset import Sample
from training.data.stars import GRID_PX, N_RAYS
from training.families.consensus import Consensus, Pair
from training.families.mask_rcnn import Detector, MaskRCNN
from training.families.stardist import StarDist
from training.families.unet import UNet
from training.families.unet_linknet import Average, UNetLinkNet
from training.families.yolov8 import Detector as Yolo
from training.families.yolov8 import YoloV8
from training.graphs.kinds import ByKind
from training.job import OPTIONS_FILE, Recipe, write_references_by_torch

NOWHERE = (Path("no_images"),)
# A model that goes on from the one that ships, whose network for images in colour is another.
OWN = "mylab"
MAX_MESSAGE_BYTES = 2**28


@dataclass(frozen=True)
class Family:
    """A family as it is tested.

    Attributes:
        recipe: recipe of a small network; an ensemble's is made from other trainings in a folder.
        network: turns a random network into one that finds bright discs, and nothing in black.
        package: a package that it needs; without it the family is left out.
    """

    recipe: Callable[[Path], Recipe]
    network: Callable[[nn.Module], nn.Module]
    package: str = "torch"


def folders(runs: Path, *members: str) -> dict[str, Path]:
    return {name: runs / name for name in members}


def bright_maps(_: nn.Module) -> nn.Module:
    """Logits of three maps: foreground and distance are brightness, the border is never seen."""
    network = nn.Conv2d(3, 3, 1)
    nn.init.constant_(network.weight, 20 / 3)
    nn.init.constant_(network.bias, -10)
    nn.init.constant_(network.weight[1], 0)
    return network.eval()


def bright_boxes(network: nn.Module) -> nn.Module:
    """Random features that are 0 where the image is black; larger ones give higher scores."""
    assert isinstance(network, Detector)
    heads, proposals = network.roi_heads, network.rpn.head
    with torch.no_grad():
        for layer in (*proposals.modules(), *heads.box_head.modules(), heads.box_predictor):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.abs_()
                layer.bias.zero_()
        for still in (proposals.bbox_pred, heads.box_predictor.bbox_pred):
            nn.init.zeros_(still.weight)
            nn.init.zeros_(still.bias)
        sure = heads.box_predictor.cls_score
        sure.weight[0], sure.weight[1] = 0, 20 * sure.weight[1].abs()
        sure.bias[0], sure.bias[1] = 4, 0
        # Masks fill their boxes.
        nn.init.zeros_(heads.mask_predictor.mask_fcn_logits.weight)
        nn.init.constant_(heads.mask_predictor.mask_fcn_logits.bias, 3)
    return network.eval()


def bright_cells(network: nn.Module) -> nn.Module:
    """As `bright_boxes`, for the finest cells of a YOLOv8; all boxes have one size."""
    assert isinstance(network, Yolo)
    head = network.network.model[-1]
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                # Features neither grow nor fade from layer to layer.
                nn.init.normal_(layer.weight, std=1.7 / layer.weight[0].numel() ** 0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for boxes, sure, masks in zip(head.cv2, head.cv3, head.cv4, strict=True):
            # Boxes reach 0.6 cells to each side, and masks fill them.
            boxes[-1].bias[:] = torch.tensor([0, 0.4, *[-20.0] * 14]).repeat(4)
            nn.init.ones_(masks[-1].bias)
            nn.init.constant_(sure[-1].bias, -4)
            sure[-1].weight.abs_().mul_(0.03 if sure is head.cv3[0] else 0)
            for still in (boxes[-1], masks[-1]):
                nn.init.zeros_(still.weight)
        nn.init.zeros_(head.proto.cv3.bn.weight)
        nn.init.constant_(head.proto.cv3.bn.bias, 3)
    return network.eval()


def bright_stars(_: nn.Module) -> nn.Module:
    """Depth as the brightness around each cell of 2 x 2 pixels, and rays of 5 pixels."""
    network = nn.Conv2d(3, 1 + N_RAYS, 10, stride=GRID_PX, padding=4)
    place = torch.arange(10) - 4.5
    around = torch.exp(-(place[:, None] ** 2 + place**2) / 12)
    nn.init.zeros_(network.weight)
    nn.init.constant_(network.bias, 5)
    with torch.no_grad():
        network.weight[0] = 4 * around / around.sum()
        network.bias[0] = -4
    return network.eval()


def bright_average(network: nn.Module) -> nn.Module:
    assert isinstance(network, Average)
    return Average([bright_maps(one) for one in network.networks]).eval()


def bright_pair(network: nn.Module) -> nn.Module:
    assert isinstance(network, Pair)
    return Pair(bright_maps(network.unet), bright_boxes(network.mask_rcnn)).eval()


UNET = UNet(data=NOWHERE, encoder="tu-regnetx_002")
TRAININGS: dict[str, Recipe] = {
    "unet": UNET,
    "linknet": replace(UNET, architecture="linknet"),
    "mask_rcnn": MaskRCNN(data=NOWHERE, backbone="mobilenet_v3"),
}
FAMILIES = {
    "unet": Family(lambda _: UNET, bright_maps),
    "unet_linknet": Family(
        lambda runs: UNetLinkNet.of(NOWHERE, folders(runs, "unet", "linknet"), "cpu"),
        bright_average,
    ),
    "stardist": Family(lambda _: StarDist(data=NOWHERE, encoder="tu-regnetx_002"), bright_stars),
    "mask_rcnn": Family(lambda _: TRAININGS["mask_rcnn"], bright_boxes),
    "consensus": Family(
        lambda runs: Consensus.of(NOWHERE, folders(runs, "unet", "mask_rcnn"), "cpu"),
        bright_pair,
    ),
    "yolov8": Family(lambda _: YoloV8(data=NOWHERE, size="n", zoom=1), bright_cells, "ultralytics"),
}
PRESENT = [name for name, family in FAMILIES.items() if find_spec(family.package)]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recipe]:
    runs = tmp_path_factory.mktemp("runs")
    for name, training in TRAININGS.items():
        (runs / name).mkdir()
        (runs / name / OPTIONS_FILE).write_text(training.to_json())
    return {name: FAMILIES[name].recipe(runs) for name in PRESENT}


@pytest.fixture(scope="module")
def networks(recipes: dict[str, Recipe]) -> dict[str, nn.Module]:
    made = {}
    for name, recipe in recipes.items():
        torch.manual_seed(0)
        made[name] = FAMILIES[name].network(recipe.build())
    return made


@pytest.fixture(scope="module")
def repository(
    recipes: dict[str, Recipe],
    networks: dict[str, nn.Module],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """All families side by side, and a model whose training starts from the one that ships."""
    repository = tmp_path_factory.mktemp("families") / "models"
    version = int(LocalEngine(SHIPPED).find("unet").version)
    parent = collect_artifacts(SHIPPED, "unet", version, tmp_path_factory.mktemp("parent"))
    own = UNet(data=NOWHERE, name=OWN, parent=f"unet:{version}", parent_files=parent, keep="grey")
    weights = own.first_weights()
    assert weights is not None
    network = own.build().eval()
    network.load_state_dict(weights)
    assert isinstance(network, ByKind)
    network.colour = networks["unet"]
    exported = {**recipes, OWN: own}
    for version, (name, recipe) in enumerate(exported.items(), start=1):
        artifacts = tmp_path_factory.mktemp(name)
        recipe.export(network if recipe is own else networks[name], artifacts)
        (artifacts / CONTRACT_FILE).write_text(recipe.contract().to_json())
        export_version(
            artifacts,
            repository,
            version,
            registered_model=registered_name(name),
            accelerator=CpuAccelerator.ONNXRUNTIME,
        )
        set_routing(repository, name, Routing(version))
    check_repository(repository)
    return repository


@pytest.fixture(scope="module")
def engine(repository: Path) -> LocalEngine:
    return LocalEngine(repository)


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    (metrics_port,) = free_ports(1)
    with TritonServer(
        repository,
        tmp_path_factory.mktemp("triton"),
        metrics_port=metrics_port,
    ) as running:
        yield running


@pytest.fixture
async def served(server: TritonServer) -> AsyncIterator[TritonEngine]:
    engine = TritonEngine([server.address], 2**30, MAX_MESSAGE_BYTES)
    yield engine
    await engine.close()


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param not in PRESENT:
        pytest.skip(f"{FAMILIES[request.param].package} is not installed")
    return str(request.param)


@pytest.fixture
def recipe(name: str, recipes: dict[str, Recipe]) -> Recipe:
    return recipes[name]


def discs(height: int, width: int, pitch: int = 20, radius: float = 5.0) -> NDArray[np.uint8]:
    """Bright discs on a grid, uint8 [H, W, 1]."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y % pitch - pitch / 2, x % pitch - pitch / 2)
    return (np.clip(radius - distance, 0, 1) * 200).astype(np.uint8)[..., None]


def field(height: int, width: int) -> NDArray[np.uint8]:
    """Discs of many sizes and brightnesses, anywhere, uint8 [H, W, 1]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    light = np.zeros((height, width))
    for _ in range(height * width // 900):
        distance = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width))
        disc = np.clip(rng.uniform(3, 9) - distance, 0, 1)
        light = np.maximum(light, disc * rng.uniform(120, 250))
    return light.astype(np.uint8)[..., None]


def check(segmentation: Segmentation, frame: Frame) -> None:
    """The segmentation belongs to this frame and is consistent."""
    labels, nuclei = segmentation.labels, segmentation.nuclei
    assert labels.shape == frame.pixels.shape[:2]
    assert labels.dtype == np.uint32
    assert np.unique(labels[labels > 0]).tolist() == list(range(1, len(nuclei) + 1))
    assert ((nuclei.score >= 0) & (nuclei.score <= 1)).all()


async def answer(engine: Engine, graph: str, recipe: Recipe, pixels: NDArray[np.uint8]) -> Outputs:
    """What an engine answers for one tile."""
    outputs = recipe.contract().method.outputs
    tile = pixels.astype(np.uint16)
    return await engine.infer(graph, outputs, tile, intensity_range(pixels).range, NEVER)


def assert_alike(a: Outputs, b: Outputs) -> None:
    """The same answer up to the last digits; a few borderline nuclei may differ."""
    found = differences(a, b)
    if "SCORES" in a:
        assert len(a["SCORES"]) > 20
        assert found.pop("UNMATCHED") <= 0.05 * len(a["SCORES"])
        assert found.pop("SCORES") < 1e-3
    for name, difference in found.items():
        assert difference <= (1 if a[name].dtype == np.uint8 else 0.05), name


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (97, 130), (520, 696)])
async def test_frames_have_any_size(name: str, engine: LocalEngine, shape: tuple[int, int]) -> None:
    frame = frame_from_array(discs(*shape))
    found = await segment(frame, engine, engine.find(name))
    check(found, frame)
    if min(shape) > 90:
        assert len(found.nuclei) > 0.9 * (shape[0] // 20) * (shape[1] // 20)


async def test_colour_is_taken_as_grey_is(name: str, engine: LocalEngine) -> None:
    grey = discs(96, 128)
    one, three = [
        await segment(frame_from_array(pixels), engine, engine.find(name))
        for pixels in (grey, np.repeat(grey, 3, axis=2))
    ]
    np.testing.assert_array_equal(one.labels, three.labels)
    assert len(one.nuclei) > 10


async def test_frames_have_8_or_16_bits(name: str, engine: LocalEngine) -> None:
    pixels = discs(96, 128)
    deep = frame_from_array(pixels.astype(np.uint16) * 257)
    found = await segment(deep, engine, engine.find(name))
    check(found, deep)
    shallow = await segment(frame_from_array(pixels), engine, engine.find(name))
    assert len(found.nuclei) == len(shallow.nuclei)


@pytest.mark.parametrize("tta", [False, True])
async def test_an_empty_frame_has_no_nucleus(name: str, engine: LocalEngine, tta: bool) -> None:
    frame = frame_from_array(np.full((120, 90, 3), 7, np.uint8))
    found = await segment(frame, engine, engine.find(name), tta=tta)
    check(found, frame)
    assert len(found.nuclei) == 0


async def test_a_frame_has_a_thousand_nuclei(name: str, engine: LocalEngine) -> None:
    frame = frame_from_array(discs(700, 700))
    found = await segment(frame, engine, engine.find(name))
    check(found, frame)
    assert len(found.nuclei) > 1000


async def test_frames_come_together(name: str, engine: LocalEngine, served: TritonEngine) -> None:
    version = engine.find(name)
    frames = [frame_from_array(field(*shape)) for shape in ((96, 128), (64, 64), (300, 40))]
    alone = [await segment(frame, served, version) for frame in frames]
    together = await asyncio.gather(*(segment(frame, served, version) for frame in frames))
    for frame, one, other in zip(frames, alone, together, strict=True):
        check(other, frame)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_families_share_the_small_steps(repository: Path) -> None:
    steps = [
        folder
        for folder in repository.iterdir()
        if not any(folder.name.startswith(name) for name in (*PRESENT, OWN))
    ]
    assert {"preprocess", "tta", "merge", "split", "merge_masks"} <= {step.name for step in steps}
    assert all([path.name for path in step.iterdir() if path.is_dir()] == ["1"] for step in steps)


async def test_weights_are_saved_and_loaded(recipe: Recipe, tmp_path: Path) -> None:
    saved, loaded = recipe.build().eval(), recipe.build().eval()
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    one, other = [
        await answer(recipe.engine(network, recipe.contract(), "fp32"), "", recipe, field(96, 96))
        for network in (saved, loaded)
    ]
    for tensor, values in one.items():
        np.testing.assert_array_equal(values, other[tensor])


@pytest.mark.parametrize(("tta", "channels"), [(False, 1), (False, 3), (True, 1)])
async def test_onnx_answers_as_torch_does(
    name: str,
    recipe: Recipe,
    networks: dict[str, nn.Module],
    engine: LocalEngine,
    tta: bool,
    channels: int,
) -> None:
    tile = np.repeat(field(128, 128), channels, axis=2)
    torch_engine = recipe.engine(networks[name], recipe.contract(), "fp32")
    assert_alike(
        await answer(torch_engine, torch_engine.served.graph_for(tta), recipe, tile),
        await answer(engine, engine.find(name).graph_for(tta), recipe, tile),
    )


def test_references_by_torch_are_what_the_files_answer(
    name: str,
    recipe: Recipe,
    networks: dict[str, nn.Module],
    engine: LocalEngine,
    tmp_path: Path,
) -> None:
    pixels = field(200, 256)
    stained = np.concatenate([pixels, pixels, pixels // 10 * 9], axis=2)
    truth = (pixels[..., 0] > 90).astype(np.uint16)
    samples = [
        Sample("empty", "fluorescence", np.zeros_like(pixels), np.zeros_like(truth)),
        Sample("discs", "fluorescence", pixels, truth),
        Sample("stained", "histology", stained, truth),
    ]
    contract = recipe.contract()
    write_references_by_torch(recipe, networks[name], contract, samples, tmp_path)
    grey, colour = read_references(tmp_path, contract)
    np.testing.assert_array_equal(grey.image[:200], pixels)
    np.testing.assert_array_equal(colour.image[:200], stained)
    for expected in (grey, colour):
        found = asyncio.run(Reference.of(expected.image, engine, engine.find(name)))
        for view in ("one_view", "all_views"):
            of_torch, of_files = getattr(expected, view), getattr(found, view)
            assert_alike(of_torch, of_files)
        assert expected.labels.max() > 20
        scores = scores_of(Overlap.of(expected.labels, found.labels))
        # The stars of an untrained network overlap everywhere: last digits decide which are kept.
        assert name == "stardist" or scores["ap_0.50"] > 0.95


@pytest.mark.parametrize("tta", [False, True])
async def test_triton_answers_as_this_process_does(
    name: str, recipe: Recipe, engine: LocalEngine, served: TritonEngine, tta: bool
) -> None:
    tile = field(128, 128)
    assert_alike(
        await answer(engine, engine.find(name).graph_for(tta), recipe, tile),
        await answer(served, engine.find(name).graph_for(tta), recipe, tile),
    )


@pytest.mark.parametrize("tta", [False, True])
async def test_triton_answers_for_an_empty_frame(
    name: str, engine: LocalEngine, served: TritonEngine, tta: bool
) -> None:
    frame = frame_from_array(np.full((120, 90, 3), 7, np.uint8))
    assert len((await segment(frame, served, engine.find(name), tta=tta)).nuclei) == 0


async def test_a_model_that_goes_on_from_what_ships_is_served_beside_unet(
    engine: LocalEngine, served: TritonEngine, fluorescence: Path, histology: Path
) -> None:
    assert {OWN, "unet"} <= set(engine.models())
    shipped = LocalEngine(SHIPPED)
    frame = read_frame(fluorescence)
    expected = await segment(frame, shipped, shipped.find("unet"))
    own, unet = [await segment(frame, served, engine.find(name)) for name in (OWN, "unet")]
    assert (own.model, unet.model) == (OWN, "unet")
    # It has learned nothing of grey images, and so its weights for these are those of the file.
    assert scores_of(Overlap.of(expected.labels, own.labels))["ap_0.90"] == 1
    assert scores_of(Overlap.of(expected.labels, unet.labels))["ap_0.90"] < 0.5
    # Images in colour are answered by its other network, which is that of `unet` here.
    tile = read_frame(histology).pixels[:128, :128]
    assert_alike(
        *[await answer(served, engine.find(name).graph, UNET, tile) for name in (OWN, "unet")]
    )
