"""Triton's answers against those of the same files in this process."""

from pathlib import Path

import numpy as np
import pytest

from nuclei.imaging.images import frame_from_array, read_frame
from nuclei.inference.routing import Routing
from serving.parity import served_parity
from serving.repository.configuration import CpuAccelerator
from serving.repository.export import export_version, set_routing


@pytest.mark.triton
@pytest.mark.parametrize("accelerator", CpuAccelerator)
def test_triton_answers_as_the_files_in_this_process(
    artifacts: Path, fluorescence: Path, tmp_path: Path, accelerator: CpuAccelerator
) -> None:
    export_version(artifacts, tmp_path / "models", 7, accelerator=accelerator)
    grey = read_frame(fluorescence).pixels[:200, :150]
    colour = (grey * np.array([1, 0.5, 0.7])).astype(np.uint8)
    frames = [frame_from_array(pixels) for pixels in (grey, colour)]
    set_routing(tmp_path / "models", "unet", Routing(7))
    found = served_parity(tmp_path / "models", "unet", frames)
    assert [parity.graph for parity in found] == ["unet.7", "unet.7_tta"]
    assert [parity.tiles for parity in found] == [2, 2]
    worst = max(parity.differences["MAPS"] for parity in found)
    in_fp32 = accelerator in (CpuAccelerator.ONNXRUNTIME, CpuAccelerator.OPENVINO_FP32)
    assert worst <= (1 if in_fp32 else 3)
