"""The napari plugin, in an environment of its own: napari and Qt are large, and nothing else needs
them."""

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nuclei.formats.ome_zarr import label_ome_zarr
from nuclei.postprocessing.measurement import measure
from nuclei.results.coordinates import PixelSize
from nuclei.results.segmentation import Segmentation
from tests.prerequisites import missing

if TYPE_CHECKING:
    from tests.conftest import Gateway

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-napari" / "bin" / "python"


def of_two() -> Segmentation:
    """Two nuclei in a frame that is large enough for two levels."""
    labels = np.zeros((600, 600), np.uint32)
    labels[5:9, 5:9], labels[20:30, 10:15] = 1, 2
    nuclei = measure(labels, np.zeros((*labels.shape, 1), np.uint8), None)
    return Segmentation(labels, nuclei, PixelSize(0.5, 0.5), "unet", "3")


def test_the_plugin_in_napari(gateway: "Gateway", tmp_path: Path) -> None:
    if not PYTHON.exists():
        missing("needs napari: make napari-env")
    (tmp_path / "labels.zip").write_bytes(label_ome_zarr(of_two()))
    tests = Path(__file__).with_name("in_napari.py")
    environment = {
        **os.environ,
        "NUCLEI_TEST_GATEWAY": gateway.grpc_address,
        "NUCLEI_TEST_OME_ZARR": str(tmp_path / "labels.zip"),
        "QT_QPA_PLATFORM": "offscreen",
        "NAPARI_CONFIG": str(tmp_path / "napari.yaml"),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    run = subprocess.run(
        [
            *(PYTHON, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", ROOT),
            *("--noconftest", "-p", "no:warnings", tests),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
