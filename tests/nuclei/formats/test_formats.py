import csv
import io
import json
import re
import uuid
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas
import pyarrow
import pytest
import shapely.geometry
import tifffile
import zarr
from numpy.typing import NDArray
from pyarrow import parquet
from pycocotools.coco import COCO
from roifile import ROI_TYPE, ImagejRoi
from skimage.measure import regionprops

from nuclei.errors import InvalidOption
from nuclei.formats import FORMATS, format_named, pieces, tables
from nuclei.formats import parquet as parquet_format
from nuclei.formats.overlay import stretched
from nuclei.formats.tables import FRAME_COLUMNS, failed_row, frame_row, write_frames
from nuclei.imaging.frame_options import MAX_PIXEL_SIZE_UM, FrameOptions
from nuclei.imaging.images import Frame, frame_from_array, read_labels
from nuclei.postprocessing.measurement import measure
from nuclei.results.coordinates import PixelSize
from nuclei.results.nuclei import Nuclei
from nuclei.results.quality import Quality
from nuclei.results.segmentation import Segmentation

PIXELS = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30, 1)
SIZE = PixelSize(y=0.5, x=0.25)


def labels_of_two() -> NDArray[np.uint32]:
    """Nucleus 1 is a square of 4 x 4; nucleus 2 has two parts."""
    labels = np.zeros((20, 30), np.uint32)
    labels[2:6, 3:7] = 1
    labels[10:12, 10:15] = 2
    labels[15:17, 20:22] = 2
    return labels


def segmentation(pixel_size_um: PixelSize | None = None) -> Segmentation:
    labels = labels_of_two()
    nuclei = measure(labels, PIXELS, np.full(labels.shape, 204, np.uint8))
    return Segmentation(labels, nuclei, pixel_size_um, "unet", "3", {"infer": 12.3456})


def encode(name: str, result: Segmentation) -> bytes:
    frame = Frame(PIXELS, result.pixel_size_um)
    return b"".join(FORMATS[name].encode(result, frame, lambda: None))


@pytest.mark.parametrize("name", ["labels.tif", "labels.ome.tif", "labels.png"])
def test_label_images_read_back_alike(name: str) -> None:
    np.testing.assert_array_equal(read_labels(encode(name, segmentation())), labels_of_two())


def test_label_tiff_is_uint32_and_carries_the_pixel_size() -> None:
    with tifffile.TiffFile(io.BytesIO(encode("labels.tif", segmentation(SIZE)))) as tiff:
        page = tiff.pages[0].aspage()
        assert page.dtype == np.uint32
        assert page.resolutionunit == tifffile.RESUNIT.CENTIMETER
        assert page.resolution == (40000, 20000)  # pixels per centimetre in x, in y


def test_label_png_refuses_more_nuclei_than_it_holds() -> None:
    many = 65536
    rows = np.zeros(many)
    nuclei = Nuclei(rows, rows, rows, rows, rows, rows, rows)
    result = Segmentation(labels_of_two(), nuclei, None, "unet", "3")
    with pytest.raises(InvalidOption, match=r"65536 nuclei .* labels\.tif"):
        encode("labels.png", result)


def test_geojson_is_what_qupath_opens() -> None:
    content = json.loads(encode("geojson", segmentation(SIZE)))
    assert content["type"] == "FeatureCollection"
    first, second = content["features"]
    assert len({str(uuid.UUID(feature["id"])) for feature in content["features"]}) == 2
    for feature in content["features"]:
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["classification"]["name"] == "Nucleus"
        assert len(feature["properties"]["classification"]["color"]) == 3
    assert first["geometry"]["type"] == "Polygon"
    (ring,) = first["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    assert {tuple(vertex) for vertex in ring} == {(3, 2), (7, 2), (7, 6), (3, 6)}
    assert second["geometry"]["type"] == "MultiPolygon"
    assert [len(polygon) for polygon in second["geometry"]["coordinates"]] == [1, 1]
    measurements = first["properties"]["measurements"]
    assert measurements["Area px^2"] == 16
    assert measurements["Area µm^2"] == 2.0
    assert measurements["Eccentricity"] == 0.0
    assert measurements["Mean intensity"] == 109.5
    assert measurements["Score"] == 0.8
    assert all(isinstance(value, int | float) for value in measurements.values())


def test_geojson_ids_belong_to_the_label_image() -> None:
    first, again = (json.loads(encode("geojson", segmentation())) for _ in range(2))
    assert first == again
    moved = segmentation()
    moved.labels[2, 3] = 0
    other = json.loads(encode("geojson", moved))
    ids = {feature["id"] for content in (first, other) for feature in content["features"]}
    assert len(ids) == 4


def test_csv_in_pixels() -> None:
    first, second = csv.DictReader(io.StringIO(encode("csv", segmentation()).decode()))
    assert {name: float(value) for name, value in first.items()} == {
        "label": 1,
        "area_px": 16,
        "centroid_x_px": 4.5,
        "centroid_y_px": 3.5,
        "box_x0_px": 3,
        "box_y0_px": 2,
        "box_x1_px": 7,
        "box_y1_px": 6,
        "perimeter_px": 12,
        "axis_major_length_px": 4.4721,
        "axis_minor_length_px": 4.4721,
        "eccentricity": 0,
        "orientation_rad": 0,
        "solidity": 1,
        "form_factor": 1.3963,
        "intensity_mean": 109.5,
        "intensity_std": 33.55965,
        "intensity_min": 63,
        "intensity_max": 156,
        "on_border": 0,
        "neighbor": 2,
        "neighbor_distance_px": 13.0237,
        "score": 0.8,
    }
    assert second["area_px"] == "14"


def test_csv_in_micrometres() -> None:
    first = next(csv.DictReader(io.StringIO(encode("csv", segmentation(SIZE)).decode())))
    in_um = {name: float(value) for name, value in first.items() if name.split("_")[-1] != "px"}
    assert in_um["area_um2"] == 2.0
    assert (in_um["centroid_x_um"], in_um["centroid_y_um"]) == (1.125, 1.75)
    assert (in_um["box_x0_um"], in_um["box_y0_um"]) == (0.75, 1.0)
    assert (in_um["box_x1_um"], in_um["box_y1_um"]) == (1.75, 3.0)


def test_lengths_have_no_micrometres_where_pixels_are_not_square() -> None:
    square, oblong = (
        next(csv.DictReader(io.StringIO(encode("csv", segmentation(size)).decode())))
        for size in (PixelSize(y=0.5, x=0.5), SIZE)
    )
    assert float(square["perimeter_um"]) == 6
    assert float(square["axis_major_length_um"]) == 2.2361
    missing = {"perimeter_um", "axis_major_length_um", "axis_minor_length_um"}
    assert set(square) - set(oblong) == missing
    # 8.4286 rows and 9.9286 columns to the other one.
    assert float(oblong["neighbor_distance_um"]) == pytest.approx(4.8909, abs=1e-4)


def test_colour_frames_have_intensities_of_each_channel() -> None:
    labels = labels_of_two()
    pixels = np.repeat(PIXELS, 3, axis=2) * np.uint16([1, 2, 3])
    result = Segmentation(labels, measure(labels, pixels, None), None, "unet", "3")
    text = b"".join(FORMATS["csv"].encode(result, Frame(pixels), lambda: None)).decode()
    first = next(csv.DictReader(io.StringIO(text)))
    assert float(first["intensity_mean"]) == 219
    means = [float(first[f"intensity_mean_{colour}"]) for colour in ("red", "green", "blue")]
    assert means == [109.5, 219, 328.5]
    content = json.loads(b"".join(FORMATS["geojson"].encode(result, Frame(pixels), lambda: None)))
    measurements = content["features"][0]["properties"]["measurements"]
    for colour, mean in zip(("red", "green", "blue"), means, strict=True):
        assert measurements[f"Mean intensity {colour}"] == pytest.approx(mean)
    assert measurements["On border"] == 0


def test_parquet_has_the_columns_of_csv_with_their_types() -> None:
    result = segmentation(SIZE)
    table = parquet.read_table(io.BytesIO(encode("parquet", result)))
    lines = list(csv.DictReader(io.StringIO(encode("csv", result).decode())))
    assert table.column_names == list(lines[0])
    assert table["label"].to_pylist() == [1, 2]
    assert table["area_px"].type == pyarrow.int64()
    assert table["score"].type == pyarrow.float32()
    about = json.loads(table.schema.metadata[b"nuclei"])
    assert about == {"model": "unet", "version": "3", "warnings": []}


def test_what_is_not_known_is_empty_in_every_table() -> None:
    labels = np.zeros((20, 30), np.uint32)
    labels[4, 5] = 1
    alone = Segmentation(labels, measure(labels, PIXELS, None), None, "unet", "3")
    (line,) = csv.DictReader(io.StringIO(encode("csv", alone).decode()))
    (entry,) = json.loads(encode("json", alone))["nuclei"]
    table = parquet.read_table(io.BytesIO(encode("parquet", alone)))
    for name in ("form_factor", "neighbor_distance_px"):
        assert line[name] == ""
        assert entry[name] is None
        assert table[name].to_pylist() == [None]
    assert line["neighbor"] == "0"
    (feature,) = json.loads(encode("geojson", alone))["features"]
    assert "Form factor" not in feature["properties"]["measurements"]


def test_rois_are_the_outlines_that_imagej_opens() -> None:
    with zipfile.ZipFile(io.BytesIO(encode("rois.zip", segmentation()))) as rois:
        found = {name: ImagejRoi.frombytes(rois.read(name)) for name in rois.namelist()}
    assert list(found) == ["1.roi", "2-1.roi", "2-2.roi"]
    square = found["1.roi"]
    assert (square.name, square.roitype) == ("1", ROI_TYPE.POLYGON)
    assert {tuple(point) for point in square.coordinates()} == {(3, 2), (7, 2), (7, 6), (3, 6)}
    areas = [shapely.geometry.Polygon(roi.coordinates()).area for roi in found.values()]
    assert sorted(areas) == [4, 10, 16]


def test_coco_holds_masks_that_pycocotools_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = np.kron(rng.integers(0, 4, (6, 7)), np.ones((5, 4))).astype(np.uint32)
    pixels = np.zeros((*labels.shape, 1), np.uint8)
    result = Segmentation(labels, measure(labels, pixels, None), None, "unet", "3")
    path = tmp_path / "coco.json"
    frame = Frame(pixels, name="a.tif")
    path.write_bytes(b"".join(FORMATS["coco.json"].encode(result, frame, lambda: None)))
    coco = COCO(path)
    assert coco.imgs == {1: {"id": 1, "file_name": "a.tif", "width": 28, "height": 30}}
    for label, annotation in coco.anns.items():
        np.testing.assert_array_equal(coco.annToMask(annotation), labels == label)
        x, y, width, height = annotation["bbox"]
        inside = labels[y : y + height, x : x + width] == label
        assert inside.sum() == annotation["area"] == (labels == label).sum()
    assert list(coco.anns) == [1, 2, 3]


def test_ome_tiff_carries_the_pixel_size() -> None:
    with tifffile.TiffFile(io.BytesIO(encode("labels.ome.tif", segmentation(SIZE)))) as tiff:
        assert tiff.series[0].axes == "YX"
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"]) == (0.25, 0.5)
    assert pixels["PhysicalSizeXUnit"] == "µm"
    assert pixels["Type"] == "uint32"


def test_ome_zarr_is_a_label_image_with_levels_and_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 9, (1300, 700)).astype(np.uint32)
    nuclei = measure(labels, np.zeros((*labels.shape, 1), np.uint8), None)
    found = Segmentation(labels, nuclei, SIZE, "unet", "3")
    path = tmp_path / "labels.zip"
    path.write_bytes(encode("labels.ome.zarr", found))
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    for level in range(3):
        np.testing.assert_array_equal(group[str(level)], labels[:: 2**level, :: 2**level])
    assert set(group) == {"0", "1", "2"}
    attributes: dict[str, Any] = group.attrs.asdict()
    (scales,) = attributes["multiscales"]
    assert [(axis["name"], axis["unit"]) for axis in scales["axes"]] == [
        ("y", "micrometer"),
        ("x", "micrometer"),
    ]
    steps = [level["coordinateTransformations"][0]["scale"] for level in scales["datasets"]]
    assert steps == [[0.5, 0.25], [1.0, 0.5], [2.0, 1.0]]
    listed = attributes["image-label"]["colors"]
    colours = {each["label-value"]: tuple(each["rgba"]) for each in listed}
    assert set(colours) == set(range(1, 9))
    assert len(set(colours.values())) == 8
    assert encode("labels.ome.zarr", found) == path.read_bytes()


@pytest.mark.parametrize("name", ["csv", "json", "geojson", "parquet"])
def test_tables_of_many_blocks_are_whole(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = encode(name, segmentation(SIZE))
    monkeypatch.setattr(tables, "BLOCK_ROWS", 1)
    monkeypatch.setattr(parquet_format, "BLOCK_ROWS", 1)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1)
    assert encode(name, segmentation(SIZE)) == whole


def test_json_names_model_and_nuclei() -> None:
    content = json.loads(encode("json", segmentation(SIZE)))
    assert (content["model"], content["version"]) == ("unet", "3")
    assert (content["height_px"], content["width_px"]) == (20, 30)
    assert content["pixel_size_um"] == {"x": 0.25, "y": 0.5}
    assert content["stage_ms"] == {"infer": 12.346}
    assert content["count"] == len(content["nuclei"]) == 2
    assert content["nuclei"][0]["area_um2"] == 2.0


def test_quality_is_in_json_and_geojson_as_it_is() -> None:
    quality = Quality(coverage=1 / 3, focus=0.0125, tta_disagreement=None)
    for name in ("json", "geojson"):
        said = json.loads(encode(name, replace(segmentation(), quality=quality)))["quality"]
        assert Quality(**said) == quality
        assert json.loads(encode(name, segmentation()))["quality"] is None


def test_the_table_of_frames_has_a_line_for_each() -> None:
    found = replace(
        segmentation(SIZE), quality=Quality(coverage=1 / 3), warnings=("a, b", 'the "c"')
    )
    rows = [
        frame_row("sub/a.tif", found),
        frame_row("b.tif", segmentation()),
        failed_row("c.tif", InvalidOption("is\nodd, and long")),
    ]
    file = io.BytesIO()
    write_frames(file, rows)
    first, second, third = csv.DictReader(io.StringIO(file.getvalue().decode()))
    assert tuple(first) == FRAME_COLUMNS
    assert (first["frame"], first["model"], first["version"]) == ("sub/a.tif", "unet", "3")
    assert (first["height_px"], first["width_px"], first["count"]) == ("20", "30", "2")
    assert (first["pixel_size_x_um"], first["pixel_size_y_um"]) == ("0.25", "0.5")
    assert float(first["coverage"]) == 1 / 3
    assert (first["focus"], first["error"]) == ("", "")
    assert first["warnings"] == 'a, b | the "c"'
    assert (second["pixel_size_x_um"], second["coverage"], second["warnings"]) == ("", "", "")
    assert third["error"] == "InvalidOption: is\nodd, and long"
    assert {name for name, value in third.items() if value} == {"frame", "error"}


def test_what_is_doubtful_is_said() -> None:
    doubted = replace(
        segmentation(), warnings=("the range is doubtful",), intensity_range=(0.5, 2.25)
    )
    content = json.loads(encode("json", doubted))
    assert content["warnings"] == ["the range is doubtful"]
    assert content["intensity_range"] == {"lo": 0.5, "hi": 2.25}
    assert json.loads(encode("geojson", doubted))["warnings"] == ["the range is doubtful"]


def test_small_intensities_keep_their_digits() -> None:
    found = segmentation()
    dim = replace(found, nuclei=replace(found.nuclei, mean_intensity=np.float32([1.25e-6, 3e4])))
    first, second = csv.DictReader(io.StringIO(encode("csv", dim).decode()))
    assert [float(row["intensity_mean"]) for row in (first, second)] == [1.25e-6, 3e4]
    features = json.loads(encode("geojson", dim))["features"]
    assert features[0]["properties"]["measurements"]["Mean intensity"] == 1.25e-6


def test_geojson_of_parts_that_touch_at_a_corner_is_valid() -> None:
    labels = np.zeros((20, 30), np.uint32)
    labels[2:5, 3:6] = labels[5:8, 6:9] = 1
    nuclei = measure(labels, PIXELS, labels.astype(np.uint8))
    content = encode("geojson", Segmentation(labels, nuclei, None, "unet", "3"))
    (feature,) = json.loads(content)["features"]
    geometry = shapely.geometry.shape(feature["geometry"])
    assert geometry.is_valid
    assert geometry.area == 18


def test_the_overlay_shows_the_range_that_was_asked_for() -> None:
    pixels = np.arange(600 * 600, dtype=np.float32).reshape(600, 600, 1) / 1e6
    frame = frame_from_array(pixels, FrameOptions(intensity_range=(0.1, 0.2)))
    picture = stretched(frame)[:, :, 0]
    assert (picture[pixels[:, :, 0] < 0.0999] == 0).all()
    assert (picture[pixels[:, :, 0] > 0.2001] == 255).all()
    assert 125 <= picture[250, 0] <= 129


def test_overlay_is_a_colour_png() -> None:
    data = np.frombuffer(encode("overlay.png", segmentation()), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert picture.ndim == 3
    assert (picture[:, :, 0] != picture[:, :, 2]).any()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_writes_a_frame_without_nuclei(name: str) -> None:
    labels = np.zeros((20, 30), np.uint32)
    nuclei = measure(labels, PIXELS, labels.astype(np.uint8))
    assert encode(name, Segmentation(labels, nuclei, None, "unet", "3"))


def test_an_unknown_format_lists_the_known() -> None:
    with pytest.raises(InvalidOption, match=r"'svg'.*geojson"):
        format_named("svg")


class Left(Exception):
    """The caller has left."""


@pytest.mark.parametrize(
    "name", ["geojson", "rois.zip", "coco.json", "csv", "parquet", "json", "overlay.png"]
)
def test_writing_ends_when_its_check_says_so(name: str) -> None:
    def check() -> None:
        raise Left

    with pytest.raises(Left):
        list(FORMATS[name].encode(segmentation(), Frame(PIXELS), check))


@pytest.mark.parametrize("name", ["json", "geojson"])
def test_json_never_holds_what_is_no_number_of_it(name: str) -> None:
    result = segmentation(SIZE)
    endless = replace(result.nuclei, mean_intensity=np.full(2, np.inf, np.float32))
    with pytest.raises(ValueError, match="JSON"):
        encode(name, replace(result, nuclei=endless))
    widest = PixelSize(y=MAX_PIXEL_SIZE_UM, x=MAX_PIXEL_SIZE_UM)
    json.loads(encode(name, segmentation(widest)), parse_constant=pytest.fail)


@pytest.mark.parametrize("side", [1e-300, 1e-5, 1e5, 1e200, np.inf, np.nan, -1.0])
def test_pixels_of_no_microscope_are_refused(side: float) -> None:
    """Their areas would be infinite, or nothing."""
    with pytest.raises(InvalidOption, match="pixel size"):
        FrameOptions(pixel_size_um=PixelSize(y=0.5, x=side))


@pytest.mark.parametrize("read", [pandas.read_csv, pandas.read_parquet])
def test_tables_say_what_scikit_image_measures(read: Any) -> None:
    """In pixels and micrometres, for each channel, as pandas reads them."""
    rng = np.random.default_rng(7)
    blocks = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((7, 9)))
    labels = np.where(rng.random(blocks.shape) < 0.8, blocks, 0).astype(np.uint32)
    pixels = rng.integers(0, 4000, (*labels.shape, 3), np.uint16)
    um = 0.25
    size = PixelSize(um, um)
    found = Segmentation(labels, measure(labels, pixels, None), size, "unet", "3")
    name = "csv" if read is pandas.read_csv else "parquet"
    made = b"".join(FORMATS[name].encode(found, Frame(pixels, size), lambda: None))
    table = read(io.BytesIO(made)).set_index("label")
    expected = regionprops(labels, pixels)
    centroids = np.array([region.centroid for region in expected])
    for region in expected:
        row = table.loc[region.label]
        apart = np.linalg.norm(centroids - region.centroid, axis=1)
        apart[region.label - 1] = np.inf
        top, left, bottom, right = region.bbox
        lengths = {
            **{f"centroid_{axis}": at for axis, at in zip("yx", region.centroid, strict=True)},
            **{"box_y0": top, "box_x0": left, "box_y1": bottom, "box_x1": right},
            "perimeter": region.perimeter,
            "axis_major_length": region.axis_major_length,
            "axis_minor_length": region.axis_minor_length,
            "neighbor_distance": apart.min(),
        }
        values = {
            "area_px": region.area,
            "area_um2": region.area * um**2,
            **{f"{name}_px": length for name, length in lengths.items()},
            "eccentricity": region.eccentricity,
            "orientation_rad": region.orientation,
            "solidity": region.solidity,
            "intensity_mean": region.image_intensity[region.image].mean(),
            "on_border": float(
                min(top, left) == 0 or bottom == labels.shape[0] or right == labels.shape[1]
            ),
        }
        for channel, colour in enumerate(("red", "green", "blue")):
            inside = region.image_intensity[region.image][:, channel]
            for statistic in ("mean", "std", "min", "max"):
                values[f"intensity_{statistic}_{colour}"] = getattr(inside, statistic)()
        for column, value in values.items():
            assert row[column] == pytest.approx(value, rel=1e-4, abs=1e-3), column
        for column, length in lengths.items():
            assert row[f"{column}_um"] == pytest.approx(length * um, rel=1e-3, abs=1e-3), column
        assert apart[int(row["neighbor"]) - 1] == pytest.approx(apart.min())
    explained = (Path(__file__).parents[3] / "docs" / "client.md").read_text()
    for column in table.columns:
        stem = re.sub(r"_(px|um|um2|red|green|blue)$", "", column)
        assert f"`{stem}" in explained, column
