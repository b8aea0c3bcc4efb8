"""The result of segmenting one frame."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidOption
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

    def without(self, labels: Sequence[tuple[int, int]]) -> Self:
        """The result without some nuclei; the others keep their labels.

        Measures of quality stay those of the whole result, and a warning says what is left out.

        Args:
            labels: first and last label of ranges, both included; itself where there are none.

        Raises:
            InvalidOption: there is no nucleus of a label.
        """
        if not labels:
            return self
        label = self.nuclei.label
        first, last = np.array(labels, np.int64).T
        begin, end = np.searchsorted(label, first), np.searchsorted(label, last, "right")
        missing = np.flatnonzero((first > last) | (end - begin != last - first + 1))
        if len(missing):
            a, b = labels[missing[0]]
            raise InvalidOption(
                f"discard names {f'nucleus {a}' if a == b else f'nuclei {a} to {b}'}, which this "
                f"result of {len(label)} does not have; discard nuclei of a result of the same "
                "frame, options and version"
            )
        ranges = np.zeros(len(label) + 1, np.int64)  # that begin, less those that end
        np.add.at(ranges, begin, 1)
        np.add.at(ranges, end, -1)
        kept = ranges[:-1].cumsum() == 0
        keeps = np.zeros(int(label.max(initial=0)) + 1, bool)
        keeps[label[kept]] = True
        left_out = len(label) - int(np.count_nonzero(kept))
        said = f"{left_out} of {len(label)} nuclei were left out, as `discard` says"
        stage, outlines = self.centroids_stage_um, self.outlines
        return replace(
            self,
            labels=np.where(keeps[self.labels], self.labels, np.uint32(0)),
            nuclei=self.nuclei.where(kept),
            warnings=(*self.warnings, said),
            centroids_stage_um=None if stage is None else stage[kept],
            outlines=None if outlines is None else [each for each in outlines if keeps[each[0]]],
        )

    def __repr__(self) -> str:
        """Short: the arrays of a frame fill several screens."""
        return f"<Segmentation: {len(self.nuclei)} nuclei by {self.model} {self.version}>"
