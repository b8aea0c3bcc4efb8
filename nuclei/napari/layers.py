"""What a layer of napari shows, and the nuclei of it as another layer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pint
from napari.components import ViewerModel
from napari.layers import Image, Labels
from numpy.typing import NDArray

from nuclei.results.segmentation import Segmentation


@dataclass(frozen=True, eq=False)
class Shown:
    """The plane of an image layer that is shown.

    Attributes:
        pixels: [H, W], or [H, W, C] of a layer in colour.
        pixel_size_um: (y, x); None where the layer has no unit of length.
        layer: which shows it.
        index: of the plane along the axes that are not shown.
    """

    pixels: NDArray[Any]
    pixel_size_um: tuple[float, float] | None
    layer: Image
    index: tuple[int, ...]

    @classmethod
    def of(cls, layer: Image, viewer: ViewerModel) -> "Shown":
        """The plane of the last two axes at the place of the viewer's sliders."""
        data = layer.data[0] if layer.multiscale else layer.data
        place = layer.world_to_data(viewer.dims.point)[-layer.ndim : -2]
        last = np.array(data.shape[: layer.ndim - 2]) - 1
        index = tuple(np.clip(np.round(place), 0, last).astype(int).tolist())
        return cls(np.asarray(data[index]), _pixel_size_um(layer), layer, index)


def _pixel_size_um(layer: Image) -> tuple[float, float] | None:
    sizes = [
        pint.Quantity(float(scale), unit)
        for scale, unit in zip(layer.scale[-2:], layer.units[-2:], strict=True)
    ]
    if not all(size.check("[length]") for size in sizes):
        return None
    y, x = (float(size.to("micrometer").magnitude) for size in sizes)
    return y, x


def show(
    found: Segmentation, shown: Shown, viewer: ViewerModel, into: Labels | None = None
) -> Labels:
    """The nuclei as a layer of labels over the plane, with their features.

    Args:
        found: the nuclei.
        shown: the plane.
        viewer: of the layers.
        into: the layer that is to show them, if it is still there; else a new one, so that nothing
            is lost that a person has corrected.
    """
    layer, lead = shown.layer, len(shown.index)
    at = np.array((*shown.index, 0, 0))
    given: dict[str, Any] = {
        "features": features(found),
        "scale": layer.scale,
        "translate": layer.translate + at * layer.scale,
        "metadata": {
            "model": found.model,
            "version": found.version,
            "warnings": list(found.warnings),
        },
    }
    labels = found.labels.reshape((1,) * lead + found.labels.shape)
    if into is None or into not in viewer.layers:
        name = f"{layer.name} nuclei"
        return viewer.add_labels(labels, name=name, affine=layer.affine, units=layer.units, **given)
    into.data = labels
    for attribute, value in given.items():
        setattr(into, attribute, value)
    return into


def features(found: Segmentation) -> pd.DataFrame:
    """A row for each nucleus, named as in files; `index` is the label, as napari wants it."""
    nuclei, size = found.nuclei, found.pixel_size_um
    columns = {
        "index": nuclei.label,
        "area_px": nuclei.area_px,
        "centroid_x_px": nuclei.centroid_px[:, 1],
        "centroid_y_px": nuclei.centroid_px[:, 0],
        "eccentricity": nuclei.eccentricity,
        "intensity_mean": nuclei.mean_intensity,
        "score": nuclei.score,
    }
    if size is not None:
        columns["area_um2"] = nuclei.area_um2(size)
    return pd.DataFrame(columns)
