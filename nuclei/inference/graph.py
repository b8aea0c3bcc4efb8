"""How the ONNX files of a model are chained, for each method of post-processing."""

from dataclasses import dataclass

from nuclei.inference.contract import Method
from nuclei.inference.pipeline import TTA_VIEWS
from nuclei.postprocessing.accumulation import OUTPUTS

NETWORK = "network"
DETECTOR = "detector"
ENCODER = "encoder"
DECODER = "decoder"
# The steps that hold weights: every model has its own, models share the others.
NETWORKS = (NETWORK, DETECTOR, ENCODER, DECODER)


@dataclass(frozen=True)
class Step:
    """One ONNX file of a graph.

    Attributes:
        name: of the file, without its suffix.
        reads: tensors of the graph that it is given, in the order of its inputs.
        writes: tensors of the graph that become of its outputs, in their order; "" is one that
            nothing reads.
        batched: whether it takes several images at once.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    batched: bool = False


@dataclass(frozen=True)
class Graphs:
    """The graphs of a model, each from IMAGE and RANGE to the outputs of its method.

    Attributes:
        one_view: looks at the image as it is.
        all_views: at its eight rotated and mirrored views (TTA).
    """

    one_view: tuple[Step, ...]
    all_views: tuple[Step, ...]

    def files(self) -> tuple[Step, ...]:
        """The steps, each file once, those that models share first."""
        steps = {step.name: step for step in (*self.one_view, *self.all_views)}
        return tuple(sorted(steps.values(), key=lambda step: step.name in NETWORKS))


_PREPROCESS = Step("preprocess", ("IMAGE", "RANGE"), ("INPUT",))


def _views_at_once(merge: str, outputs: tuple[str, ...], merged: tuple[str, ...]) -> Graphs:
    """A network that takes views as a batch."""
    of_views = tuple(f"{name}_OF_VIEWS" for name in outputs)
    return Graphs(
        (_PREPROCESS, Step(NETWORK, ("INPUT",), outputs, batched=True)),
        (
            _PREPROCESS,
            Step("tta", ("INPUT",), ("VIEWS",)),
            Step(NETWORK, ("VIEWS",), of_views, batched=True),
            Step(merge, of_views, merged),
        ),
    )


def _stars() -> Graphs:
    """A network that takes views as a batch and gives dense maps, of which nuclei are selected."""
    select = Step("select_stars", ("STARS",), OUTPUTS[Method.STARS])
    graphs = _views_at_once("merge_stars", ("STARS",), ("STARS",))
    return Graphs((*graphs.one_view, select), (*graphs.all_views, select))


def _view_by_view(*chain: Step) -> Graphs:
    """Networks that take one view, for what they find in each differs in number.

    The views are turned back about the side of the tile.
    """
    views = tuple(f"VIEW_{k}" for k in range(TTA_VIEWS))
    chains = [_of_view(chain, k, view) for k, view in enumerate(views)]
    found = tuple(name for steps in chains for name in steps[-1].writes)
    return Graphs(
        (_PREPROCESS, *chain),
        (
            _PREPROCESS,
            Step("split", ("INPUT",), (*views, "SIDE")),
            *(step for steps in chains for step in steps),
            Step("merge_masks", ("SIDE", *found), chain[-1].writes),
        ),
    )


def _both(first: Graphs, second: Graphs) -> Graphs:
    """What two models do, one after the other."""
    return Graphs(
        (*first.one_view, *second.one_view[1:]), (*first.all_views, *second.all_views[1:])
    )


def _of_view(chain: tuple[Step, ...], k: int, view: str) -> list[Step]:
    def names(tensors: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(view if name == "INPUT" else name and f"{name}_{k}" for name in tensors)

    return [Step(step.name, names(step.reads), names(step.writes)) for step in chain]


_MAPS = OUTPUTS[Method.WATERSHED]
GRAPHS: dict[Method, Graphs] = {
    Method.WATERSHED: _views_at_once("merge", _MAPS, (*_MAPS, "DISAGREEMENT")),
    Method.STARS: _stars(),
    Method.MASKS: _view_by_view(Step(NETWORK, ("INPUT",), OUTPUTS[Method.MASKS])),
    Method.CONSENSUS: _both(
        _views_at_once("merge", _MAPS, (*_MAPS, "")),
        _view_by_view(Step(DETECTOR, ("INPUT",), OUTPUTS[Method.MASKS])),
    ),
    Method.PROMPTED: _view_by_view(
        Step(DETECTOR, ("INPUT",), ("BOXES_FOUND", "SCORES_FOUND", "")),
        Step(ENCODER, ("INPUT",), ("EMBEDDING", "SIDE")),
        Step(
            DECODER,
            ("EMBEDDING", "SIDE", "BOXES_FOUND", "SCORES_FOUND"),
            OUTPUTS[Method.PROMPTED],
        ),
    ),
}
