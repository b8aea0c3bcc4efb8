"""`nuclei segment`: frames to label images, outlines and tables."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.progress import track
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
from nuclei.cli.inputs import Inputs, Job, find_inputs, print_skipped
from nuclei.cli.reading import (
    ChannelOption,
    IntensityPercentilesOption,
    IntensityRangeOption,
    PixelSizeOption,
    PlaneOption,
    ProjectOption,
)
from nuclei.cli.results_folder import ResultsFolder
from nuclei.cli.segmenter import (
    DEFAULT_REPOSITORY,
    DiameterOption,
    LocalOption,
    MinAreaOption,
    ModelOption,
    RepositoryOption,
    Segmenter,
    ThresholdOption,
    TtaOption,
    VersionOption,
    open_segmenter,
)
from nuclei.console import messages, output, print_error, print_warning
from nuclei.errors import (
    EngineUnavailable,
    FrameTooLarge,
    InvalidOption,
    ModelNotFound,
    NucleiError,
    Unauthenticated,
)
from nuclei.results.adjustments import Adjustments

if TYPE_CHECKING:
    from nuclei.formats import Format
    from nuclei.imaging.frame_options import FrameOptions
    from nuclei.imaging.images import Frame
    from nuclei.results.segmentation import Segmentation

DEFAULT_SAVE = "labels.tif,overlay.png,geojson,csv"

UNKNOWN = "-"
# Of the table that is printed, after the name of the frame.
HEADINGS = (
    *("size", "nuclei", "median area", "mean score"),
    *("focus", "estimated score", "warnings", "ms"),
)
# Of all frames, beside their results.
FRAMES_FILE = "frames.csv"

EPILOG = """
**Examples**

nuclei segment frame.tif --out results                      (through the gateway of `nuclei serve`)

nuclei segment plate_7/ --out results --local --save csv    (without a server; only tables)

nuclei segment '*.tif' --out results --tta --address gpu-server:50051

nuclei segment stack.ome.tif --out results --channel DAPI --project max --pixel-size 0.325

nuclei segment faint.tif --out results --threshold 0.4 --min-area 50   (more, but no specks)
"""

Formats = dict[str, "Format"]

# What would fail for every other frame as well.
STOPPING = (ModelNotFound, EngineUnavailable, Unauthenticated)


@dataclass
class Tally:
    """What became of the frames so far.

    Attributes:
        table: a row for each frame that was segmented.
        done: number of frames with all their results.
        failed: number of the others; one whose results were not all written has a row, too.
        doubtful: number of frames with warnings.
        failures: why, at least one for each that failed.
        rows: of the table of frames, `nuclei.formats.tables.FRAME_COLUMNS`.
    """

    table: Table
    done: int = 0
    failed: int = 0
    doubtful: int = 0
    failures: list[NucleiError] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


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

    Files that are no frames are named and skipped. A frame that cannot be segmented, or one of its
    results that cannot be written, is named; the others are written, and the exit code is not 0.
    What is guessed or doubtful about a frame is printed, and is in its json and geojson.
    """
    from nuclei.imaging.frame_options import FrameOptions

    formats = _formats(save)
    options = FrameOptions.of_text(
        channel, plane, project, pixel_size, intensity_range, intensity_percentiles
    )
    adjustments = Adjustments.of_text(threshold, min_area, diameter)
    inputs = find_inputs(paths)
    _check_names(inputs, formats)
    folder = ResultsFolder(out)
    console = messages()
    print_skipped(inputs, console)
    tally = Tally(_table())
    gateway = Gateway(address, token, tls_ca, tls_certificate, tls_key)
    try:
        with open_segmenter(
            model, version, tta, local, gateway, repository, adjustments
        ) as segmenter:
            for job in _tracked(inputs.jobs, console):
                _segment_one(job, folder, options, formats, segmenter, tally, console)
    finally:
        _print_summary(inputs, tally, console)
        _write_frames(folder, tally)
    if tally.failures:
        kind = type(tally.failures[0])
        raise kind(f"{tally.failed} of {len(inputs.jobs)} frames failed, for the reasons above")


def _formats(save: str) -> Formats:
    from nuclei.formats import format_named

    return {name: format_named(name) for name in save.replace(" ", "").split(",")}


def _check_names(inputs: Inputs, formats: Formats) -> None:
    for job in inputs.jobs:
        taken = {f"{job.stem}.{form}" for form in formats}
        if FRAMES_FILE in taken:
            raise InvalidOption(
                f"{job.source} would write {FRAMES_FILE}, which is the table of all frames: rename "
                "it, or leave csv out of --save"
            )


def _tracked(jobs: list[Job], console: Console) -> Iterable[Job]:
    quiet = not console.is_terminal
    return track(jobs, "Segmenting", console=console, transient=True, disable=quiet)


def _segment_one(
    job: Job,
    folder: ResultsFolder,
    options: "FrameOptions",
    formats: Formats,
    segmenter: Segmenter,
    tally: Tally,
    console: Console,
) -> None:
    """Segment a frame and write its results; raises only what would fail for every frame."""
    from nuclei.formats.tables import failed_row, frame_row
    from nuclei.imaging.images import read_frame

    name = str(job.stem.with_name(job.source.name))
    started = time.perf_counter()
    try:
        frame = read_frame(job.source, options=options)
        segmentation = segmenter(frame)
    except STOPPING:
        raise
    except NucleiError as error:
        failures = [error]
        tally.rows.append(failed_row(name, error))
    except MemoryError:
        failures = [_too_large()]
        tally.rows.append(failed_row(name, failures[0]))
    else:
        milliseconds = (time.perf_counter() - started) * 1000
        tally.rows.append(frame_row(name, segmentation))
        tally.table.add_row(name, *_summary(segmentation), f"{milliseconds:.0f}")
        failures = _write_results(job, folder, formats, segmentation, frame)
        for warning in segmentation.warnings:
            print_warning(f"{job.source}: {warning}", console)
        tally.doubtful += bool(segmentation.warnings)
    for failure in failures:
        print_error(f"{job.source}: {str(failure).removeprefix(f'{job.source}: ')}", console)
    tally.failures += failures
    tally.failed += bool(failures)
    tally.done += not failures


def _write_results(
    job: Job,
    folder: ResultsFolder,
    formats: Formats,
    segmentation: "Segmentation",
    frame: "Frame",
) -> list[NucleiError]:
    """Write each format; one that fails does not keep the others back."""
    failures: list[NucleiError] = []
    for name, form in formats.items():
        try:
            write = folder.write_folder if form.is_folder else folder.write
            write(f"{job.stem}.{name}", form.encode(segmentation, frame, lambda: None))
        except NucleiError as error:
            failures.append(error)
        except MemoryError:
            failures.append(_too_large())
    return failures


def _write_frames(folder: ResultsFolder, tally: Tally) -> None:
    from nuclei.formats.tables import frames_table

    if tally.rows:
        folder.write(FRAMES_FILE, frames_table(tally.rows))


def _too_large() -> FrameTooLarge:
    return FrameTooLarge("it needs more memory than this machine gives; crop it, or free memory")


def _print_summary(inputs: Inputs, tally: Tally, console: Console) -> None:
    """The table, and what became of every file where not all are in it."""
    if tally.table.rows:
        output().print(tally.table)
    counts = {
        "done": tally.done,
        "failed": tally.failed,
        "not tried": len(inputs.jobs) - tally.done - tally.failed,
        "skipped": sum(map(len, inputs.skipped.values())),
    }
    if tally.done < sum(counts.values()):
        console.print(", ".join(f"{number} {what}" for what, number in counts.items() if number))
    if tally.doubtful:
        print_warning(f"{tally.doubtful} with warnings, which are above", console)


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("frame", overflow="fold")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    return table


def _summary(segmentation: "Segmentation") -> tuple[str, ...]:
    """The cells of HEADINGS but the last."""
    from nuclei.results.quality import Quality

    height, width = segmentation.labels.shape
    nuclei, quality = segmentation.nuclei, segmentation.quality or Quality()
    return (
        f"{height} x {width}",
        str(len(nuclei)),
        _median_area(segmentation),
        f"{nuclei.score.mean():.3f}" if len(nuclei) else UNKNOWN,
        UNKNOWN if quality.focus is None else f"{quality.focus:.2g}",
        UNKNOWN if quality.estimated_score is None else f"{quality.estimated_score:.2f}",
        str(len(segmentation.warnings)),
    )


def _median_area(segmentation: "Segmentation") -> str:
    nuclei = segmentation.nuclei
    if not len(nuclei):
        return UNKNOWN
    if segmentation.pixel_size_um is None:
        return f"{np.median(nuclei.area_px):.0f} px"
    return f"{np.median(nuclei.area_um2(segmentation.pixel_size_um)):.1f} µm²"
