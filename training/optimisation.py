"""The training loop: crops to weights, with checkpoints that a killed run resumes from."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress as Bar
from rich.progress import TextColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nuclei.console import Lines, messages
from nuclei.errors import InvalidData, TrainingInterrupted
from training.data.dataset import Sample
from training.data.sampling import CropDataset, ShareSampler
from training.ema import ExponentialMovingAverage
from training.hardware import BF16, chosen_precision, mixed_precision
from training.ranks import ALONE, Rank
from training.schedule import Schedule


class Learner(Protocol):
    """A network, its targets for a crop, and its loss. Must be picklable.

    Attributes:
        captures_graph: `loss_of` calls the network once, with the images, and the network runs the
            same kernels at every step, so that a GPU may replay them as a CUDA graph. All its
            parameters take part in each step.
    """

    @property
    def captures_graph(self) -> bool: ...

    def build(self) -> nn.Module:
        """The network with random weights."""
        ...

    def first_weights(self) -> Mapping[str, Tensor] | None:
        """The state of the network that training starts from; None for random weights."""
        ...

    def targets(self, labels: NDArray[np.uint16]) -> Any:
        """The targets of a crop, from its label image uint16 [S, S].

        A crop is reflected where its image ends, so parts of a label may lie apart.
        """
        ...

    def loss_of(self, network: nn.Module, images: Tensor, targets: Any) -> Tensor:
        """The loss of a network, a scalar.

        Args:
            network: in training mode.
            images: float32 [N, 3, S, S] in [0, 1], on the network's device.
            targets: of the N crops; tensors are stacked, others come as a list; on the CPU.
        """
        ...


Validate = Callable[[nn.Module], dict[str, float]]
Report = Callable[[int, dict[str, float]], None]
SCORE = "val_dsb_score"
BEST_FILE = "best.pt"
FINISHED_FILE = "finished.json"
NOTED_EVERY = 20
RECENT_STEPS = 50
MAX_STEPS = 2**31
# Fractions of the steps after which the rate falls tenfold, as in Detectron2's schedules.
SGD_MILESTONES = (2 / 3, 8 / 9)


@dataclass
class Progress:
    """How far a run is; kept in the checkpoint, and in a file of its own once it is finished.

    Attributes:
        step: steps made.
        best_score, best_step: of the best validation.
        seconds: time taken.
        history: metrics and `step` of each validation.
        losses: of the steps since the last validation.
    """

    step: int = 0
    best_score: float = -1.0
    best_step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def fit(
    learner: Learner,
    samples: Sequence[Sample],
    schedule: Schedule,
    checkpoint: Path,
    validate: Validate | None,
    report: Report,
    rank: Rank = ALONE,
) -> tuple[nn.Module, Progress]:
    """Train a network, resuming from `checkpoint` where it exists.

    Args:
        learner: the network and its loss.
        samples: training images with labels.
        schedule: how to train.
        checkpoint: file written at each validation, and when the training is told to stop; the best
            averaged weights go beside it, and at the end the progress; after that, nothing else is
            needed.
        validate: scores of the averaged network; `val_dsb_score` selects the best. None takes the
            last.
        report: called with (step, metrics) at each validation.
        rank: this process among those of the training, each of which has to call this. The first
            validates, writes and reports; the number of processes may differ when it is resumed.

    Returns:
        The averaged network with the best validation score, on the CPU, and the progress.

    Raises:
        InvalidData: the checkpoint belongs to another schedule or network, or other processes have
            another one.
        TrainingInterrupted: it was told to stop, and the checkpoint is written.
    """
    folder = checkpoint.parent
    finished = folder / FINISHED_FILE
    if finished.exists():
        _refuse_another(finished, json.loads(finished.read_text())["schedule"], schedule)
        return best_network(learner, folder), finished_progress(folder)
    optimisation = _Optimisation(learner, schedule, rank)
    progress = optimisation.resume(checkpoint)
    if not schedule.steps and schedule.minutes is None:
        optimisation.keep_best({}, folder / BEST_FILE)
        rank.of_first(lambda: finish(folder, progress, schedule))
        return best_network(learner, folder), progress
    told_to_stop = False
    with _Bar(validate is not None, rank.leads) as bar, rank.stop.deferred():
        for images, targets in _crops(learner, samples, schedule, progress.step, rank):
            told_to_stop = optimisation.step(images, targets)
            if progress.step % NOTED_EVERY == 0:
                bar.show(optimisation.done(), progress, optimisation.recent_loss())
            due = optimisation.is_over() or progress.step % schedule.validate_every == 0
            if due:
                scores = optimisation.validated(validate)
                bar.print(progress.step, scores)
                if rank.leads:
                    report(progress.step, scores)
                optimisation.keep_best(scores, folder / BEST_FILE)
            if due or told_to_stop:
                optimisation.save(checkpoint)
            if told_to_stop or optimisation.has_ended():
                break
        if not told_to_stop or optimisation.has_ended():
            rank.of_first(lambda: finish(folder, progress, schedule))
        if told_to_stop:
            raise TrainingInterrupted(
                f"the training was told to stop (SIGTERM), and has after step {progress.step}; "
                f"continue it with --resume {folder}"
            )
    return best_network(learner, folder), progress


def finish(folder: Path, progress: Progress, schedule: Schedule) -> None:
    """Note in a training's folder, beside its best weights, that it is finished."""
    state = {"progress": asdict(progress), "schedule": asdict(schedule)}
    (folder / FINISHED_FILE).write_text(json.dumps(state))


def best_network(learner: Learner, folder: Path) -> nn.Module:
    """The best network of the training in a folder, in evaluation mode, on the CPU.

    Raises:
        InvalidData: it has no weights yet, or those of another network.
    """
    network = learner.build()
    try:
        weights = torch.load(folder / BEST_FILE, map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
    except OSError as error:
        raise InvalidData(
            f"{folder} holds no weights yet ({error.strerror}); continue its training"
        ) from error
    except RuntimeError as error:
        raise InvalidData(f"{folder} holds the weights of another network ({error})") from error
    return network.eval()


def finished_progress(folder: Path) -> Progress:
    """The progress of the finished training in a folder.

    Raises:
        InvalidData: it is not finished.
    """
    try:
        return Progress(**json.loads((folder / FINISHED_FILE).read_text())["progress"])
    except OSError as error:
        raise InvalidData(
            f"the training in {folder} is not finished ({error.strerror}); continue it"
        ) from error


class _Optimisation:
    """A network in training, and everything that changes with it.

    Attributes:
        ema: the moving average of the network's weights.
        progress: how far the training is.
    """

    def __init__(self, learner: Learner, schedule: Schedule, rank: Rank) -> None:
        torch.manual_seed(schedule.seed)
        self._learner, self._schedule, self._rank = learner, schedule, rank
        self._device = torch.device(schedule.device)
        network, average = (_placed(learner.build(), self._device) for _ in range(2))
        self._network = rank.joint_norms(network)
        # What is drawn in a step, such as proposals and dropout, differs with its crops.
        if rank.number:
            torch.manual_seed(schedule.seed + rank.number)
        self.ema = ExponentialMovingAverage(self._network, average, schedule.ema_decay)
        self._optimizer = _optimizer(self._network, schedule)
        self.progress = Progress()
        self._losses: list[Tensor] = []
        self._started: float | None = None

    def resume(self, checkpoint: Path) -> Progress:
        """Resume from a checkpoint if there is one, and prepare the first step.

        Raises:
            InvalidData: it belongs to another schedule or network, or is not that of all processes;
                or the weights to start from are of another network.
        """
        if checkpoint.exists():
            self._load(checkpoint)
        elif (weights := self._learner.first_weights()) is not None:
            for network in (self._network, self.ema.network):
                network.load_state_dict(weights)
        self._rank.check_same("the checkpoints", self.progress.step)
        self._network.train()
        if self._schedule.frozen_statistics:
            _freeze_statistics(self._network)
        fixed = self._learner.captures_graph
        if fixed and self._schedule.device == "cuda" and self._rank.size == 1:
            _capture_cuda_graph(self._network, self._schedule)
        self._loss = self._rank.joint_gradients(_Loss(self._learner, self._network), uses_all=fixed)
        return self.progress

    def step(self, images: Tensor, targets: Any) -> bool:
        """Learn from one batch of crops; gives whether a process was told to stop."""
        if self._started is None:
            # Start the clock here: the time to start the processes that make crops does not count.
            self._started = time.monotonic() - self.progress.seconds
        _set_learning_rate(self._optimizer, self._schedule, self.progress.step, self.done())
        images = images.to(self._device, non_blocking=True)
        self._losses.append(
            _descend(
                self._loss,
                self._network,
                self._optimizer,
                images.contiguous(memory_format=torch.channels_last),
                targets,
                self._schedule,
            )
        )
        self.progress.step += 1
        self.ema.update(self.progress.step)
        return self._note_time()

    def done(self) -> float:
        """The fraction of the training that is done, in [0, 1]."""
        if self._schedule.minutes is not None:
            return min(1.0, self.progress.seconds / 60 / self._schedule.minutes)
        return self.progress.step / self._schedule.steps

    def is_over(self) -> bool:
        return self.done() >= 1

    def has_ended(self) -> bool:
        """It is over, or has not got better for too long."""
        stale = self.progress.step - self.progress.best_step
        return self.is_over() or stale >= self._schedule.patience * self._schedule.validate_every

    def recent_loss(self) -> float:
        """Mean loss of the last steps of this process; reading a loss waits for the GPU."""
        return float(torch.stack(self._losses[-RECENT_STEPS:]).mean())

    def validated(self, validate: Validate | None) -> dict[str, float]:
        """The mean loss since the last validation, and the scores; both go into the history."""
        scores = {"train_loss": float(self._joint_losses().mean())}
        if validate:
            scores |= self._rank.of_first(lambda: validate(self.ema.network))
        self._losses.clear()
        self._note_time()
        self.progress.history.append({"step": self.progress.step, **scores})
        return scores

    def keep_best(self, scores: Mapping[str, float], path: Path) -> None:
        """Write the averaged weights if they are the best so far, or were not validated."""
        progress = self.progress
        if SCORE not in scores or scores[SCORE] > progress.best_score:
            progress.best_score, progress.best_step = scores.get(SCORE, 0.0), progress.step
            if self._rank.leads:
                _save(path, self.ema.network.state_dict())

    def save(self, checkpoint: Path) -> None:
        self.progress.losses = self._joint_losses().tolist()
        if not self._rank.leads:
            return
        state = {
            "network": self._network.state_dict(),
            "averaged": self.ema.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": asdict(self._schedule),
            "progress": asdict(self.progress),
        }
        _save(checkpoint, state)

    def _load(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, map_location=self._schedule.device, weights_only=True)
        _refuse_another(checkpoint, state["schedule"], self._schedule)
        try:
            self._network.load_state_dict(state["network"])
            self.ema.network.load_state_dict(state["averaged"])
        except RuntimeError as error:
            raise InvalidData(
                f"{checkpoint} belongs to another network; remove it to start over, or give its "
                "encoder"
            ) from error
        self._optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self._losses = list(torch.tensor(self.progress.losses, device=self._device))

    def _joint_losses(self) -> Tensor:
        """Of each step since the last validation, the mean over all processes."""
        return self._rank.mean(torch.stack(self._losses) if self._losses else torch.zeros(0))

    def _note_time(self) -> bool:
        """Note the time, from which rates may follow, and whether to stop: as all processes do."""
        assert self._started is not None
        seconds, stop = self._rank.largest(
            time.monotonic() - self._started, float(self._rank.stop.asked)
        )
        self.progress.seconds = seconds
        return bool(stop)


class _Loss(nn.Module):
    """A network and its loss as one module, which `Rank.joint_gradients` asks for."""

    def __init__(self, learner: Learner, network: nn.Module) -> None:
        super().__init__()
        self._learner, self._network = learner, network

    def forward(self, images: Tensor, targets: Any) -> Tensor:
        return self._learner.loss_of(self._network, images, targets)


class _Bar:
    """The progress of a training, which its first process shows; in a file, a line at times."""

    def __init__(self, best_score: bool, shown: bool) -> None:
        self._best_score, self._shown = best_score, shown
        columns = (*Bar.get_default_columns(), TextColumn("{task.fields[note]}"))
        console = messages()
        self._lines = Lines(console)
        self._bar = Bar(*columns, console=console, disable=not shown or not console.is_terminal)
        self._task = self._bar.add_task("training", total=1.0, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: float, progress: Progress, loss: float) -> None:
        known = self._best_score and progress.best_step
        best_score = f"  best score {progress.best_score:.3f}" if known else ""
        note = f"step {progress.step}  loss {loss:.3f}{best_score}"
        self._bar.update(self._task, completed=done, note=note)
        if self._shown and self._lines.due():
            self._bar.console.print(f"{done:.0%}  {note}")

    def print(self, step: int, scores: Mapping[str, float]) -> None:
        if self._shown:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
            self._bar.console.print(f"step {step}: {shown}")


def _capture_cuda_graph(network: nn.Module, schedule: Schedule) -> None:
    """Record a network's forward and backward pass of one batch as a CUDA graph, to be replayed.

    Launching its thousand small kernels one by one takes longer than running them.
    """
    torch.backends.cudnn.benchmark = True
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shape = (schedule.batch_size, 3, schedule.crop_px, schedule.crop_px)
    images = torch.rand(shape, device=schedule.device).to(memory_format=torch.channels_last)
    with torch.autocast(
        schedule.device,
        torch.bfloat16,
        chosen_precision(schedule.device, schedule.precision) == BF16,
        cache_enabled=False,
    ):
        torch.cuda.make_graphed_callables(network, (images,), allow_unused_input=True)
    # The batch statistics now contain the random images.
    network.load_state_dict(before)


def _freeze_statistics(network: nn.Module) -> None:
    for module in network.modules():
        # The base class of all batch norms, in one process or several.
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    # Channels last is what makes bf16 fast on a CPU: 0.65 s against 1.9 s per step of a ResNet-18.
    return network.to(device).to(memory_format=torch.channels_last)


def _crops(
    learner: Learner, samples: Sequence[Sample], schedule: Schedule, first_step: int, rank: Rank
) -> DataLoader[tuple[Tensor, Any]]:
    dataset = CropDataset(
        samples,
        learner.targets,
        schedule.crop_px,
        schedule.augmentation,
        schedule.seed,
        schedule.balanced,
    )
    n_steps = schedule.steps if schedule.minutes is None else MAX_STEPS
    steps = range(first_step, n_steps)
    return DataLoader(
        dataset,
        schedule.batch_size // rank.size,
        sampler=ShareSampler(steps, schedule.batch_size, rank.number, rank.size),
        collate_fn=_collated,
        num_workers=schedule.workers,
        worker_init_fn=_one_thread,
        # A forked worker inherits OpenCV's thread pool without its threads and waits forever.
        multiprocessing_context="spawn" if schedule.workers else None,
        pin_memory=schedule.device == "cuda",
    )


def _collated(items: Sequence[tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
    images, targets = zip(*items, strict=True)
    stackable = isinstance(targets[0], Tensor)
    return torch.stack(images), torch.stack(targets) if stackable else list(targets)


def _one_thread(_: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=decay)
    return torch.optim.AdamW(network.parameters(), rate, weight_decay=decay, fused=True)


def _descend(
    loss: nn.Module,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Any,
    schedule: Schedule,
) -> Tensor:
    """One step of the optimiser; gives the loss, a scalar on the network's device."""
    with mixed_precision(schedule.device, schedule.precision):
        value: Tensor = loss(images, targets)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return value.detach()


def _set_learning_rate(
    optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, done: float
) -> None:
    warmup = min(1.0, (step + 1) / schedule.warmup_steps)
    if schedule.optimizer == "sgd":
        left = 0.1 ** sum(done >= milestone for milestone in SGD_MILESTONES)
    else:
        left = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = schedule.learning_rate * warmup * left


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write a temporary file and rename it, so that a kill never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _refuse_another(path: Path, written: dict[str, Any], schedule: Schedule) -> None:
    if (written["seed"], written["batch_size"]) != (schedule.seed, schedule.batch_size):
        raise InvalidData(
            f"{path} was written with another seed or batch size; remove it to start over"
        )
