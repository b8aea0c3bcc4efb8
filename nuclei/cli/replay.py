"""`nuclei replay`: simulate an acquisition with the images of a folder."""

import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
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
from nuclei.cli.inputs import find_inputs, print_skipped
from nuclei.cli.reading import (
    ChannelOption,
    IntensityPercentilesOption,
    IntensityRangeOption,
    PixelSizeOption,
    PlaneOption,
    ProjectOption,
)
from nuclei.cli.segmenter import TtaOption
from nuclei.console import messages, output, print_error, print_warnings
from nuclei.errors import InvalidInput, InvalidOption, NucleiError
from nuclei.quoting import listed

if TYPE_CHECKING:
    from nuclei.client.acquisition import Outcome, StreamFrame
    from nuclei.imaging.frame_options import FrameOptions
    from nuclei.imaging.images import Frame

EPILOG = """
**Examples**

nuclei replay examples/                                  (5 frames/s at 4 positions for 30 s)

nuclei replay plate_7/ --fps 20 --overflow latest_only   (smart microscopy: newest frames only)

nuclei replay plate_7/ --fps 2 --frames 500 --tta        (can the server keep up with this?)

nuclei replay stacks/ --channel DAPI --project max       (files of several channels and planes)

A camera does not wait. With `block` every frame is segmented, and a server that is too slow delays
the camera: the table says by how much. With `drop_oldest` and `latest_only` the camera keeps its
rate, and the table says how many frames were skipped. The exit code is not 0 when frames failed.
"""

DEFAULT_SECONDS = 30.0
MAX_SECONDS = 1e7
MIN_FPS, MAX_FPS = 1e-3, 1e4
CACHED_FRAMES = 32


class OverflowPolicy(StrEnum):
    """What happens when the server cannot keep up."""

    BLOCK = "block"
    DROP_OLDEST = "drop_oldest"
    LATEST_ONLY = "latest_only"


class Camera:
    """Takes frames at a steady rate, at one position after the other.

    Attributes:
        sent_at: when each frame was sent, on the clock of `time.perf_counter`.
        late_s: the largest delay of a frame behind its planned time, seconds.
        refused: why frames could not be read, and were not sent.
    """

    def __init__(
        self, images: list[Path], options: "FrameOptions", fps: float, positions: int
    ) -> None:
        self.sent_at: list[float] = []
        self.late_s = 0.0
        self.refused: list[NucleiError] = []
        self._images = images
        self._options = options
        self._fps = fps
        self._positions = positions

    def frames(self, n_frames: int) -> Iterator["StreamFrame"]:
        from nuclei.client.acquisition import FrameIndex, StreamFrame

        acquisition = uuid.uuid4().hex
        started = time.perf_counter()
        for number in range(n_frames):
            try:
                image = _image(self._images[number % len(self._images)], self._options)
            except InvalidInput as error:
                self.refused.append(error)
                continue
            t, position = divmod(number, self._positions)
            planned = started + number / self._fps
            time.sleep(max(0.0, planned - time.perf_counter()))
            self.sent_at.append(time.perf_counter())
            self.late_s = max(self.late_s, self.sent_at[-1] - planned)
            yield StreamFrame(image, FrameIndex(acquisition, position, t))


@dataclass
class Tally:
    """The outcomes so far."""

    skipped: int = 0
    nuclei: int = 0
    latency_ms: list[float] = field(default_factory=list)
    failures: list[NucleiError] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)
    ended_at: float = 0.0

    def add(self, outcome: "Outcome", sent_at: float) -> None:
        self.ended_at = time.perf_counter()
        if outcome.segmentation is not None:
            self.latency_ms.append((self.ended_at - sent_at) * 1e3)
            self.nuclei += len(outcome.segmentation.nuclei)
            self.warnings.update(outcome.segmentation.warnings)
        elif outcome.error is not None:
            self.failures.append(outcome.error)
        else:
            self.skipped += 1

    def __str__(self) -> str:
        return (
            f"{len(self.latency_ms)} answered, {self.skipped} skipped, {len(self.failures)} failed"
        )


def replay(
    folder: Annotated[Path, typer.Argument(help="Folder with the images of the acquisition.")],
    fps: Annotated[float, typer.Option(help="Frames per second, over all positions together.")] = 5,
    positions: Annotated[int, typer.Option(help="Number of stage positions.", min=1)] = 4,
    overflow: Annotated[
        OverflowPolicy, typer.Option(help="What happens when the server cannot keep up.")
    ] = OverflowPolicy.BLOCK,
    frames: Annotated[
        int | None, typer.Option(help="Number of frames; images repeat.", min=1)
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Duration in seconds, instead of --frames [30].", show_default=False),
    ] = None,
    model: Annotated[str, typer.Option(help="Name of the model [the server's default].")] = "",
    tta: TtaOption = False,
    channel: ChannelOption = "",
    plane: PlaneOption = "",
    project: ProjectOption = "",
    pixel_size: PixelSizeOption = "",
    intensity_range: IntensityRangeOption = "",
    intensity_percentiles: IntensityPercentilesOption = "",
    address: AddressOption = DEFAULT_ADDRESS,
    token: TokenOption = "",
    tls_ca: TlsCaOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
) -> None:
    """Simulate an acquisition: send the images of a folder as a microscope would.

    Frames are sent over one stream at a steady rate, and results arrive while it runs. At the end
    it prints how many frames were answered, skipped and failed, and the latency.
    """
    from nuclei.imaging.frame_options import FrameOptions

    console = messages()
    options = FrameOptions.of_text(
        channel, plane, project, pixel_size, intensity_range, intensity_percentiles
    )
    camera = Camera(_images(folder, console), options, _checked_fps(fps), positions)
    n_frames = _number(frames, seconds, fps)
    tally = Tally()
    gateway = Gateway(address, token, tls_ca, tls_certificate, tls_key)
    try:
        with gateway.client() as client, _progress(console) as progress:
            task = progress.add_task("Replaying", total=n_frames, tally=str(tally))
            outcomes = client.stream(
                camera.frames(n_frames),
                overflow=overflow.value,
                model=model,
                tta=tta,
                outputs=["centroids"],
            )
            for outcome in outcomes:
                tally.add(outcome, camera.sent_at[outcome.sequence])
                progress.update(task, advance=1, tally=str(tally))
    except KeyboardInterrupt:
        console.print("Stopping")
    finally:
        tally.failures += camera.refused
        if camera.sent_at:
            output().print(_table(camera, tally, fps))
        print_warnings(tally.warnings, console)
    _raise_failures(tally, len(camera.sent_at) + len(camera.refused), console)


def _images(folder: Path, console: Console) -> list[Path]:
    if not folder.is_dir():
        raise InvalidOption(f"{folder} is not a folder; expected one with images")
    inputs = find_inputs([str(folder)])
    print_skipped(inputs, console)
    return [job.source for job in inputs.jobs]


def _checked_fps(fps: float) -> float:
    if not MIN_FPS <= fps <= MAX_FPS:
        raise InvalidOption(
            f"--fps is {fps}; expected a number of frames per second, {MIN_FPS:g} to {MAX_FPS:g}"
        )
    return fps


def _number(frames: int | None, seconds: float | None, fps: float) -> int:
    if frames is not None and seconds is not None:
        raise InvalidOption("--frames and --seconds both set the length; give one of them")
    if frames is not None:
        return frames
    seconds = DEFAULT_SECONDS if seconds is None else seconds
    if not 0 < seconds <= MAX_SECONDS:
        raise InvalidOption(f"--seconds is {seconds}; expected above 0, at most {MAX_SECONDS:g}")
    return max(1, round(seconds * fps))


@lru_cache(CACHED_FRAMES)
def _image(path: Path, options: "FrameOptions") -> "Frame":
    """Pixels, as from a camera."""
    from nuclei.imaging.images import read_frame

    return read_frame(path, options=options)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[tally]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def _table(camera: Camera, tally: Tally, fps: float) -> Table:
    sent, answered = len(camera.sent_at), len(tally.latency_ms)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("frames sent", str(sent))
    table.add_row("answered", str(answered))
    table.add_row("skipped", str(tally.skipped))
    table.add_row("failed", str(len(tally.failures)))
    if answered:
        p50, p95, p99 = np.percentile(tally.latency_ms, [50, 95, 99])
        table.add_row("latency p50", f"{p50:.0f} ms")
        table.add_row("latency p95", f"{p95:.0f} ms")
        table.add_row("latency p99", f"{p99:.0f} ms")
        seconds = max(tally.ended_at - camera.sent_at[0], 1 / fps)
        table.add_row("achieved", f"{answered / seconds:.2f} of {fps:g} frames/s")
        table.add_row("nuclei", str(tally.nuclei))
    if camera.late_s > 1 / fps:
        table.add_row("behind the camera", f"{camera.late_s:.1f} s at worst")
    return table


def _raise_failures(tally: Tally, taken: int, console: Console) -> None:
    if not tally.failures:
        return
    reasons = Counter(f"{type(error).__name__}: {error}" for error in tally.failures)
    counted = [f"{times} x {reason}" for reason, times in reasons.most_common()]
    print_error(f"failed:{listed(counted)}", console)
    kind = type(tally.failures[0])
    raise kind(f"{len(tally.failures)} of {taken} frames failed, for the reasons above")
