"""Versions of a model that answer differently, swapped while callers notice which one answered."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.images import read_frame
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment
from nuclei.inference.routing import Routing
from serving.promotion.artifacts import digest
from serving.promotion.changes import adopt, promote, record_gates, rollback
from serving.promotion.state import Gates, read_state
from serving.registry import Registry
from serving.repository.export import export_version, set_routing
from tests.serving.callers import Answer, Callers

MODEL, FAMILY = "nuclei-unet", "unet"
MIXED = "MixedVersions"
# Every quarter of a frame tells its version from every other by at least so many pixels.
LEAST_DIFFERENCE_PX = 20


@dataclass(frozen=True)
class Swap:
    """One change of the champion.

    Attributes:
        action: `promote` or `rollback`.
        before: the champion before.
        after: the champion since.
        asked: when it was asked for, seconds of the monotonic clock.
        noted: when the registry had it.
        seen: when the first frame by it was answered.
    """

    action: str
    before: int
    after: int
    asked: float
    noted: float
    seen: float


class Foregrounds:
    """What each version finds in a frame; the judge of labels that came back."""

    def __init__(self, artifacts: Sequence[Path], frame: Path) -> None:
        """Let each version segment the frame in this process.

        Args:
            artifacts: folders of versions 1, 2 and so on.
            frame: a file, of several tiles.
        """
        self._found = {
            number: _foreground(folder, number, frame) for number, folder in enumerate(artifacts, 1)
        }
        for number, found in self._found.items():
            for other, of_other in self._found.items():
                least = min(np.count_nonzero(a != b) for a, b in _quarters(found, of_other))
                assert number == other or least >= LEAST_DIFFERENCE_PX, (number, other, int(least))

    def judge(self, version: int, labels: NDArray[Any]) -> str:
        """MIXED when a quarter of the frame is less like this version than like another one."""
        for number in range(4):
            differences = {
                other: np.count_nonzero(_quarter(found, number) != (_quarter(labels, number) > 0))
                for other, found in self._found.items()
            }
            if min(differences, key=lambda each: differences[each]) != version:
                return MIXED
        return ""


def register(registry: Registry, artifacts: Iterable[Path]) -> None:
    """Register versions that passed their gates; the first one is the champion."""
    for folder in artifacts:
        version = registry.register(MODEL, folder, {"licence": "Apache-2.0"})
        gates = Gates(verdict="passed", reason="all gates passed", digest=digest(folder))
        record_gates(registry, MODEL, version, gates)
    adopt(registry, MODEL, 1)


class Swapping:
    """Changes the champion, and waits until callers are answered by it."""

    def __init__(self, registry: Registry, callers: Callers) -> None:
        self.swaps: list[Swap] = []
        self._registry = registry
        self._callers = callers

    def promote(self, version: int, wait_s: float = 60.0) -> Swap:
        """Make a version the champion."""
        return self._swap(
            "promote", lambda: promote(self._registry, MODEL, version, why="swap"), wait_s
        )

    def rollback(self, wait_s: float = 60.0) -> Swap:
        """Go back to the champion before."""
        return self._swap("rollback", lambda: rollback(self._registry, MODEL, why="swap"), wait_s)

    def _swap(self, action: str, change: Callable[[], object], wait_s: float) -> Swap:
        before = _champion(self._registry)
        asked = time.monotonic()
        change()
        noted = time.monotonic()
        after = _champion(self._registry)
        seen = self._wait_for(after, asked, wait_s)
        self.swaps.append(Swap(action, before, after, asked, noted, seen))
        return self.swaps[-1]

    def _wait_for(self, version: int, since: float, wait_s: float) -> float:
        while True:
            answers = self._callers.answers_since(since)
            # Those sent earlier may have been on their way since the swap before.
            new = [each for each in answers if each.version == version and each.sent >= since]
            times = [each.sent + each.took_s for each in new]
            if times:
                return min(times)
            assert time.monotonic() < since + wait_s, f"version {version} never answered"
            time.sleep(0.02)


def of_wrong_version(answers: Iterable[Answer], swaps: Sequence[Swap]) -> list[Answer]:
    """Answers by a version that was not the champion, or no more: a swap is for all callers."""
    wrong = []
    for each in answers:
        if each.version:
            allowed = _champions_between(each.sent, each.sent + each.took_s, swaps)
            if each.version not in allowed:
                wrong.append(each)
    return wrong


def _champions_between(begin: float, end: float, swaps: Sequence[Swap]) -> set[int]:
    """The versions that may answer a frame that was sent and answered at these times."""
    allowed = {swaps[0].before} if swaps and begin <= swaps[0].seen else set()
    for number, swap in enumerate(swaps):
        following = swaps[number + 1] if number + 1 < len(swaps) else None
        if end >= swap.asked and (following is None or begin <= following.seen):
            allowed.add(swap.after)
    return allowed


def _champion(registry: Registry) -> int:
    champion = read_state(registry, MODEL).champion
    assert champion is not None
    return champion


def _foreground(artifacts: Path, version: int, frame: Path) -> NDArray[np.bool_]:
    with TemporaryDirectory() as folder:
        repository = Path(folder)
        export_version(artifacts, repository, version)
        set_routing(repository, FAMILY, Routing(version))
        engine = LocalEngine(repository)
        found = asyncio.run(segment(read_frame(frame), engine, engine.find(FAMILY)))
    return found.labels > 0


def _quarters(*images: NDArray[Any]) -> list[tuple[NDArray[Any], ...]]:
    return [tuple(_quarter(image, number) for image in images) for number in range(4)]


def _quarter(image: NDArray[Any], number: int) -> NDArray[Any]:
    y, x = (length // 2 for length in image.shape)
    rows = slice(None, y) if number < 2 else slice(y, None)
    columns = slice(None, x) if number % 2 == 0 else slice(x, None)
    return image[rows, columns]


def seconds_to_first_frame(swaps: Sequence[Swap]) -> Mapping[str, list[float]]:
    """From the moment it was asked for to the first frame by the new version, by action."""
    return {
        action: [swap.seen - swap.asked for swap in swaps if swap.action == action]
        for action in ("promote", "rollback")
    }
