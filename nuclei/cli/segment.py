"""`nuclei segment`: frames to label images, outlines and tables."""

import glob
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich import box
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
from nuclei.cli.segmenter import (
    DEFAULT_REPOSITORY,
    LocalOption,
    ModelOption,
    RepositoryOption,
    Segmenter,
    TtaOption,
    open_segmenter,
)
from nuclei.console import messages, output, print_error
from nuclei.errors import EngineUnavailable, InvalidInput, InvalidOption, ModelNotFound, NucleiError

if TYPE_CHECKING:
    from nuclei.formats import Format
    from nuclei.results.segmentation import Segmentation

DEFAULT_SAVE = "labels.tif,overlay.png,geojson,csv"

EPILOG = """
**Examples**

nuclei segment frame.tif --out results                      (through the gateway of `nuclei serve`)

nuclei segment plate_7/ --out results --local --save csv    (without a server; only tables)

nuclei segment '*.tif' --out results --tta --address gpu-server:50051
"""

Formats = dict[str, "Format"]


@dataclass(frozen=True)
class Job:
    """A frame to segment; `stem` is the path of its results in the output folder."""

    source: Path
    stem: Path


def segment(
    paths: Annotated[list[str], typer.Argument(help="Files, folders or patterns ('*.tif').")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    model: ModelOption = "unet",
    tta: TtaOption = False,
    local: LocalOption = False,
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    save: Annotated[
        str,
        typer.Option(
            help="Formats to write, separated by commas: labels.tif, labels.png, overlay.png, "
            "geojson, csv, json."
        ),
    ] = DEFAULT_SAVE,
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
    - NAME.csv: one line per nucleus

    A frame that cannot be read is reported; the others are segmented.
    """
    formats = _formats(save)
    jobs = find_jobs(paths)
    console = messages()
    table = _table()
    failures = 0
    gateway = Gateway(address, token, tls_ca, tls_certificate, tls_key)
    with open_segmenter(model, tta, local, gateway, repository) as segmenter:
        for job in track(jobs, "Segmenting", console=console, transient=True):
            try:
                table.add_row(*_segment_one(job, out, formats, segmenter))
            except (ModelNotFound, EngineUnavailable):
                raise
            except NucleiError as error:
                failures += 1
                reason = str(error).removeprefix(f"{job.source}: ")
                print_error(f"{job.source}: {reason}", console)
    if failures < len(jobs):
        output().print(table)
    if failures:
        raise InvalidInput(
            f"{failures} of {len(jobs)} frames could not be segmented; they are named above"
        )


def find_jobs(paths: list[str]) -> list[Job]:
    """The frames that the arguments name, each once, and the places of their results.

    A folder stands for all frames in it and its subfolders, except files that this command wrote;
    results keep the subfolders. A pattern stands for the files that match.

    Raises:
        InvalidOption: no frame is found, or two frames would write the same results.
    """
    jobs: dict[Path, Job] = {}
    for path in paths:
        for job in _jobs(path):
            taken = jobs.setdefault(job.stem, job)
            if taken.source.resolve() != job.source.resolve():
                raise InvalidOption(
                    f"{taken.source} and {job.source} would write the same results, "
                    f"{job.stem}.*: segment them into two folders"
                )
    return list(jobs.values())


def _jobs(path: str) -> Iterator[Job]:
    if Path(path).is_dir():
        yield from _jobs_in_folder(Path(path))
        return
    matches = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True))
    for match in matches or [path]:
        if Path(match).is_dir():
            yield from _jobs_in_folder(Path(match))
        else:
            yield Job(Path(match), Path(Path(match).stem))


def _jobs_in_folder(folder: Path) -> Iterator[Job]:
    from nuclei.formats import FORMATS
    from nuclei.imaging.images import FRAME_SUFFIXES

    results = tuple(f".{name}" for name in FORMATS)
    frames = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in FRAME_SUFFIXES
        and not path.name.startswith(".")
        and not path.name.endswith(results)
        and path.is_file()
    ]
    if not frames:
        raise InvalidOption(
            f"no frame in {folder}; expected files ending in {', '.join(FRAME_SUFFIXES)}"
        )
    for path in frames:
        yield Job(path, path.relative_to(folder).with_suffix(""))


def _formats(save: str) -> Formats:
    from nuclei.formats import format_named

    return {name: format_named(name) for name in save.replace(" ", "").split(",")}


def _segment_one(job: Job, out: Path, formats: Formats, segmenter: Segmenter) -> tuple[str, ...]:
    from nuclei.imaging.images import read_frame

    started = time.perf_counter()
    frame = read_frame(job.source)
    segmentation = segmenter(frame)
    milliseconds = (time.perf_counter() - started) * 1000
    for name, form in formats.items():
        data = form.encode(segmentation, frame)
        _write(out / f"{job.stem}.{name}", data)
    frame_name = str(job.stem.with_name(job.source.name))
    return (frame_name, *_summary(segmentation), f"{milliseconds:.0f}")


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise InvalidOption(f"{path} cannot be written: {error.strerror}") from error


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("frame", overflow="fold")
    for heading in ("size", "nuclei", "median area", "mean score", "ms"):
        table.add_column(heading, justify="right")
    return table


def _summary(segmentation: "Segmentation") -> tuple[str, str, str, str]:
    height, width = segmentation.labels.shape
    nuclei = segmentation.nuclei
    if not len(nuclei):
        return f"{height} x {width}", "0", "-", "-"
    if segmentation.pixel_size_um is None:
        area = f"{np.median(nuclei.area_px):.0f} px"
    else:
        area = f"{np.median(nuclei.area_um2(segmentation.pixel_size_um)):.1f} µm²"
    return f"{height} x {width}", str(len(nuclei)), area, f"{nuclei.score.mean():.3f}"
