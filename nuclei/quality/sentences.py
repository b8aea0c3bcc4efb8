"""What is said of a frame whose measure is too low or too high.

`{value}` is the frame's, `{usual}` the median of the frames of the calibration, `{times}` how many
times one is the other. A measure without a sentence has no limit on that side: what it tells
belongs to the specimen.
"""

from collections.abc import Mapping

THOSE = "the images that the model was calibrated with"

TOO_LOW: Mapping[str, str] = {
    "focus": f"out of focus: {{times}} blurrier than {THOSE}",
    "dynamic_range": f"underexposed: {{times}} less of the camera's range is used than in {THOSE}",
    "signal_to_noise": f"noisy: signal to noise is {{times}} lower than in {THOSE}",
    "median_area_px": (
        f"small nuclei: {{times}} smaller in area than in {THOSE}; check the magnification"
    ),
    "mean_probability": (
        "the model is unsure: its mean probability in nuclei is {value:.2f}; {usual:.2f} is usual"
    ),
    "pixel_size_ratio": f"small pixels: {{times}} smaller than in {THOSE}",
    "estimated_score": (
        "a poor result is likely: the estimated DSB score is {value:.2f}; {usual:.2f} is usual"
    ),
}
TOO_HIGH: Mapping[str, str] = {
    "saturated": (
        "overexposed: {value:.2%} of the pixels are at the camera's largest value; {usual:.2%} is "
        "usual"
    ),
    "median_area_px": (
        f"large nuclei: {{times}} larger in area than in {THOSE}; check the magnification"
    ),
    "area_spread": (
        f"nuclei of very different sizes: the areas spread {{times}} wider than in {THOSE}; look "
        "for debris and for merged nuclei"
    ),
    "boundary_entropy": f"unsure outlines: their entropy is {{times}} higher than in {THOSE}",
    "near_threshold": (
        f"unsure outlines: {{times}} more of the pixels are near the threshold than in {THOSE}"
    ),
    "tta_disagreement": f"the rotated views disagree {{times}} more than in {THOSE}",
    "pixel_size_ratio": f"large pixels: {{times}} larger than in {THOSE}",
}
# The multiple that is said is this power of that of the measure: focus falls with the square of the
# width of details.
POWERS: Mapping[str, float] = {"focus": 1 / 2}
# Of a larger multiple no digits are said.
_FAR = 1000


def said(kind: str, value: float, usual: float) -> str:
    """The sentence for a measure that is outside of its limit."""
    low = value < usual
    larger, smaller = (usual, value) if low else (value, usual)
    times = (larger / smaller) ** POWERS.get(kind, 1) if smaller > 0 else _FAR
    text = "far" if times >= _FAR else f"{times:.2g} times"
    sentence = (TOO_LOW if low else TOO_HIGH)[kind]
    return sentence.format(value=value, usual=usual, times=text)
