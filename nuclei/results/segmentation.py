"""The result of segmenting one frame."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nuclei.results.coordinates import PixelSize
from nuclei.results.nuclei import Nuclei
from nuclei.results.quality import Quality


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The nuclei of one frame.

    Attributes:
        labels: uint32 [H, W] as the frame, 0 is background, 1..N in the order of `nuclei`.
        nuclei: features of the N nuclei.
        pixel_size_um: of the frame, micrometres; None when unknown.
        model: name of the model (`unet`, `unet_tta`).
        version: its version.
        stage_ms: time of each step, milliseconds, by the step's name (`decode`, `infer`, ...).
        warnings: what was guessed, chosen or is doubtful about the frame or the result, plain
            sentences.
        intensity_range: (lo, hi), the values that became black and white for the network, in the
            units of the frame; None when unknown.
        quality: measures of how good the frame and the result look; None from a server that gives
            none.
        doubtful: names of the measures of `quality` that made `warnings`; empty from a gateway.
        group: `grey` or `colour`, the images that the frame was compared with; empty from a
            gateway.
        centroids_stage_um: float64 [N, 2] of (x, y), centroids on the stage, micrometres; None
            when the frame's place is unknown. From a gateway, as what follows.
        outlines: (label, polygons) as `nuclei.formats.outlines` gives them; None when they were not
            asked for.
    """

    labels: NDArray[np.uint32]
    nuclei: Nuclei
    pixel_size_um: PixelSize | None
    model: str
    version: str
    stage_ms: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    intensity_range: tuple[float, float] | None = None
    quality: Quality | None = None
    doubtful: tuple[str, ...] = ()
    group: str = ""
    centroids_stage_um: NDArray[np.float64] | None = None
    outlines: list[tuple[int, list[NDArray[np.int32]]]] | None = None

    def __repr__(self) -> str:
        """Short: the arrays of a frame fill several screens."""
        return f"<Segmentation: {len(self.nuclei)} nuclei by {self.model} {self.version}>"
