"""A microscope's own file, written by ZEISS's library and read through bioio.

Needs the extra `bioio`, whose reader of CZI is GPL-3.0: no other extra brings it.
"""

from pathlib import Path

import numpy as np
import pytest

from nuclei.errors import ChoiceRequired
from nuclei.imaging.selection import EVERYTHING, Selection
from nuclei.plates.sources import open_source

pytest.importorskip("bioio_czi", reason="the extra bioio is not installed")
czi = pytest.importorskip("pylibCZIrw.czi")

STACK = np.random.default_rng(5).integers(0, 65535, (2, 3, 2, 40, 50), np.uint16)
"""[T, Z, C, Y, X]"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as file:
        for t, z, c in np.ndindex(STACK.shape[:3]):
            file.write(data=STACK[t, z, c][:, :, None], plane={"T": t, "Z": z, "C": c})
        file.write_metadata(
            document_name="a", channel_names={0: "GFP", 1: "DAPI"}, scale_x=5e-7, scale_y=2.5e-7
        )
    return path


def test_planes_and_windows_of_a_czi(path: Path) -> None:
    source = open_source(path)
    ((n_t, n_z),) = [(field.n_t, field.n_z) for field in source.fields]
    assert (n_t, n_z, source.size(0)) == (2, 3, (40, 50))
    decoded = source.plane(0, 1, 2, Selection("dapi"))
    np.testing.assert_array_equal(decoded.pixels, STACK[1, 2, 1])
    assert decoded.pixel_size_um == pytest.approx((0.25, 0.5))
    part = slice(3, 9), slice(4, 10)
    window = source.window(0, 0, 1, Selection(0), part)
    np.testing.assert_array_equal(window.pixels, STACK[0, 1, 0][part])
    with pytest.raises(ChoiceRequired, match=r"a\.czi: .*0 'GFP', 1 'DAPI'"):
        source.plane(0, 0, 0, EVERYTHING)
    source.close()
