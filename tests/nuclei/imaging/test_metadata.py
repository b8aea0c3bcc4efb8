"""Pixel sizes of files as acquisition software writes them: believed, or unknown with a word."""

import json
from typing import Any

import numpy as np
import pytest

from nuclei.errors import InvalidOption
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import Frame, read_frame
from nuclei.imaging.selection import Selection
from tests.nuclei.imaging.decoding.files import GREY16, pillow, tiff, with_chunk

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def ome(attributes: str, name: str = "a", end: str = "</OME>") -> bytes:
    """An OME-TIFF with these attributes of its pixels."""
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{NAMESPACE}">'
        f'<Image ID="Image:0" Name="{name}"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
        f'Type="uint16" SizeX="50" SizeY="40" SizeZ="1" SizeC="1" SizeT="1" {attributes}>'
        f"<TiffData/></Pixels></Image>{end}"
    )
    return tiff(GREY16, description=xml.encode(), metadata=None)


def ome_set(own: str, *images: tuple[str, str, str]) -> bytes:
    """The file `own` of a set; of each image its file, the name of its channel, attributes."""
    xml = f'<OME xmlns="{NAMESPACE}" UUID="urn:uuid:{own}">' + "".join(
        f'<Image ID="Image:{n}"><Pixels ID="Pixels:{n}" DimensionOrder="XYCZT" Type="uint16" '
        f'SizeX="50" SizeY="40" SizeZ="1" SizeC="1" SizeT="1" {attributes}>'
        f'<Channel ID="Channel:{n}:0" Name="{channel}"/>'
        f'<TiffData IFD="0" PlaneCount="1"><UUID>urn:uuid:{file}</UUID></TiffData></Pixels></Image>'
        for n, (file, channel, attributes) in enumerate(images)
    )
    return tiff(GREY16, description=f"{xml}</OME>".encode(), metadata=None)


def square(size: str, unit: str = "µm") -> str:
    return " ".join(f'PhysicalSize{axis}="{size}" PhysicalSize{axis}Unit="{unit}"' for axis in "XY")


def imagej(per_unit: tuple[float, float], **metadata: Any) -> bytes:
    """As Fiji saves it; `per_unit` is (x, y)."""
    return tiff(GREY16, imagej=True, resolution=per_unit, metadata=metadata)


def micro_manager(**metadata: Any) -> bytes:
    text = json.dumps(metadata).encode()
    return tiff(GREY16, metadata=None, extratags=[(51123, "s", 0, text, True)])


def metamorph(*properties: tuple[str, str, str]) -> bytes:
    props = "".join(
        f'<prop id="{name}" type="{kind}" value="{value}"/>' for name, kind, value in properties
    )
    xml = f"<MetaData><PlaneInfo>{props}</PlaneInfo></MetaData>"
    return tiff(GREY16, metadata=None, description=xml, software="MetaSeries")


def aperio(text: str) -> bytes:
    description = f"Aperio Image Library v12.0.15\r\n50x40 (256x256) JPEG/RGB Q=70|{text}"
    return tiff(GREY16, metadata=None, description=description)


def phys(x: int, y: int, unit: int = 1) -> bytes:
    contents = x.to_bytes(4, "big") + y.to_bytes(4, "big") + bytes([unit])
    return with_chunk(pillow(GREY16, "PNG"), b"pHYs", contents)


CALIBRATED = ("spatial-calibration-x", "float", "0.5"), ("spatial-calibration-y", "float", "0.25")
ON = ("spatial-calibration-state", "bool", "on")
UNIT = ("spatial-calibration-units", "string", "um")

BELIEVED = {
    "micro-manager": (micro_manager(PixelSizeUm=0.325, Binning="1"), (0.325, 0.325)),
    "metamorph xml": (metamorph(*CALIBRATED, ON, UNIT), (0.25, 0.5)),
    "metamorph xml in nanometres": (
        metamorph(
            ("spatial-calibration-x", "float", "500"),
            ("spatial-calibration-y", "float", "250"),
            ("spatial-calibration-units", "string", "nm"),
        ),
        (0.25, 0.5),
    ),
    "aperio": (aperio("AppMag = 20|MPP = 0.4990|Left = 25.6"), (0.499, 0.499)),
    "png": (phys(2_000_000, 4_000_000), (0.25, 0.5)),
    "ome of a bare number": (ome('PhysicalSizeX="0.5" PhysicalSizeY="0.25"'), (0.25, 0.5)),
    "ome in mm": (ome(square("0.0005", "mm")), (0.5, 0.5)),
    "ome with a comment": (
        tiff(
            GREY16,
            metadata=None,
            description=(
                '<?xml version="1.0" encoding="UTF-8"?><!-- Warning: this comment is an OME-XML '
                f'metadata block --><OME xmlns="{NAMESPACE}"><Image ID="Image:0"><Pixels '
                f'ID="Pixels:0" SizeX="50" SizeY="40" {square("0.5")}/></Image></OME>'
            ).encode(),
        ),
        (0.5, 0.5),
    ),
    **{
        f"imagej {unit}": (imagej((2.0, 4.0), unit=unit), (0.25, 0.5))
        for unit in ("um", "micron", "microns", "micrometer", "\\u00B5m", "Micron")
    },
    "imagej of two units": (imagej((2.0, 0.004), unit="um", yunit="nm"), (0.25, 0.5)),
    "imagej in inches of a scanner": (imagej((50800.0, 50800.0), unit="inch"), (0.5, 0.5)),
}

DOUBTED = {
    "72 dpi in imagej": imagej((72.0, 72.0), unit="inch"),
    "72 dpi in ome": ome(square("352.78")),
    "a metre in ome": ome(square("1000000")),
    "a picometre": ome(square("0.000001")),
    "a line": ome('PhysicalSizeX="0.1" PhysicalSizeY="5"'),
    "no number": ome(square("0,325")),
    "nothing": ome(square("")),
    "nan": ome(square("nan")),
    "infinity": ome(square("inf")),
    "zero": ome(square("0")),
    "below zero": ome(square("-0.5")),
    "seconds": ome(square("0.5", "s")),
    "an unclosed tag": ome(square("0.5"), end="</OME"),
    "no end": ome(square("0.5"), end=""),
    "a bare &": ome(square("0.5"), name="A&B"),
    "a control character": ome(square("0.5"), name="a\x01b"),
    "an attribute twice": ome(square("0.5") + ' SizeX="50"'),
    "an unknown entity": ome(square("0.5"), name="&mu;m"),
    "not UTF-8": ome(square("0.5")).replace(b"\xc2\xb5m", b"\xc2\xc2m"),
    "text of micro-manager": tiff(
        GREY16, metadata=None, extratags=[(51123, "s", 0, b'{"PixelSizeUm": 0.3', True)]
    ),
    "a list of micro-manager": tiff(
        GREY16, metadata=None, extratags=[(51123, "s", 0, b"[" * 5000, True)]
    ),
    "a word of micro-manager": micro_manager(PixelSizeUm="large"),
    "a large one of micro-manager": micro_manager(PixelSizeUm=6500),
    "a word of metamorph": metamorph(("spatial-calibration-x", "float", "wide"), CALIBRATED[1]),
    "an open tag of metamorph": tiff(
        GREY16, metadata=None, description="<MetaData><PlaneInfo></MetaData>"
    ),
    "a word of aperio": aperio("MPP = ?"),
    "imagej in seconds": imagej((2.0, 4.0), unit="sec"),
}

UNSAID = {
    "micro-manager without a calibration": micro_manager(PixelSizeUm=0.0),
    "micro-manager without the key": micro_manager(Binning="1"),
    "metamorph without a calibration": metamorph(
        *CALIBRATED, ("spatial-calibration-state", "bool", "off"), UNIT
    ),
    "metamorph in pixels": metamorph(
        *CALIBRATED, ON, ("spatial-calibration-units", "string", "pixel")
    ),
    "aperio without the key": aperio("AppMag = 20"),
    "ome in pixels": ome(square("1", "pixel")),
    "ome without a size": ome(""),
    "imagej in pixels": imagej((1.0, 1.0), unit="pixel"),
    "imagej without a unit": imagej((1.0, 1.0)),
    "72 dpi": tiff(GREY16, metadata=None, resolution=(72, 72), resolutionunit="INCH"),
    "72 dpi in a png": phys(2835, 2835),
    "a ratio in a png": phys(1, 2, unit=0),
    "zero in a png": phys(0, 0),
}


def read(data: bytes) -> Frame:
    frame = read_frame(data)
    np.testing.assert_array_equal(frame.pixels[:, :, 0], GREY16)
    return frame


@pytest.mark.parametrize("case", BELIEVED)
def test_sizes_of_acquisition_software(case: str) -> None:
    data, expected = BELIEVED[case]
    frame = read(data)
    assert frame.pixel_size_um == pytest.approx(expected, rel=1e-5)
    assert frame.warnings == ()


@pytest.mark.parametrize("case", DOUBTED)
def test_what_is_implausible_or_unreadable_is_unknown_and_said(case: str) -> None:
    frame = read(DOUBTED[case])
    assert frame.pixel_size_um is None
    assert len(frame.warnings) == 1
    assert "pixel" in frame.warnings[0]


@pytest.mark.parametrize("case", UNSAID)
def test_no_word_about_a_size_that_nobody_stated(case: str) -> None:
    frame = read(UNSAID[case])
    assert frame.pixel_size_um is None
    assert frame.warnings == ()


def test_the_next_source_is_taken_where_one_is_unreadable() -> None:
    text = json.dumps({"PixelSizeUm": 0.325}).encode()
    tags = [(51123, "s", 0, text, True)]
    xml = f'<OME xmlns="{NAMESPACE}"><Image Name="A&B"/></OME>'
    frame = read(tiff(GREY16, metadata=None, description=xml, extratags=tags))
    assert frame.pixel_size_um == (0.325, 0.325)
    assert len(frame.warnings) == 1


def test_of_an_ome_set_the_image_in_this_file_counts() -> None:
    images = ("a", "FITC", square("0.5")), ("b", "DAPI", square("0.25"))
    for file, channel, other, size_um in (("a", "FITC", "DAPI", 0.5), ("b", "DAPI", "FITC", 0.25)):
        frame = read_frame(ome_set(file, *images), options=FrameOptions(Selection(channel)))
        assert frame.pixel_size_um == (size_um, size_um)
        with pytest.raises(InvalidOption):
            read_frame(ome_set(file, *images), options=FrameOptions(Selection(other)))


def test_images_of_different_pixel_sizes_in_one_ome_file_make_it_unknown() -> None:
    frame = read_frame(ome_set("a", ("a", "", square("0.5")), ("a", "", square("0.25"))))
    assert frame.pixel_size_um is None
    assert "different sizes" in " ".join(frame.warnings)
    same = read_frame(ome_set("a", ("a", "", square("0.5")), ("a", "", square("500", "nm"))))
    assert same.pixel_size_um == (0.5, 0.5)
