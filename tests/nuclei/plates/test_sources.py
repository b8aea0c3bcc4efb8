"""Planes of files that hold many frames: the right ones, and a name for what cannot be read."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from nuclei.errors import ChoiceRequired, InvalidImage, MissingPrerequisite
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import read_frame
from nuclei.imaging.selection import EVERYTHING, Selection
from nuclei.plates.frames import read_place
from nuclei.plates.places import Choice, Numbers, places
from nuclei.plates.sources import open_source
from tests.nuclei.plates.made import Version, chunks, crops, write_image, write_plate

STACK = np.random.default_rng(5).integers(0, 65535, (2, 3, 2, 40, 50), np.uint16)
"""[T, Z, C, Y, X]"""
DAPI = Selection("DAPI")
ALL_SLICES = Choice(z=Numbers())
CHANNELS = {"Channel": {"Name": ["GFP", "DAPI"]}}


def tiff_of_positions(path: Path) -> Path:
    """An OME-TIFF with two positions in wells of a plate."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        for number in range(2):
            writer.write(
                STACK + number,
                photometric="minisblack",
                metadata={"axes": "TZCYX", "Name": f"Pos{number}", **CHANNELS},
            )
    plate = (
        '<Plate ID="Plate:0"><Well ID="Well:0" Row="1" Column="2"><WellSample ID="WellSample:0" '
        'Index="0"><ImageRef ID="Image:0"/></WellSample></Well></Plate>'
    )
    text = tifffile.tiffcomment(path)
    tifffile.tiffcomment(path, text.replace("<Image ", plate + "<Image ", 1).encode())
    return path


def ome_zarr(path: Path, version: Version) -> Path:
    write_image(path, STACK, "tzcyx", version, ("GFP", "DAPI"))
    return path


def imagej(path: Path) -> Path:
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TZCYX"})
    return path


def read(path: Path, choice: Choice = ALL_SLICES, channel: Any = 1) -> dict[str, NDArray[Any]]:
    source = open_source(path)
    options = FrameOptions(Selection(channel))
    found = {
        place.name: read_place(source, field, place, options).pixels[:, :, 0]
        for field, place in places(source.fields, choice)
    }
    source.close()
    return found


@pytest.mark.parametrize("form", ["0.4", "0.5", "ImageJ"])
def test_every_plane_of_a_stack(form: Any, tmp_path: Path) -> None:
    path = imagej(tmp_path / "a.tif") if form == "ImageJ" else ome_zarr(tmp_path / "a.zarr", form)
    planes = read(path)
    assert len(planes) == 6
    for t in range(2):
        for z in range(3):
            np.testing.assert_array_equal(planes[f"t{t:04d}_z{z:03d}"], STACK[t, z, 1])


def test_positions_of_an_ome_tiff_and_their_wells(tmp_path: Path) -> None:
    path = tiff_of_positions(tmp_path / "a.ome.tif")
    planes = read(path, channel="DAPI")
    assert len(planes) == 12
    np.testing.assert_array_equal(planes["B03_fPos0_t0001_z002"], STACK[1, 2, 1])
    np.testing.assert_array_equal(planes["fPos1_t0000_z001"], STACK[0, 1, 1] + 1)
    assert open_source(path).wells() == (["B"], ["03"])
    # As one frame it is read as before: pages as stored.
    frame = read_frame(path, options=FrameOptions(Selection(plane=3)))
    np.testing.assert_array_equal(frame.pixels[:, :, 0], STACK[0, 1, 1])


def test_planes_are_those_of_a_single_frame(tmp_path: Path) -> None:
    """One decoder: the frame of a source is what `read_frame` gives, warnings included."""
    path = imagej(tmp_path / "a.tif")
    single = read_frame(path, options=FrameOptions(Selection(1, plane=4)))
    source = open_source(path)
    field, place = places(source.fields, ALL_SLICES)[4]
    frame = read_place(source, field, place, FrameOptions(Selection(1)))
    np.testing.assert_array_equal(frame.pixels, single.pixels)
    assert (frame.warnings, frame.pixel_size_um) == (single.warnings, single.pixel_size_um)


def test_slices_are_projected(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", "0.4")
    planes = read(path, Choice(z="max"))
    np.testing.assert_array_equal(planes["t0001_zmax"], STACK[1, :, 1].max(axis=0))


def test_the_sharpest_slice_is_found(tmp_path: Path) -> None:
    import cv2

    (sharp,) = crops(1)
    blurred = [np.asarray(cv2.GaussianBlur(sharp, (0, 0), sigma)) for sigma in (4, 1.5, 3)]
    stack = np.stack([blurred[0], blurred[1], sharp, blurred[2]])
    write_image(tmp_path / "a.zarr", stack, "zyx")
    planes = read(tmp_path / "a.zarr", Choice(z="sharpest"), channel=None)
    np.testing.assert_array_equal(planes["zsharpest"], sharp)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate(version: Version, tmp_path: Path) -> None:
    images = crops(3)
    wells = {"A/01": images[:2], "C/04": images[2:]}
    source = open_source(write_plate(tmp_path / "p.zarr", wells, version=version))
    assert [(field.well, field.name) for field in source.fields] == [
        *(("A01", "0"), ("A01", "1"), ("C04", "0")),
    ]
    assert source.wells() == (["A", "B", "C"], ["01", "02", "03", "04"])
    for number, pixels in enumerate(images):
        decoded = source.plane(number, 0, 0, EVERYTHING)
        np.testing.assert_array_equal(decoded.pixels, pixels)
        assert decoded.pixel_size_um == (0.5, 0.5)


def test_a_channel_has_to_be_chosen_and_is_named(tmp_path: Path) -> None:
    for path in (ome_zarr(tmp_path / "a.zarr", "0.5"), tiff_of_positions(tmp_path / "a.ome.tif")):
        source = open_source(path)
        with pytest.raises(ChoiceRequired, match=r"2 channels \(0 'GFP', 1 'DAPI'\)"):
            source.plane(0, 0, 0, EVERYTHING)
        assert any("'DAPI'" in said for said in source.plane(0, 0, 0, DAPI).warnings)


def test_what_is_wrong_with_a_plate_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    wells = {f"A/0{number + 1}": [pixels] for number, pixels in enumerate(crops(4))}
    path = write_plate(tmp_path / "p.zarr", wells)
    shutil.rmtree(path / "A/02")
    chunks(path / "A/03/0")[1].write_bytes(b"damaged")
    (path / "A/04/0/.zattrs").write_text("{}")
    source = open_source(path)
    source.plane(0, 0, 0, EVERYTHING)
    assert [field.well for field in source.fields] == ["A01", "A02", "A03", "A04"]
    said = []
    for number in range(1, 4):
        with pytest.raises(InvalidImage) as refused:
            source.plane(number, 0, 0, EVERYTHING)
        said.append(str(refused.value))
    assert all(text.startswith(f"{path}: ") for text in said)
    assert "A/02" in said[0]
    assert "damaged" in said[1]
    assert "A/04/0 has no `multiscales`" in said[2]


def test_chunks_that_were_never_written_are_said(tmp_path: Path) -> None:
    (pixels,) = crops(1)
    write_image(tmp_path / "a.zarr", pixels, "yx")
    files = chunks(tmp_path / "a.zarr")
    assert len(files) == 4
    files[0].unlink()
    (said,) = open_source(tmp_path / "a.zarr").plane(0, 0, 0, EVERYTHING).warnings
    assert said == "1 of the 4 chunks of the plane were never written, and were read as 0"
    for file in files[1:]:
        file.unlink()
    with pytest.raises(InvalidImage, match="nothing was written into this plane"):
        open_source(tmp_path / "a.zarr").plane(0, 0, 0, EVERYTHING)


def test_files_that_are_no_source_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.tif").write_bytes(imagej(tmp_path / "a.tif").read_bytes()[:100])
    whole = imagej(tmp_path / "a.tif").read_bytes()
    (tmp_path / "less.tif").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "empty.tif").touch()
    (tmp_path / "zarr.zarr").mkdir()
    (tmp_path / "zarr.zarr" / ".zattrs").write_text("{")
    (tmp_path / "frame.png").touch()
    for name in ("cut.tif", "less.tif", "empty.tif", "zarr.zarr", "frame.png", "gone.tif"):
        with pytest.raises(InvalidImage, match=name):
            open_source(tmp_path / name)


def test_a_plane_that_is_damaged_does_not_keep_the_others_back(tmp_path: Path) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, STACK[:, 0, 0], photometric="minisblack", compression="zlib")
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages[1].aspage()
        start, length = page.dataoffsets[0], page.databytecounts[0]
    data[start : start + length] = bytes(length)
    (tmp_path / "a.tif").write_bytes(data)
    source = open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.plane(0, 0, 0, EVERYTHING).pixels, STACK[0, 0, 0])
    with pytest.raises(InvalidImage, match=r"a\.tif: .*damaged"):
        source.plane(0, 1, 0, EVERYTHING)


@pytest.mark.parametrize("form", ["rgb tiles", "grey strips", "zarr"])
def test_windows_are_parts_of_planes(form: str, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    shape = (300, 200, 3) if form == "rgb tiles" else (300, 200)
    pixels = random.integers(0, 255, shape, np.uint8)
    if form == "zarr":
        write_image(tmp_path / "a.zarr", pixels, "yx")
    elif form == "rgb tiles":
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64))
    else:
        tifffile.imwrite(tmp_path / "a.tif", pixels, rowsperstrip=7, compression="lzw")
    source = open_source(next(tmp_path.iterdir()))
    assert source.size(0) == (300, 200)
    part = slice(70, 170), slice(150, 200)
    np.testing.assert_array_equal(source.window(0, 0, 0, EVERYTHING, part).pixels, pixels[part])
    if form == "rgb tiles":
        green = source.window(0, 0, 0, Selection("green"), part)
        np.testing.assert_array_equal(green.pixels, pixels[*part, 1])


def test_a_microscopes_own_file_names_what_reads_it(tmp_path: Path) -> None:
    (tmp_path / "a.czi").write_bytes(b"no CZI")
    with pytest.raises((InvalidImage, MissingPrerequisite), match=r"a\.czi"):
        open_source(tmp_path / "a.czi")
