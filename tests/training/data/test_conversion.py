from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nuclei.errors import InvalidOption
from tests.full_disk import nearly_full_disk
from training.data.conversion import FORMS, write_dataset
from training.data.dataset import Sample, fingerprint, read_dataset


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_reads_as_the_same(
    form: str, samples: list[Sample], tmp_path: Path
) -> None:
    deep = [
        replace(sample, id=f"deep-{sample.id}", pixels=sample.pixels.astype(np.uint16) * 200)
        for sample in samples
    ]
    write_dataset([*samples, *deep], tmp_path / "out", form)
    found = read_dataset(tmp_path / "out")
    assert fingerprint(found) == fingerprint([*samples, *deep])
    modalities = {sample.id: sample.modality for sample in [*samples, *deep]}
    assert {sample.id: sample.modality for sample in found} == modalities


def test_yolo_files_list_the_held_out_images(samples: list[Sample], tmp_path: Path) -> None:
    write_dataset(samples, tmp_path, "yolo")
    assert "train: train.txt\nval: val.txt\n" in (tmp_path / "data.yaml").read_text()
    training, held_out = (
        (tmp_path / f"{name}.txt").read_text().split() for name in ("train", "val")
    )
    assert training
    assert held_out
    assert sorted(training + held_out) == sorted(f"./images/{sample.id}.png" for sample in samples)


def test_an_unknown_form_is_refused(samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="expected one of labels, coco, yolo"):
        write_dataset(samples, tmp_path, "voc")


def test_nothing_is_overwritten(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InvalidOption, match="is not empty"):
        write_dataset(samples, tmp_path, "coco")


def test_a_folder_that_cannot_be_made_is_named(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidOption, match=r"file/out cannot be written \(Not a directory\)"):
        write_dataset(samples, tmp_path / "file" / "out", "labels")


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_what_cannot_be_written_whole_leaves_nothing(
    form: str, is_new: bool, samples: list[Sample], tmp_path: Path
) -> None:
    """The second image does not fit into the limit of a file, as on a full disk."""
    noise = np.random.default_rng(0).integers(0, 2**16, (300, 300, 1), np.uint16)
    large = replace(samples[1], pixels=noise, labels=np.zeros((300, 300), np.uint32))
    out = tmp_path / "out"
    if not is_new:
        out.mkdir()
    with (
        nearly_full_disk(100_000),
        pytest.raises(InvalidOption, match=r"out cannot be written \(File too large\)"),
    ):
        write_dataset([samples[0], large], out, form)
    assert list(tmp_path.rglob("*")) == ([] if is_new else [out])
