"""Smart acquisition with pymmcore-plus: scan a grid, then return to what is worth a closer look.

    nuclei serve                                        (in another terminal)
    python examples/smart_acquisition.py --grid 4 --best 3
    python examples/smart_acquisition.py --find "area_um2 > 180 and eccentricity < 0.4" \\
        --scan-objective 10X --objective 40X

The first returns to the positions with most nuclei. The second finds rare nuclei by their features
(docs/client.md lists them) and returns to each, in the middle of the frame, with another objective.

Needs `pip install pymmcore-plus pandas` and Micro-Manager's device adapters (`mmcore install`).
Without --config it runs on Micro-Manager's demo camera, whose beads stand for nuclei.

Each frame goes from pymmcore-plus's `frameReady` signal to the gateway over one stream. The
signal's handler only puts it into a queue, so the acquisition never waits for a result; results
decide what is acquired next, while it runs.
"""

import argparse
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import useq
from pymmcore_plus import CMMCorePlus

from nuclei.client import Client, FrameIndex, Outcome, StagePosition, StreamFrame
from nuclei.errors import InvalidOption, NucleiError
from nuclei.results.segmentation import Segmentation

STEP_UM = 400.0
# The group of Micro-Manager's configuration whose presets are the objectives.
OBJECTIVES = "Objective"
FEATURES = ("centroids", "boxes", "features")
# Of the table of nuclei.
COLUMNS = (
    *("area_px", "area_um2", "eccentricity"),
    *("intensity_mean", "score", "stage_x_um", "stage_y_um"),
)


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
        to_stage = pixel_to_stage(pixel_affine(self._core), place, image.shape)
        self._frames.put(StreamFrame(image, index, place, pixel_to_stage=to_stage))

    def _end(self, *sequence: object) -> None:
        self._frames.put(None)


@dataclass(frozen=True, eq=False)
class Visit:
    """One frame and its nuclei.

    Attributes:
        index: its place in the acquisition; t is 0 in the scan, then the number of the return.
        stage_um: (x, y) of the frame's centre, micrometres.
        pixel_size_um: of the objective that was in; None when the frame failed.
        nuclei: a row for each, as `features`; None when the frame failed.
    """

    index: FrameIndex
    stage_um: tuple[float, float]
    pixel_size_um: float | None
    nuclei: pd.DataFrame | None


Choice = Callable[[Sequence[Visit]], Iterable[useq.MDAEvent]]


def pixel_affine(core: CMMCorePlus) -> tuple[float, ...]:
    """Six numbers, row by row, micrometres per pixel of the objective that is in.

    A configuration may give a size alone: then Micro-Manager's affine says nothing.
    """
    affine = tuple(core.getPixelSizeAffine())
    if affine == (1, 0, 0, 0, 1, 0):
        size_um = core.getPixelSizeUm()
        return size_um, 0, 0, 0, size_um, 0
    return affine


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


def grid(side: int, step_um: float, objective: str | None = None) -> list[useq.MDAEvent]:
    """A scan of side x side positions, row by row; with an objective, or the one that is in."""
    plan = useq.GridRowsColumns(
        rows=side, columns=side, fov_width=step_um, fov_height=step_um, mode="row_wise"
    )
    sequence = useq.MDASequence(grid_plan=plan, channels=_through(objective))
    return [event.replace(index={"p": number, "t": 0}) for number, event in enumerate(sequence)]


def most_nuclei(visits: Sequence[Visit], n_best: int, returns: int) -> Iterator[useq.MDAEvent]:
    """Go back, as often as `returns` says, to the positions with most nuclei."""
    seen = [visit for visit in visits if visit.nuclei is not None]
    best = sorted(seen, key=lambda visit: -len(visit.nuclei))[:n_best]
    for t in range(1, returns + 1):
        for visit in best:
            x_um, y_um = visit.stage_um
            index = {"p": visit.index.position, "t": t}
            yield useq.MDAEvent(index=index, x_pos=x_um, y_pos=y_um)


def rare_nuclei(
    visits: Sequence[Visit], query: str, n_most: int, objective: str | None
) -> Iterator[useq.MDAEvent]:
    """Go to the nuclei that a query finds, each in the middle of a frame.

    Args:
        visits: of the scan.
        query: of `pandas.DataFrame.query`, such as "area_um2 > 180 and eccentricity < 0.4".
        n_most: how many at most, those with the best score.
        objective: a preset of the group OBJECTIVES; None for the one that is in.

    Raises:
        InvalidOption: the query is none, or names what the nuclei do not have.
    """
    found = [matching(visit.nuclei, query) for visit in visits if visit.nuclei is not None]
    rare = distinct(pd.concat(found), n_most) if found else pd.DataFrame()
    if rare.empty:
        return
    places = [
        useq.Position(x=nucleus.stage_x_um, y=nucleus.stage_y_um) for nucleus in rare.itertuples()
    ]
    for event in useq.MDASequence(stage_positions=places, channels=_through(objective)):
        yield event.replace(index={**event.index, "t": 1})


def matching(nuclei: pd.DataFrame, query: str) -> pd.DataFrame:
    """The nuclei that a query finds; raises InvalidOption as `rare_nuclei`."""
    try:
        return nuclei.query(query)
    except (KeyError, NameError, SyntaxError, TypeError, ValueError) as error:
        raise InvalidOption(
            f"--find cannot be used: {error}; expected a comparison of {', '.join(nuclei)}"
        ) from error


def distinct(nuclei: pd.DataFrame, n_most: int) -> pd.DataFrame:
    """Those with the best score; one that two frames show, which overlap, is taken once."""
    kept: list[int] = []
    ordered = nuclei.sort_values("score", ascending=False, ignore_index=True)
    places = ordered[["stage_x_um", "stage_y_um"]].to_numpy()
    radii_um = np.sqrt(ordered["area_um2"] / np.pi)
    for row in range(len(ordered)):
        if len(kept) == n_most:
            break
        apart_um = np.hypot(*(places[kept] - places[row]).T)
        if (apart_um > radii_um[row]).all():
            kept.append(row)
    return ordered.loc[kept]


def _through(objective: str | None) -> list[dict[str, str]]:
    return [] if objective is None else [{"group": OBJECTIVES, "config": objective}]


def acquire(
    core: CMMCorePlus, client: Client, scan: Sequence[useq.MDAEvent], choose: Choice
) -> Iterator[Visit]:
    """Scan, then go where the results say.

    Args:
        core: the microscope.
        client: of the gateway.
        scan: one event for each position.
        choose: makes the events that follow of what was found in the scan.
    """
    events: queue.SimpleQueue[useq.MDAEvent | None] = queue.SimpleQueue()
    for event in scan:
        events.put(event)
    scanned: list[Visit] = []
    with LiveSegmentation(core, client) as live:
        running = core.run_mda(iter(events.get, None))
        try:
            for outcome in live.outcomes(outputs=FEATURES):
                visit = _visit(outcome)
                yield visit
                if visit.index.t == 0:
                    scanned.append(visit)
                    if len(scanned) == len(scan):
                        for event in choose(scanned):
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
    stage_um = place.x_um, place.y_um
    if found is None or found.pixel_size_um is None:
        return Visit(outcome.index, stage_um, None, None)
    return Visit(outcome.index, stage_um, found.pixel_size_um.x, features(found))


def features(found: Segmentation) -> pd.DataFrame:
    """A row for each nucleus: its features, and where it is on the stage, micrometres."""
    nuclei, size, stage_um = found.nuclei, found.pixel_size_um, found.centroids_stage_um
    assert size is not None
    assert stage_um is not None
    columns = (
        *(nuclei.area_px, nuclei.area_um2(size), nuclei.eccentricity),
        *(nuclei.mean_intensity, nuclei.score, stage_um[:, 0], stage_um[:, 1]),
    )
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


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
    parser.add_argument("--best", type=int, default=2, help="to how many to return, at most")
    parser.add_argument("--returns", type=int, default=2, help="how often; not with --find")
    parser.add_argument("--find", metavar="QUERY", help="nuclei to return to, by their features")
    parser.add_argument("--scan-objective", metavar="PRESET", help="for the scan, such as 10X")
    parser.add_argument("--objective", metavar="PRESET", help="for what --find finds, such as 40X")
    given = parser.parse_args()
    choose: Choice = partial(most_nuclei, n_best=given.best, returns=given.returns)
    if given.find is not None:
        choose = partial(
            rare_nuclei, query=given.find, n_most=given.best, objective=given.objective
        )
    try:
        if given.find is not None:  # a mistake is told before the scan
            matching(pd.DataFrame(1.0, index=[0], columns=COLUMNS), given.find)
        core = open_microscope(given.config)
        scan = grid(given.grid, STEP_UM, given.scan_objective)
        with Client(given.address) as client:
            for visit in acquire(core, client, scan, choose):
                show(visit)
    except NucleiError as error:
        raise SystemExit(f"error: {error}") from error


def show(visit: Visit) -> None:
    x_um, y_um = visit.stage_um
    found = "failed" if visit.nuclei is None else f"{len(visit.nuclei)} nuclei"
    print(
        f"t={visit.index.t} position {visit.index.position} ({x_um:.0f}, {y_um:.0f}) um, "
        f"{visit.pixel_size_um} um a pixel: {found}"
    )


if __name__ == "__main__":
    main()
