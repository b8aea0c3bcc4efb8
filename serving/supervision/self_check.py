"""A real frame through the whole service, with every model."""

import time
from dataclasses import dataclass
from pathlib import Path

from nuclei.client import Client
from nuclei.errors import EngineUnavailable, InvalidData, InvalidImage, Overloaded
from nuclei.results.segmentation import Segmentation

_RETRY_S = 1.0


@dataclass(frozen=True)
class SelfCheck:
    """What the check gave for one model.

    Attributes:
        frame: the frame that was segmented.
        segmentation: what came back.
        latency_ms: time of a request once the model is warm, milliseconds.
    """

    frame: Path
    segmentation: Segmentation
    latency_ms: float


def self_check(client: Client, frame: Path, timeout_s: float) -> list[SelfCheck]:
    """Segment a frame with every model through the gateway, over gRPC; the default model first.

    After a failure, callers may keep the gateway busy, and Triton may end once more: it waits.

    Args:
        client: of the gateway.
        frame: image file with nuclei.
        timeout_s: most time for each frame, seconds.

    Raises:
        InvalidImage: the frame cannot be read.
        InvalidData: the default model finds nothing in it.
        NucleiError: what the gateway answers.
    """
    if not frame.is_file():
        raise InvalidImage(f"the frame for the self-check is missing: {frame}")
    info = client.server_info()
    others = sorted({model.name for model in info.models} - {info.default_model})
    checks = [_check(client, frame, name, timeout_s) for name in (info.default_model, *others)]
    if not len(checks[0].segmentation.nuclei):
        raise InvalidData(
            f"{info.default_model} finds no nucleus in {frame}; export another version of it, or "
            "name a frame of the modality that it was trained for: NUCLEI_CHECK_FRAME=..."
        )
    return checks


def _check(client: Client, frame: Path, model: str, timeout_s: float) -> SelfCheck:
    # The first request may wait for what a model does once.
    _segment(client, frame, model, timeout_s)
    segmentation, seconds = _segment(client, frame, model, timeout_s)
    return SelfCheck(frame, segmentation, seconds * 1000)


def _segment(
    client: Client, frame: Path, model: str, timeout_s: float
) -> tuple[Segmentation, float]:
    """What comes back, and how long the request took that brought it, seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        started = time.monotonic()
        try:
            segmentation = client.segment(frame, model=model, timeout_s=deadline - started)
        except (EngineUnavailable, Overloaded) as error:
            # Who waits longer than other callers is never let in between them.
            pause = error.retry_after_s if isinstance(error, Overloaded) else _RETRY_S
            if time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
        else:
            return segmentation, time.monotonic() - started
