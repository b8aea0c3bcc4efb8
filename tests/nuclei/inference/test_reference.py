"""References: written and read as they are; everything else is refused."""

import io
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy
from numpy.typing import NDArray

from nuclei.errors import InvalidData
from nuclei.inference.contract import Contract
from nuclei.inference.method import MASKS
from nuclei.inference.reference import REFERENCE_FILES, Reference, read_references, tile_of
from nuclei.postprocessing.rendering import RenderingParameters

SIDE = 64
OF_MAPS = Contract("unet")
OF_MASKS = Contract("yolov8", method=MASKS, maps=(), postprocessing=RenderingParameters())


def reference(**changed: Any) -> Reference:
    rng = np.random.default_rng(0)
    maps = {"MAPS": rng.integers(0, 255, (1, 3, SIDE, SIDE)).astype(np.uint8)}
    fields = {
        "image": rng.integers(0, 4095, (SIDE, SIDE, 1)).astype(np.uint16),
        "intensity": np.array([3, 4000], np.float32),
        "one_view": maps,
        "all_views": maps,
        "labels": rng.integers(0, 9, (SIDE, SIDE)).astype(np.uint32),
    }
    return Reference(**(fields | changed))


def masks(count: int, **changed: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {
        "BOXES": np.ones((count, 4), np.float32),
        "SCORES": np.ones(count, np.float32),
        "MASKS": np.ones((count, 28, 28), np.uint8),
        **changed,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / REFERENCE_FILES["grey"]


@pytest.mark.parametrize(
    ("contract", "written"),
    [
        (OF_MAPS, reference()),
        (OF_MAPS, reference(image=np.ones((SIDE, SIDE, 3), np.uint16))),
        (OF_MASKS, reference(one_view=masks(7), all_views=masks(5))),
        (OF_MASKS, reference(one_view=masks(0), all_views=masks(0))),
        (
            OF_MASKS,
            reference(one_view=masks(7, BOXES=np.ones((4, 7), np.float32).T), all_views=masks(5)),
        ),
    ],
)
def test_a_reference_is_read_as_it_was_written(
    contract: Contract, written: Reference, tmp_path: Path
) -> None:
    written.write(tmp_path)
    found = Reference.read(tmp_path, written.kind, contract)
    for name in ("image", "intensity", "labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name), strict=True)
    for view in ("one_view", "all_views"):
        assert getattr(found, view).keys() == getattr(written, view).keys()
        for name, tensor in getattr(written, view).items():
            np.testing.assert_array_equal(getattr(found, view)[name], tensor, strict=True)
    assert found.frame.pixels is found.image


def test_a_model_has_a_reference_of_each_kind_that_it_was_held_to(tmp_path: Path) -> None:
    grey, colour = reference(), reference(image=np.full((SIDE, SIDE, 3), 9, np.uint16))
    with pytest.raises(InvalidData, match=r"has neither reference-grey.npz nor reference-colour"):
        read_references(tmp_path, OF_MAPS)
    colour.write(tmp_path)
    assert [one.kind for one in read_references(tmp_path, OF_MAPS)] == ["colour"]
    grey.write(tmp_path)
    assert [one.kind for one in read_references(tmp_path, OF_MAPS)] == ["grey", "colour"]
    (tmp_path / REFERENCE_FILES["grey"]).rename(tmp_path / REFERENCE_FILES["colour"])
    with pytest.raises(InvalidData, match="no colour tile of it"):
        read_references(tmp_path, OF_MAPS)


IMPOSSIBLE: dict[str, tuple[Contract, Reference]] = {
    "another method": (OF_MASKS, reference()),
    "other maps": (replace(OF_MAPS, maps=("foreground", "border")), reference()),
    "larger than a tile": (replace(OF_MAPS, tile_size=32, halo=0), reference()),
    "no multiple of the stride": (replace(OF_MAPS, stride=128), reference()),
    "image of bytes": (OF_MAPS, reference(image=np.ones((SIDE, SIDE, 1), np.uint8))),
    "image big-endian": (OF_MAPS, reference(image=np.ones((SIDE, SIDE, 1), ">u2"))),
    "image not square": (OF_MAPS, reference(image=np.ones((SIDE, 32, 1), np.uint16))),
    "image without pixels": (OF_MAPS, reference(image=np.ones((0, 0, 1), np.uint16))),
    "image in colour": (OF_MAPS, reference(image=np.ones((SIDE, SIDE, 3), np.uint16))),
    "image of two channels": (OF_MAPS, reference(image=np.ones((SIDE, SIDE, 2), np.uint16))),
    "range falls": (OF_MAPS, reference(intensity=np.array([9, 3], np.float32))),
    "range not finite": (OF_MAPS, reference(intensity=np.array([0, np.inf], np.float32))),
    "labels of another size": (OF_MAPS, reference(labels=np.ones((32, 32), np.uint32))),
    "objects": (OF_MAPS, reference(labels=np.full((SIDE, SIDE), None))),
    "fewer scores": (
        OF_MASKS,
        reference(one_view=masks(7, SCORES=np.ones(6, np.float32)), all_views=masks(7)),
    ),
    "no number": (
        OF_MASKS,
        reference(one_view=masks(1, SCORES=np.array([np.nan], np.float32)), all_views=masks(7)),
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_does_not_fit_the_model_is_refused(case: str, path: Path) -> None:
    contract, written = IMPOSSIBLE[case]
    arrays = {"IMAGE": written.image, "RANGE": written.intensity, "LABELS": written.labels}
    for view, outputs in (("one_view", written.one_view), ("all_views", written.all_views)):
        arrays |= {f"{view}.{name}": tensor for name, tensor in outputs.items()}
    np.savez_compressed(path, **arrays)
    with pytest.raises(InvalidData, match="is no reference of a"):
        Reference.read(path.parent, "grey", contract)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was loaded",)


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


DAMAGED = {
    "a pickle": pickle.dumps(Bomb()),
    "an array of pickles": header((1,), "|O") + pickle.dumps(Bomb()),
    "a shape of terabytes": header((2**40, 2**10), "<u4"),
    "a negative shape": header((-1, -4), "<u4") + bytes(16),
    "a header of code": b"\x93NUMPY\x01\x00\x10\x00__import__('os')\n",
    "a header of nothing": b"\x93NUMPY\x01\x00\xff\xff",
    "an unknown form": b"\x93NUMPY\x09\x00",
    "nothing": b"",
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_member_is_refused(case: str, path: Path) -> None:
    reference().write(path.parent)
    replaced(path, "LABELS.npy", DAMAGED[case])
    with pytest.raises(InvalidData, match="is no reference of a watershed model"):
        Reference.read(path.parent, "grey", OF_MAPS)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(path: Path) -> None:
    reference().write(path.parent)
    replaced(path, "LABELS.npy", bytes(2**28))
    assert path.stat().st_size < 2**20
    with pytest.raises(InvalidData, match="expected at most 134217728 bytes"):
        Reference.read(path.parent, "grey", OF_MAPS)


@pytest.mark.parametrize("name", ["../LABELS.npy", "/LABELS.npy", "more.npy"])
def test_members_of_other_names_are_refused(name: str, path: Path) -> None:
    reference().write(path.parent)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"")
    with pytest.raises(InvalidData, match="expected the arrays IMAGE, RANGE, LABELS, one_view"):
        Reference.read(path.parent, "grey", OF_MAPS)


def test_what_is_no_file_of_its_kind_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="there is no such file"):
        Reference.read(tmp_path, "grey", OF_MAPS)
    path.mkdir()
    with pytest.raises(InvalidData, match="there is no such file"):
        Reference.read(tmp_path, "grey", OF_MAPS)
    path.rmdir()
    reference().write(tmp_path)
    elsewhere = path.rename(tmp_path / "elsewhere.npz")
    path.symlink_to(elsewhere)
    with pytest.raises(InvalidData, match="there is no such file"):
        Reference.read(tmp_path, "grey", OF_MAPS)
    path.unlink()
    path.write_bytes(elsewhere.read_bytes()[:-100])
    with pytest.raises(InvalidData, match="is no reference"):
        Reference.read(tmp_path, "grey", OF_MAPS)


@pytest.mark.parametrize("shape", [(1000, 700, 1), (20, 300, 3), (256, 256, 1), (1, 1, 1)])
def test_the_middle_of_any_image_is_a_tile(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    tile = tile_of(pixels, OF_MAPS)
    assert tile.shape == (256, 256, shape[2])
    assert tile.dtype == np.uint16
    y, x = max(0, shape[0] - 256) // 2, max(0, shape[1] - 256) // 2
    shown = pixels[y : y + 256, x : x + 256]
    np.testing.assert_array_equal(tile[: shown.shape[0], : shown.shape[1]], shown)
    assert tile_of(pixels, replace(OF_MAPS, tile_size=96, halo=0)).shape[:2] == (96, 96)


def replaced(path: Path, name: str, data: bytes) -> None:
    """Put other bytes in the place of a member of a zip."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()} | {name: data}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
