"""The U-Net and other networks that give maps of the whole image, for a watershed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from segmentation_models_pytorch.encoders import get_encoder, get_encoder_names
from torch import Tensor, nn
from torch.nn import functional

from nuclei.errors import InvalidData, InvalidOption
from nuclei.evaluation.unseen import Trained
from nuclei.inference.contract import CONTRACT_FILE, MAP_NAMES, Contract, is_family
from nuclei.inference.graph import MAP_NETWORK, TTA_SUFFIX
from nuclei.inference.method import WATERSHED
from nuclei.inference.provenance import DATA_NOT_STATED, DataSet
from nuclei.quality.judgement import group_of
from nuclei.quality.reference import GROUPS
from nuclei.quoting import quoted
from nuclei.registry import ARCHITECTURE_TAG, ENCODER_TAG, PARENT_TAG
from training.data.dataset import Sample
from training.data.targets import border_closeness, target_maps
from training.families.losses import loss_by_name, weighted_bce
from training.families.pretrained import load_encoder
from training.graphs.kinds import ByKind
from training.graphs.maps import map_modules, map_steps
from training.graphs.step import export_steps
from training.graphs.weights import holds_two_networks, read_weights
from training.job import LearnedRecipe
from training.optimisation import Progress, Report, Validate
from training.ranks import ALONE, Rank

# Light decoders, suited to a CPU; and those of segmentation_models_pytorch, for a deep encoder.
DECODER_CHANNELS = (128, 64, 48, 32, 16)
DEEP_DECODER_CHANNELS = (256, 128, 64, 32, 16)
DEEP = "resnet"
# Of the tiles: larger ones fall out of the caches of processors that have less of them, and with a
# wider halo the nuclei at seams are the same (docs/performance.md).
TILE_PX, HALO_PX = 768, 32
CNN_CHANNELS = 32
CNN_LAYERS = 6


@dataclass(frozen=True, kw_only=True)
class UNet(LearnedRecipe):
    """A U-Net, or another architecture in its place.

    Attributes:
        name: of the model's family, by which it is registered; empty for its parent's, or else its
            architecture's.
        architecture: its name (see `build_network`).
        encoder: the name of its encoder.
        loss: a name of `training.families.losses`.
        border_weight: how much more the pixels between two close nuclei weigh in a cross-entropy
            that is added to the loss (w0 of Ronneberger et al. 2015, equation 2, who use 10).
        encoder_weights: file of weights that the encoder starts with (`load_encoder`); None for
            random ones, or those of the parent.
        parent: the model that it starts from, as people name it; empty for random weights.
        parent_files: folder of its files, as training registers them; None for random weights.
        parent_licence: of the parent, SPDX; empty when it is not stated.
        keep: a kind of images (`nuclei.quality.reference.GROUPS`) that the parent's network goes on
            answering, as it is; those of the other kind get a network of their own, which goes on
            from the parent's and learns from images of this kind alone. Empty for none.
        mix: the share of the way from the parent's weights to the trained ones at which the
            network lies (WiSE-FT, Wortsman et al. 2022, section 3), in (0, 1].
    """

    name: str = ""
    architecture: str = "unet"
    encoder: str = "tu-regnetx_004"
    loss: str = "bce+dice"
    border_weight: float = 0.0
    encoder_weights: Path | None = None
    parent: str = ""
    parent_files: Path | None = None
    parent_licence: str = ""
    keep: str = ""
    mix: float = 1.0

    family = "unet"

    @property
    def captures_graph(self) -> bool:
        # Which network learns from how many crops of a batch depends on these.
        return not self.by_kind

    @property
    def goes_on(self) -> bool:
        return self.parent_files is not None

    @property
    def by_kind(self) -> bool:
        """Whether it has a network for grey images and another for those in colour."""
        return bool(self.keep) or self._parent_is_by_kind()

    def contract(self) -> Contract:
        if self.parent_files is None:
            return Contract(
                self.name or self.architecture,
                tile_size=TILE_PX,
                halo=HALO_PX,
                pixel_size_um=self.pixel_size_um,
            )
        parent = self._parent_contract(self.parent_files)
        return Contract(
            self.name or parent.family,
            tile_size=parent.tile_size,
            halo=parent.halo,
            pixel_size_um=self.pixel_size_um,
            postprocessing=parent.postprocessing,
            # Known for both kinds of frames, though they be the same: one stays without samples.
            colour_postprocessing=parent.parameters["colour"],
        )

    def build(self) -> nn.Module:
        if not self.by_kind:
            return build_network(self.architecture, self.encoder)
        grey, colour = (build_network(self.architecture, self.encoder) for _ in GROUPS)
        network = ByKind(grey, colour)
        if self.keep:
            getattr(network, self.keep).requires_grad_(False)
        return network

    def first_weights(self) -> Mapping[str, Tensor] | None:
        if self.parent_files is not None:
            file = self.parent_files / MAP_NETWORK.filename
            if self._parent_is_by_kind():
                return read_weights(self.build(), file)
            weights = read_weights(build_network(self.architecture, self.encoder), file)
            if not self.by_kind:
                return weights
            return {f"{kind}.{name}": one for kind in GROUPS for name, one in weights.items()}
        if self.encoder_weights is not None:
            network = self.build()
            load_encoder(network, self.encoder, self.encoder_weights)
            return network.state_dict()
        return None

    def check(self) -> None:
        if self.keep not in ("", *GROUPS):
            raise InvalidOption(f"--keep is {quoted(self.keep)}; expected {' or '.join(GROUPS)}")
        loss_by_name(self.loss)
        if self.name and not is_family(self.name):
            raise InvalidOption(
                f"--name is {quoted(self.name)}; expected 1 to 64 of the characters A-Z a-z 0-9 _ -"
                f" and no {TTA_SUFFIX} at the end"
            )
        if self.encoder_weights is not None and self.parent_files is not None:
            raise InvalidOption(
                f"the network starts from {self.parent}, encoder included; leave out "
                "--encoder-weights"
            )
        if not 0 < self.mix <= 1:
            raise InvalidOption(f"--mix is {self.mix:g}; expected more than 0, and at most 1")
        if self.parent_files is None and (self.keep or self.mix < 1):
            raise InvalidOption("--keep and --mix are of a model to go on from; give it as --from")
        if self.keep and not self.schedule.steps:
            raise InvalidOption(
                f"--keep {self.keep} is of images of the other kind that are learned, and --steps 0"
                " learns none: leave out one of the two"
            )
        super().check()
        self.contract()
        self.first_weights()

    def learns_from(self, sample: Sample) -> bool:
        return group_of(sample.pixels) != self.keep

    def targets(self, labels: NDArray[np.uint16]) -> Tensor:
        maps = target_maps(labels)
        if self.border_weight:
            maps = np.concatenate([maps, border_closeness(labels)[None]])
        return torch.from_numpy(maps)

    def loss_of(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        if self.keep:
            # Crops without a colour, too, which augmentation makes of some.
            assert isinstance(network, ByKind)
            network = network.colour if self.keep == "grey" else network.grey
        logits = network(images).float()
        targets = targets.to(images.device, non_blocking=True)
        maps, closeness = targets[:, : len(MAP_NAMES)], targets[:, len(MAP_NAMES) :]
        loss = loss_by_name(self.loss)(logits, maps)
        if self.border_weight:
            loss = loss + self.border_weight * weighted_bce(logits, maps, closeness)
        return loss

    def fit(
        self,
        samples: Sequence[Sample],
        folder: Path,
        validate: Validate | None,
        report: Report,
        rank: Rank = ALONE,
    ) -> tuple[nn.Module, Progress]:
        network, progress = super().fit(samples, folder, validate, report, rank)
        if self.mix < 1 and (before := self.first_weights()) is not None:
            after = network.state_dict()
            network.load_state_dict(
                {
                    name: before[name].lerp(value, self.mix) if value.is_floating_point() else value
                    for name, value in after.items()
                }
            )
        return network, progress

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        return map_modules(network)

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        return export_steps(map_steps(network), folder)

    def tags(self) -> Mapping[str, Any]:
        made_of = {ARCHITECTURE_TAG: self.architecture, ENCODER_TAG: self.encoder}
        return {**made_of, PARENT_TAG: self.parent} if self.parent else made_of

    def licences_before(self) -> tuple[str, ...]:
        if self.parent_files is None:
            return ()
        return (self.parent_licence or DATA_NOT_STATED,)

    def data_before(self) -> tuple[DataSet, ...]:
        if self.parent_files is None:
            return ()
        return self._parent_contract(self.parent_files).data

    def minutes_before(self) -> float:
        if self.parent_files is None:
            return 0.0
        return self._parent_contract(self.parent_files).training.get("minutes", 0.0)

    def trained_before(self) -> Trained:
        if self.parent_files is None:
            return super().trained_before()
        return Trained.read(self.parent_files, self._parent_contract(self.parent_files))

    def held_out_before(self) -> frozenset[str]:
        if self.parent_files is None:
            return super().held_out_before()
        return frozenset(self._parent_contract(self.parent_files).held_out)

    def _parent_is_by_kind(self) -> bool:
        if self.parent_files is None:
            return False
        return holds_two_networks(self.parent_files / MAP_NETWORK.filename)

    def _parent_contract(self, files: Path) -> Contract:
        contract = Contract.read(files / CONTRACT_FILE)
        if contract.method is not WATERSHED:
            raise InvalidData(
                f"{self.parent} is a {contract.method.name} model; expected one of the maps "
                f"{', '.join(MAP_NAMES)}, as `nuclei train unet` makes them"
            )
        return contract


class Fcn(nn.Module):
    """FCN-8s (Long et al. 2015, section 4.2): scores at three strides, enlarged and added."""

    def __init__(self, encoder: str) -> None:
        super().__init__()
        self.encoder = get_encoder(encoder, weights=None)
        self.scores = nn.ModuleList(
            nn.Conv2d(channels, len(MAP_NAMES), 1) for channels in self.encoder.out_channels[-3:]
        )

    def forward(self, image: Tensor) -> Tensor:
        *_, eighth, sixteenth, last = self.encoder(image)
        at_8, at_16, at_32 = self.scores
        logits: Tensor = at_16(sixteenth) + _enlarged(at_32(last), 2)
        return _enlarged(at_8(eighth) + _enlarged(logits, 2), 8)


class Cnn(nn.Sequential):
    """Plain 3x3 convolutions at full size; each widens the receptive field by one pixel a side."""

    def __init__(self) -> None:
        channels = (3, *[CNN_CHANNELS] * CNN_LAYERS)
        layers = [
            nn.Sequential(
                nn.Conv2d(taken, given, 3, padding=1, bias=False),
                nn.BatchNorm2d(given),
                nn.ReLU(inplace=True),
            )
            for taken, given in pairwise(channels)
        ]
        super().__init__(*layers, nn.Conv2d(CNN_CHANNELS, len(MAP_NAMES), 1))


def _smp(model: Callable[..., nn.Module], **options: object) -> Callable[[str], nn.Module]:
    return partial(model, encoder_weights=None, classes=len(MAP_NAMES), **options)


def _unet(model: Callable[..., nn.Module], encoder: str) -> nn.Module:
    deep = encoder.startswith(DEEP)
    channels = DEEP_DECODER_CHANNELS if deep else DECODER_CHANNELS
    return _smp(model, decoder_channels=channels)(encoder)


ARCHITECTURES: dict[str, Callable[[str], nn.Module]] = {
    "unet": partial(_unet, smp.Unet),
    "linknet": _smp(smp.Linknet),
    "fpn": _smp(smp.FPN),
    "unetplusplus": partial(_unet, smp.UnetPlusPlus),
    "deeplabv3plus": _smp(smp.DeepLabV3Plus),
    "fcn": Fcn,
    "cnn": lambda _: Cnn(),
}


def build_network(architecture: str, encoder: str) -> nn.Module:
    """A network with random weights.

    Args:
        architecture: `unet`, `linknet`, `fpn`, `unetplusplus`, `deeplabv3plus` (those of
            segmentation_models_pytorch), and for comparison `fcn` and `cnn`, which has no encoder.
        encoder: a name of segmentation_models_pytorch (`resnet18` to `resnet152`), or any timm
            backbone as `tu-<name>` (`tu-regnetx_004`).

    Returns:
        Module: image float32 [N, 3, H, W] in [0, 1], H and W multiples of 32, to logits
        float32 [N, 3, H, W] in the order of `nuclei.inference.contract.MAP_NAMES`.

    Raises:
        InvalidOption: an unknown architecture or encoder, or they do not fit together.
    """
    if architecture not in ARCHITECTURES:
        raise InvalidOption(
            f"architecture {quoted(architecture)} is unknown; expected one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    try:
        return ARCHITECTURES[architecture](encoder)
    except (KeyError, RuntimeError, ValueError) as error:
        raise InvalidOption(
            f"encoder {quoted(encoder)} is unknown or no match for {architecture} ({error}); "
            f"expected a timm backbone as 'tu-<name>' or one of {', '.join(get_encoder_names())}"
        ) from error


def _enlarged(maps: Tensor, times: int) -> Tensor:
    return functional.interpolate(maps, scale_factor=times, mode="bilinear")
