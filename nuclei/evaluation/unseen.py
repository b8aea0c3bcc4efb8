"""Which images a model has never been trained on: only these can tell how good it is.

Training writes the digests of its images beside the ONNX files (`trained_on.json`), because names
say little: the same picture is in many data sets under many names.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidData
from nuclei.inference.contract import Contract

TRAINED_ON_FILE = "trained_on.json"
# A million images.
MAX_BYTES = 2**26
_DIGEST = re.compile(r"[0-9a-f]{32}")

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


class Image(Protocol):
    """An image of a data set, as `training.data.dataset.Sample` has it."""

    @property
    def id(self) -> str: ...

    @property
    def pixels(self) -> Pixels: ...


I = TypeVar("I", bound=Image)  # noqa: E741


def image_digest(pixels: Pixels) -> str:
    """Half a SHA-256 over the shape and the pixels [H, W, C], whatever their name and depth."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(pixels.astype("<u2").tobytes())
    return digest.hexdigest()[:32]


def write_trained_on(path: Path, images: Iterable[Pixels]) -> None:
    """Write the digests of the images that a model was trained on."""
    path.write_text(json.dumps(sorted({image_digest(pixels) for pixels in images})))


@dataclass(frozen=True)
class Trained:
    """What a model's files tell of its training.

    Attributes:
        digests: of the images it was trained on; None when it does not say.
        held_out: names of the images it was not trained on, which were of the same data set.
    """

    digests: frozenset[str] | None
    held_out: frozenset[str]

    @classmethod
    def read(cls, folder: Path, contract: Contract) -> Self:
        """Read them beside the contract.

        Raises:
            InvalidData: the file is a link, too large, or no list of digests.
        """
        path = folder / TRAINED_ON_FILE
        if not path.exists() and not path.is_symlink():
            return cls(None, frozenset(contract.held_out))
        try:
            if path.is_symlink() or path.stat().st_size > MAX_BYTES:
                raise ValueError("a link, or too large")
            digests: Any = json.loads(path.read_bytes())
            if not isinstance(digests, list) or not all(map(_is_digest, digests)):
                raise ValueError("expected a list of digests")
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidData(f"{path} cannot be used ({error}); train the model again") from error
        return cls(frozenset(digests), frozenset(contract.held_out))

    def is_unseen(self, image: Image, of_same_set: bool) -> bool:
        """Whether the model was not trained on an image, as far as its files tell.

        Args:
            image: the image.
            of_same_set: whether some image of its set has a name that was held out.
        """
        if self.digests is not None:
            return image_digest(image.pixels) not in self.digests
        return not of_same_set or image.id in self.held_out


def unseen(images: Sequence[I], models: Sequence[Trained]) -> list[I]:
    """The images that none of the models was trained on.

    Where a model does not say on which it was: those that it held out, when these images are of
    its data set; all, when none of them is.
    """
    same = [any(image.id in model.held_out for image in images) for model in models]
    pairs = list(zip(models, same, strict=True))
    return [image for image in images if all(model.is_unseen(image, of) for model, of in pairs)]


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
