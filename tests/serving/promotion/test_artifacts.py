"""The files of a version: their digest, and what is refused before anything is read."""

import hashlib
import os
from pathlib import Path

import pytest

from nuclei.errors import InvalidData
from serving.promotion.artifacts import MAX_FILES, MAX_TOTAL_BYTES, check_listing, digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "network.onnx").write_bytes(b"weights")
    (made / "contract.json").write_bytes(b"{}")
    return made


def test_the_digest_is_that_of_sha256sum(folder: Path) -> None:
    lines = (
        f"{hashlib.sha256(b'{}').hexdigest()}  contract.json\n"
        f"{hashlib.sha256(b'weights').hexdigest()}  network.onnx\n"
    )
    assert digest(folder) == hashlib.sha256(lines.encode()).hexdigest()


def test_every_name_and_every_byte_counts(folder: Path) -> None:
    before = digest(folder)
    (folder / "network.onnx").write_bytes(b"weightt")
    changed = digest(folder)
    (folder / "network.onnx").rename(folder / "networks.onnx")
    assert len({before, changed, digest(folder)}) == 3


@pytest.mark.parametrize("made", ["link", "dangling", "folder", "pipe", "name"])
def test_what_is_no_file_is_refused(made: str, folder: Path) -> None:
    odd = folder / "odd.onnx"
    match made:
        case "link":
            odd.symlink_to(folder / "contract.json")
        case "dangling":
            odd.symlink_to("/nowhere")
        case "folder":
            odd.mkdir()
        case "pipe":
            os.mkfifo(odd)
        case "name":
            (folder / "a\nb").touch()
    with pytest.raises(InvalidData, match=r"expected"):
        digest(folder)


def test_a_folder_that_is_a_link_or_empty_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "empty").mkdir()
    for name in ("link", "empty", "missing"):
        with pytest.raises(InvalidData, match="register it again"):
            digest(tmp_path / name)


@pytest.mark.parametrize(
    "files",
    [
        [("../evil", 1)],
        [("/etc/passwd", 1)],
        [("a/b", 1)],
        [("..", 1)],
        [(f"{number}.onnx", 1) for number in range(MAX_FILES + 1)],
        [("a.onnx", MAX_TOTAL_BYTES), ("b.onnx", 1)],
    ],
)
def test_listings_that_lead_elsewhere_or_are_too_large_are_refused(
    files: list[tuple[str, int]],
) -> None:
    with pytest.raises(InvalidData, match="register"):
        check_listing(files)
