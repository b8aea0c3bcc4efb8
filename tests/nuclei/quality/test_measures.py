"""Measures of hand-made frames are exact; those of real frames move when the frame is spoiled."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from nuclei.errors import DeadlineExceeded
from nuclei.imaging.images import Frame, read_frame
from nuclei.imaging.intensity import Intensity
from nuclei.imaging.tiles import plan_tiles
from nuclei.inference.method import CONSENSUS, MASKS, PROMPTED, STARS, WATERSHED, Method
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment
from nuclei.postprocessing import bands
from nuclei.postprocessing.accumulation import Maps
from nuclei.postprocessing.measurement import measure
from nuclei.postprocessing.watershed import WatershedParameters
from nuclei.quality.measures import measures
from nuclei.results.coordinates import PixelSize
from nuclei.results.quality import Quality
from tests.shipped import SHIPPED

EXAMPLES = Path(__file__).parents[3] / "examples"
PARAMETERS = WatershedParameters(foreground_threshold=0.5)
OF_THE_FRAME = ("focus", "saturated", "dynamic_range", "signal_to_noise")
OF_PROBABILITY = ("mean_probability", "boundary_entropy", "near_threshold", "tta_disagreement")

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def measured(
    frame: Frame | Pixels,
    labels: NDArray[np.uint32] | None = None,
    foreground: NDArray[np.uint8] | None = None,
    disagreement: NDArray[np.uint8] | None = None,
    *,
    training_pixel_size_um: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> Quality:
    """The quality of a frame whose nuclei and maps are known, all of them 0 by default."""
    if not isinstance(frame, Frame):
        frame = Frame(frame if frame.ndim == 3 else frame[:, :, None])
    shape = frame.pixels.shape[:2]
    labels = np.zeros(shape, np.uint32) if labels is None else labels
    plan = plan_tiles(*shape, 512, 64, 32)
    answers = WATERSHED.accumulate(("foreground",), plan, tta=disagreement is not None)
    assert isinstance(answers, Maps)
    answers.maps[0] = 0 if foreground is None else foreground
    if disagreement is not None:
        assert answers.disagreement is not None
        answers.disagreement[...] = disagreement
    nuclei = measure(labels, frame.pixels, answers.foreground)
    lo, hi = int(frame.pixels.min()), int(frame.pixels.max())
    intensity = Intensity(np.array([lo, max(hi, lo + 1)], np.float32))
    return measures(
        *(frame, intensity, labels, nuclei, answers, PARAMETERS),
        training_pixel_size_um=training_pixel_size_um,
        check=check,
    )


def only(quality: Quality, names: tuple[str, ...]) -> dict[str, float | None]:
    return {name: getattr(quality, name) for name in names}


def noisy(frame: Frame, sigma: float, seed: int = 0) -> Frame:
    noise = np.random.default_rng(seed).normal(0, sigma, frame.pixels.shape)
    most = np.iinfo(frame.pixels.dtype).max
    return replaced(frame, np.clip(np.rint(frame.pixels + noise), 0, most))


def blurred(frame: Frame, sigma: float) -> Frame:
    return replaced(
        frame, np.rint(cv2.GaussianBlur(frame.pixels.astype(np.float32), (0, 0), sigma))
    )


def replaced(frame: Frame, pixels: NDArray[Any]) -> Frame:
    return replace(frame, pixels=pixels.astype(frame.pixels.dtype).reshape(frame.pixels.shape))


def test_values_of_hand_made_nuclei_are_exact() -> None:
    labels = np.zeros((8, 10), np.uint32)
    labels[1:4, 1:4] = 1  # 8 outermost pixels and one inside
    labels[5:8, 7:10] = 2  # in the corner: 5 outermost pixels, 4 that are not
    labels[0, 5] = 3
    foreground = np.zeros((8, 10), np.uint8)
    foreground[labels > 0] = 153  # 0.6
    foreground[2, 2] = foreground[6:8, 8:10] = 255
    foreground[4, :6] = 102  # 0.4: background, but nearly no longer
    disagreement = np.where(labels == 1, 51, 0).astype(np.uint8)
    disagreement[4] = 255
    frame = Frame(np.ones((8, 10, 1), np.uint8), PixelSize(0.5, 2.0))
    quality = measured(frame, labels, foreground, disagreement, training_pixel_size_um=0.5)
    entropy = -(0.6 * np.log2(0.6) + 0.4 * np.log2(0.4))
    expected = Quality(
        nuclei_per_mm2=3 / 80e-6,
        coverage=19 / 80,
        median_area_px=9,
        area_spread=(9 - 5) / 9,
        mean_probability=(14 * 0.6 + 5) / 19,
        boundary_entropy=entropy,
        near_threshold=(14 + 6) / (19 + 6),
        tta_disagreement=9 * 0.2 / 19,
        edge_share=2 / 3,
        saturated=0,
        dynamic_range=1 / 255,
        pixel_size_ratio=2,
    )
    assert asdict(quality) == pytest.approx(asdict(expected))


def test_nuclei_that_touch_have_a_boundary_between_them() -> None:
    labels = np.ones((6, 6), np.uint32)
    labels[:, 3:] = 2
    foreground = np.full((6, 6), 255, np.uint8)
    foreground[:, 2:4] = 128
    quality = measured(np.zeros((6, 6), np.uint8), labels, foreground)
    assert quality.boundary_entropy == pytest.approx(1, abs=1e-4)
    assert quality.coverage == quality.edge_share == 1


@pytest.mark.parametrize(
    "pixels",
    {
        "one pixel": np.full((1, 1), 7, np.uint8),
        "two rows": np.arange(40, dtype=np.uint16).reshape(2, 20),
        "three columns": np.arange(60, dtype=np.uint16).reshape(20, 3),
        "constant": np.full((50, 60), 1000, np.uint16),
        "black": np.zeros((50, 60, 3), np.uint8),
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("full", [False, True])
def test_what_is_not_known_is_none(pixels: tuple[str, Pixels], full: bool) -> None:
    shape = pixels[1].shape[:2]
    quality = measured(
        pixels[1],
        np.full(shape, full, np.uint32),
        np.full(shape, 255 * full, np.uint8),
        np.zeros(shape, np.uint8),
    )
    known = {name: value for name, value in asdict(quality).items() if value is not None}
    assert all(np.isfinite(value) for value in known.values())
    of_nuclei = {"median_area_px", "area_spread", "edge_share"}
    of_maps = {"mean_probability", "near_threshold", "tta_disagreement"}
    assert known.keys() >= {"coverage", "saturated", "dynamic_range"}
    assert ({*of_nuclei, *of_maps} <= known.keys()) == full
    assert quality.coverage == full
    # One nucleus as large as the frame has no boundary in it.
    assert quality.boundary_entropy is None
    assert {"nuclei_per_mm2", "pixel_size_ratio"}.isdisjoint(known)
    if np.ptp(pixels[1]) == 0:
        assert (quality.focus, quality.signal_to_noise, quality.saturated) == (None, None, 0)


def test_an_empty_frame_may_be_near_the_threshold() -> None:
    foreground = np.zeros((20, 20), np.uint8)
    assert measured(np.ones((20, 20), np.uint8), None, foreground).near_threshold is None
    foreground[5, 5] = 120
    assert measured(np.ones((20, 20), np.uint8), None, foreground).near_threshold == 1


@pytest.mark.parametrize("method", [MASKS, STARS, PROMPTED, CONSENSUS])
@pytest.mark.parametrize("tta", [False, True])
def test_every_method_has_a_quality(method: Method, tta: bool) -> None:
    frame = read_frame(EXAMPLES / "fluorescence.png")
    labels = np.zeros(frame.pixels.shape[:2], np.uint32)
    labels[10:30, 10:30] = 1
    plan = plan_tiles(*labels.shape, 512, 64, 32)
    answers = method.accumulate(("foreground",), plan, tta=tta)
    if method is CONSENSUS:
        assert answers.foreground is not None
        answers.foreground[...] = 230
    nuclei = measure(labels, frame.pixels, answers.foreground)
    intensity = Intensity(np.array([5, 200], np.float32))
    quality = measures(frame, intensity, labels, nuclei, answers, method.parameters(), None)
    known = {name for name, value in asdict(quality).items() if value is not None}
    unknown = {"nuclei_per_mm2", "pixel_size_ratio", "previous_agreement", "estimated_score"}
    unknown |= {"tta_disagreement"} if method is CONSENSUS else set(OF_PROBABILITY)
    assert known == asdict(quality).keys() - unknown


# The largest responses to noise are still told apart where 20 becomes 20 * 257.
SCENES = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3])),
    elements=st.integers(0, 20),
)


@given(SCENES, st.integers(1, 12), st.integers(0, 15))
def test_gain_and_offset_change_neither_focus_nor_noise(
    pixels: NDArray[np.uint8], gain: int, offset: int
) -> None:
    one, other = measured(pixels), measured(pixels * np.uint8(gain) + np.uint8(offset))
    assert other.focus == one.focus
    assert other.signal_to_noise == pytest.approx(one.signal_to_noise)


@given(SCENES)
def test_8_and_16_bit_frames_of_the_same_scene_are_alike(pixels: NDArray[np.uint8]) -> None:
    eight, sixteen = measured(pixels), measured(pixels.astype(np.uint16) * np.uint16(257))
    if np.ptp(pixels):
        names = ("focus", "saturated", "signal_to_noise")
        assert only(sixteen, names) == pytest.approx(only(eight, names))


@given(SCENES, st.integers(0, 2**32 - 1), st.sampled_from([0, 1, (0, 1)]))
def test_a_frame_and_its_mirror_image_are_alike(
    pixels: NDArray[np.uint8], seed: int, axis: int | tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    shape = pixels.shape[:2]
    labels = rng.integers(0, 3, shape, dtype=np.uint32)
    maps = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
    one = measured(pixels, labels, *maps)
    turned = (np.ascontiguousarray(np.flip(each, axis)) for each in (pixels, labels, *maps))
    assert measured(*turned) == one


def test_half_a_frame_of_16_bit_is_as_one_of_8_bit() -> None:
    frame = read_frame(EXAMPLES / "fluorescence_16bit.tif")
    wide, narrow = frame.pixels, (frame.pixels // 16).astype(np.uint8)
    assert frame.pixels.max() < 4096
    one, other = measured(wide), measured(narrow)
    assert other.focus == pytest.approx(one.focus, rel=0.05)


@pytest.mark.parametrize(
    ("largest", "dtype", "saturated"),
    [
        (255, np.uint8, True),
        (254, np.uint8, False),
        (4095, np.uint16, True),
        (4095 * 16, np.uint16, True),
        (16383, np.uint16, True),
        (65535, np.uint16, True),
        (4000, np.uint16, False),
    ],
)
def test_saturated_are_pixels_at_the_end_of_a_sensor(
    largest: int, dtype: type[np.uint8 | np.uint16], saturated: bool
) -> None:
    pixels = np.full((20, 30, 3), 12, dtype)
    pixels[2:4, :10, 1] = largest  # in one channel
    pixels[2, :5, 2] = largest
    assert measured(pixels).saturated == (20 / 600 if saturated else 0)


@pytest.mark.parametrize(
    ("hi", "dtype", "share"),
    [
        (51, np.uint8, 0.2),
        (51 * 257, np.uint16, 0.8),  # of 14 bit: which camera it was cannot be known
        (102, np.uint8, 0.4),
        (102 * 257, np.uint16, 0.4),
        (819, np.uint16, 0.2),  # of 12 bit
        (8191, np.uint16, 0.5),  # of 14 bit
        (65535, np.uint16, 1),
    ],
)
def test_the_dynamic_range_is_that_of_the_sensor(
    hi: int, dtype: type[np.uint8 | np.uint16], share: float
) -> None:
    pixels = np.zeros((10, 10), dtype)
    pixels[0, 0] = hi
    assert measured(pixels).dynamic_range == pytest.approx(share, rel=1e-3)


def test_the_noise_is_measured() -> None:
    frame = Frame(np.full((300, 400, 1), 1000, np.uint16))
    found = measured(noisy(frame, 25))
    spread = np.ptp(noisy(frame, 25).pixels)
    assert found.signal_to_noise == pytest.approx(spread / 25, rel=0.03)
    assert found.focus is None, "there is nothing but noise"


def test_noise_is_not_sharpness() -> None:
    frame = read_frame(EXAMPLES / "fluorescence_16bit.tif")
    soft = blurred(frame, 3)
    sharp, dull, dull_and_noisy = (measured(each).focus for each in (frame, soft, noisy(soft, 20)))
    assert sharp is not None
    assert dull is not None
    assert dull < sharp / 5
    assert dull_and_noisy == pytest.approx(dull, abs=sharp / 20)
    plain = [
        cv2.Laplacian(each.pixels.astype(np.float32), -1).var() for each in (frame, noisy(soft, 20))
    ]
    assert plain[0] < plain[1], "the plain variance takes the noise for sharpness"


def test_large_frames_are_looked_at_in_part() -> None:
    frame = read_frame(EXAMPLES / "fluorescence.png")
    # Its mirror images side by side, without seams.
    large = np.pad(frame.pixels, ((0, 900), (0, 900), (0, 0)), "symmetric")
    one, many = (only(measured(pixels), OF_THE_FRAME) for pixels in (frame.pixels, large))
    assert many == pytest.approx(one, rel=0.1)


def test_the_work_ends_when_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_PX", 1)
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks > 20:
            raise DeadlineExceeded("over")

    with pytest.raises(DeadlineExceeded):
        measured(np.zeros((50, 60), np.uint8), check=check)


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return LocalEngine(SHIPPED)


def cropped(frame: Frame) -> Frame:
    return replace(frame, pixels=np.ascontiguousarray(frame.pixels[60:140, 60:140]))


def overexposed(frame: Frame) -> Frame:
    most = np.iinfo(frame.pixels.dtype).max
    bright = np.percentile(frame.pixels, 90)
    return replaced(frame, np.clip(frame.pixels * (most / bright), 0, most))


def underexposed(frame: Frame) -> Frame:
    return replaced(frame, frame.pixels // 8)


SPOILED: dict[str, tuple[Callable[[Frame], Frame], dict[str, int]]] = {
    "out of focus": (
        lambda frame: blurred(frame, 4),
        {"focus": -1, "boundary_entropy": 1, "near_threshold": 1, "mean_probability": -1},
    ),
    "noisy": (
        lambda frame: noisy(frame, float(np.ptp(frame.pixels)) / 8),
        {"signal_to_noise": -1, "boundary_entropy": 1, "near_threshold": 1},
    ),
    "overexposed": (overexposed, {"saturated": 1}),
    "underexposed": (underexposed, {"dynamic_range": -1, "signal_to_noise": -1}),
    "cropped": (cropped, {"edge_share": 1}),
}


@pytest.mark.parametrize("name", ["fluorescence.png", "histology.png"])
@pytest.mark.parametrize("spoiled", SPOILED)
def test_measures_move_when_a_real_frame_is_spoiled(
    engine: LocalEngine, name: str, spoiled: str
) -> None:
    frame = read_frame(EXAMPLES / name)
    spoil, moves = SPOILED[spoiled]
    clean, bad = (quality_of(engine, each) for each in (frame, spoil(frame)))
    for feature, direction in moves.items():
        before, after = getattr(clean, feature), getattr(bad, feature)
        assert direction * (after - before) > 0.03 * before, (feature, before, after)


def test_views_of_a_noisy_frame_disagree_more(engine: LocalEngine) -> None:
    frame = cropped(read_frame(EXAMPLES / "fluorescence.png"))
    clean, bad = (
        quality_of(engine, each, tta=True).tta_disagreement for each in (frame, noisy(frame, 4))
    )
    assert clean is not None
    assert bad is not None
    assert 0 < clean < bad < 1
    assert quality_of(engine, frame).tta_disagreement is None


def quality_of(engine: LocalEngine, frame: Frame, *, tta: bool = False) -> Quality:
    found = asyncio.run(segment(frame, engine, engine.find("unet"), tta=tta))
    assert found.quality is not None
    return found.quality
