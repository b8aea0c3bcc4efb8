"""What the real ImageJ makes of our files."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nuclei.formats import FORMATS
from nuclei.imaging.images import Frame
from nuclei.postprocessing.measurement import measure
from nuclei.results.coordinates import PixelSize
from nuclei.results.segmentation import Segmentation
from tests.prerequisites import missing, require_programs

IMAGEJ = Path("/usr/share/java/ij.jar")

# A line for each ROI: its name, its pixels, and the least and the largest label under it.
MACRO = """
setBatchMode(true);
open("{labels}");
getPixelSize(unit, width, height);
said = "" + unit + " " + width + " " + height + " " + bitDepth() + "\\n";
run("Set Scale...", "distance=0 known=0 unit=pixel");
roiManager("Open", "{rois}");
for (i = 0; i < roiManager("count"); i++) {{
    roiManager("Select", i);
    getStatistics(area, mean, least, most);
    said = said + Roi.getName + " " + area + " " + least + " " + most + "\\n";
}}
File.saveString(said, "{out}");
"""


@pytest.mark.parametrize("labels", ["labels.tif", "labels.ome.tif", "labels.png"])
def test_rois_lie_on_the_labels_of_their_names(labels: str, tmp_path: Path) -> None:
    require_programs("java", "xvfb-run", install="apt install default-jre-headless xvfb")
    if not IMAGEJ.exists():
        missing("needs ImageJ: apt install imagej")
    image = np.kron(np.arange(12).reshape(3, 4), np.ones((9, 7))).astype(np.uint32)
    image[9:13, 0:3] = 300  # a corner of 4
    image[18:20, 10:12] = image[25:27, 8:10] = 9000  # two parts at the edges of 9
    numbers, image.flat[:] = np.unique(image, return_inverse=True)
    pixels = np.zeros((*image.shape, 1), np.uint8)
    size = PixelSize(0.5, 0.5)
    result = Segmentation(image, measure(image, pixels, None), size, "unet", "3")
    for name in (labels, "rois.zip"):
        encoded = b"".join(FORMATS[name].encode(result, Frame(pixels, size), lambda: None))
        (tmp_path / name).write_bytes(encoded)
    macro = tmp_path / "macro.ijm"
    files = {"labels": tmp_path / labels, "rois": tmp_path / "rois.zip", "out": tmp_path / "log"}
    macro.write_text(MACRO.format(**files))
    subprocess.run(
        ["xvfb-run", "-a", "java", "-cp", IMAGEJ, "ij.ImageJ", "-batch", macro],
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    )
    unit, *rois = (line.split() for line in (tmp_path / "log").read_text().splitlines())
    area: dict[int, float] = {}
    for name, pixels_inside, least, most in rois:
        label = int(name.partition("-")[0])
        assert float(least) == float(most) == label
        area[label] = area.get(label, 0) + float(pixels_inside)
    assert area == dict(enumerate(np.bincount(image.flat)[1:], start=1))
    assert len(rois) == len(numbers)  # without the background, with two parts of one
    if labels == "labels.tif":  # versions of ImageJ call it differently
        assert unit[0] in ("µm", "micron")
        assert unit[1:] == ["0.5", "0.5", "32"]
