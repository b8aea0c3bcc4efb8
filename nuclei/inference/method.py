"""Methods of post-processing: what a graph gives for a tile, and how it becomes nuclei.

A new method is one more `Method` here, with an accumulator of `nuclei.postprocessing`; one more
entry of `training.tuning` lets training tune it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from nuclei.errors import InvalidData
from nuclei.imaging.tiles import TilePlan
from nuclei.inference import graph
from nuclei.inference.graph import Graphs, Step
from nuclei.postprocessing.accumulation import Accumulator, Maps, Masks, Parameters, Stars, Votes
from nuclei.postprocessing.consensus import ConsensusParameters
from nuclei.postprocessing.rendering import RenderingParameters
from nuclei.postprocessing.watershed import WatershedParameters
from nuclei.quoting import quoted


@dataclass(frozen=True)
class Method:
    """One method of post-processing.

    Attributes:
        name: in `contract.json`.
        outputs: names of the tensors that every graph gives for a tile.
        parameters: class of the parameters that are tuned.
        accumulator: makes an empty accumulator of the names of the outputs, the names of the maps
            in channel order (empty where there are none), and the plan of a frame's tiles.
        graphs: how the ONNX files of a model are chained.
        square_tiles: whether the graph for one view needs them; that with test-time augmentation,
            which turns them, always does.
        outputs_of_views: names of those that only the graph with test-time augmentation gives, each
            a byte for a pixel.
        bytes_per_px: memory in addition to the maps and the labels, for each pixel of the frame,
            after all tiles are answered.
    """

    name: str
    outputs: tuple[str, ...]
    parameters: type[Parameters]
    accumulator: Callable[[tuple[str, ...], tuple[str, ...], TilePlan], Accumulator]
    graphs: Graphs
    square_tiles: bool = True
    outputs_of_views: tuple[str, ...] = ()
    bytes_per_px: int = 0

    def outputs_for(self, tta: bool) -> tuple[str, ...]:
        """Names of all tensors that a graph gives for a tile."""
        return self.outputs + self.outputs_of_views if tta else self.outputs

    def accumulate(
        self, maps: tuple[str, ...], plan: TilePlan, *, tta: bool = False
    ) -> Accumulator:
        """An empty accumulator for the frame of this plan.

        Args:
            maps: names of the maps in channel order.
            plan: of the frame's tiles.
            tta: whether the answers are those of the graph with test-time augmentation.
        """
        return self.accumulator(self.outputs_for(tta), maps, plan)


WATERSHED = Method(
    "watershed",
    (graph.MAPS,),
    WatershedParameters,
    Maps,
    graph.views_at_once(graph.MAP_NETWORK, graph.MERGE, graph.MERGE.outputs),
    square_tiles=False,
    outputs_of_views=(graph.DISAGREEMENT,),
)
MASKS = Method(
    "masks",
    graph.FOUND_MASKS,
    RenderingParameters,
    Masks,
    graph.view_by_view(Step(graph.MASK_NETWORK, (graph.INPUT,), graph.FOUND_MASKS)),
)
STARS = Method(
    "stars",
    graph.FOUND_STARS,
    RenderingParameters,
    Stars,
    graph.followed_by(
        graph.views_at_once(graph.STAR_NETWORK, graph.MERGE_STARS, graph.MERGE_STARS.outputs),
        graph.SELECT_STARS,
    ),
    square_tiles=False,
)
PROMPTED = Method(
    "prompted",
    graph.FOUND_MASKS,
    RenderingParameters,
    Masks,
    graph.view_by_view(
        Step(graph.DETECTOR, (graph.INPUT,), (graph.BOXES_FOUND, graph.SCORES_FOUND, "")),
        Step(graph.ENCODER, (graph.INPUT,), graph.ENCODER.outputs),
        Step.named_alike(graph.DECODER),
    ),
)
CONSENSUS = Method(
    "consensus",
    (*graph.FOUND_MASKS, graph.MAPS),
    ConsensusParameters,
    Votes,
    graph.one_after_the_other(
        graph.views_at_once(graph.MAP_NETWORK, graph.MERGE, (graph.MAPS, "")),
        graph.view_by_view(Step(graph.DETECTOR, (graph.INPUT,), graph.FOUND_MASKS)),
    ),
    # The label images of both segmenters.
    bytes_per_px=2 * 4,
)

METHODS = {method.name: method for method in (WATERSHED, MASKS, STARS, PROMPTED, CONSENSUS)}


def method_named(name: str) -> Method:
    """The method with that name; raises InvalidData when there is none."""
    if name not in METHODS:
        raise InvalidData(f"unknown method {quoted(name)}; expected one of {', '.join(METHODS)}")
    return METHODS[name]
