import csv
import html
import json
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.errors import InvalidData, InvalidOption
from nuclei.inference.onnx_engine import LocalEngine
from training.data.coco import coco_json

if TYPE_CHECKING:
    from tests.conftest import Gateway

MODALITIES = {"a": "fluorescence", "b": "fluorescence", "c": "histology"}
PICTURES = ["comparisons.png", "scores_per_image.png", "scores_per_threshold.png"]


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "100"})


def truth(name: str) -> np.ndarray:
    """Label image of three discs, a different one for each name."""
    labels = np.zeros((96, 96), np.uint16)
    for label, centre in enumerate([(20, 20), (60, 25), (40, 70)], start=1):
        cv2.circle(labels, centre, 8 + ord(name) % 5, label, -1)
    return labels


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for name in MODALITIES:
        frame = np.where(truth(name) > 0, 180, 20).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{name}.png"), cv2.GaussianBlur(frame, (0, 0), 1))
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), truth(name))
    rows = "\n".join(f"{name},{modality}" for name, modality in MODALITIES.items())
    (folder / "manifest.csv").write_text(f"id,kind\n{rows}\n")
    return folder


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """The truth of a and c, and b without its last nucleus."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    for name in MODALITIES:
        labels = truth(name)
        if name == "b":
            labels[labels == 3] = 0
        cv2.imwrite(str(folder / f"{name}.png"), labels)
    return folder


def test_scores_label_images_of_any_program(
    dataset: Path, predictions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    result = evaluate(dataset, "--predictions", predictions, "--out", out)
    assert result.exit_code == 0, result.output
    scores = json.loads((out / "scores.json").read_text())
    assert scores["overall"]["dsb_score"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert scores["by_modality"]["fluorescence"]["dsb_score"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["by_modality"]["histology"]["dsb_score"] == 1
    assert [image["name"] for image in scores["images"]] == ["a", "b", "c"]
    for name in PICTURES:
        assert cv2.imread(str(out / name)).std() > 0
    assert (out / "report.html").read_text().count("data:image/svg+xml") == 5
    assert "0.889" in result.stdout


def test_reads_a_zip(dataset: Path, predictions: Path, tmp_path: Path) -> None:
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in dataset.rglob("*.*"):
            file.write(path, path.relative_to(dataset))
    assert evaluate(archive, "--predictions", predictions).exit_code == 0


@pytest.mark.slow
def test_scores_a_model_in_this_process(dataset: Path, repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    result = evaluate(dataset, "--local", "--repository", repository, "--out", out)
    assert result.exit_code == 0, result.output
    scores = json.loads((out / "scores.json").read_text())
    assert scores["overall"]["ap_0.50"] > 0.9
    assert scores["overall"]["n_true"] == 9
    assert scores["coco"]["box_ap_0.50"] > 0.9
    assert "ms per image" in result.stdout


@pytest.mark.parametrize("damage", ["missing", "other size", "float"])
def test_a_prediction_that_cannot_be_scored_is_named(
    dataset: Path, predictions: Path, damage: str
) -> None:
    path = predictions / "b.png"
    path.unlink()
    if damage == "other size":
        cv2.imwrite(str(path), truth("b")[:50])
    elif damage == "float":
        cv2.imwrite(str(path.with_suffix(".tif")), truth("b").astype(np.float32) / 2)
    result = evaluate(dataset, "--predictions", predictions)
    assert isinstance(result.exception, InvalidData)
    assert "b" in str(result.exception)
    assert {"missing": "no label image", "other size": "same size", "float": "float32"}[
        damage
    ] in str(result.exception)


def test_a_dataset_that_is_not_there_is_named(tmp_path: Path, predictions: Path) -> None:
    result = evaluate(tmp_path / "nowhere", "--predictions", predictions)
    assert isinstance(result.exception, InvalidData)
    assert "nowhere" in str(result.exception)


@pytest.mark.slow
def test_scores_only_what_the_model_was_not_trained_on(
    dataset: Path, repository: Path, tmp_path: Path
) -> None:
    name = LocalEngine(repository).find("unet").contract.held_out[0]
    for part in ("images", "masks"):
        (dataset / part / "c.png").rename(dataset / part / f"{name}.png")
    (dataset / "manifest.csv").unlink()
    arguments = (dataset, "--local", "--repository", repository, "--held-out")
    out = tmp_path / "scores"
    assert evaluate(*arguments, "--out", out).exit_code == 0
    scores = json.loads((out / "scores.json").read_text())
    assert [image["name"] for image in scores["images"]] == [name]


def test_a_data_set_without_held_out_images_is_refused(dataset: Path, repository: Path) -> None:
    result = evaluate(dataset, "--local", "--repository", repository, "--held-out")
    assert isinstance(result.exception, InvalidData)
    assert "leave out --held-out" in str(result.exception)


def test_scores_what_a_gateway_answers(dataset: Path, gateway: "Gateway", tmp_path: Path) -> None:
    out = tmp_path / "scores"
    result = evaluate(dataset, "--address", gateway.grpc_address, "--out", out)
    assert result.exit_code == 0, result.output
    scores = json.loads((out / "scores.json").read_text())
    assert scores["overall"]["ap_0.50"] > 0.9
    assert scores["coco"] == {}


@pytest.mark.parametrize(
    "name", ["{}.TIF", "{}.ome.tif", "{}_cp_masks.tif", "{}_masks.tiff", "{}.labels.tif"]
)
def test_predictions_may_have_the_names_that_other_programs_give(
    dataset: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "others"
    folder.mkdir()
    for image in MODALITIES:
        tifffile.imwrite(folder / name.format(image), truth(image))
        if "{}." not in name or "labels" in name:
            shutil.copy(dataset / "images" / f"{image}.png", folder)
    result = evaluate(dataset, "--predictions", folder)
    assert result.exit_code == 0, result.output
    assert "1.000" in result.stdout


def test_every_prediction_that_is_no_label_image_is_named(dataset: Path, predictions: Path) -> None:
    cv2.imwrite(str(predictions / "a.png"), (truth("a") > 0) * np.uint8(255))
    shutil.copy(dataset / "images" / "b.png", predictions / "b.png")
    jpeg = cv2.imencode(".jpg", (truth("c") * 40).astype(np.uint8))[1]
    (predictions / "c.png").write_bytes(jpeg.tobytes())
    result = evaluate(dataset, "--predictions", predictions)
    assert isinstance(result.exception, InvalidData)
    binary, photograph, lossy = str(result.exception).splitlines()[1:]
    assert "a.png: it holds the one value 255 in 3 separate places" in binary
    assert "b.png: " in photograph
    assert "as in a photograph" in photograph
    assert "c.png" in lossy


def test_names_are_never_markup_or_mathematics(dataset: Path, tmp_path: Path) -> None:
    others = tmp_path / "[bold]$x$"
    others.mkdir()
    names = {"a": "$\\frac{$[bold]", "b": "_$1 [red]:smile:", "c": "<b>&{{ 7 * 6 }}"}
    rows = [["id", "kind"]]
    for old, new in names.items():
        for part in ("images", "masks"):
            (dataset / part / f"{old}.png").rename(dataset / part / f"{new}.png")
        shutil.copy(dataset / "masks" / f"{new}.png", others)
        rows.append([new, f"[/x] $^{{$ {old}"])
    with (dataset / "manifest.csv").open("w") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "[").mkdir()
    dataset = dataset.rename(tmp_path / "[" / "x] $_$ [red]")
    out = tmp_path / "out"
    result = evaluate(dataset, "--predictions", others, "--out", out)
    assert result.exit_code == 0, result.output
    assert "[bold]$x$ on" in result.stdout
    assert "[/x] $^{$ a" in result.stdout
    page = html.unescape((out / "report.html").read_text())
    assert all(name in page for name in names.values())
    compared = CliRunner().invoke(app, ["compare", str(others), "--data", str(dataset)])
    assert compared.exit_code == 0, compared.output


def test_the_category_that_is_nuclei_can_be_chosen(dataset: Path, predictions: Path) -> None:
    truths = {f"images/{name}.png": truth(name) for name in MODALITIES}
    document = json.loads(coco_json(truths))
    document["categories"].append({"id": 2, "name": "cell"})
    document["annotations"][0]["category_id"] = 2
    (dataset / "all.json").write_text(json.dumps(document))
    shutil.rmtree(dataset / "masks")
    refused = evaluate(dataset, "--predictions", predictions)
    assert "nucleus (8), cell (1); say which" in str(refused.exception)
    result = evaluate(dataset, "--predictions", predictions, "--category", "nucleus")
    assert result.exit_code == 0, result.output
    assert "nucleus (8); left out: cell (1)" in result.stderr


def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    dataset: Path, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    out = ("--out", tmp_path / "file" / "scores")
    failed = evaluate(dataset, "--model", "nothing", "--local", "--repository", repository, *out)
    compared = ["compare", str(tmp_path), "--data", str(dataset), *map(str, out)]
    for error in (failed.exception, CliRunner().invoke(app, compared).exception):
        assert isinstance(error, InvalidOption)
        assert "cannot be written" in str(error)
