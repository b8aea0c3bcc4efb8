"""Run a model of a repository on images, and measure the time and memory it takes."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import EngineFailed
from nuclei.evaluation.coco import Candidates
from nuclei.imaging.images import Frame
from nuclei.inference.contract import Contract
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import predict
from nuclei.quality.judgement import group_of


@dataclass(frozen=True, eq=False)
class TimedInference:
    """The nuclei of one image.

    Attributes:
        labels: uint32 [H, W] as the frame, 0 is background; what is served.
        candidates: for COCO's scores.
        seconds: from the frame to the labels.
        version: of the model.
        warnings: as of a `Segmentation`.
    """

    labels: NDArray[np.uint32]
    candidates: Candidates
    seconds: float
    version: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """The cost of a model; None is unknown.

    Attributes:
        parameters: number of parameters of its networks.
        training_minutes: on whatever machine it was trained.
        training_gpu_mb: peak of the GPU's memory there, megabytes.
        ms_per_image: median, from frame to labels, milliseconds.
        ms_per_megapixel: over all images together.
        memory_mb: peak memory of a process that does nothing else, megabytes.
    """

    parameters: float | None
    training_minutes: float | None
    training_gpu_mb: float | None
    ms_per_image: float
    ms_per_megapixel: float
    memory_mb: float


def timed_inference(
    repository: Path,
    model: str,
    tta: bool,
    frames: Sequence[Frame],
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[TimedInference], Cost]:
    """Segment every frame with a model, in a process of its own, on the CPU.

    Args:
        repository: folder of Triton models.
        model: name of the model.
        tta: average over the eight rotated and mirrored views.
        frames: at least one.
        advance: called after each frame.

    Raises:
        ModelNotFound, InvalidData: as `nuclei.inference.onnx_engine.LocalEngine`.
        EngineFailed: the model failed, or its process was killed.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:

        def run(frame: Frame) -> TimedInference:
            return process.submit(_infer, repository, model, tta, frame).result()

        try:
            run(frames[0])  # loads the model, which must not count
            inferences = []
            for frame in frames:
                inferences.append(run(frame))
                advance()
            memory_mb = process.submit(_peak_memory_mb).result()
            contract = process.submit(_contract, repository, model).result()
        except BrokenProcessPool as error:
            raise EngineFailed(
                f"the process that ran {model} was killed, perhaps for the memory it took; free "
                "some, or evaluate smaller images"
            ) from error
    return inferences, _cost(contract, inferences, frames, memory_mb)


def _cost(
    contract: Contract,
    inferences: Sequence[TimedInference],
    frames: Sequence[Frame],
    memory_mb: float,
) -> Cost:
    seconds = np.array([inference.seconds for inference in inferences])
    pixels = sum(frame.pixels.shape[0] * frame.pixels.shape[1] for frame in frames)
    return Cost(
        contract.training.get("parameters"),
        contract.training.get("minutes"),
        contract.training.get("gpu_memory_mb"),
        float(np.median(seconds)) * 1e3,
        float(seconds.sum()) * 1e3 / (pixels / 1e6),
        memory_mb,
    )


def _infer(repository: Path, model: str, tta: bool, frame: Frame) -> TimedInference:
    started = time.perf_counter()
    engine = _engine(repository)
    found = asyncio.run(predict(frame, engine, engine.find(model), tta=tta))
    parameters = found.served.contract.parameters[group_of(frame.pixels)]
    labels, _ = found.accumulator.label(parameters, lambda: None)
    seconds = time.perf_counter() - started
    candidates = Candidates.of(found.accumulator, parameters, frame)
    warnings = (*frame.warnings, *found.intensity.warnings)
    return TimedInference(labels, candidates, seconds, found.served.version, warnings)


def _contract(repository: Path, model: str) -> Contract:
    return _engine(repository).find(model).contract


@cache
def _engine(repository: Path) -> LocalEngine:
    return LocalEngine(repository)


def _peak_memory_mb() -> float:
    # Not getrusage, whose peak includes the time before exec, when it was the parent's.
    status = Path("/proc/self/status").read_text()
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kib) / 2**10
