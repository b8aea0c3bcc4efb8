"""How good a frame and its segmentation look, judged without knowing the truth."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quality:
    """Measures of one frame; `nuclei.quality.measures` says how each is computed.

    None is a measure that is not known for this frame: the frame has no nuclei, the model gives no
    probabilities, the pixel size is unknown. A share is of 0 to 1.

    Attributes:
        nuclei_per_mm2: number of nuclei for each square millimetre of the frame.
        coverage: share of the frame's pixels that are in nuclei.
        median_area_px: median area of the nuclei, pixels.
        area_spread: interquartile range of the areas, divided by their median.
        mean_probability: mean foreground probability of the pixels in nuclei, 0 to 1.
        boundary_entropy: mean entropy of the foreground probability at the nuclei's outermost
            pixels, bits, 0 (certain) to 1.
        near_threshold: of the pixels that are in nuclei or nearly, the share whose foreground
            probability is within 0.1 of the threshold.
        tta_disagreement: mean disagreement of the eight views in nuclei, 0 (none) to 1; None
            without test-time augmentation.
        edge_share: share of the nuclei that touch the edge of the frame.
        focus: variance of the Laplacian over that of the slopes, both without the noise, in
            pixels**-2; higher is sharper. It depends neither on gain nor on offset.
        saturated: share of the pixels at the largest value of the sensor.
        dynamic_range: share of the sensor's range that the intensity range of the frame takes.
        signal_to_noise: the intensity range of the frame, in standard deviations of the noise.
        pixel_size_ratio: pixel size of the frame, divided by that of the training images.
        previous_agreement: with the previous frame of the same acquisition, position, channel and
            slice, 0 to 1; None when there is none.
        estimated_score: the DSB score that the frame is expected to reach, 0 to 1; None when the
            model cannot tell: it has no estimate, or has seen no such frames.
    """

    nuclei_per_mm2: float | None = None
    coverage: float | None = None
    median_area_px: float | None = None
    area_spread: float | None = None
    mean_probability: float | None = None
    boundary_entropy: float | None = None
    near_threshold: float | None = None
    tta_disagreement: float | None = None
    edge_share: float | None = None
    focus: float | None = None
    saturated: float | None = None
    dynamic_range: float | None = None
    signal_to_noise: float | None = None
    pixel_size_ratio: float | None = None
    previous_agreement: float | None = None
    estimated_score: float | None = None
