import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import cloudpickle
import pytest
import torch
from torch import Tensor, nn

from nuclei.cli.train import app
from nuclei.errors import InvalidData, InvalidOption, MissingPrerequisite, NucleiError
from nuclei.process.ports import free_ports
from serving.registry import Registry
from training.data.conversion import write_dataset
from training.data.dataset import Sample
from training.families.mask_rcnn import MaskRCNN
from training.families.unet import UNet
from training.job import LearnedRecipe
from training.optimisation import finished_progress, fit
from training.ranks import ALONE, Rank, joined
from training.schedule import Schedule

SCHEDULE = Schedule(
    steps=8, batch_size=4, crop_px=64, warmup_steps=2, validate_every=2, workers=0, precision="fp32"
)
SECONDS = 180.0
ROOT = Path(__file__).parents[2]
INTERRUPTED = 15


class Plain(UNet):
    """A network without batch statistics, of which two processes have each their own on CPUs."""

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1)
        )


class Stopped(Plain):
    """Sends a signal to its own process in the third step, if that is the second of two."""

    sent = signal.SIGTERM
    steps = itertools.count(1)

    def loss_of(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        if next(self.steps) == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), self.sent)
        return super().loss_of(network, images, targets)


class Killed(Stopped):
    sent = signal.SIGKILL


def network(family: type[UNet] = Plain) -> UNet:
    return family(data=(), architecture="cnn", loss="bce")


def learn(
    learner: LearnedRecipe,
    samples: list[Sample],
    folder: Path,
    rank: Rank = ALONE,
    schedule: Schedule = SCHEDULE,
) -> list[float]:
    """Train, and give the losses."""
    _, progress = fit(
        learner,
        samples,
        schedule,
        folder / "checkpoint.pt",
        lambda _: {"val_dsb_score": 0.5},
        lambda *_: None,
        rank,
    )
    return [point["train_loss"] for point in progress.history]


def together(work: Callable[[Rank], object]) -> tuple[list[int | None], list[str]]:
    """As `in_two_processes`, with the rank of each."""

    def joining() -> None:
        with joined(SCHEDULE) as rank:
            work(rank)
            rank.part()

    return in_two_processes(joining)


def in_two_processes(work: Callable[[], object]) -> tuple[list[int | None], list[str]]:
    """Run something in two processes that train together; gives their exit codes and errors."""
    (port,) = free_ports(1)
    # Forked, because importing torch takes longer than all of this; by a process that has done no
    # more, since one whose threads of autograd are running cannot be forked.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    errors, given = context.SimpleQueue(), cloudpickle.dumps(work)
    processes = [
        context.Process(target=_one_of_two, args=(number, port, given, errors))
        for number in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        process.kill()
        process.join()
    codes = [process.exitcode for process in processes]
    return codes, [errors.get() for code in codes if code is not None and code > 0]


def _one_of_two(number: int, port: int, given: bytes, errors: "SimpleQueue[str]") -> None:
    work = cloudpickle.loads(given)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    try:
        work()
    except NucleiError as error:
        errors.put(str(error))
        sys.exit(error.exit_code)


@pytest.fixture(scope="module")
def whole(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one process that is not disturbed."""
    return learn(network(), samples, tmp_path_factory.mktemp("whole"))


def test_two_processes_learn_what_one_does(
    whole: list[float], samples: list[Sample], tmp_path: Path
) -> None:
    codes, _ = together(lambda rank: learn(network(), samples, tmp_path, rank))
    assert codes == [0, 0]
    # It is finished: the losses are read.
    assert learn(network(), samples, tmp_path) == pytest.approx(whole, rel=1e-4)


def test_with_batch_norm_the_losses_are_the_same_within_noise(
    samples: list[Sample], tmp_path: Path
) -> None:
    alone = learn(network(UNet), samples, tmp_path / "alone")
    both = tmp_path / "both"
    codes, _ = together(lambda rank: learn(network(UNet), samples, both, rank))
    assert codes == [0, 0]
    # The batch statistics are of two crops, not of four.
    assert learn(network(UNet), samples, both) == pytest.approx(alone, rel=0.1)


def test_a_network_of_which_steps_use_a_part_learns_in_two_processes(
    samples: list[Sample], tmp_path: Path
) -> None:
    learner = MaskRCNN(data=(), backbone="mobilenet_v3")
    schedule = replace(SCHEDULE, steps=2)
    codes, _ = together(lambda rank: learn(learner, samples, tmp_path, rank, schedule))
    assert codes == [0, 0]
    assert len(learn(learner, samples, tmp_path, schedule=schedule)) == 1


def test_a_killed_process_ends_the_other_and_the_training_goes_on(
    whole: list[float],
    samples: list[Sample],
    tmp_path: Path,
) -> None:
    codes, errors = together(lambda rank: learn(network(Killed), samples, tmp_path, rank))
    assert codes == [INTERRUPTED, -signal.SIGKILL]
    (error,) = errors
    assert "process 0 of 2 ends, because another one did" in error
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]["step"] == 2
    assert learn(network(), samples, tmp_path) == pytest.approx(whole, rel=1e-4)


def test_processes_of_which_one_is_told_to_stop_all_stop_after_the_same_step(
    whole: list[float],
    samples: list[Sample],
    tmp_path: Path,
) -> None:
    codes, errors = together(lambda rank: learn(network(Stopped), samples, tmp_path, rank))
    assert codes == [INTERRUPTED, INTERRUPTED]
    assert all("told to stop (SIGTERM), and has after step 3" in error for error in errors)
    # The third step counts in the loss at the fourth, in which it was not repeated.
    assert learn(network(), samples, tmp_path) == pytest.approx(whole, rel=1e-4)


def test_a_stop_in_the_last_step_leaves_nothing_to_learn(
    samples: list[Sample], tmp_path: Path
) -> None:
    schedule = replace(SCHEDULE, steps=3)
    codes, _ = together(lambda rank: learn(network(Stopped), samples, tmp_path, rank, schedule))
    assert codes == [INTERRUPTED, INTERRUPTED]
    assert finished_progress(tmp_path).step == 3


def test_processes_with_different_images_or_checkpoints_are_refused(
    samples: list[Sample], tmp_path: Path
) -> None:
    learn(network(), samples, tmp_path / "1")
    (tmp_path / "1" / "finished.json").unlink()

    def work(rank: Rank) -> None:
        with pytest.raises(InvalidData, match="the images of process 1 are not those of process 0"):
            rank.check_same("the images", rank.number)
        with pytest.raises(InvalidData, match="the checkpoints of process 1 are not those"):
            learn(network(), samples, tmp_path / str(rank.number), rank)

    assert together(work) == ([0, 0], [])


def test_the_first_of_two_registers_what_both_start_from(
    samples: list[Sample], tmp_path: Path
) -> None:
    data, uri = tmp_path / "data", f"sqlite:///{tmp_path / 'mlflow.db'}"
    write_dataset(samples, data, "labels")
    # The parent is found, and then its weights are not for this architecture.
    given = ("--from", "champion", "--architecture", "linknet", "--tracking-uri", uri)

    def train() -> None:
        os.environ["HOME"] = str(tmp_path)
        command = ["unet", *map(str, (data, "--out", tmp_path / "run")), *given]
        app(command, standalone_mode=False)

    codes, errors = in_two_processes(train)
    assert codes == [InvalidData.exit_code] * 2
    assert all("name the --architecture" in error for error in errors)
    (champion,) = Registry(uri).model("nuclei-unet").versions
    assert champion.aliases == ("champion",)


def told_by_torchrun(patch: pytest.MonkeyPatch, number: int, size: int) -> None:
    for name, value in (("RANK", number), ("WORLD_SIZE", size)):
        patch.setenv(name, str(value))
        patch.setenv(f"LOCAL_{name}", str(value))


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told_by_torchrun(monkeypatch, 0, 3)
    with (
        pytest.raises(InvalidOption, match=r"shared equally by 3 .* --batch-size 6"),
        joined(SCHEDULE),
    ):
        pass


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has two GPUs")
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told_by_torchrun(monkeypatch, 1, 2)
    on_gpus = replace(SCHEDULE, device="cuda")
    with pytest.raises(MissingPrerequisite, match=r"has started 2 processes"), joined(on_gpus):
        pass


PROGRAM = """
import os, signal
from training.ranks import joined
from training.schedule import Schedule

with joined(Schedule()) as rank:
    if rank.of_first(lambda: rank.number + 1) == 1 and rank.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        rank.largest(0.0)
"""


def test_torchrun_starts_processes_and_ends_those_that_are_left(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*command, tmp_path / "program.py"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 1
    assert "process 0 of 2 ends, because another one did" in ended.stderr
    assert "(SIGKILL)" in ended.stderr
