"""The plugin in napari, without a screen; `test_napari.py` runs it in napari's environment."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from napari._qt.qthreading import wait_for_workers_to_quit
from napari.components import ViewerModel
from napari.layers import Labels
from npe2 import PluginManager
from ome_zarr_models.v04.image_label import ImageLabel

from nuclei.napari.widget import NucleiWidget

GATEWAY = os.environ["NUCLEI_TEST_GATEWAY"]
PIXELS = tifffile.imread(Path(__file__).parents[3] / "examples" / "fluorescence_16bit.tif")
WAIT_MS = 30_000


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def widget(viewer: ViewerModel, qtbot: Any) -> Iterator[NucleiWidget]:
    made = NucleiWidget(viewer)
    qtbot.addWidget(made.native)
    made.address.value = GATEWAY
    yield made
    made.follow.value = False


@pytest.fixture
def labels(viewer: ViewerModel, qtbot: Any) -> Callable[[str], Labels]:
    """The layer of that name, once it is there."""

    def wait(name: str) -> Labels:
        qtbot.waitUntil(lambda: name in viewer.layers, timeout=WAIT_MS)
        return viewer.layers[name]

    return wait


def test_napari_finds_the_plugin() -> None:
    plugins = PluginManager.instance()
    plugins.discover()
    manifest = plugins.get_manifest("nuclei-serving")
    manifest.validate_imports()
    (widget,) = manifest.contributions.widgets
    assert widget.display_name == "Segment nuclei"
    assert widget.get_callable() is NucleiWidget


def test_our_ome_zarr_is_valid() -> None:
    with zarr.storage.ZipStore(os.environ["NUCLEI_TEST_OME_ZARR"], mode="r") as store:
        image = ImageLabel.from_zarr(zarr.open_group(store, mode="r"))
    assert len(image.attributes.image_label.colors) == 2
    (levels,) = image.attributes.multiscales
    assert [axis.unit for axis in levels.axes] == ["micrometer"] * 2


def test_the_image_that_is_shown_is_segmented(
    viewer: Any, widget: Any, labels: Any, qtbot: Any
) -> None:
    viewer.add_image(PIXELS, name="cells", scale=(0.65, 0.65), units=("um", "um"))
    widget.segment.native.click()
    found = labels("cells nuclei")
    assert found.data.shape == PIXELS.shape
    assert found.data.max() > 50
    assert list(found.features["index"]) == list(range(1, found.data.max() + 1))
    areas = np.bincount(found.data.flat)[1:]
    np.testing.assert_array_equal(found.features["area_px"], areas)
    np.testing.assert_allclose(found.features["area_um2"], areas * 0.65**2, rtol=1e-5)
    np.testing.assert_array_equal(found.scale, (0.65, 0.65))
    assert widget.said.value.startswith(f"{len(areas)} nuclei by unet ")
    # What a person has corrected meanwhile stays.
    found.data[found.data == 1] = 0
    qtbot.waitUntil(lambda: widget.segment.enabled, timeout=WAIT_MS)
    widget.segment.native.click()
    again = labels("cells nuclei [1]")
    assert 1 in again.data
    assert 1 not in found.data


def test_options_and_warnings_pass_through(viewer: Any, widget: Any, labels: Any) -> None:
    viewer.add_image(PIXELS / 65535, name="floats")
    widget.min_area.value, widget.threshold.value = "200", "0.7"
    widget.segment.native.click()
    found = labels("floats nuclei")
    assert found.features["area_px"].min() >= 200
    assert "area_um2" not in found.features
    said = widget.said.value
    assert "the threshold was 0.7" in said
    assert "scaled to 16 bit" in said
    assert found.metadata["warnings"] == said.splitlines()[1:]


def test_of_a_stack_the_plane_at_the_slider_is_segmented(
    viewer: Any, widget: Any, labels: Any
) -> None:
    stack = np.stack([PIXELS * 0, PIXELS[::-1], PIXELS])
    viewer.add_image(stack, name="stack", scale=(3, 1, 1), translate=(5, 0, 0))
    viewer.dims.set_current_step(0, 1)
    widget.segment.native.click()
    found = labels("stack nuclei")
    assert found.data.shape == (1, *PIXELS.shape)
    assert tuple(found.translate) == (8, 0, 0)
    assert found.data.max() > 50
    inside = PIXELS[::-1][found.data[0] > 0].mean()
    assert inside > 1.5 * PIXELS.mean()


def test_what_is_shown_next_is_followed(viewer: Any, widget: Any, labels: Any, qtbot: Any) -> None:
    image = viewer.add_image(PIXELS[:200, :200], name="live")
    widget.follow.value = True
    found = labels("live nuclei")
    assert found.data.shape == (200, 200)
    first = found.data.copy()
    image.data = PIXELS[200:400, 200:400]
    qtbot.waitUntil(lambda: not np.array_equal(found.data, first), timeout=WAIT_MS)
    assert [layer.name for layer in viewer.layers] == ["live", "live nuclei"]
    widget.follow.value = False
    second = found.data.copy()
    image.data = PIXELS[:200, :200]
    qtbot.wait(1000)
    np.testing.assert_array_equal(found.data, second)


def test_napari_ends_while_something_is_followed(viewer: Any, widget: Any, labels: Any) -> None:
    viewer.add_image(PIXELS[:64, :64], name="live")
    widget.follow.value = True
    labels("live nuclei")
    wait_for_workers_to_quit(WAIT_MS)  # raises when they do not


@pytest.mark.parametrize("way", ["segment", "follow"])
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("address", "localhost:1", "EngineUnavailable"),
        ("threshold", "low", "InvalidOption: threshold='low' is no number"),
        ("model", "nosuch", "ModelNotFound"),
    ],
)
def test_what_cannot_be_done_is_said(
    viewer: Any, widget: Any, qtbot: Any, way: Any, field: Any, value: Any, said: Any
) -> None:
    viewer.add_image(PIXELS[:64, :64])
    getattr(widget, field).value = value
    if way == "segment":
        widget.segment.native.click()
    else:
        widget.follow.value = True
    qtbot.waitUntil(lambda: widget.said.value.startswith(said), timeout=WAIT_MS)
    qtbot.waitUntil(lambda: widget.segment.enabled, timeout=WAIT_MS)
    assert len(viewer.layers) == 1


def test_without_an_image_there_is_nothing_to_segment(widget: Any) -> None:
    widget.segment.native.click()
    assert widget.said.value == "InvalidOption: there is no image to segment; open one"
