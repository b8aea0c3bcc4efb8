from pathlib import Path

import pytest
import torch
from torch import nn

from nuclei import console
from nuclei.errors import InvalidData
from training import optimisation
from training.data.dataset import Sample
from training.families.unet import UNet
from training.optimisation import Progress, fit
from training.schedule import Schedule

SCHEDULE = Schedule(
    steps=6, batch_size=2, crop_px=64, warmup_steps=2, validate_every=2, workers=0, precision="fp32"
)


class Recorder:
    """Scores a network by rank of the call, and records what is reported."""

    def __init__(self, scores: list[float] | None = None, stop_after: int | None = None) -> None:
        self.steps: list[int] = []
        self._scores = scores or []
        self._stop_after = stop_after

    def validate(self, network: nn.Module) -> dict[str, float]:
        assert not network.training
        rank = len(self.steps)
        return {"val_dsb_score": self._scores[rank] if self._scores else rank / 10}

    def report(self, step: int, metrics: dict[str, float]) -> None:
        self.steps.append(step)
        assert metrics["train_loss"] > 0
        if self._stop_after is not None and len(self.steps) > self._stop_after:
            raise KeyboardInterrupt


def train(
    samples: list[Sample],
    folder: Path,
    schedule: Schedule = SCHEDULE,
    recorder: Recorder | None = None,
    encoder: str = "tu-regnetx_002",
) -> tuple[nn.Module, Progress]:
    recorder = recorder or Recorder()
    checkpoint = folder / "checkpoint.pt"
    learner = UNet(data=(folder,), encoder=encoder)
    return fit(learner, samples, schedule, checkpoint, recorder.validate, recorder.report)


def test_a_killed_run_ends_where_an_unbroken_one_does(
    samples: list[Sample], tmp_path: Path
) -> None:
    whole = train(samples, tmp_path / "whole")[1].history
    assert [point["step"] for point in whole] == [2, 4, 6]
    broken = Recorder(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        train(samples, tmp_path / "broken", recorder=broken)
    assert broken.steps == [2, 4]
    rest = Recorder(scores=[0.1, 0.2])
    resumed = train(samples, tmp_path / "broken", recorder=rest)[1].history
    assert rest.steps == [4, 6]
    assert [point["step"] for point in resumed] == [2, 4, 6]
    # Sums over threads differ in their last digits; a fresh start would be 8% off.
    losses = [[point["train_loss"] for point in history] for history in (whole, resumed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_the_best_weights_are_returned(samples: list[Sample], tmp_path: Path) -> None:
    _, progress = train(samples, tmp_path, recorder=Recorder(scores=[0.2, 0.6, 0.4]))
    assert (progress.best_score, progress.best_step) == (0.6, 4)


def test_a_file_gets_lines_of_the_progress(
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(optimisation, "NOTED_EVERY", 1)
    monkeypatch.setattr(console, "LINE_S", 0)
    train(samples, tmp_path)
    lines = [line.split("  ") for line in capsys.readouterr().err.splitlines() if "%" in line]
    assert [line[:2] for line in lines][2::3] == [["50%", "step 3"], ["100%", "step 6"]]
    known = [line[-1].startswith("best score 0.") for line in lines]
    assert known == [False, False, True, True, True, True]  # since the validation after step 2


def test_training_stops_early(samples: list[Sample], tmp_path: Path) -> None:
    schedule = Schedule(**{**vars(SCHEDULE), "steps": 40, "patience": 2})
    recorder = Recorder(scores=[0.5, 0.4, 0.3, 0.9])
    train(samples, tmp_path, schedule, recorder)
    assert recorder.steps == [2, 4, 6]


def test_the_loss_falls(samples: list[Sample], tmp_path: Path) -> None:
    schedule = Schedule(**{**vars(SCHEDULE), "steps": 30, "validate_every": 10, "workers": 1})
    _, progress = train(samples, tmp_path, schedule)
    losses = [point["train_loss"] for point in progress.history]
    assert losses[-1] < 0.9 * losses[0]


def test_sgd_learns_too(samples: list[Sample], tmp_path: Path) -> None:
    changed = {"optimizer": "sgd", "learning_rate": 0.02, "steps": 30, "validate_every": 10}
    _, progress = train(samples, tmp_path, Schedule(**{**vars(SCHEDULE), **changed}))
    losses = [point["train_loss"] for point in progress.history]
    assert losses[-1] < losses[0]


def test_bf16_trains_too(samples: list[Sample], tmp_path: Path) -> None:
    schedule = Schedule(**{**vars(SCHEDULE), "precision": "bf16", "steps": 2})
    network, _ = train(samples, tmp_path, schedule)
    assert all(value.dtype != torch.bfloat16 for value in network.state_dict().values())


def test_a_checkpoint_of_another_training_is_refused(samples: list[Sample], tmp_path: Path) -> None:
    train(samples, tmp_path)
    with pytest.raises(InvalidData, match="another network"):
        train(samples, tmp_path, encoder="resnet18")
    with pytest.raises(InvalidData, match="seed"):
        train(samples, tmp_path, Schedule(**{**vars(SCHEDULE), "seed": 1}))
