"""The settings of each family's training, without torch: the command line's help shows them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Augmentation:
    """Strengths and probabilities of the random changes.

    Attributes:
        scale_spread: standard deviation of the natural logarithm of the zoom (clipped to 0.4-2.5).
        elastic_px: standard deviation of the elastic displacement on a 64-pixel grid, pixels.
        rotation: probability of a rotation by any angle, besides the eight dihedral ones.
        gamma_spread: standard deviation of the natural logarithm of the gamma exponent.
        range_spread: standard deviation of the shift of either end of the intensity range,
            as a fraction of the range.
        own_range: probability that a crop is normalised by its own range, not by its image's: this
            is how frames without a nucleus look.
        restain: probability that a stained image gets the stains of another of the training.
        immunostain: probability that a stained image looks like immunohistochemistry with DAB.
        crowd: probability that a grey crop gets the nuclei of another crop of its image above or
            beneath its own, as in thick tissue.
        dim: probability that some nuclei become dim, or pale, beside the others.
        defocus, jpeg: probabilities of a blur by a disk, and of the artefacts of JPEG.
        blur, noise, stain, grey, inversion: probabilities of the change of that name.
    """

    scale_spread: float = 0.4
    elastic_px: float = 3.0
    rotation: float = 0.5
    gamma_spread: float = 0.3
    range_spread: float = 0.08
    own_range: float = 0.1
    restain: float = 0.4
    immunostain: float = 0.12
    crowd: float = 0.1
    dim: float = 0.15
    defocus: float = 0.1
    jpeg: float = 0.1
    blur: float = 0.15
    noise: float = 0.25
    stain: float = 0.7
    grey: float = 0.1
    inversion: float = 0.05


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        steps: optimiser steps in all; 0 leaves the weights that training starts from.
        minutes: how long to train; replaces the number of steps. None trains for all steps.
        batch_size: crops per step.
        crop_px: side of a crop, pixels, multiple of 32.
        optimizer: `adamw`, whose rate falls as half a cosine to 1% of its peak; or `sgd` with
            momentum, whose rate falls tenfold after 2/3 and 8/9 of the steps.
        learning_rate: peak rate, after a linear warm-up.
        warmup_steps: length of the warm-up.
        weight_decay: of the optimiser.
        ema_decay: decay of the exponential moving average (EMA) of the weights.
        validate_every: steps between two validations (one "epoch" of the curves).
        patience: validations without a better score before training stops early.
        seed: of the weights, the crops and the augmentations.
        precision: `bf16` (mixed precision), `fp32`, or `auto`: bf16 where the device computes it
            natively.
        device: `cuda` or `cpu`.
        workers: processes that make crops; 0 makes them in the training process.
        balanced: take rare modalities and sizes of images more often than their share; if
            False, all images are equally likely.
        augmentation: random changes of the crops.
        frozen_statistics: batch norms use the statistics that they begin with, and keep them.
    """

    steps: int = 9000
    minutes: float | None = None
    batch_size: int = 8
    crop_px: int = 256
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 1e-2
    ema_decay: float = 0.998
    validate_every: int = 500
    patience: int = 20
    seed: int = 0
    precision: str = "auto"
    device: str = "cpu"
    workers: int = 1
    balanced: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
    frozen_statistics: bool = False


# Detectron2's for Mask R-CNN, except for the learning rate, which is 0.02 there: gradients with a
# norm of about 10 are clipped to 1 here.
MASK_RCNN = Schedule(
    steps=12000,
    batch_size=4,
    optimizer="sgd",
    learning_rate=5e-2,
    warmup_steps=1000,
    weight_decay=1e-4,
    validate_every=1000,
)
# ultralytics' own, for a short training with one class.
YOLOV8 = Schedule(batch_size=16, weight_decay=5e-4)
# From the weights of a finished model, with a few images: minutes on a CPU.
FINE_TUNING = Schedule(
    steps=300,
    batch_size=4,
    learning_rate=2e-4,
    warmup_steps=20,
    validate_every=50,
    frozen_statistics=True,
)
SAM = Schedule(steps=3000, batch_size=2, learning_rate=1e-4, patience=5)
