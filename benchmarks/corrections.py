"""What a few corrected images of one's own bring: the table of docs/training.md.

    .venv-train/bin/python benchmarks/corrections.py my_images.zip
    .venv-train/bin/python benchmarks/corrections.py my_images.zip --group '_([0-9]+)_' --images 5

Some images are kept aside for the test. Of the others 5, 10 and 20 are drawn, and `nuclei train
unet --from` learns from them what the shipped model gets wrong: with the split, the search of
parameters, the export and the ONNX files of every training. Each model, and the shipped one,
segments the test images. Drawn and trained three times. A finished training stays in its folder, so
a stopped run continues.
"""

import argparse
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from nuclei.errors import InvalidOption
from nuclei.evaluation.scores import Evaluation
from nuclei.evaluation.statistics import paired_test
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.routing import Routing
from nuclei.whole_file import write_whole
from serving.promotion.accuracy import evaluate
from serving.registry import Registry
from serving.repository.export import collect_artifacts, export_version, set_routing
from training.data.conversion import write_dataset
from training.data.dataset import Sample, read_dataset
from training.data.split import near_copies
from training.families.unet import UNet
from training.job import train
from training.schedule import FINE_TUNING, Schedule

ROOT = Path(__file__).parents[1]
MODEL = "unet"
NAME = "own"
SCORES = {"DSB score": "dsb_score", "AP@.50": "ap_0.50", "AP@.70": "ap_0.70", "PQ": "pq"}
VALIDATION_FRACTION = 0.2
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Outcome:
    """How a model does on the test images.

    Attributes:
        images: scores of each image, by name of the score; float64 [N].
        minutes: that its training took, from images to a registered version; 0 for the shipped.
    """

    images: Mapping[str, Sequence[float]]
    minutes: float

    @classmethod
    def of(cls, evaluation: Evaluation, minutes: float) -> "Outcome":
        return cls(
            {name: [one.scores[name] for one in evaluation.images] for name in SCORES.values()},
            minutes,
        )


class Bench:
    """Images to learn from, images for the test, and the shipped model.

    Attributes:
        test: images that nothing is trained on.
    """

    def __init__(self, samples: Sequence[Sample], pattern: str, share: float, folder: Path) -> None:
        """Split the images.

        Args:
            samples: of one modality.
            pattern: of what images of one patient or field share in their names, as a group of a
                regular expression; empty where they share nothing.
            share: of the images, for the test.
            folder: of the results.
        """
        self._folder = folder
        groups = _groups(samples, pattern)
        order = np.random.default_rng(0).permutation(len(groups))
        self.test: list[Sample] = []
        self._pool: list[Sample] = []
        for group in (groups[index] for index in order):
            wanted = len(self.test) < share * len(samples)
            (self.test if wanted else self._pool).extend(group)
        self._parent = folder / "parent"
        repository = ROOT / "model_repository"
        self._shipped = LocalEngine(repository).find(MODEL)
        self._parent.mkdir(parents=True, exist_ok=True)
        collect_artifacts(repository, MODEL, int(self._shipped.version), self._parent)

    def shipped(self) -> Outcome:
        """What the shipped model does."""
        engine = LocalEngine(ROOT / "model_repository")
        return self._kept(
            "shipped", lambda: Outcome.of(evaluate(self.test, engine, self._shipped), 0)
        )

    def corrected(self, n_images: int, repeat: int, schedule: Schedule) -> Outcome:
        """What a model does that has learned from so many images."""
        name = f"{n_images}-{repeat}"
        return self._kept(name, lambda: self._trained(name, n_images, repeat, schedule))

    def _trained(self, name: str, n_images: int, repeat: int, schedule: Schedule) -> Outcome:
        folder = self._folder / name
        order = np.random.default_rng([repeat, n_images]).permutation(len(self._pool))
        data = folder / "images"
        if not data.exists():
            write_dataset([self._pool[index] for index in order[:n_images]], data, "labels")
        uri = f"sqlite:///{(self._folder / 'mlflow.db').resolve()}"
        recipe = UNet(
            data=(data,),
            name=NAME,
            validation_fraction=VALIDATION_FRACTION,
            parent=f"{MODEL} {self._shipped.version}",
            parent_files=self._parent,
            schedule=replace(schedule, seed=repeat),
        )
        started = time.monotonic()
        trained = train(recipe, folder / "run", uri)
        minutes = (time.monotonic() - started) / 60
        registry, number = Registry(uri), int(trained.version.version)
        with TemporaryDirectory() as scratch:
            (Path(scratch) / "files").mkdir()
            version = registry.find(trained.version.name, number)
            files = registry.download(version, Path(scratch) / "files")
            repository = Path(scratch) / "models"
            export_version(files, repository, number)
            set_routing(repository, NAME, Routing(number))
            engine = LocalEngine(repository)
            return Outcome.of(evaluate(self.test, engine, engine.find(NAME)), minutes)

    def _kept(self, name: str, make: Callable[[], Outcome]) -> Outcome:
        """An outcome kept in a file, computed if it is missing."""
        path = self._folder / name / RESULT_FILE
        if not path.exists():
            made = make()
            path.parent.mkdir(exist_ok=True)
            write_whole(path, json.dumps(vars(made)))
        return Outcome(**json.loads(path.read_text()))


def _groups(samples: Sequence[Sample], pattern: str) -> list[list[Sample]]:
    """Images that stay together: of one patient or field by their names, or near-copies."""
    if not pattern:
        return near_copies(samples)
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        found = re.search(pattern, sample.id)
        if found is None:
            raise InvalidOption(f"--group {pattern} is not in the name {sample.id}")
        groups[found[1]].append(sample)
    return list(groups.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder or zip of images with their nuclei")
    parser.add_argument("--modality", default="", help="only images of this modality")
    parser.add_argument("--group", default="", help="regular expression: images of one patient")
    parser.add_argument("--test", type=float, default=0.5, help="share of the images for the test")
    parser.add_argument("--images", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=FINE_TUNING.steps)
    parser.add_argument("--learning-rate", type=float, default=FINE_TUNING.learning_rate)
    parser.add_argument("--out", type=Path, default=Path("runs/corrections"))
    asked = parser.parse_args()
    samples = [
        sample for sample in read_dataset(asked.data) if asked.modality in ("", sample.modality)
    ]
    bench = Bench(samples, asked.group, asked.test, asked.out)
    schedule = replace(FINE_TUNING, steps=asked.steps, learning_rate=asked.learning_rate)
    shipped = bench.shipped()
    rows = [_row("none: the shipped model", shipped, [shipped])]
    for n_images in asked.images:
        outcomes = [bench.corrected(n_images, n, schedule) for n in range(asked.repeats)]
        rows.append(_row(str(n_images), shipped, outcomes))
    columns = ["corrected images", *SCORES, "gain in DSB score (95 %)", "minutes"]
    lines = [columns, ["---"] * len(columns), *rows]
    Console().print(f"{len(bench.test)} test images", highlight=False)
    for line in lines:
        print(f"| {' | '.join(line)} |")


def _row(what: str, shipped: Outcome, outcomes: Sequence[Outcome]) -> list[str]:
    """A line of the table; scores are means over the test images and the trainings."""

    def scores(name: str) -> NDArray[np.float64]:
        of_images: NDArray[np.float64] = np.mean([one.images[name] for one in outcomes], axis=0)
        return of_images

    dsb_score = SCORES["DSB score"]
    test = paired_test(scores(dsb_score), np.array(shipped.images[dsb_score]))
    low, high = test.interval
    is_shipped = outcomes == [shipped]
    return [
        what,
        *(f"{scores(name).mean():.3f}" for name in SCORES.values()),
        "" if is_shipped else f"{test.difference:+.3f} ({low:+.3f} to {high:+.3f})",
        "" if is_shipped else f"{np.median([one.minutes for one in outcomes]):.1f}",
    ]


if __name__ == "__main__":
    main()
