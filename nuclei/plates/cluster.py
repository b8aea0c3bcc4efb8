"""The units of a run on a Dask cluster: one that is there, or processes of this machine.

Workers read the same files, at the same paths. They write nothing: what they make comes back, and
is written and noted by the run's own process alone, so a worker that is killed leaves nothing, and
what it was doing is done by another.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import lru_cache
from typing import Any

from nuclei.errors import (
    EngineUnavailable,
    InternalError,
    InvalidOption,
    MissingPrerequisite,
    NucleiError,
)
from nuclei.plates.run import Runner
from nuclei.plates.work import Outcome, Segmenter, Unit, failed, perform
from nuclei.quoting import quoted, sentence

OpenSegmenter = Callable[[int], AbstractContextManager[Segmenter]]
"""Opens what segments frames, on so many threads; it is sent to the workers, and equal ones are
opened once in each."""

LOCAL = "local"
# Units that wait at the workers for each that is in work: enough that none is idle.
AHEAD = 2
# Without any worker for so long, the run ends, to be resumed.
PATIENCE_S = 300.0
LOOK_S = 5.0


@contextmanager
def on_cluster(address: str, open_segmenter: OpenSegmenter, most: int | None) -> Iterator[Runner]:
    """Does units on a cluster.

    Args:
        address: of its scheduler, as `tcp://host:8786`; `local` or `local:N` for N processes of
            this machine, without N as many as Dask makes.
        open_segmenter: called once in each process of the cluster, with the threads of its worker.
        most: frames that the gateways take at a time, so that they are never overrun; None without
            gateways.

    Raises:
        InvalidOption: the address cannot be one.
        EngineUnavailable: there is no scheduler.
        MissingPrerequisite: Dask is not installed.
    """
    try:
        from dask import config
        from distributed import Client
    except ModuleNotFoundError:
        raise MissingPrerequisite(
            "--dask needs Dask, which is not installed: run `pip install 'nuclei-serving[dask]'`, "
            "here and where the workers run"
        ) from None
    with ExitStack() as stack:
        # A unit that kills three workers is given up.
        stack.enter_context(config.set({"distributed.scheduler.allowed-failures": 3}))
        at = address
        if address.partition(":")[0] == LOCAL:
            at = stack.enter_context(_local(address))
        try:
            client = stack.enter_context(Client(at, set_as_default=False))
        except (OSError, ValueError) as error:
            raise EngineUnavailable(
                f"there is no Dask scheduler at {address}: {error}; start one, or give --dask "
                f"{LOCAL}"
            ) from error
        yield lambda units: _outcomes(client, units, open_segmenter, most)


def _local(address: str) -> Any:
    from distributed import LocalCluster

    count = address.removeprefix(LOCAL).removeprefix(":")
    if count and not (count.isdecimal() and 0 < int(count) < 1000):
        raise InvalidOption(
            f"--dask is {quoted(address)}; expected {LOCAL}, {LOCAL}:2 for two processes, or the "
            "address of a scheduler such as tcp://host:8786"
        )
    return LocalCluster(
        n_workers=int(count) if count else None,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        silence_logs=logging.ERROR,
    )


def _outcomes(
    client: Any, units: Iterator[Unit], open_segmenter: OpenSegmenter, most: int | None
) -> Iterator[tuple[Unit, Outcome]]:
    """Hand units out as they are done; what they made comes in their order."""
    pending: deque[tuple[Unit, Any]] = deque()
    try:
        for unit in units:
            while len(pending) >= _room(client, most):
                yield _next(client, pending)
            # pure=False: a frame is done again where a file has changed.
            pending.append((unit, client.submit(_perform, unit, open_segmenter, pure=False)))
        while pending:
            yield _next(client, pending)
    finally:
        client.cancel([future for _, future in pending], force=True)


def _room(client: Any, most: int | None) -> int:
    """How many units may be at the workers."""
    threads = sum(map(int, client.nthreads().values()))
    room = max(1, AHEAD * threads)
    return room if most is None else min(room, most)


def _next(client: Any, pending: deque[tuple[Unit, Any]]) -> tuple[Unit, Outcome]:
    from distributed.scheduler import KilledWorker

    unit, future = pending.popleft()
    alone_since = None
    while True:
        try:
            return unit, future.result(timeout=LOOK_S)
        except KilledWorker:
            return unit, failed(
                unit.task,
                InternalError(
                    f"{unit.task.title}: the workers that had it were killed, one after the other; "
                    "they may lack memory"
                ),
            )
        except NucleiError:
            raise
        except TimeoutError as error:
            now = time.monotonic()
            alone_since = None if client.nthreads() else (alone_since or now)
            if alone_since is not None and now - alone_since > PATIENCE_S:
                raise EngineUnavailable(
                    "the Dask cluster has no workers any more; start some, and the same command "
                    "goes on"
                ) from error
        except Exception as error:  # of Dask, of the network, or of other versions there
            raise EngineUnavailable(
                f"the Dask cluster cannot go on ({sentence(error)}); expected a scheduler that "
                "stays, and the packages of this machine where the workers run"
            ) from error


def _perform(unit: Unit, open_segmenter: OpenSegmenter) -> Outcome:
    _, segmenter = _kept_open(open_segmenter)
    return perform(unit, segmenter).whole()


@lru_cache(maxsize=1)
def _kept_open(
    open_segmenter: OpenSegmenter,
) -> tuple[AbstractContextManager[Segmenter], Segmenter]:
    """What segments frames in this process, open as long as that lives."""
    from distributed import get_worker

    opening = open_segmenter(get_worker().state.nthreads)
    return opening, opening.__enter__()
