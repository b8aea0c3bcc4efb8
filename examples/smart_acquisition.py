"""Smart acquisition with pymmcore-plus: scan a grid, then return to where most nuclei are.

    nuclei serve                                        (in another terminal)
    python examples/smart_acquisition.py --grid 4 --best 3

Needs `pip install pymmcore-plus` and Micro-Manager's device adapters (`mmcore install`). Without
--config it runs on Micro-Manager's demo camera, whose beads stand for nuclei.

Each frame goes from pymmcore-plus's `frameReady` signal to the gateway over one stream. The
signal's handler only puts it into a queue, so the acquisition never waits for a result; results
decide what is acquired next, while it runs.
"""

import argparse
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import useq
from pymmcore_plus import CMMCorePlus

from nuclei.client import Client, FrameIndex, Outcome, StagePosition, StreamFrame

STEP_UM = 400.0


class LiveSegmentation:
    """The frames of the acquisition that runs, segmented as they come.

    >>> with LiveSegmentation(core, client) as live:
    ...     core.run_mda(events)
    ...     for outcome in live.outcomes():
    ...         print(outcome.index, outcome.segmentation)
    """

    def __init__(self, core: CMMCorePlus, client: Client) -> None:
        self._core = core
        self._client = client
        # Never full: the microscope is not to wait. Frames wait here while the server is busy.
        self._frames: queue.SimpleQueue[StreamFrame | None] = queue.SimpleQueue()

    def __enter__(self) -> "LiveSegmentation":
        self._core.mda.events.frameReady.connect(self._take)
        self._core.mda.events.sequenceFinished.connect(self._end)
        return self

    def __exit__(self, *exception: object) -> None:
        self._core.mda.events.frameReady.disconnect(self._take)
        self._core.mda.events.sequenceFinished.disconnect(self._end)
        self._end()

    def outcomes(self, **options: Any) -> Iterator[Outcome]:
        """What became of each frame, until the acquisition has ended.

        Args:
            options: of `Client.stream`.
        """
        return self._client.stream(iter(self._frames.get, None), **options)

    def _take(self, image: np.ndarray, event: useq.MDAEvent, *metadata: object) -> None:
        x_um = self._core.getXPosition() if event.x_pos is None else event.x_pos
        y_um = self._core.getYPosition() if event.y_pos is None else event.y_pos
        place = StagePosition(x_um, y_um, event.z_pos)
        index = FrameIndex(
            acquisition_uid=str(event.sequence.uid) if event.sequence else "",
            position=event.index.get("p", 0),
            t=event.index.get("t", 0),
            c=event.index.get("c", 0),
            z=event.index.get("z", 0),
        )
        to_stage = pixel_to_stage(self._core.getPixelSizeAffine(), place, image.shape)
        self._frames.put(StreamFrame(image, index, place, pixel_to_stage=to_stage))

    def _end(self, *sequence: object) -> None:
        self._frames.put(None)


@dataclass(frozen=True)
class Visit:
    """One frame and its nuclei.

    Attributes:
        index: its place in the acquisition; t is 0 in the scan, then the number of the return.
        stage_um: (x, y) of the frame's centre, micrometres.
        count: nuclei; None when the frame failed.
        centroids_um: float64 [count, 2] of (x, y) on the stage, micrometres.
    """

    index: FrameIndex
    stage_um: tuple[float, float]
    count: int | None
    centroids_um: np.ndarray


def pixel_to_stage(
    affine: tuple[float, ...], centre: StagePosition, shape: tuple[int, ...]
) -> np.ndarray:
    """Micro-Manager's pixel affine, moved so that the frame's centre is where the stage stood.

    Args:
        affine: six numbers, row by row, micrometres per pixel.
        centre: of the frame.
        shape: of the image, (height, width).

    Returns:
        float64 [2, 3], maps (x, y, 1) in pixels to (x, y) in stage micrometres.
    """
    linear = np.array(affine).reshape(2, 3)[:, :2]
    middle_px = np.array([shape[1] - 1, shape[0] - 1]) / 2
    offset = np.array([centre.x_um, centre.y_um]) - linear @ middle_px
    return np.column_stack([linear, offset])


def grid(side: int, step_um: float) -> list[useq.MDAEvent]:
    """A scan of side x side positions, row by row."""
    return [
        useq.MDAEvent(
            index={"p": row * side + column, "t": 0}, x_pos=column * step_um, y_pos=row * step_um
        )
        for row in range(side)
        for column in range(side)
    ]


def acquire(
    core: CMMCorePlus, client: Client, scan: list[useq.MDAEvent], n_best: int, returns: int
) -> Iterator[Visit]:
    """Scan, then return to the positions with most nuclei.

    Args:
        core: the microscope.
        client: of the gateway.
        scan: one event for each position.
        n_best: to how many positions to return.
        returns: how often.
    """
    events: queue.SimpleQueue[useq.MDAEvent | None] = queue.SimpleQueue()
    for event in scan:
        events.put(event)
    counts: dict[int, int] = {}
    with LiveSegmentation(core, client) as live:
        running = core.run_mda(iter(events.get, None))
        try:
            for outcome in live.outcomes(outputs=["centroids"]):
                visit = _visit(outcome)
                yield visit
                if visit.index.t == 0:
                    counts[visit.index.position] = visit.count or 0
                    if len(counts) == len(scan):
                        for event in _best(scan, counts, n_best, returns):
                            events.put(event)
                        events.put(None)
        finally:
            core.mda.cancel()
            events.put(None)
            running.join()


def _visit(outcome: Outcome) -> Visit:
    assert outcome.index is not None
    assert outcome.stage_position is not None
    found, place = outcome.segmentation, outcome.stage_position
    centroids = None if found is None else found.centroids_stage_um
    return Visit(
        outcome.index,
        (place.x_um, place.y_um),
        None if found is None else len(found.nuclei),
        np.zeros((0, 2)) if centroids is None else centroids,
    )


def _best(
    scan: list[useq.MDAEvent], counts: dict[int, int], n_best: int, returns: int
) -> Iterator[useq.MDAEvent]:
    best = sorted(scan, key=lambda event: -counts[event.index["p"]])[:n_best]
    for t in range(1, returns + 1):
        for event in best:
            yield event.replace(index={**event.index, "t": t})


def open_microscope(config: str | None) -> CMMCorePlus:
    """The microscope of a Micro-Manager configuration; None is the demo, with beads."""
    core = CMMCorePlus()
    if config is not None:
        core.loadSystemConfiguration(config)
        return core
    core.loadSystemConfiguration()
    camera = core.getCameraDevice()
    core.setProperty(camera, "Mode", "Fluorescent Beads")
    core.setProperty(camera, "BeadSize", "6")
    return core


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--address", default="localhost:50051", help="the gateway's gRPC server")
    parser.add_argument("--config", help="Micro-Manager configuration; absent: the demo")
    parser.add_argument("--grid", type=int, default=3, help="positions per side of the scan")
    parser.add_argument("--best", type=int, default=2, help="to how many positions to return")
    parser.add_argument("--returns", type=int, default=2, help="how often")
    given = parser.parse_args()
    core = open_microscope(given.config)
    with Client(given.address) as client:
        for visit in acquire(core, client, grid(given.grid, STEP_UM), given.best, given.returns):
            x_um, y_um = visit.stage_um
            found = "failed" if visit.count is None else f"{visit.count} nuclei"
            print(
                f"t={visit.index.t} position {visit.index.position} "
                f"({x_um:.0f}, {y_um:.0f}) um: {found}"
            )


if __name__ == "__main__":
    main()
