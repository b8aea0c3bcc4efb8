import pytest

from nuclei.errors import InvalidData
from nuclei.imaging.tiles import plan_tiles
from nuclei.inference.contract import Contract
from nuclei.inference.graph import IMAGE, RANGE, Graphs
from nuclei.inference.method import METHODS, Method, method_named

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(InvalidData, match="'voronoi'; expected one of watershed, masks"):
        method_named("voronoi")


@every_method
def test_a_contract_names_its_method(method: Method) -> None:
    contract = Contract("a", method, postprocessing=method.parameters())
    read = Contract.from_json(contract.to_json())
    assert read == contract
    assert f'"method": "{method.name}"' in contract.to_json()


@every_method
def test_graphs_read_only_what_was_written_and_give_the_outputs(method: Method) -> None:
    for steps in (method.graphs.one_view, method.graphs.all_views):
        known = {IMAGE, RANGE}
        for step in steps:
            assert set(step.reads) <= known
            assert len(step.reads) == len(step.file.inputs)
            assert len(step.writes) == len(step.file.outputs)
            known |= set(step.writes)
        assert set(method.outputs_for(steps is method.graphs.all_views)) <= known


@every_method
def test_files_that_models_share_come_first(method: Method) -> None:
    graphs: Graphs = method.graphs
    names = [file.name for file in graphs.files()]
    assert names[0] == "preprocess"
    assert len(names) == len(set(names))
    own = [name in ("network", "detector", "encoder", "decoder") for name in names]
    assert own == sorted(own)
    assert any(own)


@every_method
def test_nothing_is_found_in_an_empty_accumulator_of_any_method(method: Method) -> None:
    plan = plan_tiles(32, 64, 512, 64, 32)
    for tta in (False, True):
        accumulator = method.accumulate(("foreground",), plan, tta=tta)
        foreground, disagreement = accumulator.foreground, accumulator.disagreement
        assert foreground is None or foreground.shape == (32, 64)
        assert (disagreement is not None) == (tta and bool(method.outputs_of_views))


@every_method
def test_a_threshold_moves_what_is_found_and_nothing_else(method: Method) -> None:
    tuned = method.parameters()
    assert tuned.with_threshold(tuned.threshold) == tuned
    scores = []
    for threshold in (0.01, 0.3, 0.7, 0.99):
        moved = tuned.with_threshold(threshold)
        assert moved.threshold == threshold
        assert moved.min_area_px == tuned.min_area_px
        scores.append(moved.min_score)
    assert 0 < scores[0] < scores[1] < scores[2] < scores[3] < 1
    assert scores[0] < 0.05
    assert scores[3] > 0.95
