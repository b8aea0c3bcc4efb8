"""Which images models were not trained on."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from nuclei.errors import InvalidData
from nuclei.evaluation.unseen import (
    TRAINED_ON_FILE,
    Pixels,
    Trained,
    image_digest,
    unseen,
    write_trained_on,
)
from nuclei.inference.contract import Contract

CONTRACT = Contract("unet")


@dataclass(frozen=True, eq=False)
class Image:
    id: str
    pixels: Pixels


IMAGES = [Image(name, np.full((8, 8, 1), n, np.uint8)) for n, name in enumerate("abcd")]


def names(models: list[Trained]) -> str:
    return "".join(image.id for image in unseen(IMAGES, models))


def test_an_image_is_known_by_its_pixels(tmp_path: Path) -> None:
    first = IMAGES[0].pixels
    write_trained_on(tmp_path / TRAINED_ON_FILE, [first.astype(np.uint16), IMAGES[2].pixels])
    model = Trained.read(tmp_path, CONTRACT)
    assert names([model]) == "bd"
    other = Trained(frozenset({image_digest(IMAGES[1].pixels)}), frozenset())
    assert names([model, other]) == "d"
    assert image_digest(first) != image_digest(first.reshape(4, 16, 1))


def test_without_digests_names_tell(tmp_path: Path) -> None:
    held_out = Trained.read(tmp_path, replace(CONTRACT, held_out=("c", "x")))
    assert held_out.digests is None
    assert names([held_out]) == "c"
    of_other_images = Trained.read(tmp_path, replace(CONTRACT, held_out=("x", "y")))
    assert names([of_other_images]) == "abcd"
    assert names([of_other_images, held_out]) == "c"


@pytest.mark.parametrize("text", ["", "{}", "[1]", '["../a"]', '["ABCDEF"]', "[" * 10**6])
def test_what_is_no_list_of_digests_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / TRAINED_ON_FILE).write_text(text)
    with pytest.raises(InvalidData, match="train the model again"):
        Trained.read(tmp_path, CONTRACT)


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("[]")
    (tmp_path / TRAINED_ON_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidData, match="a link"):
        Trained.read(tmp_path, CONTRACT)
