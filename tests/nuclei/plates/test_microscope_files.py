"""Microscopes' own files: CZI by ZEISS's library; LIF and ND2 as their makers lay them out."""

import gc
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pylibCZIrw import czi

from nuclei.errors import ChoiceRequired, InvalidImage
from nuclei.imaging.selection import EVERYTHING, Selection
from nuclei.plates.sources import open_source
from tests.nuclei.plates.lif import write_lif
from tests.nuclei.plates.nd2_files import write_nd2

Stack = NDArray[np.uint16]
STACK = np.random.default_rng(5).integers(0, 65535, (2, 3, 2, 40, 50), np.uint16)
"""[T, Z, C, Y, X]"""


def write_czi(path: Path, stack: Stack = STACK, scenes: int = 1, pixel_m: float = 5e-7) -> None:
    with czi.create_czi(str(path)) as file:
        for scene in range(scenes):
            for t, z, c in np.ndindex(stack.shape[:3]):
                file.write(
                    data=stack[t, z, c][:, :, None] + np.uint16(scene),
                    plane={"T": t, "Z": z, "C": c},
                    location=(100 * scene, 0),
                    **({"scene": scene} if scenes > 1 else {}),
                )
        file.write_metadata(
            document_name="a",
            channel_names={0: "Green", 1: "DAPI"},
            scale_x=pixel_m,
            scale_y=pixel_m / 2,
        )


def write_one_lif(path: Path) -> None:
    write_lif(path, {"a": STACK}, ("Green", "DAPI"))


def write_one_nd2(path: Path) -> None:
    write_nd2(path, STACK, ("Green", "DAPI"))


WRITERS: dict[str, Callable[[Path], None]] = {
    "czi": write_czi,
    "lif": write_one_lif,
    "nd2": write_one_nd2,
}
# (y, x); pixels of an ND2 are square.
SIZES_UM = {"czi": (0.25, 0.5), "lif": (0.25, 0.5), "nd2": (0.5, 0.5)}


@pytest.fixture(params=WRITERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"a.{request.param}"
    WRITERS[request.param](path)
    return path


def test_planes_and_windows(path: Path) -> None:
    with closing(open_source(path)) as source:
        ((n_t, n_z),) = [(field.n_t, field.n_z) for field in source.fields]
        assert (n_t, n_z, source.size(0)) == (2, 3, (40, 50))
        decoded = source.plane(0, 1, 2, Selection("dapi"))
        np.testing.assert_array_equal(decoded.pixels, STACK[1, 2, 1])
        assert decoded.pixel_size_um == pytest.approx(SIZES_UM[path.suffix[1:]])
        part = slice(3, 9), slice(4, 10)
        window = source.window(0, 0, 1, Selection(0), part)
        np.testing.assert_array_equal(window.pixels, STACK[0, 1, 0][part])
        with pytest.raises(ChoiceRequired, match=r"a\.\w+: .*0 'Green', 1 'DAPI'"):
            source.plane(0, 0, 0, EVERYTHING)


def test_a_file_that_is_let_go_is_closed(path: Path) -> None:
    """As by the cache of open files; one that is not closed warns, which is an error here."""
    source = open_source(path)
    del source
    gc.collect()
    files = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    assert str(path) not in files


def test_scenes_and_images_are_positions(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", STACK[:1, :1, :1], scenes=2)
    write_lif(tmp_path / "a.lif", {"A": STACK[:1, :1, :1], "B": STACK[1:, :1, :1]}, ("Gray",))
    expected = {
        "czi": (["0", "1"], STACK[0, 0, 0] + np.uint16(1)),
        "lif": (["A", "B"], STACK[1, 0, 0]),
    }
    for kind, (names, second) in expected.items():
        with closing(open_source(tmp_path / f"a.{kind}")) as source:
            assert [field.name for field in source.fields] == names
            np.testing.assert_array_equal(source.plane(1, 0, 0, EVERYTHING).pixels, second)


def test_colours_are_red_green_and_blue(tmp_path: Path) -> None:
    blue_first = np.zeros((20, 30, 3), np.uint8)
    blue_first[:, :, 0] = 200
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        file.write(data=blue_first)
        file.write_metadata(document_name="a")
    with closing(open_source(tmp_path / "a.czi")) as source:
        decoded = source.plane(0, 0, 0, EVERYTHING)
    assert decoded.pixels[3, 4].tolist() == [0, 0, 200]
    assert decoded.pixel_size_um is None


def test_planes_that_were_never_written_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as file:
        for t, z in ((0, 0), (0, 1), (1, 0)):
            file.write(data=STACK[t, z, 0][:, :, None], plane={"T": t, "Z": z, "C": 0})
        file.write_metadata(document_name="a")
    with closing(open_source(path)) as source:
        assert source.plane(0, 1, 0, EVERYTHING).pixels.any()
        with pytest.raises(InvalidImage, match=r"a\.czi: nothing was written"):
            source.plane(0, 1, 1, EVERYTHING)


def test_a_size_that_cannot_be_is_not_taken(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", STACK[:1, :1, :1], pixel_m=3e-4)
    with closing(open_source(tmp_path / "a.czi")) as source:
        decoded = source.plane(0, 0, 0, EVERYTHING)
    assert decoded.pixel_size_um is None
    assert any("150 x 300 um" in warning for warning in decoded.warnings)


def test_damaged_files_are_named(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(InvalidImage, match=rf"{path.name}: .*(truncated|damaged)"):
        open_source(path)


@pytest.mark.parametrize("kind", ["czi", "nd2", "lif"])
def test_files_of_another_kind_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    for content in (b"", b"\x89PNG\r\n\x1a\n" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(InvalidImage, match=rf"a\.{kind}: is no {kind.upper()}"):
            open_source(path)
