"""Speed and score of the ways a CPU can run the network, each served by a real Triton.

Prints one line per way: seconds per frame of 512x512 for the network's ensemble, and the DSB score
on the validation images, all in one run. `int8` quantises the network here (static, QDQ).

    .venv-train/bin/python benchmarks/precision.py stage1_train.zip model_folder/
"""

import argparse
import asyncio
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table

from nuclei.evaluation.scores import Evaluation
from nuclei.imaging.images import frame_from_array
from nuclei.imaging.intensity import intensity_range
from nuclei.inference.deadline import NEVER
from nuclei.inference.engine import ServedVersion
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment
from nuclei.inference.routing import Routing
from nuclei.process.ports import free_ports
from serving.engine import TritonEngine
from serving.repository.configuration import CpuAccelerator
from serving.repository.export import export_version, set_routing
from serving.triton.server import TritonServer
from training.data.dataset import Sample, read_dataset
from training.data.sampling import CropDataset
from training.data.split import split_samples
from training.schedule import Augmentation

CALIBRATION_CROPS = 48
REPEATS = 10
MAX_MESSAGE_BYTES = 1 << 28
WAYS = {
    "fp32 onnxruntime": (CpuAccelerator.ONNXRUNTIME, False),
    "fp32 OpenVINO": (CpuAccelerator.OPENVINO_FP32, False),
    "bf16 OpenVINO": (CpuAccelerator.OPENVINO_BF16, False),
    "int8 onnxruntime": (CpuAccelerator.ONNXRUNTIME, True),
    "int8 OpenVINO": (CpuAccelerator.OPENVINO_FP32, True),
}


class Crops(CalibrationDataReader):  # type: ignore[misc]
    """Training crops in the form that calibration of the activations' ranges reads."""

    def __init__(self, samples: list[Sample]) -> None:
        crops = CropDataset(samples, np.asarray, 256, Augmentation(), seed=1)
        self._rest = iter([crops[index][0].numpy()[None] for index in range(CALIBRATION_CROPS)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        crop = next(self._rest, None)
        return None if crop is None else {"IMAGE": crop}


def quantise(model: Path, training: list[Sample]) -> None:
    """Replace `network.onnx` of a model folder by its int8 version."""
    network, prepared = model / "network.onnx", model / "prepared.onnx"
    quant_pre_process(str(network), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(network),
        Crops(training),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
    )
    prepared.unlink()


async def measure(
    address: str, served: ServedVersion, validation: list[Sample]
) -> tuple[float, Evaluation]:
    """Median seconds of one inference of 512x512, and the scores."""
    engine = TritonEngine([address], 1, MAX_MESSAGE_BYTES)
    frames = [frame_from_array(sample.pixels) for sample in validation]
    found = [await segment(frame, engine, served) for frame in frames]
    tile = np.random.default_rng(0).integers(0, 4096, (512, 512, 1)).astype(np.uint16)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        await engine.infer(served.graph, ("MAPS",), tile, intensity_range(tile).range, NEVER)
        seconds.append(time.perf_counter() - started)
    await engine.close()
    evaluation = Evaluation.of(validation, [one.labels for one in found])
    return float(np.median(seconds)), evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="data set the model was trained on")
    parser.add_argument("model", type=Path, help="folder of a registered model version")
    parser.add_argument("--images", type=int, help="validation images to score (default: all)")
    arguments = parser.parse_args()
    training, validation = split_samples(read_dataset(arguments.data), 0.1, seed=0)
    validation = validation[: arguments.images]
    modalities = sorted({sample.modality for sample in validation})
    table = Table("way", "s per 512x512", "DSB score", *modalities)
    for name, (accelerator, int8) in WAYS.items():
        with TemporaryDirectory() as scratch:
            model, repository = Path(scratch) / "model", Path(scratch) / "repository"
            shutil.copytree(arguments.model, model)
            if int8:
                quantise(model, training)
            export_version(model, repository, 1, accelerator=accelerator)
            set_routing(repository, "unet", Routing(1))
            served = LocalEngine(repository).find("unet")
            (metrics_port,) = free_ports(1)
            with TritonServer(
                repository, Path(scratch) / "state", metrics_port=metrics_port
            ) as server:
                seconds, evaluation = asyncio.run(measure(server.address, served, validation))
            by_modality = evaluation.by_modality()
            table.add_row(
                name,
                f"{seconds:.3f}",
                f"{evaluation.overall()['dsb_score']:.4f}",
                *(f"{by_modality[modality]['dsb_score']:.4f}" for modality in modalities),
            )
            Console().print(f"{name}: {seconds:.3f} s")
    Console().print(table)


if __name__ == "__main__":
    main()
