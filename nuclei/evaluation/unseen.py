"""Which images a model has never been trained on: only these can tell how good it is.

Training writes the digests of its images beside the ONNX files (`trained_on.json`), because names
say little: the same picture is in many data sets under many names.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Trained:
    """What a model's files tell of its training, and of that of the model that it started from.

    Attributes:
        digests: of images it was trained on.
        complete: whether these are all.
        held_out: where they are not, names of images it was not trained on, of the data set of the
            others.
    """

    digests: frozenset[str]
    complete: bool = True
    held_out: frozenset[str] = frozenset()

    @classmethod
    def on(cls, images: Iterable[Pixels]) -> Self:
        """That of a model that was trained on these images, and on no others."""
        return cls(frozenset(image_digest(pixels) for pixels in images))

    def after(self, before: "Trained") -> "Trained":
        """That of a model that was trained so after it had been trained before."""
        return Trained(
            self.digests | before.digests,
            self.complete and before.complete,
            self.held_out | before.held_out,
        )

    def apart_from(self, digests: Collection[str]) -> "Trained":
        """The same without some images."""
        return replace(self, digests=self.digests - frozenset(digests))

    def write(self, path: Path) -> None:
        """Write `trained_on.json`: a list of digests, or an object where they are not all."""
        digests = sorted(self.digests)
        told = digests if self.complete else {"digests": digests, "held_out": sorted(self.held_out)}
        path.write_text(json.dumps(told))

    @classmethod
    def read(cls, folder: Path, contract: Contract) -> Self:
        """Read them beside the contract.

        Raises:
            InvalidData: the file is a link, too large, or holds no digests.
        """
        path = folder / TRAINED_ON_FILE
        if not path.exists() and not path.is_symlink():
            return cls(frozenset(), complete=False, held_out=frozenset(contract.held_out))
        try:
            told = read_told(path)
            complete = isinstance(told, list)
            digests, held_out = (told, []) if complete else (told["digests"], told["held_out"])
            if not _are(digests, is_digest) or not _are(held_out, lambda name: type(name) is str):
                raise ValueError("expected a list of digests")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise InvalidData(f"{path} cannot be used ({error}); train the model again") from error
        return cls(frozenset(digests), complete, frozenset(held_out))

    def is_unseen(self, image: Image, of_same_set: bool) -> bool:
        """Whether the model was not trained on an image, as far as its files tell.

        Args:
            image: the image.
            of_same_set: whether some image of its set has a name that was held out.
        """
        if image_digest(image.pixels) in self.digests:
            return False
        return self.complete or not of_same_set or image.id in self.held_out


def unseen(images: Sequence[I], models: Sequence[Trained]) -> list[I]:
    """The images that none of the models was trained on.

    Where a model does not say on which it was: those that it held out, when these images are of
    its data set; all, when none of them is.
    """
    same = [any(image.id in model.held_out for image in images) for model in models]
    pairs = list(zip(models, same, strict=True))
    return [image for image in images if all(model.is_unseen(image, of) for model, of in pairs)]


def _are(values: object, kind: Callable[[object], bool]) -> bool:
    return isinstance(values, list) and all(map(kind, values))


def read_told(path: Path) -> Any:
    """The JSON that a training wrote beside a contract.

    Raises:
        OSError, ValueError, RecursionError: it is a link, too large, or no JSON.
    """
    if path.is_symlink() or path.stat().st_size > MAX_BYTES:
        raise ValueError("a link, or too large")
    return json.loads(path.read_bytes())


def is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
