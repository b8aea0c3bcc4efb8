"""What the adjustments of a caller come to, for a model version and a frame."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from nuclei.errors import InvalidOption
from nuclei.imaging.images import Frame
from nuclei.imaging.resampling import resampled
from nuclei.inference.contract import Contract
from nuclei.postprocessing.accumulation import Parameters
from nuclei.quality.judgement import group_of
from nuclei.results.adjustments import Adjustments
from nuclei.results.coordinates import PixelSize

# A frame is resampled to no more than the largest one that is read.
MAX_RESAMPLED_PX = 2**28

Shape = tuple[int, int]


def largest_shape(height: int, width: int, adjustments: Adjustments, contract: Contract) -> Shape:
    """The size at which the model sees a frame of this size, at most, whatever it shows.

    Raises:
        InvalidOption: as `as_seen`.
    """
    if adjustments.diameter_px is None:
        return height, width
    typical_px = max(_diameters(contract).values())
    return _shape(height, width, adjustments.diameter_px, typical_px)


def as_seen(
    frame: Frame, adjustments: Adjustments, contract: Contract, check: Callable[[], None]
) -> Frame:
    """The frame as the model sees it: the same, or resampled as the expected diameter asks.

    Raises:
        InvalidOption: it would be too large, or the model does not know how large nuclei are.
    """
    if adjustments.diameter_px is None:
        return frame
    check()
    diameters, group = _diameters(contract), group_of(frame.pixels)
    if group not in diameters:
        raise InvalidOption(
            f"diameter cannot be used: the frame is {group}, and model '{contract.family}' was "
            f"calibrated with none like it; leave the diameter out"
        )
    height, width = frame.pixels.shape[:2]
    shape = _shape(height, width, adjustments.diameter_px, diameters[group])
    size = frame.pixel_size_um
    if size is not None:
        size = PixelSize(y=size.y * height / shape[0], x=size.x * width / shape[1])
    return replace(frame, pixels=resampled(frame.pixels, shape), pixel_size_um=size)


def pixels_seen(frame: Frame, seen: Frame) -> float:
    """How many pixels the model sees for one of the frame."""
    return math.prod(seen.pixels.shape[:2]) / math.prod(frame.pixels.shape[:2])


def adjusted(parameters: Parameters, adjustments: Adjustments, seen: float) -> Parameters:
    """Parameters of post-processing in place of those that were tuned.

    A smaller minimum of area is asked of them. A larger one is not: it would also fill larger holes
    (`nuclei.postprocessing.small` leaves nuclei out).

    Args:
        parameters: tuned.
        adjustments: the caller's.
        seen: `pixels_seen`.
    """
    if adjustments.threshold is not None:
        parameters = parameters.with_threshold(adjustments.threshold)
    if adjustments.min_area_px is not None:
        smallest = min(parameters.min_area_px, int(adjustments.min_area_px * seen))
        parameters = replace(parameters, min_area_px=smallest)
    return parameters


def changes(
    adjustments: Adjustments, contract: Contract, frame: Frame, seen: Frame, left_out: int
) -> tuple[str, ...]:
    """What is otherwise than the model was tuned, in sentences.

    Args:
        adjustments: the caller's.
        contract: of the model.
        frame: the caller's.
        seen: as the model saw it.
        left_out: number of nuclei that it found and that were left out.
    """
    said = []

    def tuned() -> Parameters:
        # Only where it is said: of a frame without colour all pixels are looked at.
        return contract.parameters[group_of(frame.pixels)]

    if adjustments.threshold is not None:
        said.append(
            f"the threshold was {adjustments.threshold:g}; the model was tuned to "
            f"{tuned().threshold:g}"
        )
    if seen is not frame:
        (height, width), (rows, columns) = frame.pixels.shape[:2], seen.pixels.shape[:2]
        coarse = "; outlines are as coarse as its pixels" if rows < height else ""
        said.append(
            f"the frame was resampled from {height} x {width} to {rows} x {columns} pixels, so "
            f"that nuclei {adjustments.diameter_px:g} pixels across have the size that the model "
            f"was tuned to{coarse}"
        )
    least = adjustments.min_area_px
    if least is not None:
        of_model = f"; the model was tuned to {tuned().min_area_px}" if seen is frame else ""
        said.append(
            f"nuclei of fewer than {least} pixels were left out, {left_out} of those found"
            f"{of_model}"
        )
    elif left_out:
        said.append(f"{left_out} nuclei smaller than a pixel of the frame were left out")
    return tuple(said)


def _diameters(contract: Contract) -> Mapping[str, float]:
    """Those of the contract; raises InvalidOption where it has none."""
    diameters = contract.diameters_px
    if not diameters:
        raise InvalidOption(
            f"diameter cannot be used: model '{contract.family}' was not calibrated, and does not "
            "know how large nuclei are; leave the diameter out"
        )
    return diameters


def _shape(height: int, width: int, diameter_px: float, typical_px: float) -> Shape:
    """The size of a frame at which nuclei of one diameter have another."""
    scale = typical_px / diameter_px
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    if math.prod(shape) > MAX_RESAMPLED_PX:
        raise InvalidOption(
            f"diameter is {diameter_px:g}: the frame of {height} x {width} pixels would be "
            f"resampled to {shape[0]} x {shape[1]}, so that its nuclei measure {typical_px:.3g}; "
            f"at most {MAX_RESAMPLED_PX} pixels are segmented: crop it, or leave the diameter out"
        )
    return shape
