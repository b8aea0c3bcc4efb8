"""The training loop: crops to weights, with checkpoints that a killed run resumes from."""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress as Bar
from rich.progress import TextColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nuclei.errors import InvalidData
from training.data.dataset import Sample
from training.data.sampling import CountingSampler, CropDataset
from training.families.networks import AveragedWeights
from training.schedule import Schedule


class Learner(Protocol):
    """A network, what it learns of a crop, and how far from that it is. To be pickled.

    Attributes:
        same_kernels: `loss_of` calls the network once with the images, whose answer takes the same
            kernels at every step, so that a GPU may replay them.
    """

    @property
    def same_kernels(self) -> bool: ...

    def build(self) -> nn.Module:
        """The network with random weights."""
        ...

    def targets(self, labels: NDArray[np.uint16]) -> Any:
        """What the network is to answer for a crop, from its label image uint16 [S, S].

        A crop is continued by reflection where its image ends, so parts of a label may lie apart.
        """
        ...

    def loss_of(self, network: nn.Module, images: Tensor, targets: Any) -> Tensor:
        """How far from its targets a network is, a scalar.

        Args:
            network: in training mode.
            images: float32 [N, 3, S, S] in [0, 1], on the network's device.
            targets: of the N crops, stacked where they are tensors, else a list; on the CPU.
        """
        ...


Validate = Callable[[nn.Module], dict[str, float]]
Report = Callable[[int, dict[str, float]], None]
SCORE = "val_dsb_score"
BEST_FILE = "best.pt"
FINISHED_FILE = "finished.json"
NOTED_EVERY = 20
MOST_STEPS = 2**31
# Parts of the steps after which the rate falls tenfold: Detectron2's schedules.
SGD_MILESTONES = (2 / 3, 8 / 9)


@dataclass
class Progress:
    """Where a run stands; all of it is in the checkpoint, and in a file when it is finished."""

    step: int = 0
    best_score: float = -1.0
    best_step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    learner: Learner,
    samples: Sequence[Sample],
    schedule: Schedule,
    checkpoint: Path,
    validate: Validate | None,
    report: Report,
) -> tuple[nn.Module, Progress]:
    """Train a network, resuming from `checkpoint` where it exists.

    Args:
        learner: the network and its loss.
        samples: training images with labels.
        schedule: how to train.
        checkpoint: file written at each validation; the best averaged weights go beside it, and at
            the end the progress, which then is all that is needed besides.
        validate: scores of the averaged network; `val_dsb_score` selects the best. None takes the
            last.
        report: called with (step, metrics) at each validation.

    Returns:
        The averaged network with the best validation score, on the CPU, and the progress.

    Raises:
        InvalidData: the checkpoint belongs to another schedule or network.
    """
    folder = checkpoint.parent
    finished = folder / FINISHED_FILE
    if finished.exists():
        _refuse_another(finished, json.loads(finished.read_text())["schedule"], schedule)
        return best_network(learner, folder), finished_progress(folder)
    torch.manual_seed(schedule.seed)
    device = torch.device(schedule.device)
    network, average = (_placed(learner.build(), device) for _ in range(2))
    averaged = AveragedWeights(network, average, schedule.average_decay)
    optimizer = _optimizer(network, schedule)
    progress = _resume(checkpoint, network, averaged, optimizer, schedule)
    started = None
    losses: list[Tensor] = []
    network.train()
    if learner.same_kernels and schedule.device == "cuda":
        _let_replay(network, schedule)
    with _bar() as bar:
        task = bar.add_task("training", total=1.0, note="")
        for images, targets in _crops(learner, samples, schedule, progress.step):
            if started is None:
                # Not before: those who make the crops have to start.
                started = time.monotonic() - progress.seconds
            done = _done(schedule, progress)
            _set_learning_rate(optimizer, schedule, progress.step, done)
            images = images.to(device, non_blocking=True)
            images = images.contiguous(memory_format=torch.channels_last)
            losses.append(_step(learner, network, optimizer, images, targets, schedule))
            progress.step += 1
            averaged.update(progress.step)
            progress.seconds = time.monotonic() - started
            done = _done(schedule, progress)
            if progress.step % NOTED_EVERY == 0:
                # Looking at a loss waits for the GPU.
                note = f"step {progress.step}  loss {_mean(losses[-50:]):.3f}"
                best_score = f"  best score {progress.best_score:.3f}" if validate else ""
                bar.update(task, completed=done, note=note + best_score)
            if progress.step % schedule.validate_every and done < 1:
                continue
            scores = {"train_loss": _mean(losses)}
            if validate:
                scores |= validate(averaged.network)
            losses.clear()
            progress.seconds = time.monotonic() - started
            progress.history.append({"step": progress.step, **scores})
            report(progress.step, scores)
            shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
            bar.console.print(f"step {progress.step}: {shown}", highlight=False)
            if not validate or scores[SCORE] > progress.best_score:
                progress.best_score, progress.best_step = scores.get(SCORE, 0.0), progress.step
                _save(folder / BEST_FILE, averaged.network.state_dict())
            _save_checkpoint(checkpoint, network, averaged, optimizer, schedule, progress)
            stale = progress.step - progress.best_step
            if done >= 1 or stale >= schedule.patience * schedule.validate_every:
                break
    finish(folder, progress, schedule)
    return best_network(learner, folder), progress


def finish(folder: Path, progress: Progress, schedule: Schedule) -> None:
    """Note in a training's folder, beside its best weights, that it is finished."""
    state = {"progress": asdict(progress), "schedule": asdict(schedule)}
    (folder / FINISHED_FILE).write_text(json.dumps(state))


def best_network(learner: Learner, folder: Path) -> nn.Module:
    """The best network of the training in a folder, in evaluation mode, on the CPU.

    Raises:
        InvalidData: it has none yet, or of another network.
    """
    network = learner.build()
    try:
        weights = torch.load(folder / BEST_FILE, map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
    except OSError as error:
        raise InvalidData(
            f"{folder} holds no weights yet ({error.strerror}); let its training go on"
        ) from error
    except RuntimeError as error:
        raise InvalidData(f"{folder} holds the weights of another network ({error})") from error
    return network.eval()


def finished_progress(folder: Path) -> Progress:
    """What the training in a folder took.

    Raises:
        InvalidData: it is not finished.
    """
    try:
        return Progress(**json.loads((folder / FINISHED_FILE).read_text())["progress"])
    except OSError as error:
        raise InvalidData(
            f"the training in {folder} is not finished ({error.strerror}); let it go on"
        ) from error


def _done(schedule: Schedule, progress: Progress) -> float:
    """The part of a training that is over."""
    if schedule.minutes is not None:
        return min(1.0, progress.seconds / 60 / schedule.minutes)
    return progress.step / schedule.steps


def _mean(losses: Sequence[Tensor]) -> float:
    return float(torch.stack(list(losses)).mean())


def _let_replay(network: nn.Module, schedule: Schedule) -> None:
    """Record what a network does to a batch, forth and back, and let it replay that.

    Launching its thousand small kernels one by one takes longer than running them.
    """
    torch.backends.cudnn.benchmark = True
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shape = (schedule.batch_size, 3, schedule.crop_px, schedule.crop_px)
    images = torch.rand(shape, device=schedule.device).to(memory_format=torch.channels_last)
    with torch.autocast(
        schedule.device, torch.bfloat16, schedule.precision == "bf16", cache_enabled=False
    ):
        torch.cuda.make_graphed_callables(network, (images,), allow_unused_input=True)
    # The noise is in the batch statistics by now.
    network.load_state_dict(before)


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    # Channels last is what makes bf16 fast on a CPU: 0.65 s against 1.9 s per step of a ResNet-18.
    return network.to(device).to(memory_format=torch.channels_last)


def _bar() -> Bar:
    return Bar(*Bar.get_default_columns(), TextColumn("{task.fields[note]}"))


def _crops(
    learner: Learner, samples: Sequence[Sample], schedule: Schedule, first_step: int
) -> DataLoader[tuple[Tensor, Any]]:
    dataset = CropDataset(
        samples,
        learner.targets,
        schedule.crop_px,
        schedule.augmentation,
        schedule.seed,
        schedule.balanced,
    )
    n_steps = schedule.steps if schedule.minutes is None else MOST_STEPS
    sampler = CountingSampler(first_step * schedule.batch_size, n_steps * schedule.batch_size)
    return DataLoader(
        dataset,
        schedule.batch_size,
        sampler=sampler,
        collate_fn=_collated,
        num_workers=schedule.workers,
        worker_init_fn=_one_thread,
        # A forked worker inherits OpenCV's thread pool without its threads and waits for ever.
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


def _step(
    learner: Learner,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Any,
    schedule: Schedule,
) -> Tensor:
    with mixed_precision(schedule.device, schedule.precision):
        value = learner.loss_of(network, images, targets)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return value.detach()


def mixed_precision(device: str, precision: str) -> AbstractContextManager[Any]:
    """The context a network runs in: `bf16` where that loses nothing, or `fp32`.

    A CPU that cannot compute in bf16 gets float32 for it, which is sixty times quicker there.
    """
    if precision == "bf16" and (device != "cpu" or _computes_in_bf16()):
        return torch.autocast(device, torch.bfloat16)
    return nullcontext()


def _computes_in_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


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


def _save_checkpoint(
    path: Path,
    network: nn.Module,
    averaged: AveragedWeights,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    progress: Progress,
) -> None:
    state = {
        "network": network.state_dict(),
        "averaged": averaged.network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": asdict(schedule),
        "progress": asdict(progress),
    }
    _save(path, state)


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write beside and move in, so that a kill never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _resume(
    path: Path,
    network: nn.Module,
    averaged: AveragedWeights,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
) -> Progress:
    if not path.exists():
        return Progress()
    state = torch.load(path, map_location=schedule.device, weights_only=True)
    _refuse_another(path, state["schedule"], schedule)
    try:
        network.load_state_dict(state["network"])
        averaged.network.load_state_dict(state["averaged"])
    except RuntimeError as error:
        raise InvalidData(
            f"{path} belongs to another network; remove it to start anew, or give its encoder"
        ) from error
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def _refuse_another(path: Path, written: dict[str, Any], schedule: Schedule) -> None:
    if (written["seed"], written["batch_size"]) != (schedule.seed, schedule.batch_size):
        raise InvalidData(
            f"{path} was written with another seed or batch size; remove it to start anew"
        )
