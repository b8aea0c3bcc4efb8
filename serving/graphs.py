"""How the ONNX files of a model are chained, for each method of post-processing."""

from dataclasses import dataclass

from nuclei.assembly import OUTPUTS
from nuclei.contract import Method
from nuclei.pipeline import TTA_VIEWS

NETWORK = "network"


@dataclass(frozen=True)
class Step:
    """One ONNX file of a graph.

    Attributes:
        name: of the file, without its suffix; all but the network are shared by models.
        reads: tensors of the graph that it is given, in the order of its inputs.
        writes: tensors of the graph that become of its outputs, in their order.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Graphs:
    """The two graphs of a model, each from IMAGE and RANGE to the outputs of its method.

    Attributes:
        one_view: looks at the image as it is.
        all_views: at its eight rotated and mirrored views (TTA).
        batched: whether the network takes several images at once.
    """

    one_view: tuple[Step, ...]
    all_views: tuple[Step, ...]
    batched: bool

    def steps(self) -> tuple[str, ...]:
        """Names of the files, each once."""
        return tuple(dict.fromkeys(step.name for step in (*self.one_view, *self.all_views)))


_PREPROCESS = Step("preprocess", ("IMAGE", "RANGE"), ("INPUT",))


def _views_at_once(merge: str, outputs: tuple[str, ...], merged: tuple[str, ...]) -> Graphs:
    """A network that takes views as a batch."""
    of_views = tuple(f"{name}_OF_VIEWS" for name in outputs)
    return Graphs(
        (_PREPROCESS, Step(NETWORK, ("INPUT",), outputs)),
        (
            _PREPROCESS,
            Step("tta", ("INPUT",), ("VIEWS",)),
            Step(NETWORK, ("VIEWS",), of_views),
            Step(merge, of_views, merged),
        ),
        batched=True,
    )


def _view_by_view(split: str, merge: str, outputs: tuple[str, ...]) -> Graphs:
    """A network that takes one view, for what it finds in each differs in number."""
    views = tuple(f"VIEW_{k}" for k in range(TTA_VIEWS))
    networks = tuple(
        Step(NETWORK, (view,), tuple(f"{name}_{k}" for name in outputs))
        for k, view in enumerate(views)
    )
    found = tuple(name for network in networks for name in network.writes)
    return Graphs(
        (_PREPROCESS, Step(NETWORK, ("INPUT",), outputs)),
        (_PREPROCESS, Step(split, ("INPUT",), views), *networks, Step(merge, found, outputs)),
        batched=False,
    )


_MAPS = OUTPUTS[Method.WATERSHED]
GRAPHS: dict[Method, Graphs] = {
    Method.WATERSHED: _views_at_once("merge", _MAPS, (*_MAPS, "DISAGREEMENT")),
    Method.MASKS: _view_by_view("split", "merge_masks", OUTPUTS[Method.MASKS]),
}
