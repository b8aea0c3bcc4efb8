from collections.abc import Callable
from pathlib import Path

import numpy as np

from nuclei.evaluation.metrics import Overlap
from nuclei.inference.contract import Contract, Method, RenderingParameters
from training.data.dataset import Sample
from training.families.stardist import StarDist
from training.optimisation import fit
from training.schedule import Schedule
from training.tuning import labelled, predict_all

ENCODER = "tu-regnetx_002"


def test_its_contract_survives_its_file() -> None:
    contract = StarDist(data=Path("images"), pixel_size_um=0.5).contract()
    assert (contract.family, contract.method) == ("stardist", Method.STARS)
    assert Contract.from_json(contract.to_json()) == contract


def test_its_options_survive_their_file(tmp_path: Path) -> None:
    asked = StarDist(data=tmp_path / "images", encoder=ENCODER)
    (tmp_path / "options.json").write_text(asked.to_json())
    assert StarDist.read(tmp_path) == asked


def test_it_learns_to_find_discs(
    make_sample: Callable[[str, str, tuple[int, int], int], Sample], tmp_path: Path
) -> None:
    samples = [make_sample(str(seed), "fluorescence", (96, 128), seed) for seed in range(6)]
    schedule = Schedule(
        steps=200,
        batch_size=4,
        crop_px=64,
        learning_rate=5e-3,
        warmup_steps=10,
        validate_every=200,
        workers=0,
    )
    recipe = StarDist(data=tmp_path, encoder=ENCODER, schedule=schedule)

    def validate(network: object) -> dict[str, float]:
        return {"val_dsb_score": 0.0}

    network, _ = fit(
        recipe, samples, schedule, tmp_path / "checkpoint.pt", validate, lambda *_: None
    )
    contract = recipe.contract()
    parameters = RenderingParameters(min_score=0.3)  # so early it is sure of nothing
    for tta in (False, True):
        found = predict_all(samples, recipe.engine(network, contract, "fp32"), tta=tta)
        scores = [
            Overlap.of(sample.labels, labelled(answer, parameters)).dsb_score()
            for sample, answer in zip(samples, found, strict=True)
        ]
        assert np.mean(scores) > 0.15
