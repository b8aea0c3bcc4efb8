from dataclasses import replace

from nuclei.evaluation.card import card
from nuclei.inference.contract import Contract
from nuclei.inference.provenance import DataSet
from nuclei.registry import DEFAULT_FAMILY
from serving.repository.listing import list_models
from tests.shipped import SHIPPED

TOLD = Contract(
    "unet",
    validation={
        "dsb_score": 0.6,
        "dsb_score/histology": 0.5,
        "tta/dsb_score": 0.61,
        "tta/dsb_score/histology": 0.52,
        "left_out/dsb_score": 0.4,
        "left_out/f1_0.50": 0.7,
        "left_out/boundary_f1": 0.8,
        "left_out/dsb_score/clinic": 0.3,
        "left_out/f1_0.50/clinic": 0.6,
        "left_out/boundary_f1/clinic": 0.7,
        "left_out/dsb_score/lab": 0.5,
        "left_out/f1_0.50/lab": 0.8,
        "left_out/boundary_f1/lab": 0.9,
    },
    held_out=("a", "b"),
    training={"parameters": 1_234_567.0, "minutes": 12.3},
    licence="Apache-2.0 AND CC0-1.0",
    data=(
        DataSet("lab", "CC0-1.0", "A. Person, 2020", {"fluorescence": 5}, {"fluorescence": 50}),
        DataSet("clinic", "MIT", "", {"histology": 3}, {"histology": 33}),
    ),
)


def test_it_tells_data_scores_and_licence() -> None:
    lines = card("unet", "4", TOLD).splitlines()
    assert lines[0] == "# unet version 4"
    assert "- Licence: Apache-2.0 AND CC0-1.0" in lines
    assert "| lab | fluorescence | 5 | 50 | CC0-1.0 |" in lines
    assert "- lab: A. Person, 2020" in lines
    assert "| all | 0.400 | 0.700 | 0.800 |" in lines
    assert "| clinic | 0.300 | 0.600 | 0.700 |" in lines
    assert "| histology | 0.500 | 0.520 |" in lines


def test_it_names_the_sources_on_which_the_model_is_weak() -> None:
    fails = card("unet", "4", TOLD).partition("## Where it fails")[2]
    assert "On clinic, with a DSB score of 0.30 where its best is 0.50" in fails
    assert "On lab" not in fails


def test_without_left_out_sources_modalities_are_named() -> None:
    scores = {"dsb_score": 0.6, "dsb_score/histology": 0.3, "dsb_score/fluorescence": 0.7}
    told = card("unet", "4", replace(TOLD, validation=scores))
    assert "left out" not in told
    assert "On histology, with a DSB score of 0.30" in told


def test_what_is_not_stated_is_said() -> None:
    told = card("mine", "1", Contract("mine"))
    assert "Licence: not stated" in told
    assert "What it learned from is not stated." in told
    assert "They are not stated." in told


def test_the_card_in_the_repository_is_that_of_the_shipped_model() -> None:
    (shipped,) = [one for one in list_models(SHIPPED) if one.name == DEFAULT_FAMILY]
    current = card(shipped.name, str(shipped.champion), shipped.contract)
    assert (SHIPPED / "CARD.md").read_text() == current, "nuclei models --card unet"
