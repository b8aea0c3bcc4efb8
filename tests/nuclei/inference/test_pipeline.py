import asyncio
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuclei.errors import DeadlineExceeded, InvalidOption
from nuclei.evaluation.metrics import score_image
from nuclei.imaging.images import Frame
from nuclei.inference.contract import Contract
from nuclei.inference.deadline import Deadline
from nuclei.inference.engine import ServedVersion
from nuclei.inference.memory import adjusted_memory_bytes, memory_bytes
from nuclei.inference.method import CONSENSUS, WATERSHED, Method
from nuclei.inference.pipeline import Stopwatch, predict, segment
from nuclei.postprocessing import bands
from nuclei.postprocessing.accumulation import Maps, Outputs
from nuclei.postprocessing.consensus import ConsensusParameters
from nuclei.postprocessing.watershed import WatershedParameters
from nuclei.quality.reference import (
    LEVELS,
    FeatureReference,
    GroupReference,
    QualityReference,
)
from nuclei.results.adjustments import AS_TUNED, Adjustments
from nuclei.results.coordinates import PixelSize
from nuclei.results.segmentation import Segmentation

REACH_PX = 12
NOISE = np.random.default_rng(0).integers(0, 65536, (2500, 3000, 1), dtype=np.uint16)


class BlurEngine:
    """An engine with a reach of `REACH_PX` pixels: every map is the smoothed brightness."""

    def __init__(self, contract: Contract) -> None:
        self.served = ServedVersion("unet", "1", "unet.1", contract)
        self.graphs: list[str] = []

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Outputs:
        deadline.check("before the tile")
        self.graphs.append(graph)
        assert image.dtype == np.uint16
        height, width, _ = image.shape
        contract = self.served.contract
        assert height % 32 == width % 32 == 0
        assert height * width <= contract.tile_size**2
        if contract.method.square_tiles or graph.endswith("_tta"):
            assert height == width
        lo, hi = intensity
        bright = np.clip((image[:, :, 0].astype(np.float32) - lo) / (hi - lo), 0, 1)
        # Two box filters on whole numbers: exact, so the result does not depend on the tiles.
        window = (REACH_PX + 1, REACH_PX + 1)
        sums = np.round(bright * 255).astype(np.float64)
        for _ in range(2):
            sums = cv2.boxFilter(sums, -1, window, normalize=False, borderType=cv2.BORDER_REFLECT)
        value = np.round(sums / (REACH_PX + 1) ** 4).astype(np.uint8)
        answers = {"MAPS": np.stack([value, 0 * value, value])[None]}
        return answers | {"DISAGREEMENT": value // 2} if graph.endswith("_tta") else answers


def served_by(engine: BlurEngine) -> tuple[BlurEngine, ServedVersion]:
    return engine, engine.served


def spots(height: int, width: int, seed: int) -> Frame:
    """A frame of bright discs."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width), 100, np.uint16)
    for _ in range(height * width // 1500):
        centre = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(pixels, centre, int(rng.integers(4, 12)), int(rng.integers(800, 4000)), -1)
    return Frame(pixels[:, :, None])


tile_sizes = st.sampled_from([64, 96, 160, 512])
seeds = st.integers(0, 1000)


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 12), tile_sizes, seeds)
def test_the_same_nuclei_whatever_the_tile_size(
    rows: int, columns: int, tile_size: int, seed: int
) -> None:
    frame = spots(32 * rows, 32 * columns, seed)
    contract = Contract("unet", tile_size=512, halo=REACH_PX + 4)
    other = replace(contract, tile_size=tile_size)
    whole = asyncio.run(segment(frame, *served_by(BlurEngine(contract))))
    tiled = asyncio.run(segment(frame, *served_by(BlurEngine(other))))
    np.testing.assert_array_equal(whole.labels, tiled.labels)


@settings(max_examples=20)
@given(st.integers(20, 400), st.integers(20, 400), tile_sizes, seeds)
def test_the_same_maps_away_from_mirrored_edges(
    height: int, width: int, tile_size: int, seed: int
) -> None:
    frame = spots(height, width, seed)
    contract = Contract("unet", tile_size=512, halo=REACH_PX + 4)
    other = replace(contract, tile_size=tile_size)
    whole = asyncio.run(predict(frame, *served_by(BlurEngine(contract))))
    tiled = asyncio.run(predict(frame, *served_by(BlurEngine(other))))
    inner = (slice(None), slice(0, height - REACH_PX), slice(0, width - REACH_PX))
    assert isinstance(whole.accumulator, Maps)
    assert isinstance(tiled.accumulator, Maps)
    np.testing.assert_array_equal(whole.accumulator.maps[inner], tiled.accumulator.maps[inner])


def test_a_nucleus_across_a_seam_is_one() -> None:
    pixels = np.full((64, 700), 100, np.uint16)
    pixels[20:44, 40:660] = 3000
    contract = Contract("unet", tile_size=128, halo=REACH_PX + 4)
    found = asyncio.run(segment(Frame(pixels[:, :, None]), *served_by(BlurEngine(contract))))
    assert len(found.nuclei) == 1
    assert score_image((pixels > 100).astype(int), found.labels)["ap_0.80"] == 1


def test_result_names_its_model_version_and_steps() -> None:
    frame = replace(spots(200, 300, 1), pixel_size_um=PixelSize(0.5, 0.5))
    engine = BlurEngine(Contract("unet"))
    found = asyncio.run(segment(frame, engine, engine.served, tta=True))
    assert (found.model, found.version, found.pixel_size_um) == ("unet", "1", (0.5, 0.5))
    assert set(engine.graphs) == {"unet.1_tta"}
    assert list(found.stage_ms) == ["tile", "infer", "postprocess", "measure", "quality"]
    assert found.labels.dtype == np.uint32
    assert found.labels.max() == len(found.nuclei)


@pytest.mark.parametrize("tile_size", [64, 512])
def test_the_disagreement_of_views_reaches_the_quality(tile_size: int) -> None:
    frame = spots(200, 300, 1)
    parameters = WatershedParameters(foreground_threshold=0.1, min_score=0)
    contract = Contract("unet", tile_size=tile_size, halo=REACH_PX + 4, postprocessing=parameters)
    engine = BlurEngine(contract)
    found = asyncio.run(segment(frame, engine, engine.served, tta=True)).quality
    assert found is not None
    assert found.mean_probability is not None
    # Half of the probability, rounded down.
    half = found.mean_probability / 2
    assert found.tta_disagreement == pytest.approx(half - 0.25 / 255, abs=0.25 / 255)
    plain = asyncio.run(segment(frame, engine, engine.served)).quality
    assert plain == replace(found, tta_disagreement=None)


def test_8_and_16_bit_frames_of_the_same_scene_agree() -> None:
    eight = Frame((spots(120, 150, 3).pixels // 16).astype(np.uint8))
    sixteen = Frame(eight.pixels.astype(np.uint16) * 257)
    engine = BlurEngine(Contract("unet"))
    first = asyncio.run(segment(eight, engine, engine.served))
    second = asyncio.run(segment(sixteen, engine, engine.served))
    np.testing.assert_array_equal(first.labels, second.labels)


def test_a_deadline_is_kept() -> None:
    engine = BlurEngine(Contract("unet"))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(segment(spots(64, 64, 0), engine, engine.served, deadline=Deadline.after(0)))


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (16, 5000), (5000, 16)])
def test_frames_of_any_shape(shape: tuple[int, int]) -> None:
    frame = Frame(np.arange(np.prod(shape), dtype=np.uint16).reshape(*shape, 1))
    contract = Contract("unet", tile_size=160, halo=16)
    found = asyncio.run(segment(frame, *served_by(BlurEngine(contract))))
    assert found.labels.shape == shape


async def test_post_processing_ends_when_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_PX", 1)  # a check for every row
    frame = spots(600, 600, 4)
    engine = BlurEngine(Contract("unet"))
    with ThreadPoolExecutor(1) as executor:
        started = threading.Event()
        ended = []

        class Watch(Stopwatch):
            @contextmanager
            def timed(self, stage: str) -> Iterator[None]:
                if stage == "postprocess":
                    started.set()
                try:
                    yield
                except BaseException as error:
                    ended.append((stage, type(error)))
                    raise

        running = asyncio.ensure_future(
            segment(frame, engine, engine.served, executor=executor, stopwatch=Watch())
        )
        await asyncio.to_thread(started.wait)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert ended == [("postprocess", CancelledError)]


def test_post_processing_keeps_the_deadline() -> None:
    class SlowEngine(BlurEngine):
        async def infer(self, graph: str, outputs: tuple[str, ...], *tile: Any) -> Outputs:
            maps = await super().infer(graph, outputs, *tile)
            await asyncio.sleep(0.2)
            return maps

    engine = SlowEngine(Contract("unet"))
    with pytest.raises(DeadlineExceeded, match="in work"):
        asyncio.run(segment(spots(64, 64, 0), engine, engine.served, deadline=Deadline.after(0.2)))


class BlindDetectorEngine(BlurEngine):
    """A `BlurEngine` whose graph also has a detector, which finds nothing."""

    async def infer(self, graph: str, outputs: tuple[str, ...], *tile: Any) -> Outputs:
        maps = await super().infer(graph, outputs, *tile)
        none: dict[str, NDArray[Any]] = {
            "BOXES": np.empty((0, 4), np.float32),
            "SCORES": np.empty(0, np.float32),
            "MASKS": np.empty((0, 28, 28), np.uint8),
        }
        return {**maps, **none}


@pytest.mark.parametrize(
    ("method", "tta"), [(WATERSHED, False), (WATERSHED, True), (CONSENSUS, False)]
)
@pytest.mark.parametrize("pixels", [np.zeros((2500, 3000, 1), np.uint16), NOISE])
def test_the_estimate_of_memory_is_not_exceeded(
    pixels: NDArray[np.uint16], method: Method, tta: bool
) -> None:
    height, width, channels = pixels.shape
    estimate = memory_bytes(height, width, channels, pixels.itemsize, method, tta=tta)
    voting = Contract(
        "consensus", CONSENSUS, halo=16, postprocessing=ConsensusParameters(min_score=0.1)
    )
    engine = {
        WATERSHED: BlurEngine(Contract("unet", halo=16)),
        CONSENSUS: BlindDetectorEngine(voting),
    }[method]
    tracemalloc.start()
    asyncio.run(segment(Frame(pixels), engine, engine.served, tta=tta))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.5 * estimate < peak + pixels.nbytes < estimate


LOW = WatershedParameters(foreground_threshold=0.5, min_score=0.5, min_area_px=16)


def adjusted(frame: Frame, contract: Contract, **asked: Any) -> Segmentation:
    engine = BlurEngine(contract)
    return asyncio.run(segment(frame, engine, engine.served, adjustments=Adjustments(**asked)))


def calibrated(grey_area_px: float) -> Contract:
    """A contract whose nuclei typically have this area in grey frames."""
    limits: tuple[None, None] = (None, None)
    feature = FeatureReference((grey_area_px,) * len(LEVELS), limits, 1.0)
    group = GroupReference(10, 0.0, {"median_area_px": feature})
    reference = QualityReference({"grey": group}, 100, 100, 1.0)
    return Contract("unet", halo=REACH_PX + 4, postprocessing=LOW, quality=reference)


def test_a_lower_threshold_finds_fainter_nuclei_and_says_so() -> None:
    pixels = np.full((100, 200, 1), 100, np.uint16)
    cv2.circle(pixels, (50, 50), 20, 4000, -1)
    cv2.circle(pixels, (150, 50), 20, 1500, -1)
    frame, contract = Frame(pixels), Contract("unet", postprocessing=LOW)
    counts = {}
    for threshold in (None, 0.9, 0.5, 0.2):
        found = adjusted(frame, contract, threshold=threshold)
        counts[threshold] = len(found.nuclei)
        said = [f"the threshold was {threshold:g}; the model was tuned to 0.5"] if threshold else []
        assert list(found.warnings) == said
    assert counts == {None: 1, 0.9: 1, 0.5: 1, 0.2: 2}


def test_frames_in_colour_are_segmented_with_parameters_of_their_own() -> None:
    pixels = np.full((100, 200, 1), 20, np.uint8)
    cv2.circle(pixels, (50, 50), 20, 220, -1)
    cv2.circle(pixels, (150, 50), 20, 100, -1)
    grey, colour = Frame(pixels), Frame(np.concatenate([pixels, pixels, pixels // 2], axis=2))
    alike = Contract("unet", postprocessing=LOW)
    apart = replace(alike, colour_postprocessing=LOW.with_threshold(0.2))
    counts = [
        len(adjusted(frame, one).nuclei) for one in (alike, apart) for frame in (grey, colour)
    ]
    assert counts[:3] == [1, 1, 1]
    assert counts[3] == 2
    said = adjusted(colour, apart, threshold=0.5).warnings
    assert said[0] == "the threshold was 0.5; the model was tuned to 0.2"


@pytest.mark.parametrize("diameter", [None, 15.0])
def test_nuclei_under_the_least_area_are_left_out_and_counted(diameter: float | None) -> None:
    frame, contract = spots(300, 400, 3), calibrated(grey_area_px=700)
    every = adjusted(frame, contract, diameter_px=diameter)
    area = np.median(every.nuclei.area_px)
    few = adjusted(frame, contract, diameter_px=diameter, min_area_px=int(area))
    assert few.nuclei.area_px.min() >= area
    assert 0 < len(few.nuclei) < len(every.nuclei)
    left_out = len(every.nuclei) - len(few.nuclei)
    assert f"fewer than {area:.0f} pixels were left out, {left_out} of those" in few.warnings[-1]
    np.testing.assert_array_equal(np.bincount(few.labels.flat)[1:], few.nuclei.area_px)
    assert few.quality is not None
    assert few.quality.median_area_px == np.median(few.nuclei.area_px)


def test_a_larger_least_area_fills_no_holes() -> None:
    pixels = np.full((120, 120, 1), 100, np.uint16)
    cv2.circle(pixels, (60, 60), 50, 4000, 25)
    contract = Contract("unet", postprocessing=replace(LOW, h=1.0))
    frame = Frame(pixels)
    ring, same = adjusted(frame, contract), adjusted(frame, contract, min_area_px=1500)
    assert ring.labels[60, 60] == 0
    np.testing.assert_array_equal(same.labels, ring.labels)


@pytest.mark.parametrize("diameter", [8, 80])
def test_the_model_sees_nuclei_of_the_size_that_it_was_tuned_to(diameter: int) -> None:
    """Whose size is not that of the frame; the result is."""
    side, typical = diameter * 8, 40
    pixels, truth = (
        np.full((side, side + 5, 1), 100, np.uint16),
        np.zeros((side, side + 5), np.int32),
    )
    for x in (2, 6):
        for drawn, value in ((pixels, 4000), (truth, x)):
            cv2.circle(drawn, (x * diameter, 4 * diameter), diameter // 2, value, -1)
    frame = Frame(pixels, PixelSize(0.5, 0.25))
    contract = calibrated(grey_area_px=np.pi / 4 * typical**2)
    found = adjusted(frame, contract, diameter_px=diameter)
    assert found.labels.shape == truth.shape
    assert score_image(truth, found.labels)["ap_0.75"] == 1
    assert found.pixel_size_um == (0.5, 0.25)
    seen = round(side * typical / diameter), round((side + 5) * typical / diameter)
    assert f"from {side} x {side + 5} to {seen[0]} x {seen[1]} pixels" in found.warnings[-1]
    assert ("as coarse as its pixels" in found.warnings[-1]) == (diameter > typical)
    assert list(found.stage_ms)[::6] == ["resample", "restore"]
    assert (found.nuclei.score > 0.5).all()
    assert found.nuclei.mean_intensity == pytest.approx(4000, rel=0.1)


def test_nuclei_of_the_tuned_size_are_found_alike() -> None:
    frame = spots(200, 300, 2)
    contract = calibrated(grey_area_px=np.pi / 4 * 30**2)
    plain, same = adjusted(frame, contract), adjusted(frame, contract, diameter_px=30)
    np.testing.assert_array_equal(same.labels, plain.labels)
    np.testing.assert_array_equal(same.nuclei.score, plain.nuclei.score)


@pytest.mark.parametrize(
    ("contract", "diameter", "why"),
    [
        (Contract("unet"), 30, "was not calibrated"),
        (calibrated(700), 30, "the frame is colour"),
        (calibrated(1e9), 2, "would be resampled to"),
    ],
)
def test_a_diameter_that_cannot_be_used_is_refused(
    contract: Contract, diameter: int, why: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    frame = Frame(pixels if "colour" in why else pixels[:, :, :1])
    with pytest.raises(InvalidOption, match=f"{why}.*leave the diameter out"):
        adjusted(frame, contract, diameter_px=diameter)


def test_memory_of_a_frame_covers_how_the_model_sees_it() -> None:
    contract = calibrated(grey_area_px=np.pi / 4 * 40**2)
    plain = adjusted_memory_bytes(1000, 1000, 1, 2, contract, AS_TUNED)
    assert plain == memory_bytes(1000, 1000, 1, 2)
    larger = adjusted_memory_bytes(1000, 1000, 1, 2, contract, Adjustments(diameter_px=10))
    assert larger > memory_bytes(4000, 4000, 1, 2)
