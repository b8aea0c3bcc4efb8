"""The processes of a training: one, or as many as torchrun started, each on a GPU of its own.

All have the same network, and equal shares of each batch of crops. DistributedDataParallel (Li et
al. 2020) averages their gradients, so that a step is that of one process with the whole batch.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from nuclei.errors import InvalidData, InvalidOption, MissingPrerequisite, TrainingInterrupted
from training.schedule import Schedule
from training.stop import Stop

# What torchrun tells each process.
N_PROCESSES, NUMBER = "WORLD_SIZE", "RANK"
N_PROCESSES_HERE, NUMBER_HERE = "LOCAL_WORLD_SIZE", "LOCAL_RANK"
# While the first process validates, the others wait. One that died closes its connections.
LONGEST_WAIT = timedelta(days=1)

T = TypeVar("T")


@dataclass(frozen=True)
class Rank:
    """One process of a training, and what it does together with the others.

    Every process has to call each method that says so, in the same order.

    Attributes:
        number: 0 leads: it alone validates, writes files, logs and shows progress.
        size: the number of processes.
        stop: whether this one was told to stop.
        group: of all processes, on the CPU, so that a message waits for no GPU; None if alone.
    """

    number: int = 0
    size: int = 1
    stop: Stop = field(default_factory=Stop)
    group: Any = None

    @property
    def leads(self) -> bool:
        return self.number == 0

    def joint_norms(self, network: nn.Module) -> nn.Module:
        """The network, whose batch statistics are those of the whole batch, on GPUs.

        On CPUs, for which torch has no such layer, they are those of the process's share.
        """
        on_gpu = next(network.parameters()).device.type == "cuda"
        if self.size == 1 or not on_gpu:
            return network
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(network))

    def joint_gradients(self, loss: nn.Module, uses_all: bool) -> nn.Module:
        """A module that gives a loss, whose gradients become the mean over all processes.

        All have to call it; its parameters become those of the first.

        Args:
            loss: with all parameters.
            uses_all: every parameter takes part in every step.
        """
        if self.size == 1:
            return loss
        return DistributedDataParallel(loss, find_unused_parameters=not uses_all)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, each of which has to call this; on the CPU."""
        values = values.detach().cpu()
        if self.size > 1:
            distributed.all_reduce(values, group=self.group)
        return values / self.size

    def largest(self, *values: float) -> list[float]:
        """The largest of each value over all processes, each of which has to call this."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(found, distributed.ReduceOp.MAX, group=self.group)
        return found.tolist()

    def of_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, on all of them; each has to call this, and waits for it."""
        if self.size == 1:
            return make()
        made = [make() if self.leads else None]
        distributed.broadcast_object_list(made, src=0, group=self.group)
        return cast(T, made[0])

    def first_alone(self, make: Callable[[], T]) -> T:
        """What each process makes for itself, once the first has, which may leave what they find.

        Each has to call this, and the others wait for the first.
        """
        if self.leads:
            made = make()
            self.of_first(lambda: None)
            return made
        self.of_first(lambda: None)
        return make()

    def check_same(self, what: str, value: object) -> None:
        """Raise InvalidData on all processes, each of which has to call this, if values differ.

        Args:
            what: the values are.
            value: of this process.
        """
        if self.size == 1:
            return
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value, group=self.group)
        others = [str(number) for number, other in enumerate(values) if other != values[0]]
        if others:
            raise InvalidData(
                f"{what} of process {', '.join(others)} are not those of process 0; start all "
                "processes with the same command, where they find the same images and folder"
            )

    def part(self) -> None:
        """Leave the other processes, each of which has to call this: nothing is done together."""
        if self.size > 1:
            distributed.destroy_process_group()


ALONE = Rank()


@contextmanager
def joined(schedule: Schedule) -> Iterator[Rank]:
    """This process as one of its training; SIGTERM ends it as `training.stop` says.

    Raises:
        InvalidOption: the batch cannot be shared equally.
        MissingPrerequisite: there are more processes than GPUs.
        TrainingInterrupted: it was told to stop, or another process ended; resume the training.
    """
    size = n_processes()
    number = int(os.environ.get(NUMBER, "0"))
    _check_share(schedule, size)
    with Stop.listening() as stop:
        if size == 1:
            yield Rank(stop=stop)
            return
        try:
            yield Rank(number, size, stop, _connected(schedule.device))
        except RuntimeError as error:
            if not _is_lost_connection(error):
                raise
            raise TrainingInterrupted(
                f"process {number} of {size} ends, because another one did, whose message says "
                "why; continue the training with --resume"
            ) from error


def n_processes() -> int:
    """How many processes torchrun has started for this training; 1 without torchrun."""
    return int(os.environ.get(N_PROCESSES, "1"))


def _check_share(schedule: Schedule, size: int) -> None:
    if schedule.batch_size % size:
        fitting = -(-schedule.batch_size // size) * size
        raise InvalidOption(
            f"a batch of {schedule.batch_size} crops cannot be shared equally by {size} processes; "
            f"expected a multiple of {size}, such as --batch-size {fitting}"
        )
    if schedule.device != "cuda":
        return
    here, n_gpus = int(os.environ.get(NUMBER_HERE, "0")), torch.cuda.device_count()
    if size > 1 and here >= n_gpus:
        raise MissingPrerequisite(
            f"torchrun has started {os.environ.get(N_PROCESSES_HERE, here + 1)} processes on this "
            f"machine, where torch finds {n_gpus} GPUs; expected one for each: give torchrun "
            "--nproc-per-node=gpu, or nuclei --device cpu"
        )


def _connected(device: str) -> Any:
    """Find the other processes; gives the group for messages."""
    if device == "cuda":
        gpu = torch.device(device, int(os.environ[NUMBER_HERE]))
        torch.cuda.set_device(gpu)
        distributed.init_process_group("nccl", device_id=gpu)
    else:
        distributed.init_process_group("gloo")
    return distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def _is_lost_connection(error: RuntimeError) -> bool:
    # Gloo's errors have no class of their own, but all name its source file.
    return isinstance(error, distributed.DistError) or "/gloo/" in str(error)
