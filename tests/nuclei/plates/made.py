"""OME-Zarr plates and images made for tests, of real frames."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from nuclei.imaging.images import read_frame

EXAMPLES = Path(__file__).parents[3] / "examples"
Version = Literal["0.4", "0.5"]
FORMAT: Mapping[Version, Literal[2, 3]] = {"0.4": 2, "0.5": 3}


# As OME-Zarr asks for: folders, not dots.
KEYS: Mapping[Version, Any] = {
    "0.4": {"name": "v2", "separator": "/"},
    "0.5": {"name": "default", "separator": "/"},
}


def crops(count: int, side: int = 128) -> list[NDArray[Any]]:
    """Parts of a real frame, each with some nuclei."""
    pixels = read_frame(EXAMPLES / "fluorescence.png").pixels[:, :, 0]
    height, width = pixels.shape
    random = np.random.default_rng(3)
    corners = zip(
        random.integers(0, height - side, count).tolist(),
        random.integers(0, width - side, count).tolist(),
        strict=True,
    )
    return [pixels[y : y + side, x : x + side] for y, x in corners]


def write_image(
    path: Path,
    pixels: NDArray[Any],
    axes: str,
    version: Version = "0.4",
    channels: tuple[str, ...] = (),
    chunk: int = 64,
    um: float = 0.5,
) -> None:
    """An OME-Zarr image of one resolution."""
    units = {"y": "micrometer", "x": "micrometer"}
    kinds = {"t": "time", "c": "channel"}
    scales = {
        "axes": [
            {"name": axis, "type": kinds.get(axis, "space")}
            | ({"unit": units[axis]} if axis in units else {})
            for axis in axes
        ],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [um if axis in units else 1.0 for axis in axes]}
                ],
            }
        ],
    }
    about: dict[str, Any] = {"multiscales": [scales]}
    if channels:
        about["omero"] = {"channels": [{"label": name, "color": "FFFFFF"} for name in channels]}
    _write_group(path, about, version)
    array = zarr.create_array(
        path / "0",
        shape=pixels.shape,
        dtype=pixels.dtype,
        chunks=(*(1,) * (pixels.ndim - 2), chunk, chunk),
        zarr_format=FORMAT[version],
        chunk_key_encoding=KEYS[version],
        overwrite=True,
    )
    array[...] = pixels


def write_plate(
    path: Path,
    wells: Mapping[str, list[NDArray[Any]]],
    axes: str = "yx",
    version: Version = "0.4",
    **options: Any,
) -> Path:
    """A plate with images in some wells, named as "B/03"; 3 rows and 4 columns at least."""
    rows = sorted({"A", "B", "C"} | {well.split("/")[0] for well in wells})
    columns = sorted({"01", "02", "03", "04"} | {well.split("/")[1] for well in wells})
    plate = {
        "rows": [{"name": name} for name in rows],
        "columns": [{"name": name} for name in columns],
        "wells": [
            {
                "path": well,
                "rowIndex": rows.index(well.split("/")[0]),
                "columnIndex": columns.index(well.split("/")[1]),
            }
            for well in wells
        ],
    }
    _write_group(path, {"plate": plate}, version)
    for well, images in wells.items():
        named = {"images": [{"path": str(number)} for number in range(len(images))]}
        _write_group(path / well, {"well": named}, version)
        for number, pixels in enumerate(images):
            write_image(path / well / str(number), pixels, axes, version, **options)
    return path


def _write_group(path: Path, about: dict[str, Any], version: Version) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (path / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
        (path / ".zattrs").write_text(json.dumps(about))
    else:
        attributes = {"ome": {"version": version, **about}}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        (path / "zarr.json").write_text(json.dumps(group))


def chunks(image: Path) -> list[Path]:
    """The files of the pixels of an image."""
    return sorted(
        path for path in (image / "0").rglob("*") if path.is_file() and path.name.isdigit()
    )
