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
    Trained.on([first.astype(np.uint16), IMAGES[2].pixels]).write(tmp_path / TRAINED_ON_FILE)
    model = Trained.read(tmp_path, CONTRACT)
    assert names([model]) == "bd"
    other = Trained.on([IMAGES[1].pixels])
    assert names([model, other]) == "d"
    assert image_digest(first) != image_digest(first.reshape(4, 16, 1))


def test_without_digests_names_tell(tmp_path: Path) -> None:
    held_out = Trained.read(tmp_path, replace(CONTRACT, held_out=("c", "x")))
    assert not held_out.complete
    assert names([held_out]) == "c"
    of_other_images = Trained.read(tmp_path, replace(CONTRACT, held_out=("x", "y")))
    assert names([of_other_images]) == "abcd"
    assert names([of_other_images, held_out]) == "c"


def test_a_model_that_went_on_from_another_has_seen_what_that_has(tmp_path: Path) -> None:
    path = tmp_path / TRAINED_ON_FILE
    own = Trained.on([IMAGES[0].pixels])
    own.after(Trained.on([IMAGES[1].pixels])).write(path)
    assert names([Trained.read(tmp_path, CONTRACT)]) == "cd"
    # Of a parent that only tells what it held out, the rest of its data set is taken as seen.
    parent = Trained.read(tmp_path / "nowhere", replace(CONTRACT, held_out=("a", "c")))
    own.after(parent).write(path)
    child = Trained.read(tmp_path, replace(CONTRACT, held_out=("d",)))
    assert not child.complete
    assert names([child]) == "c"


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"digests": [], "held_out": [1]}', "[1]", '["../a"]', '["ABCDEF"]', "[" * 10**6],
)
def test_what_is_no_list_of_digests_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / TRAINED_ON_FILE).write_text(text)
    with pytest.raises(InvalidData, match="train the model again"):
        Trained.read(tmp_path, CONTRACT)


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("[]")
    (tmp_path / TRAINED_ON_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidData, match="a link"):
        Trained.read(tmp_path, CONTRACT)
