"""Scores of images by networks of the same recipe that have not seen their source.

A model's score on an image that it learned from says nothing of others. Training with folds trains
the same recipe once without each source, and notes how it does on the images of that source
(`left_out.json`, beside the ONNX files): so models are compared on images of their own training.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nuclei.errors import InvalidData
from nuclei.evaluation.unseen import is_digest, read_told

LEFT_OUT_FILE = "left_out.json"


@dataclass(frozen=True)
class LeftOut:
    """The scores that a model's files tell.

    Attributes:
        scores: the DSB score of each image, by its digest (`nuclei.evaluation.unseen`).
    """

    scores: Mapping[str, float]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read them beside the contract; none where there is no file.

        Raises:
            InvalidData: the file is a link, too large, or holds no scores.
        """
        path = folder / LEFT_OUT_FILE
        if not path.exists() and not path.is_symlink():
            return cls({})
        try:
            scores = read_told(path)
            if not isinstance(scores, dict) or not all(map(is_digest, scores)):
                raise ValueError("expected scores by digest")
            if not all(_is_score(score) for score in scores.values()):
                raise ValueError("expected scores from 0 to 1")
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidData(f"{path} cannot be used ({error}); train the model again") from error
        return cls(scores)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dict(sorted(self.scores.items()))))


def _is_score(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1  # type: ignore[operator]
