"""`nuclei segment`: frames to label images, outlines and tables."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from nuclei.cli.gateway import (
    DEFAULT_ADDRESS,
    AddressOption,
    Gateway,
    TlsCaOption,
    TlsCertificateOption,
    TlsKeyOption,
    TokenOption,
)
from nuclei.cli.inputs import Inputs, find_inputs, print_skipped
from nuclei.cli.progress import Progress
from nuclei.cli.reading import (
    ChannelOption,
    IntensityPercentilesOption,
    IntensityRangeOption,
    PixelSizeOption,
    PlaneOption,
    ProjectOption,
)
from nuclei.cli.segmenter import (
    DEFAULT_REPOSITORY,
    DiameterOption,
    LocalOption,
    MinAreaOption,
    ModelOption,
    Opener,
    RepositoryOption,
    ThresholdOption,
    TtaOption,
    VersionOption,
)
from nuclei.cli.stacks import (
    DaskOption,
    FieldsOption,
    SlicesOption,
    TimesOption,
    TrackOption,
    WellsOption,
    chosen,
)
from nuclei.console import messages, output, print_error, print_warning
from nuclei.errors import ChoiceRequired, InvalidOption, NucleiError
from nuclei.results.adjustments import Adjustments
from nuclei.results_folder import ResultsFolder

if TYPE_CHECKING:
    from nuclei.plates.run import Run, Runner, Work
    from nuclei.plates.work import Outcome, Task

DEFAULT_SAVE = "labels.tif,overlay.png,geojson,csv"

UNKNOWN = "-"
# Of the table that is printed, after the name of the frame.
HEADINGS = (
    *("size", "nuclei", "median area", "mean score"),
    *("focus", "estimated score", "warnings", "ms"),
)
# Rows of the table that is printed.
LISTED = 500
# Frames that failed, named once more at the end.
NAMED = 20
# Of all frames, beside their results.
FRAMES_FILE = "frames.csv"

EPILOG = """
**Examples**

nuclei segment frame.tif --out results                      (through the gateway of `nuclei serve`)

nuclei segment plate_7/ --out results --local --save csv    (without a server; only tables)

nuclei segment '*.tif' --out results --tta --address gpu-server:50051

nuclei segment stack.ome.tif --out results --channel DAPI --project max --pixel-size 0.325

nuclei segment faint.tif --out results --threshold 0.4 --min-area 50   (more, but no specks)

nuclei segment plate.ome.zarr --out results --wells 'B*,C03' --channel DAPI --z max --save csv
"""


@dataclass
class Tally:
    """What became of the frames so far.

    Attributes:
        table: a row for each frame that was segmented, as long as they are few.
        done_before: number of frames that an earlier run has done.
        rows: how many were.
        done: number of frames with all their results.
        failed: number of the others; one whose results were not all written has a row, too.
        failed_names: those of the first NAMED of them.
        doubtful: number of frames with warnings.
        said: how many frames of a source have a warning, by its path and the warning.
        first_failure: why the first that failed did.
    """

    table: Table
    done_before: int = 0
    rows: int = 0
    done: int = 0
    failed: int = 0
    failed_names: list[str] = field(default_factory=list)
    doubtful: int = 0
    said: Counter[tuple[Path, str]] = field(default_factory=Counter)
    first_failure: NucleiError | None = None


def segment(
    paths: Annotated[list[str], typer.Argument(help="Files, folders or patterns ('*.tif').")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    model: ModelOption = "unet",
    version: VersionOption = None,
    tta: TtaOption = False,
    local: LocalOption = False,
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    save: Annotated[
        str,
        typer.Option(
            help="Formats to write, separated by commas: labels.tif, labels.ome.tif, "
            "labels.ome.zarr (a folder), labels.png, overlay.png, geojson (QuPath), rois.zip "
            "(ImageJ, Fiji), coco.json, csv, parquet, json."
        ),
    ] = DEFAULT_SAVE,
    channel: ChannelOption = "",
    plane: PlaneOption = "",
    project: ProjectOption = "",
    pixel_size: PixelSizeOption = "",
    intensity_range: IntensityRangeOption = "",
    intensity_percentiles: IntensityPercentilesOption = "",
    threshold: ThresholdOption = "",
    min_area: MinAreaOption = "",
    diameter: DiameterOption = "",
    wells: WellsOption = "",
    fields: FieldsOption = "",
    t: TimesOption = "",
    z: SlicesOption = "",
    track: TrackOption = None,
    dask: DaskOption = "",
    address: AddressOption = DEFAULT_ADDRESS,
    token: TokenOption = "",
    tls_ca: TlsCaOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
) -> None:
    """Find the nuclei of microscope frames.

    Writes for each frame, into the same subfolders below --out:

    - NAME.labels.tif: uint32 label image, one number per nucleus
    - NAME.overlay.png: the frame with outlines drawn in
    - NAME.geojson: outlines that QuPath opens
    - NAME.csv: one line per nucleus, with the columns label (its number in the label image),
      area_px, centroid_x_px and centroid_y_px (from the centre of the upper-left pixel),
      box_x0_px, box_y0_px, box_x1_px and box_y1_px (from the corner of the frame; x1 and y1 are
      just outside), shape and intensity as scikit-image names and measures them, neighbor (label
      of the nearest nucleus), on_border and score (0 to 1); where the pixel size is known also
      area_um2 and the others in micrometres (_um). docs/client.md explains each

    And one frames.csv: one line per frame, with the number of its nuclei, how good the frame and
    its result look, its warnings, and why it failed if it did.

    Stacks, plates and slides (docs/plates.md): an OME-Zarr, CZI, ND2 or LIF, and with --wells,
    --fields, --t or --z also a TIFF, is read frame by frame. The results of each are in the folder
    NAME, with one table of all its nuclei, nuclei.csv, and of a plate wells.csv and a picture of
    its counts, wells.heatmap.png and .svg.

    A run that was killed goes on where it was when the same command is given again; one in which
    frames failed tries those again.

    Files that are no frames are named and skipped. A frame that cannot be segmented, or one of its
    results that cannot be written, is named; the others are written, and the exit code is not 0.
    What is guessed or doubtful about a frame is printed, and is in its json and geojson.
    """
    from nuclei.imaging.frame_options import FrameOptions
    from nuclei.plates.journal import Journal
    from nuclei.plates.run import Run, find_work
    from nuclei.plates.work import Settings

    formats = _formats(save)
    options = FrameOptions.of_text(
        channel, plane, project, pixel_size, intensity_range, intensity_percentiles
    )
    adjustments = Adjustments.of_text(threshold, min_area, diameter)
    choice = chosen(wells, fields, t, z, plane, project)
    inputs = find_inputs(paths, with_sources=True)
    _check_names(inputs, formats)
    folder = ResultsFolder(out)
    console = messages()
    print_skipped(inputs, console)
    gateway = Gateway(address, token, tls_ca, tls_certificate, tls_key)
    opener = Opener(model, version, tta, local, gateway, repository.absolute(), adjustments)
    asked = {
        **{"paths": [os.path.abspath(path) for path in paths], "save": formats},
        **{"model": model, "version": version, "tta": tta, "options": asdict(options)},
        **{"adjustments": asdict(adjustments), "wells": wells, "fields": fields, "t": t, "z": z},
    }
    with closing(Journal(folder.path, asked)) as journal:
        # Workers have folders of their own to start from.
        jobs = [(job.source.absolute() if dask else job.source, job.stem) for job in inputs.jobs]
        work = find_work(jobs, Settings(formats, options), choice)
        run = Run(work, folder, journal)
        tally = Tally(_table(), run.done_before())
        try:
            with _runner(dask, opener) as runner:
                _do(run, runner, tally, console)
            _finish(run, track, tally, console)
        finally:
            _print_summary(inputs, work, tally, console)
            if tally.done or tally.failed or tally.done_before:
                run.write_frames()
        journal.end(failed=tally.first_failure is not None)
    if tally.first_failure is not None:
        failed = f"{tally.failed} of {len(work.tasks)} frames" if tally.failed else "a table"
        kind = type(tally.first_failure)
        raise kind(
            f"{failed} failed, for the reasons above; the same command tries again what failed, "
            "and nothing else"
        )


def _formats(save: str) -> tuple[str, ...]:
    from nuclei.formats import format_named

    names = tuple(save.replace(" ", "").split(","))
    for name in names:
        format_named(name)
    return names


def _check_names(inputs: Inputs, formats: Sequence[str]) -> None:
    for job in inputs.jobs:
        taken = {f"{job.stem}.{form}" for form in formats}
        if FRAMES_FILE in taken:
            raise InvalidOption(
                f"{job.source} would write {FRAMES_FILE}, which is the table of all frames: rename "
                "it, or leave csv out of --save"
            )


@contextmanager
def _runner(dask: str, opener: Opener) -> "Iterator[Runner]":
    from nuclei.plates.run import in_process

    if not dask:
        with opener() as segmenter:
            yield in_process(segmenter)
        return
    from nuclei.plates.cluster import on_cluster

    most = None if opener.local else opener.gateway.frames_in_flight()
    with on_cluster(dask, opener, most) as runner:
        yield runner


def _do(run: "Run", runner: "Runner", tally: Tally, console: Console) -> None:
    """Do what is left, and say what became of each frame."""
    with Progress(run.left(), console) as progress:
        for unit, outcome in run.outcomes(runner):
            if unit.is_frame:
                _count(unit.task, outcome, tally, console)
            progress.advance(failed=tally.failed)


def _count(task: "Task", outcome: "Outcome", tally: Tally, console: Console) -> None:
    if "count" in outcome.row:
        tally.rows += 1
        if tally.rows <= LISTED:
            tally.table.add_row(task.name, *_summary(outcome))
    for warning in outcome.warnings:
        tally.said[task.path, warning] += task.field is not None
        if tally.said[task.path, warning] <= 1:
            print_warning(f"{task.title}: {warning}", console)
    tally.doubtful += bool(outcome.warnings)
    for failure in outcome.failures:
        said = str(failure).removeprefix(f"{task.path}: ")
        print_error(f"{task.title}: {said}{_how_to_choose(failure, task)}", console)
        tally.first_failure = tally.first_failure or failure
    if outcome.failures and len(tally.failed_names) < NAMED:
        tally.failed_names.append(task.title)
    tally.failed += bool(outcome.failures)
    tally.done += not outcome.failures


def _how_to_choose(failure: NucleiError, task: "Task") -> str:
    """What else can be done about a stack that was taken for one frame."""
    from nuclei.plates.sources import is_always_source

    if not isinstance(failure, ChoiceRequired) or task.field is not None:
        return ""
    if is_always_source(task.path):
        return ""
    return "; all its frames are segmented with --t, --z or --fields, such as --t all"


def _finish(run: "Run", gate_px: float | None, tally: Tally, console: Console) -> None:
    """The tables of what was done."""
    versions = run.versions()
    if len(versions) > 1:
        print_warning(
            f"the frames were segmented by {', '.join(sorted(versions))}: the model in use changed "
            "meanwhile; --version chooses one",
            console,
        )
    for error in run.write_plates(gate_px):
        print_error(error, console)
        tally.first_failure = tally.first_failure or error


def _print_summary(inputs: Inputs, work: "Work", tally: Tally, console: Console) -> None:
    """The table, and what became of every file where not all are in it."""
    if tally.table.rows:
        output().print(tally.table)
    if tally.rows > LISTED:
        console.print(f"the first {LISTED} of {tally.rows} frames; all are in {FRAMES_FILE}")
    if tally.failed:
        more = tally.failed - len(tally.failed_names)
        names = ", ".join(tally.failed_names) + (f" and {more} more" if more else "")
        print_error(f"failed: {names}", console)
    counts = {
        "done": tally.done,
        "done before": tally.done_before,
        "failed": tally.failed,
        "not tried": len(work.tasks) - tally.done - tally.failed - tally.done_before,
        "skipped": sum(map(len, inputs.skipped.values())),
    }
    if tally.done < sum(counts.values()):
        console.print(", ".join(f"{number} {what}" for what, number in counts.items() if number))
    for (path, warning), times in tally.said.items():
        if times > 1:
            print_warning(f"{path}: in {times} frames: {warning}", console)
    if tally.doubtful:
        print_warning(
            f"{tally.doubtful} with warnings, which are above and in {FRAMES_FILE}", console
        )


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("frame", overflow="fold")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    return table


def _summary(outcome: "Outcome") -> tuple[str, ...]:
    """The cells of HEADINGS."""
    row = outcome.row
    focus, estimated = row.get("focus"), row.get("estimated_score")
    return (
        f"{row['height_px']} x {row['width_px']}",
        str(row["count"]),
        _median_area(row),
        UNKNOWN if outcome.mean_score is None else f"{outcome.mean_score:.3f}",
        UNKNOWN if focus is None else f"{focus:.2g}",
        UNKNOWN if estimated is None else f"{estimated:.2f}",
        str(len(outcome.warnings)),
        f"{outcome.milliseconds:.0f}",
    )


def _median_area(row: dict[str, Any]) -> str:
    area = row.get("median_area_px")
    if area is None:
        return UNKNOWN
    if "pixel_size_x_um" not in row:
        return f"{area:.0f} px"
    return f"{area * row['pixel_size_x_um'] * row['pixel_size_y_um']:.1f} µm²"
