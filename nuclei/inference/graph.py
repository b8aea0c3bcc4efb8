"""The graphs of models: the names of their steps, ONNX files and tensors, and the views of TTA.

Training exports the files, serving chains them into ensembles, and the pipeline asks for the
tensors: all of them by these names. Which graphs a model has depends on its method of
post-processing (`nuclei.inference.method`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

# A model's graph with test-time augmentation (TTA) is named after the model, with this suffix.
TTA_SUFFIX = "_tta"
# Its views, in this order: the image rotated by 0 to 3 quarter turns counter-clockwise, then its
# mirror image (left and right exchanged) with the same rotations.
TTA_VIEWS = 8

# Inputs of every graph: uint16 [H, W, C], and float32 [2], the range [lo, hi] of the whole frame.
IMAGE, RANGE = "IMAGE", "RANGE"
# Outputs of graphs, see `nuclei.postprocessing.accumulation`.
MAPS = "MAPS"
BOXES, SCORES, MASKS = "BOXES", "SCORES", "MASKS"
POINTS, RAYS = "POINTS", "RAYS"
DISAGREEMENT = "DISAGREEMENT"
# Tensors between steps.
INPUT, VIEWS, SIDE, STARS, EMBEDDING = "INPUT", "VIEWS", "SIDE", "STARS", "EMBEDDING"
BOXES_FOUND, SCORES_FOUND = "BOXES_FOUND", "SCORES_FOUND"

# The type and the number of axes of each tensor that a graph takes or gives.
TENSORS: Mapping[str, tuple[type[np.generic], int]] = {
    IMAGE: (np.uint16, 3),
    RANGE: (np.float32, 1),
    MAPS: (np.uint8, 4),
    BOXES: (np.float32, 2),
    SCORES: (np.float32, 1),
    MASKS: (np.uint8, 3),
    POINTS: (np.float32, 2),
    RAYS: (np.float32, 2),
    DISAGREEMENT: (np.uint8, 2),
}

FOUND_MASKS = (BOXES, SCORES, MASKS)
FOUND_STARS = (POINTS, SCORES, RAYS)


def of_views(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of these tensors for every view, view by view: `BOXES_0`, `SCORES_0`, ..."""
    return tuple(f"{name}_{view}" for view in range(TTA_VIEWS) for name in names)


@dataclass(frozen=True)
class StepFile:
    """One ONNX file.

    Attributes:
        name: of the step.
        inputs, outputs: names of its tensors, in their order in the file.
        batched: whether it takes several images at once.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batched: bool = False

    @property
    def filename(self) -> str:
        return f"{self.name}.onnx"


VIEW = "VIEW"
PREPROCESS = StepFile("preprocess", (IMAGE, RANGE), (INPUT,))
TTA = StepFile("tta", (INPUT,), (VIEWS,))
SPLIT = StepFile("split", (INPUT,), (*of_views((VIEW,)), SIDE))
MERGE = StepFile("merge", ("MAPS_IN",), (MAPS, DISAGREEMENT))
MERGE_STARS = StepFile("merge_stars", ("STARS_IN",), (STARS,))
MERGE_MASKS = StepFile("merge_masks", (SIDE, *of_views(FOUND_MASKS)), FOUND_MASKS)
SELECT_STARS = StepFile("select_stars", (STARS,), FOUND_STARS)
# The steps that hold weights: every model has its own, models share the others.
MAP_NETWORK = StepFile("network", (IMAGE,), (MAPS,), batched=True)
STAR_NETWORK = StepFile("network", (IMAGE,), (STARS,), batched=True)
MASK_NETWORK = StepFile("network", (IMAGE,), FOUND_MASKS)
DETECTOR = StepFile("detector", (IMAGE,), FOUND_MASKS)
ENCODER = StepFile("encoder", (IMAGE,), (EMBEDDING, SIDE))
DECODER = StepFile("decoder", (EMBEDDING, SIDE, BOXES_FOUND, SCORES_FOUND), FOUND_MASKS)
WITH_WEIGHTS = (MAP_NETWORK, STAR_NETWORK, MASK_NETWORK, DETECTOR, ENCODER, DECODER)


@dataclass(frozen=True)
class Step:
    """One ONNX file at its place in a graph.

    Attributes:
        file: the file.
        reads: tensors of the graph that become the inputs of the file, in their order.
        writes: tensors of the graph that the outputs of the file become, in their order; "" for an
            output that nothing reads.
    """

    file: StepFile
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @classmethod
    def named_alike(cls, file: StepFile) -> Self:
        """A step whose tensors have the same names in the graph as in the file."""
        return cls(file, file.inputs, file.outputs)


@dataclass(frozen=True)
class Graphs:
    """The graphs of a model, each from IMAGE and RANGE to the outputs of its method.

    Attributes:
        one_view: looks at the image as it is.
        all_views: looks at its eight rotated and mirrored views (TTA).
    """

    one_view: tuple[Step, ...]
    all_views: tuple[Step, ...]

    def files(self) -> tuple[StepFile, ...]:
        """Each file of both graphs once, those that models share first."""
        files = {step.file.name: step.file for step in (*self.one_view, *self.all_views)}
        return tuple(sorted(files.values(), key=has_weights))


def has_weights(file: StepFile) -> bool:
    """Whether every model has a file of its own for this step."""
    return file.name in {each.name for each in WITH_WEIGHTS}


def graph_name(model: str, version: int, *, tta: bool = False) -> str:
    """The name of the Triton ensemble of one version of a model: `unet.4`, `unet.4_tta`."""
    return with_views(f"{model}.{version}", tta)


def with_views(graph: str, tta: bool) -> str:
    """The name of a graph, or of its variant with test-time augmentation."""
    return graph + TTA_SUFFIX if tta else graph


def step_name(family: str, file: StepFile, version: int) -> str:
    """The name of the Triton model of a step: `unet_network.4`; `tta`, which models share."""
    return f"{family}_{file.name}.{version}" if has_weights(file) else file.name


_FIRST = Step.named_alike(PREPROCESS)


def views_at_once(network: StepFile, merge: StepFile, merged: tuple[str, ...]) -> Graphs:
    """Graphs of a network that takes views as a batch.

    Args:
        network: the network.
        merge: the step that joins its outputs for all views.
        merged: tensors that the outputs of `merge` become; "" for one that nothing reads.
    """
    together = tuple(f"{name}_OF_VIEWS" for name in network.outputs)
    return Graphs(
        (_FIRST, Step(network, (INPUT,), network.outputs)),
        (
            _FIRST,
            Step.named_alike(TTA),
            Step(network, (VIEWS,), together),
            Step(merge, together, merged),
        ),
    )


def view_by_view(*chain: Step) -> Graphs:
    """Graphs of networks that take one view, because the number of nuclei differs between views.

    Args:
        chain: steps from INPUT to BOXES, SCORES and MASKS.
    """
    views = SPLIT.outputs[:TTA_VIEWS]
    chains = [_for_view(chain, number, view) for number, view in enumerate(views)]
    found = tuple(name for steps in chains for name in steps[-1].writes)
    return Graphs(
        (_FIRST, *chain),
        (
            _FIRST,
            Step.named_alike(SPLIT),
            *(step for steps in chains for step in steps),
            Step(MERGE_MASKS, (SIDE, *found), chain[-1].writes),
        ),
    )


def followed_by(graphs: Graphs, file: StepFile) -> Graphs:
    """Both graphs, each with one more step at the end."""
    last = Step.named_alike(file)
    return Graphs((*graphs.one_view, last), (*graphs.all_views, last))


def one_after_the_other(first: Graphs, second: Graphs) -> Graphs:
    """Graphs of two networks that look at the same image."""
    return Graphs(
        (*first.one_view, *second.one_view[1:]), (*first.all_views, *second.all_views[1:])
    )


def _for_view(chain: tuple[Step, ...], number: int, view: str) -> list[Step]:
    def names(tensors: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(view if name == INPUT else name and f"{name}_{number}" for name in tensors)

    return [Step(step.file, names(step.reads), names(step.writes)) for step in chain]
