"""The result of a frame."""

import numpy as np

from nuclei.postprocessing.measurement import measure
from nuclei.results.segmentation import Segmentation


def test_a_printed_result_is_one_line() -> None:
    labels = np.zeros((50, 60), np.uint32)
    labels[10:20, 10:20] = 1
    nuclei = measure(labels, np.zeros((50, 60, 1), np.uint8), np.zeros((50, 60), np.uint8))
    found = Segmentation(labels, nuclei, None, "unet", "3")
    assert repr(found) == "<Segmentation: 1 nuclei by unet 3>"
