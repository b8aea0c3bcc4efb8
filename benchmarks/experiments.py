"""Methods from the literature on the same validation images: the tables of docs/experiments.md.

    .venv-train/bin/python benchmarks/experiments.py stage1_train.zip           (all not done yet)
    .venv-train/bin/python benchmarks/experiments.py stage1_train.zip --only loss-dice every-peak
    .venv-train/bin/python benchmarks/experiments.py --list
    .venv-train/bin/python benchmarks/experiments.py a.zip b.zip c.zip --leave c \
        --folder runs/laboratories --steps 1500 --crop 256 --workers 1 \
        --repository version_3/model_repository

The last leaves whole sources out, and scores on them: the topic `laboratories`. It starts from a
network that has not seen them, that of an earlier version of the model repository.

An experiment's result stays in its folder, so a stopped run can be continued; the document's tables
and pictures are written after each. Post-processing and views are tried on the shipped network.
Trainings start from random weights, get the same small budget of steps, and keep the last network.
For every experiment, the options of post-processing are tuned on four fifths of the images and
scored on the remaining fifth, in turn (five-fold cross-validation).
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from candidates import best_possible, learned
from magnification import diameter_px
from markers import PREDICTED, WAYS, Maps, Outcome, Way, cross_validated
from matplotlib.figure import Figure
from numpy.typing import NDArray
from offsets import VOTED, Offsets
from rich.console import Console
from torch import Tensor, nn
from views import ALL, DIHEDRAL, MIRRORED, SCALED, TURNED, View, averaged, predictions

from nuclei.errors import InvalidOption
from nuclei.evaluation.statistics import mean_interval, paired_test
from nuclei.inference.contract import CONTRACT_FILE, MAP_NAMES, Contract
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.postprocessing.accumulation import Maps as MapsOfFrame
from nuclei.postprocessing.watershed import WatershedParameters, label_nuclei
from nuclei.quality.judgement import group_of
from serving.repository.export import collect_artifacts
from serving.repository.listing import list_models
from training.data.dataset import Sample, read_datasets
from training.data.split import split_samples
from training.families.unet import UNet
from training.schedule import Schedule
from training.tuning import predict_all

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "experiments.md"
PICTURE = "experiments_{}.png"
MODEL = "unet"
SEED = 0
VALIDATION_FRACTION = 0.1
TEACHING_STRIDE = 3
WARM_UP = 0.1
LEAST_P = 0.001
# Of fewer nuclei the median says little.
LEAST_NUCLEI = 5
SCALES_TRIED = (0.5, 2.0)
BUDGET_FILE = "budget.json"
RESULT_FILE = "result.json"


@dataclass(frozen=True, kw_only=True)
class PartOfMaps(UNet):
    """A network that learns only some of the maps.

    Attributes:
        learnt: names of `nuclei.inference.contract.MAP_NAMES`; its other maps are meaningless.
    """

    learnt: tuple[str, ...] = MAP_NAMES

    def loss_of(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        own = [MAP_NAMES.index(name) for name in self.learnt]
        return super().loss_of(_Some(network, own), images, targets[:, own])


class _Some(nn.Module):
    def __init__(self, network: nn.Module, own: list[int]) -> None:
        super().__init__()
        self._network, self._own = network, own

    def forward(self, images: Tensor) -> Tensor:
        own: Tensor = self._network(images)[:, self._own]
        return own


def _shipped_version(repository: Path) -> int:
    (shipped,) = [one for one in list_models(repository) if one.name == MODEL]
    return shipped.champion


def _sources(samples: Iterable[Sample], ids: frozenset[str]) -> set[str]:
    """Sources of which images have these names."""
    return {sample.source for sample in samples if sample.id in ids}


class Bench:
    """The images, and the predictions to them that several experiments share.

    Attributes:
        data: folders and zips, each a source.
        folder: of the results.
        schedule: of every training.
        leave: sources that no training sees, and that are scored; where there are none, images that
            are held out at random.
        repository: of Triton, whose network counts as shipped.
    """

    def __init__(
        self,
        data: Sequence[Path],
        folder: Path,
        schedule: Schedule,
        leave: frozenset[str],
        repository: Path,
        encoder_weights: Path | None,
    ) -> None:
        self.data, self.folder, self.schedule, self.leave = data, folder, schedule, leave
        self.repository, self._encoder_weights = repository, encoder_weights

    @cached_property
    def split(self) -> tuple[list[Sample], list[Sample]]:
        samples = read_datasets(self.data)
        if not self.leave:
            return split_samples(samples, VALIDATION_FRACTION, SEED)
        unknown = sorted(self.leave - {sample.source for sample in samples})
        if unknown:
            raise InvalidOption(f"--leave {unknown[0]}: none of the data sets is called so")
        return (
            [sample for sample in samples if sample.source not in self.leave],
            [sample for sample in samples if sample.source in self.leave],
        )

    @cached_property
    def shipped_files(self) -> Path:
        """Those of the shipped network, as training registers them.

        Raises:
            InvalidOption: it has learned from images that are to be scored.
        """
        folder = self.folder / "shipped-files"
        folder.mkdir(exist_ok=True)
        collect_artifacts(self.repository, MODEL, _shipped_version(self.repository), folder)
        held_out = frozenset(Contract.read(folder / CONTRACT_FILE).held_out)
        known = _sources(self.split[0] + self.validation, held_out)
        learned = known & {one.source for one in self.validation if one.id not in held_out}
        if learned:
            raise InvalidOption(
                f"the shipped network has learned from {', '.join(sorted(learned))}, so its score "
                "there says nothing: --leave others, name --only experiments without it, or the "
                "--repository of an earlier version"
            )
        return folder

    @property
    def encoder_weights(self) -> Path:
        if self._encoder_weights is None:
            raise InvalidOption("this experiment starts with weights; name --encoder-weights FILE")
        return self._encoder_weights

    @property
    def validation(self) -> list[Sample]:
        return self.split[1]

    @property
    def teaching(self) -> list[Sample]:
        """Images for methods that are fitted to a network's predictions.

        Where sources are left out: those of the others that the shipped network has not seen.
        """
        training = self.split[0]
        if not self.leave:
            return training[::TEACHING_STRIDE]
        held_out = frozenset(Contract.read(self.shipped_files / CONTRACT_FILE).held_out)
        seen_by_it = _sources(training, held_out)
        return [sample for sample in training if sample.source not in seen_by_it]

    def shipped(self, view: View) -> list[Maps]:
        """The shipped network's predictions to one view of the validation images."""
        name = f"shipped-{view.turns}{'m' if view.mirrored else ''}-{view.scale}.npz"
        return self._shipped(name, self.validation, view)

    def shipped_teaching(self) -> list[Maps]:
        """The shipped network's predictions to the teaching images."""
        return self._shipped("shipped-teaching.npz", self.teaching, View())

    def _shipped(self, name: str, samples: list[Sample], view: View) -> list[Maps]:
        engine = LocalEngine(self.repository)
        return self.kept(name, lambda: predictions(samples, engine, engine.find(MODEL), view))

    def kept(self, name: str, make: Callable[[], list[Maps]]) -> list[Maps]:
        """Answers kept in a file of the folder, computed if it is missing."""
        path = self.folder / "maps" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            partial_path = path.with_suffix(".partial.npz")
            made = {f"{number:04d}": maps for number, maps in enumerate(make())}
            np.savez_compressed(partial_path, **made)  # type: ignore[arg-type]
            partial_path.rename(path)
        with np.load(path) as file:
            return [file[key] for key in sorted(file)]


Run = Callable[[Bench], Outcome]


@dataclass(frozen=True)
class Experiment:
    """One line of a table.

    Attributes:
        what: what differs from the table's first line.
        run: gives the score of each validation image.
    """

    what: str
    run: Run


def postprocessed(way: Way, bench: Bench) -> Outcome:
    return cross_validated(way, bench.validation, bench.shipped(View()))


def scored_by_learning(bench: Bench) -> Outcome:
    known = bench.teaching, bench.shipped_teaching()
    return learned(bench.validation, bench.shipped(View()), *known)


def scored_by_truth(bench: Bench) -> Outcome:
    return best_possible(bench.validation, bench.shipped(View()))


def at_usual_size(bench: Bench) -> Outcome:
    maps = bench.kept("usual-size.npz", partial(_maps_at_usual_size, bench))
    return cross_validated(PREDICTED, bench.validation, maps)


def _maps_at_usual_size(bench: Bench) -> list[Maps]:
    engine = LocalEngine(bench.repository)
    served = engine.find(MODEL)
    found = []
    for sample, first in zip(bench.validation, bench.shipped(View()), strict=True):
        kind = group_of(sample.pixels)
        labels = label_nuclei(first, cast(WatershedParameters, served.contract.parameters[kind]))
        scale = 1.0
        if labels.max(initial=0) >= LEAST_NUCLEI:
            ratio = served.contract.diameters_px[kind] / diameter_px(labels)
            scale = float(np.clip(ratio, *SCALES_TRIED))
        found += predictions([sample], engine, served, View(scale=scale))
    return found


def seen(views: Sequence[View], bench: Bench) -> Outcome:
    maps = averaged(bench.shipped(view) for view in views)
    return cross_validated(PREDICTED, bench.validation, maps)


@dataclass(frozen=True)
class Training:
    """A network trained from random weights.

    Attributes:
        name: of the folder that its checkpoint stays in.
        options, schedule, augmentation: what differs from the first line's.
        recipe: of the network.
        way: how the maps are post-processed.
        start: further options, with which weights it starts.
        times: how often it gets the steps of the budget.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    augmentation: Mapping[str, float] = field(default_factory=dict)
    recipe: type[UNet] = UNet
    way: Way = PREDICTED
    start: Callable[[Bench], Mapping[str, Any]] = lambda _: {}
    times: int = 1

    def __call__(self, bench: Bench) -> Outcome:
        return cross_validated(self.way, bench.validation, self.maps(bench))

    def maps(self, bench: Bench) -> list[Maps]:
        """Answers to the validation images."""
        return bench.kept(f"{self.name}.npz", partial(self._trained, bench))

    def _trained(self, bench: Bench) -> list[Maps]:
        augmentation = replace(bench.schedule.augmentation, **self.augmentation)
        steps = self.times * bench.schedule.steps
        schedule = replace(bench.schedule, steps=steps, **self.schedule, augmentation=augmentation)
        options = {**self.options, **self.start(bench)}
        recipe = self.recipe(data=tuple(bench.data), schedule=schedule, **options)
        folder = bench.folder / self.name
        training, validation = bench.split

        # Without validation: these images must not choose the network.
        network, _ = recipe.fit(training, folder, None, lambda *_: None)
        engine = recipe.engine(network.to(schedule.device), recipe.contract(), "fp32")
        predictions = predict_all(validation, engine, engine.served, tta=False)
        return [cast(MapsOfFrame, answer).maps for answer in predictions]


def averages(members: Sequence[Training], bench: Bench) -> Outcome:
    maps = averaged(member.maps(bench) for member in members)
    return cross_validated(PREDICTED, bench.validation, maps)


def mean_score(members: Sequence[Training], bench: Bench) -> Outcome:
    """Mean score of trainings that differ only by seed, so a comparison does not depend on one."""
    outcomes = [member(bench) for member in members]
    scores = np.mean([outcome.scores for outcome in outcomes], axis=0)
    return Outcome(scores, tuple(options for outcome in outcomes for options in outcome.options))


SEEDS = tuple(Training(f"seed-{seed}", schedule={"seed": seed}) for seed in (0, 1, 2))
# The shipped network goes on at a lower rate, and its batch norms keep their statistics.
GOES_ON = {"frozen_statistics": True, "learning_rate": 4e-4}
HALF_WAY = {"mix": 0.5}
LARGER = {"crop_px": 384, "batch_size": 4}
NO_NEW_LOOKS = dict.fromkeys(("restain", "immunostain", "crowd", "dim", "defocus", "jpeg"), 0.0)


def from_shipped(bench: Bench) -> Mapping[str, Any]:
    return {"parent": "the shipped network", "parent_files": bench.shipped_files}


def from_shipped_in_colour(bench: Bench) -> Mapping[str, Any]:
    return {**from_shipped(bench), "keep": "grey"}


def from_photographs(bench: Bench) -> Mapping[str, Any]:
    return {"encoder_weights": bench.encoder_weights}


ENCODERS = ("tu-regnetx_002", "tu-regnetx_008", "resnet18", "resnet34", "resnet50")
ARCHITECTURES = ("linknet", "fpn", "unetplusplus", "deeplabv3plus", "fcn", "cnn")
LOSSES = ("bce", "dice", "jaccard", "bce_log_dice", "focal", "hard_pixels", "bce+jaccard")

LABORATORIES = "laboratories"
# By topic; the others of a topic are compared with its first experiment.
TOPICS: dict[str, dict[str, Experiment]] = {
    "markers": {
        "predicted-distance-and-border": Experiment(
            "h-maxima of the predicted distance less the border: as shipped",
            partial(postprocessed, PREDICTED),
        ),
        "predicted-distance": Experiment(
            "h-maxima of the predicted distance, no border map",
            partial(postprocessed, WAYS["predicted-distance"]),
        ),
        "every-peak": Experiment(
            "every peak of the smoothed predicted distance, no h-maxima",
            partial(postprocessed, WAYS["every-peak"]),
        ),
        "distance-transform": Experiment(
            "h-maxima of the distance transform of the foreground",
            partial(postprocessed, WAYS["distance-transform"]),
        ),
        "foreground-and-border": Experiment(
            "h-maxima of the foreground less the border, no distance",
            partial(postprocessed, WAYS["foreground-and-border"]),
        ),
        "components": Experiment(
            "no markers: connected components of the foreground",
            partial(postprocessed, WAYS["components"]),
        ),
        "average-size": Experiment(
            "as shipped, smoothing and minimum area relative to the frame's median nucleus",
            partial(postprocessed, WAYS["average-size"]),
        ),
        "learned-score": Experiment(
            "candidates at 4 thresholds and 3 depths, chosen by a learned IoU",
            scored_by_learning,
        ),
        "true-score": Experiment(
            "the same candidates chosen by their true IoU: what such a score could reach",
            scored_by_truth,
        ),
    },
    "views": {
        "one-view": Experiment("the image as it is", partial(seen, (View(),))),
        "mirrored": Experiment("and mirrored: 2 views", partial(seen, MIRRORED)),
        "turned": Experiment("4 rotations", partial(seen, TURNED)),
        "dihedral": Experiment("4 rotations, mirrored: 8 views as served", partial(seen, DIHEDRAL)),
        "scaled": Experiment("3 scales: 0.8, 1, 1.25", partial(seen, SCALED)),
        "dihedral-scaled": Experiment("8 views at 3 scales: 24 views", partial(seen, ALL)),
    },
    LABORATORIES: {
        "as-shipped": Experiment("the shipped network as it is", partial(postprocessed, PREDICTED)),
        "candidates-learned": Experiment(
            "the same, candidates chosen by an IoU learned on other sources that it has not seen",
            scored_by_learning,
        ),
        "candidates-true": Experiment(
            "the same candidates chosen by their true IoU", scored_by_truth
        ),
        "usual-size": Experiment(
            "`as-shipped`, which sees each image so that its median nucleus has the usual size",
            at_usual_size,
        ),
        "goes-on": Experiment(
            "the shipped network learns from the other sources",
            Training("goes-on", schedule=GOES_ON, start=from_shipped),
        ),
        "goes-on-half-way": Experiment(
            "the same, whose weights end half of the way",
            Training("goes-on-half-way", HALF_WAY, schedule=GOES_ON, start=from_shipped),
        ),
        "goes-on-longer": Experiment(
            "`goes-on` in four times as many steps",
            Training("goes-on-longer", schedule=GOES_ON, start=from_shipped, times=4),
        ),
        "goes-on-longer-half-way": Experiment(
            "the same, whose weights end half of the way",
            Training(
                "goes-on-longer-half-way",
                HALF_WAY,
                schedule=GOES_ON,
                start=from_shipped,
                times=4,
            ),
        ),
        "goes-on-in-colour": Experiment(
            "the shipped network, and one that learns from the other sources for images in colour",
            Training("goes-on-in-colour", schedule=GOES_ON, start=from_shipped_in_colour),
        ),
        "goes-on-in-colour-half-way": Experiment(
            "the same, whose weights end half of the way",
            Training(
                "goes-on-in-colour-half-way",
                HALF_WAY,
                schedule=GOES_ON,
                start=from_shipped_in_colour,
            ),
        ),
        "goes-on-larger-crops": Experiment(
            "`goes-on` with half as many crops of 1.5 times the side",
            Training("goes-on-larger-crops", schedule={**GOES_ON, **LARGER}, start=from_shipped),
        ),
        "goes-on-offsets": Experiment(
            "`goes-on` with offsets to the centres instead of distance and border",
            Training(
                "goes-on-offsets",
                schedule=GOES_ON,
                recipe=Offsets,
                way=VOTED,
                start=from_shipped,
            ),
        ),
        "goes-on-never-inverted": Experiment(
            "`goes-on` without crops whose intensities are inverted",
            Training(
                "goes-on-never-inverted",
                schedule=GOES_ON,
                augmentation={"inversion": 0.0},
                start=from_shipped,
            ),
        ),
        "goes-on-old-looks": Experiment(
            "`goes-on` without stains of others, DAB, crowds, pale and dim nuclei, defocus, JPEG",
            Training(
                "goes-on-old-looks", schedule=GOES_ON, augmentation=NO_NEW_LOOKS, start=from_shipped
            ),
        ),
        "from-random": Experiment("tu-regnetx_004 from random weights", Training("from-random")),
        "from-photographs": Experiment(
            "tu-tf_efficientnet_lite0 with what it learned on ImageNet",
            Training(
                "from-photographs",
                {"encoder": "tu-tf_efficientnet_lite0"},
                start=from_photographs,
            ),
        ),
    },
    "seeds": {
        "baseline": Experiment(
            "bce+dice, tu-regnetx_004, all maps; the mean score of three seeds",
            partial(mean_score, SEEDS),
        ),
        **{training.name: Experiment("one of them", training) for training in SEEDS},
        "average-of-seeds": Experiment("the mean of their maps", partial(averages, SEEDS)),
    },
    "losses": {
        f"loss-{loss}": Experiment(loss, Training(f"loss-{loss}", {"loss": loss}))
        for loss in LOSSES
    },
    "maps": {
        "border-weights": Experiment(
            "pixels between close nuclei weigh 10 more",
            Training("border-weights", {"border_weight": 10.0}),
        ),
        "no-border": Experiment(
            "no border map",
            Training(
                "no-border",
                {"learnt": ("foreground", "distance")},
                recipe=PartOfMaps,
                way=WAYS["predicted-distance"],
            ),
        ),
        "no-distance": Experiment(
            "no distance map; h-maxima of the foreground less the border",
            Training(
                "no-distance",
                {"learnt": ("foreground", "border")},
                recipe=PartOfMaps,
                way=WAYS["foreground-and-border"],
            ),
        ),
        "foreground-only": Experiment(
            "neither map; h-maxima of the foreground's distance transform",
            Training(
                "foreground-only",
                {"learnt": ("foreground",)},
                recipe=PartOfMaps,
                way=WAYS["distance-transform"],
            ),
        ),
    },
    "data": {
        "unbalanced": Experiment(
            "all images equally often",
            Training("unbalanced", schedule={"balanced": False}),
        ),
        "no-colour": Experiment(
            "no change of stain, no grey histology",
            Training("no-colour", augmentation={"stain": 0.0, "grey": 0.0}),
        ),
        "no-look": Experiment(
            "no change of intensities at all",
            Training(
                "no-look",
                augmentation=dict.fromkeys(
                    ("gamma_spread", "range_spread", "blur", "noise", "stain", "grey", "inversion"),
                    0.0,
                ),
            ),
        ),
        "no-warp": Experiment(
            "no zoom and no elastic warp",
            Training("no-warp", augmentation={"scale_spread": 0.0, "elastic_px": 0.0}),
        ),
    },
    "encoders": {
        f"encoder-{name}": Experiment(name, Training(f"encoder-{name}", {"encoder": name}))
        for name in ENCODERS
    },
    "architectures": {
        name: Experiment(name, Training(name, {"architecture": name})) for name in ARCHITECTURES
    },
}
# Topics whose lines are compared with the first line of another.
COMPARED = {topic: "seeds" for topic in ("losses", "maps", "data", "encoders", "architectures")}
# By the name in the file's name.
PICTURED = {"shipped": ("markers", "views"), "trainings": ("seeds", *COMPARED)}
# The budgets have other names where whole sources are left out.
BUDGETS = {False: "budget", True: f"budget-{LABORATORIES}"}


@dataclass(frozen=True)
class Result:
    """Scores of one experiment.

    Attributes:
        scores: DSB score of each image, in one order for all.
        modalities: of the images.
        options: of post-processing, by fold.
        minutes: how long it took on this machine.
    """

    scores: tuple[float, ...]
    modalities: tuple[str, ...]
    options: tuple[Mapping[str, float], ...]
    minutes: float

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_path = path.with_suffix(".partial")
        partial_path.write_text(json.dumps(asdict(self)))
        partial_path.rename(path)

    def values(self, modality: str | None = None) -> NDArray[np.float64]:
        """Scores of all images, or of those of a modality."""
        own = [modality in (None, its) for its in self.modalities]
        return np.array(self.scores)[own]


def read_results(folder: Path) -> dict[str, Result]:
    """The results so far, by name of the experiment."""
    files = folder.glob(f"*/{RESULT_FILE}")
    return {path.parent.name: Result(**json.loads(path.read_text())) for path in files}


def run(name: str, experiment: Experiment, bench: Bench) -> None:
    started = time.monotonic()
    outcome = experiment.run(bench)
    result = Result(
        tuple(outcome.scores.tolist()),
        tuple(sample.modality for sample in bench.validation),
        outcome.options,
        (time.monotonic() - started) / 60,
    )
    result.write(bench.folder / name / RESULT_FILE)


def table(topic: str, results: Mapping[str, Result]) -> str:
    """The lines of a topic, Markdown."""
    first = next(iter(TOPICS[COMPARED.get(topic, topic)]))
    names = [name for name in TOPICS[topic] if name in results]
    modalities = ("fluorescence", "histology")
    lines = [
        f"| experiment | | DSB score | less `{first}` | p | {' | '.join(modalities)} |",
        "|---|---|---|---|---|---|---|",
    ]
    if topic in COMPARED and first in results:
        names = [first, *names]
    for name in names:
        own, base = results[name], results.get(first)
        lo, hi = mean_interval(own.values())
        than_first = " | "
        if base is not None and name != first:
            test = paired_test(own.values(), base.values())
            than_first = (
                f"{test.difference:+.3f} ({test.interval[0]:+.3f} to {test.interval[1]:+.3f}) "
                f"| {max(test.p, LEAST_P):.3f}{' or less' * (test.p < LEAST_P)}"
            )
        what = TOPICS[topic].get(name) or TOPICS[COMPARED[topic]][name]
        of_modalities = " | ".join(f"{own.values(modality).mean():.3f}" for modality in modalities)
        lines.append(
            f"| `{name}` | {what.what} | {own.values().mean():.3f} ({lo:.3f} to {hi:.3f}) "
            f"| {than_first} | {of_modalities} |"
        )
    return "\n".join(lines)


def picture(topics: Sequence[str], results: Mapping[str, Result]) -> Figure | None:
    """Difference of each experiment from the first of its topic, with its interval.

    Trainings have a grey band behind them: the range of the baseline's differences by seed.
    """
    rows = [
        (topic, name, first)
        for topic in topics
        for first in [next(iter(TOPICS[COMPARED.get(topic, topic)]))]
        for name in TOPICS[topic]
        if name in results and first in results and name != first
    ]
    if not rows:
        return None
    figure = Figure(figsize=(9, 0.6 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    differences: dict[str, float] = {}
    for y, (topic, name, first) in enumerate(rows):
        test = paired_test(results[name].values(), results[first].values())
        colour = f"C{topics.index(topic)}"
        axes.plot(test.interval, (y, y), color=colour, linewidth=2)
        axes.plot(test.difference, y, "o", color=colour)
        differences[name] = test.difference
    if seeds := [differences[one.name] for one in SEEDS if one.name in differences]:
        axes.axvspan(min(seeds), max(seeds), color="black", alpha=0.08, linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{name}  ({topic})" for topic, name, _ in rows])
    axes.set(xlabel="DSB score less that of the first of its table, 95 % interval")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    return figure


def write_document(results: Mapping[str, Result], budgets: Mapping[str, str]) -> None:
    """Replace the tables, the budget and the pictures of the document.

    Tables and pictures without a result stay as they are.
    """
    text = DOCUMENT.read_text()
    tables = {topic: table(topic, results) for topic in TOPICS if set(TOPICS[topic]) & set(results)}
    parts = {**budgets, **tables}
    for name, part in parts.items():
        mark = re.compile(rf"(<!-- {name} -->\n)(?:.*?\n)??(<!-- end -->)", re.DOTALL)

        def filled(found: re.Match[str], part: str = part) -> str:
            return f"{found[1]}{part}\n{found[2]}"

        text = mark.sub(filled, text)
    DOCUMENT.write_text(text)
    for name, topics in PICTURED.items():
        if figure := picture(topics, results):
            figure.savefig(DOCUMENT.with_name(PICTURE.format(name)), dpi=110)


def described(bench: Bench) -> Mapping[str, str]:
    """The budget, by the name of its place in the document."""
    schedule = bench.schedule
    left = f"; left out: {', '.join(sorted(bench.leave))}" if bench.leave else ""
    return {
        BUDGETS[bool(bench.leave)]: f"Budget of each: {schedule.steps} steps of "
        f"{schedule.batch_size} crops of {schedule.crop_px} x {schedule.crop_px} pixels{left}."
    }


def claim(folder: Path, schedule: Schedule, leave: frozenset[str], version: int) -> None:
    """Bind a folder to one budget; raises InvalidOption if it holds results of another.

    The version that is shipped belongs to it: many experiments are on its network.
    """
    budget = {name: getattr(schedule, name) for name in ("steps", "batch_size", "crop_px")}
    budget["shipped"] = version
    budget |= {"leave": sorted(leave)} if leave else {}
    path = folder / BUDGET_FILE
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(json.dumps(budget))
    elif json.loads(path.read_text()) != budget:
        raise InvalidOption(
            f"{folder} holds results of another budget, {path.read_text()}; name another --folder"
        )


def names_of(wanted: Iterable[str], laboratories: bool) -> dict[str, Experiment]:
    every = {
        name: one
        for topic, experiments in TOPICS.items()
        if (topic == LABORATORIES) == laboratories
        for name, one in experiments.items()
    }
    unknown = sorted(set(wanted) - set(every))
    if unknown:
        raise InvalidOption(f"unknown: {', '.join(unknown)}; --list shows the experiments")
    return {name: every[name] for name in wanted} or every


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="*", help="folders or zips of images and masks")
    parser.add_argument("--only", nargs="+", default=[], help="experiments [all]")
    parser.add_argument("--leave", nargs="+", default=[], help="sources that no training sees")
    parser.add_argument(
        "--repository",
        type=Path,
        default=ROOT / "model_repository",
        help="model repository whose network counts as shipped [that of this checkout]",
    )
    parser.add_argument("--encoder-weights", type=Path, help="of from-photographs")
    parser.add_argument("--list", action="store_true", help="show the experiments")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "experiments")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128, help="side of a crop, pixels")
    parser.add_argument("--workers", type=int, default=0, help="processes that make crops")
    arguments = parser.parse_args()
    console = Console()
    if arguments.list or not arguments.data:
        for topic, experiments in TOPICS.items():
            for name, experiment in experiments.items():
                console.print(f"{topic:14} {name:30} {experiment.what}", highlight=False)
        return
    schedule = Schedule(
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        crop_px=arguments.crop,
        warmup_steps=max(1, round(WARM_UP * arguments.steps)),
        validate_every=arguments.steps,
        device="cuda" if torch.cuda.is_available() else "cpu",
        workers=arguments.workers,
    )
    leave = frozenset(arguments.leave)
    repository = arguments.repository
    claim(arguments.folder, schedule, leave, _shipped_version(repository))
    bench = Bench(
        arguments.data, arguments.folder, schedule, leave, repository, arguments.encoder_weights
    )
    for name, experiment in names_of(arguments.only, bool(leave)).items():
        if name not in read_results(arguments.folder):
            run(name, experiment, bench)
        results = read_results(arguments.folder)
        found = results[name]
        console.print(f"{name:30} {found.values().mean():.4f}  {found.minutes:.1f} min")
        write_document(results, described(bench))


if __name__ == "__main__":
    main()
