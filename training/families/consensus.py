"""A U-Net and a Mask R-CNN as one model, which vote on every nucleus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nuclei.inference.contract import ConsensusParameters, Contract, Method
from nuclei.inference.deadline import Deadline
from nuclei.inference.pipeline import Engine, Inference
from nuclei.postprocessing.accumulation import OUTPUTS
from training.data.dataset import Sample
from training.detection_engine import DetectionEngine
from training.engine import TorchEngine
from training.families.mask_rcnn import HALO_PX, MaskRCNN
from training.families.trained import joined_progress, shared_options
from training.families.unet import UNet
from training.graphs.detection import export_detector
from training.graphs.maps import export_steps, unet_steps
from training.job import Recipe
from training.optimisation import Progress, Report, Validate, best_network, mixed_precision

NETWORK_FILE = "network.onnx"
DETECTOR_FILE = "detector.onnx"


class Pair(nn.Module):
    """A network of maps and a detector, side by side."""

    def __init__(self, unet: nn.Module, mask_rcnn: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.mask_rcnn = mask_rcnn


class PairEngine:
    """Runs both networks of a pair in torch."""

    def __init__(self, first: Engine, second: Engine, contract: Contract) -> None:
        """Join the engine of maps and that of a detector, which are asked in turn."""
        self._first, self._second = first, second
        self._contract = contract

    async def contract(self, model: str) -> Contract:
        return self._contract

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Inference:
        answered: dict[str, NDArray[Any]] = {}
        for engine, method in ((self._first, Method.WATERSHED), (self._second, Method.MASKS)):
            answer = await engine.infer(graph, OUTPUTS[method], image, intensity, deadline)
            answered |= answer.outputs
        return Inference({name: answered[name] for name in outputs}, "0")


@dataclass(frozen=True, kw_only=True)
class Consensus(Recipe):
    """The vote of a U-Net and a Mask R-CNN that were trained before; it learns nothing itself.

    Attributes:
        unet: folder of the U-Net's training.
        mask_rcnn: folder of the Mask R-CNN's.
    """

    unet: Path
    mask_rcnn: Path

    family = "consensus"

    @classmethod
    def of(cls, data: Path, unet: Path, mask_rcnn: Path, device: str) -> Self:
        """The vote of what two trainings gave.

        Args:
            data: the images both were trained on.
            unet, mask_rcnn: their folders.
            device: `cuda` or `cpu`.

        Raises:
            InvalidData: a folder is of no such training, or the two held out different images.
        """
        first, second = UNet.read(unet), MaskRCNN.read(mask_rcnn)
        return cls(
            **shared_options(first, second, data, device),
            unet=unet.resolve(),
            mask_rcnn=mask_rcnn.resolve(),
        )

    def contract(self) -> Contract:
        return Contract(
            self.family,
            Method.CONSENSUS,
            halo=HALO_PX,
            pixel_size_um=self.pixel_size_um,
            postprocessing=ConsensusParameters(),
        )

    def build(self) -> Pair:
        first, second = self._recipes()
        return Pair(first.build(), second.build())

    def fit(
        self, samples: Sequence[Sample], folder: Path, validate: Validate, report: Report
    ) -> tuple[nn.Module, Progress]:
        """The networks that were trained, and what both trainings took."""
        first, second = self._recipes()
        folders = (self.unet, self.mask_rcnn)
        network = Pair(best_network(first, folders[0]), best_network(second, folders[1]))
        network.eval().to(self.schedule.device)
        progress = joined_progress(network, folders, validate, report)
        return network.cpu(), progress

    def engine(self, network: nn.Module, contract: Contract, precision: str) -> PairEngine:
        assert isinstance(network, Pair)
        device = self.schedule.device
        context = partial(mixed_precision, device, precision)
        first = TorchEngine(network.unet, contract, device, context)
        second = DetectionEngine(network.mask_rcnn, contract, device, context)
        return PairEngine(first, second, contract)

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(network, Pair)
        parity = export_detector(network.mask_rcnn, folder)
        (folder / NETWORK_FILE).rename(folder / DETECTOR_FILE)
        named = {name.replace("network", "detector"): value for name, value in parity.items()}
        return {**named, **export_steps(unet_steps(network.unet), folder)}

    def tags(self) -> Mapping[str, Any]:
        first, second = self._recipes()
        return {**first.tags(), **second.tags()}

    def _recipes(self) -> tuple[UNet, MaskRCNN]:
        return UNet.read(self.unet), MaskRCNN.read(self.mask_rcnn)
