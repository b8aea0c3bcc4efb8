"""`nuclei segment` on stacks, plates and slides: what is written, and what a kill leaves."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pyarrow.parquet
import pytest
import tifffile
from numpy.typing import NDArray

from nuclei.client import Client
from nuclei.errors import ChoiceRequired, InvalidImage, InvalidOption, Overloaded
from nuclei.evaluation.metrics import score_image
from nuclei.imaging.images import read_frame, read_labels
from nuclei.plates.journal import FOLDER, JOURNAL, SLIDES
from serving.triton.server import TritonServer
from tests.conftest import Gateway
from tests.nuclei.cli.test_segment import EXAMPLES, failure, segment
from tests.nuclei.plates.made import chunks, crops, write_image, write_plate

COMMAND = [sys.executable, "-c", "from nuclei.cli.main import main; main()", "segment"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their paths in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six wells with two fields each of 128 x 128 pixels; one field has lost its pixels."""
    images = crops(12)
    wells = {
        f"{well[0]}/{well[1:]}": images[2 * number : 2 * number + 2]
        for number, well in enumerate(("A01", "A02", "B02", "B03", "C03", "C04"))
    }
    path = write_plate(tmp_path_factory.mktemp("plates") / "p7.ome.zarr", wells)
    for chunk in chunks(path / "B/03/1"):
        chunk.unlink()
    return path


@pytest.fixture(scope="module")
def results(plate: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is written for the plate."""
    out = tmp_path_factory.mktemp("results")
    call = ("--local", "--repository", repository, "--save", "csv,labels.tif,parquet")
    result = segment(plate, "--out", out, *call)
    error = failure(result)
    assert isinstance(error, InvalidImage)
    assert str(error).startswith("1 of 12 frames failed")
    assert f"{plate} B03_f1: nothing was written into this plane of B/03/1" in result.stderr
    assert result.stderr.endswith(f"\nfailed: {plate} B03_f1\n11 done, 1 failed\n")
    return out


@dataclass(frozen=True)
class Uninterrupted:
    """A command, and what it writes by one process that nobody kills.

    Attributes:
        call: its arguments but --out.
        written: by the paths in the output folder.
        slide: pixels of the first input, uint8 [H, W].
        warnings: what it printed.
        out: its output folder.
    """

    call: tuple[object, ...]
    written: dict[str, bytes]
    slide: NDArray[Any]
    warnings: str
    out: Path


@pytest.fixture(scope="module")
def uninterrupted(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """A slide of three regions, and a plate with eight frames."""
    inputs, out = tmp_path_factory.mktemp("inputs"), tmp_path_factory.mktemp("uninterrupted")
    pixels = read_frame(EXAMPLES / "fluorescence.png").pixels[:, :, 0]
    slide = np.tile(pixels[:128, :300], (1, 28))[:, :8300]
    tifffile.imwrite(inputs / "s.tif", slide, tile=(64, 256), compression="zlib")
    images = crops(8)
    wells = {f"A/0{well + 1}": images[2 * well : 2 * well + 2] for well in range(4)}
    plate = write_plate(inputs / "p8.ome.zarr", wells, version="0.5")
    saved = ("--save", "csv,labels.tif,overlay.png")
    call = (inputs / "s.tif", plate, "--t", "all", "--local", "--repository", repository, *saved)
    result = segment(*call, "--out", out)
    assert result.exit_code == 0, result.output
    return Uninterrupted(call, files(out), slide, result.stderr, out)


def test_one_table_of_nuclei_for_a_plate(results: Path) -> None:
    found = rows(results / "p7" / "nuclei.csv")
    per_frame = Counter((row["well"], row["field"]) for row in found)
    assert len(per_frame) == 11
    for (well, field), count in per_frame.items():
        stem = results / "p7" / f"{well}_f{field}"
        own = rows(stem.with_name(f"{stem.name}.csv"))
        assert count == len(own) == read_labels(stem.with_name(f"{stem.name}.labels.tif")).max()
        of_frame = [row for row in found if (row["well"], row["field"]) == (well, field)]
        assert [{name: row[name] for name in own[0]} for row in of_frame] == own
    assert list(found[0])[:5] == ["well", "field", "t", "z", "label"]
    assert float(found[0]["area_um2"]) == pytest.approx(int(found[0]["area_px"]) / 4)
    parquet = pyarrow.parquet.read_table(results / "p7" / "nuclei.parquet").to_pylist()
    assert [row["area_px"] for row in parquet] == [int(row["area_px"]) for row in found]
    assert [row["well"] for row in parquet] == [row["well"] for row in found]


def test_the_wells_of_a_plate_as_a_table_and_a_picture(results: Path) -> None:
    wells = {row["well"]: row for row in rows(results / "p7" / "wells.csv")}
    counted = Counter(row["well"] for row in rows(results / "p7" / "nuclei.csv"))
    assert {name: int(row["count"]) for name, row in wells.items()} == counted
    assert (wells["B03"]["frames"], wells["B03"]["failed"]) == ("1", "1")
    assert wells["A01"]["count_per_frame"] == f"{counted['A01'] / 2:.2f}"
    picture = cv2.imread(str(results / "p7" / "wells.heatmap.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 200
    text = (results / "p7" / "wells.heatmap.svg").read_text()
    assert text.count("#c0392b") == 1  # the rim of B03


def test_frames_of_a_plate_are_in_the_table_of_frames(results: Path) -> None:
    found = {row["frame"]: row for row in rows(results / "frames.csv")}
    assert len(found) == 12
    assert found["p7.ome.zarr/B03_f0"]["well"] == "B03"
    assert found["p7.ome.zarr/B03_f1"]["error"].startswith("InvalidImage: ")


def test_only_what_failed_is_tried_again(plate: Path, results: Path, repository: Path) -> None:
    before = files(results)
    own = shutil.copytree(plate, results.parent / "mended" / plate.name)
    lines = results / FOLDER / JOURNAL
    options, *entries = lines.read_text().splitlines()
    # The same plate, in another place: its pixels came back.
    lines.write_text("\n".join([options.replace(str(plate), str(own)), *entries]) + "\n")
    write_image(own / "B/03/1", crops(12)[7], "yx")
    call = ("--local", "--repository", repository, "--save", "csv,labels.tif,parquet")
    result = segment(own, "--out", results, *call)
    assert result.exit_code == 0, result.output
    assert result.stderr.endswith("1 done, 11 done before\n")
    after = files(results)
    assert not any(name.startswith(FOLDER) for name in after)
    mended = {name for name in after if before.get(name) != after[name]}
    assert {name for name in mended if "_f" in name} == {
        f"p7/B03_f1.{form}" for form in ("csv", "labels.tif", "parquet")
    }
    # In the order of the plate, as if it had never failed.
    fields = [(row["well"], row["field"]) for row in rows(results / "p7" / "nuclei.csv")]
    assert fields == sorted(fields)


def test_a_killed_run_goes_on_without_doing_anything_twice(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    journal, slides = out / FOLDER / JOURNAL, out / FOLDER / SLIDES

    def killed(until: Callable[[], bool]) -> None:
        process = subprocess.Popen(
            [*COMMAND, *map(str, uninterrupted.call), "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not until():
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.03))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (out / "frames.csv").exists()

    killed(lambda: any(slides.rglob("y*")))
    parts = {path: path.stat().st_mtime_ns for path in slides.rglob("y*")}
    assert 0 < len(parts) < 3
    entries = _lines(journal)
    assert len(entries) == 1  # the options
    killed(lambda: len(_lines(journal)) >= 3)
    # What was noted stays as it was, and each frame is noted once.
    assert _lines(journal)[:1] == entries
    noted = [json.loads(line)["key"] for line in _lines(journal)[1:]]
    assert noted[0] == "s/s"
    assert len(noted) == len(set(noted)) < 9
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    result = segment(*uninterrupted.call, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"{len(noted)} done before" in result.stderr
    assert files(out) == uninterrupted.written


def _lines(journal: Path) -> list[str]:
    """The whole lines of a journal."""
    text = journal.read_text() if journal.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def test_another_command_does_not_take_over_an_unfinished_run(
    plate: Path, repository: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "frames" / "bad.png"
    bad.parent.mkdir()
    bad.write_text("no image")
    shutil.copy(EXAMPLES / "histology.png", tmp_path / "frames")
    call = (tmp_path / "frames", "--local", "--repository", repository, "--save", "csv")
    out = tmp_path / "out"
    failure(segment(*call, "--out", out, "--model", "none"))
    journal = out / FOLDER / JOURNAL
    assert len(_lines(journal)) == 2  # the bad frame; then the model was not found
    error = failure(segment(*call, "--out", out))
    assert isinstance(error, InvalidOption)
    assert '(model was "none" and is "unet")' in str(error)
    shutil.rmtree(out / FOLDER)
    failure(segment(*call, "--out", out))
    assert {path.name for path in out.iterdir()} == {FOLDER, "frames.csv", "histology.csv"}


def test_inputs_that_cannot_be_opened_are_named_and_the_others_go_on(
    repository: Path, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    (frames / "damaged.ome.zarr").mkdir(parents=True)
    (frames / "damaged.ome.zarr" / ".zattrs").write_text('{"plate": {')
    (frames / "empty.ome.zarr").mkdir()
    (frames / "empty.ome.zarr" / ".zgroup").write_text("{}")
    write_image(frames / "z.ome.zarr", np.stack(crops(3)), "zyx")
    write_image(frames / "good.ome.zarr", crops(1)[0], "yx")
    shutil.copy(EXAMPLES / "histology.png", frames)
    call = ("--local", "--repository", repository, "--save", "csv")
    result = segment(frames, "--out", tmp_path / "out", *call)
    assert isinstance(failure(result), InvalidImage)
    assert f"{frames}/damaged.ome.zarr: is truncated or damaged" in result.stderr
    assert f"{frames}/empty.ome.zarr: holds no image; expected an OME-Zarr" in result.stderr
    assert f"{frames}/z.ome.zarr: it holds 3 slices (z): choose some with --z" in result.stderr
    assert result.stderr.endswith("2 done, 3 failed\n")
    assert (tmp_path / "out" / "good" / "nuclei.csv").exists()
    assert [row["frame"] for row in rows(tmp_path / "out" / "frames.csv") if row["error"]] == [
        *("damaged.ome.zarr", "empty.ome.zarr", "z.ome.zarr"),
    ]


def test_a_frame_whose_result_cannot_be_written_says_so_in_the_table(
    repository: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "histology.csv").mkdir(parents=True)  # in the way
    call = ("--local", "--repository", repository, "--save", "csv", "--out", out)
    result = segment(EXAMPLES / "histology.png", EXAMPLES / "fluorescence.png", *call)
    assert isinstance(failure(result), InvalidOption)
    assert result.stderr.endswith("1 done, 1 failed\n")
    lost, kept = rows(out / "frames.csv")
    assert (kept["frame"], kept["error"]) == ("fluorescence.png", "")
    assert lost["error"].startswith("InvalidOption: ")
    assert "cannot be written" in lost["error"]
    assert int(lost["count"]) > 10


@pytest.mark.parametrize("form", ["imagej", "ome"])
def test_a_stack_that_lacks_its_end_is_named_and_the_others_go_on(
    repository: Path, tmp_path: Path, form: str
) -> None:
    """Of such a file one plane may be left, of which nothing says that it was one of many."""
    series = np.stack(crops(3))
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(
        whole, series, photometric="minisblack", metadata={"axes": "TYX"}, **{form: True}
    )
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    call = ("--t", "all", "--local", "--repository", repository, "--save", "csv")
    result = segment(cut, whole, "--out", tmp_path / "out", *call)
    assert isinstance(failure(result), InvalidImage)
    why = "the TIFF is truncated (it ends before a page that it names, the one after 1)"
    assert f"{cut}: {why}" in result.stderr
    assert "3 done, 1 failed\n" in result.stderr
    assert not (tmp_path / "out" / "cut").exists()


def test_a_time_series_gets_tracks(repository: Path, tmp_path: Path) -> None:
    pixels = read_frame(EXAMPLES / "fluorescence.png").pixels[:, :, 0]
    series = np.stack([pixels[20 + 3 * t : 148 + 3 * t, 20:148] for t in range(3)])
    tifffile.imwrite(
        tmp_path / "s.ome.tif", series, ome=True, metadata={"axes": "TYX"}, photometric="minisblack"
    )
    call = ("--t", "all", "--track", 8, "--local", "--repository", repository, "--save", "csv")
    result = segment(tmp_path / "s.ome.tif", "--out", tmp_path / "out", *call)
    assert result.exit_code == 0, result.output
    found = rows(tmp_path / "out" / "s.ome" / "nuclei.csv")
    assert {row["t"] for row in found} == {"0", "1", "2"}
    places = {(row["track"], int(row["t"])): float(row["centroid_y_px"]) for row in found}
    steps = [places[one, t] - y for (one, t0), y in places.items() if (one, t := t0 + 1) in places]
    assert len(steps) > 5
    # The frame moves down by three pixels, so nuclei move up.
    assert np.median(steps) == pytest.approx(-3, abs=0.5)


def test_a_stack_without_a_choice_is_refused_as_one_frame(tmp_path: Path, repository: Path) -> None:
    stack = np.zeros((3, 64, 64), np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", stack, imagej=True, metadata={"axes": "TYX"})
    call = ("--out", tmp_path / "out", "--local", "--repository", repository)
    result = segment(tmp_path / "s.tif", *call)
    assert isinstance(failure(result), ChoiceRequired)
    assert "such as --t all" in result.stderr
    both = failure(segment(tmp_path / "s.tif", *call, "--t", "all", "--plane", 1))
    assert isinstance(both, InvalidOption)


def test_a_slide_is_segmented_by_region_without_seams(
    uninterrupted: Uninterrupted, repository: Path, tmp_path: Path
) -> None:
    slide, out = uninterrupted.slide, uninterrupted.out
    assert "segmented in 3 regions" in uninterrupted.warnings
    labels = read_labels(out / "s" / "s.labels.tif")
    assert labels.shape == slide.shape
    table = rows(out / "s" / "s.csv")
    assert np.bincount(labels.ravel())[1:].tolist() == [int(row["area_px"]) for row in table]
    assert cv2.imread(str(out / "s" / "s.overlay.png")) is not None
    assert not (out / FOLDER).exists()
    # The plane around a border of regions, at 2767, is as that part of it is by itself.
    border = round(8300 / 3)
    tifffile.imwrite(tmp_path / "part.tif", slide[:, border - 300 : border + 300])
    call = ("--out", tmp_path, "--local", "--repository", repository, "--save", "labels.tif")
    assert segment(tmp_path / "part.tif", *call).exit_code == 0
    alone = read_labels(tmp_path / "part.labels.tif")[:, 50:-50]
    assert alone.max() > 10
    found = score_image(alone, labels[:, border - 250 : border + 250])
    assert found["f1_0.75"] > 0.9


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Dask cluster with two workers."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as running:
        yield running


@pytest.mark.slow
def test_two_workers_never_overrun_a_gateway_that_others_keep_busy(
    cluster: Any, triton: TritonServer, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    series = np.stack([crop[:96, :96] for crop in crops(8)])
    tifffile.imwrite(tmp_path / "s.tif", series, metadata={"axes": "TYX"}, photometric="minisblack")
    gateway = start_gateway(triton.address, NUCLEI_MAX_FRAMES_IN_FLIGHT="1")
    gateway.wait_ready()
    call = (tmp_path / "s.tif", "--t", "all", "--save", "csv,labels.tif")
    asking = (*call, "--address", gateway.grpc_address)
    assert segment(*asking, "--out", tmp_path / "one").exit_code == 0
    finished, refused = threading.Event(), 0

    def ask() -> None:
        nonlocal refused
        with Client(gateway.grpc_address) as client:
            while not finished.is_set():
                try:
                    client.segment(EXAMPLES / "histology.png")
                except Overloaded as error:
                    refused += 1
                    time.sleep(error.retry_after_s)

    other = threading.Thread(target=ask)
    other.start()
    try:
        two = segment(*asking, "--out", tmp_path / "two", "--dask", cluster.scheduler_address)
    finally:
        finished.set()
        other.join()
    assert two.exit_code == 0, two.output
    assert files(tmp_path / "two") == files(tmp_path / "one")
    metrics = httpx.get(f"{gateway.url}/metrics").text
    rejected = sum(
        float(line.split()[-1])
        for line in metrics.splitlines()
        if line.startswith("nuclei_rejected_total{")
    )
    # Frames of the run itself were refused, and asked about again.
    assert rejected > refused


@pytest.mark.slow
def test_two_workers_give_what_one_process_gives_though_one_is_killed(
    uninterrupted: Uninterrupted, cluster: Any, tmp_path: Path
) -> None:
    victim = next(iter(cluster.workers.values())).process.pid
    out = tmp_path / "two"
    command = [*COMMAND, *map(str, uninterrupted.call), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--dask", cluster.scheduler_address],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while process.poll() is None and not any((out / FOLDER / SLIDES).rglob("y*")):
        time.sleep(0.005)
    os.kill(victim, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    assert files(out) == uninterrupted.written
