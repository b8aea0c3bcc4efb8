"""Which measure of quality moves when frames are spoiled, and how often each warning comes.

Calibrates with every other image of each data set, and prints how many of the others get a warning,
and how many of each data set do by a calibration with the other data sets only. Replays some of the
others spoiled, and prints how far each measure moves, in robust deviations of the clean frames, and
how many frames get each warning. Prints how estimated scores do on data sets that their trees have
not seen, which `--out` draws. Of the model's own data set the held-out images are taken.

    PYTHONPATH=. .venv-train/bin/python benchmarks/quality.py stage1_train.zip tnbc.zip ...
"""

import argparse
import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import spearmanr

from nuclei.errors import ChoiceRequired
from nuclei.imaging.images import frame_from_array
from nuclei.inference.engine import ServedVersion
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment
from nuclei.quality.judgement import Judgement, group_of, judge
from nuclei.quality.reference import GROUPS, Group, QualityReference
from nuclei.quality.sentences import TOO_HIGH, TOO_LOW
from nuclei.results.quality import Quality
from training.data.dataset import Sample, read_dataset
from training.data.spoiling import SPOILERS, STAIN
from training.quality import (
    MIN_FRAMES,
    Observed,
    calibrated,
    left_out_estimates,
    middle,
    observe,
)

REPOSITORY = Path(__file__).parents[1] / "model_repository"
CLEAN = "clean"
STRENGTHS = {"a little": 0.3, "much": 0.8}
# Of these there is only one strength.
PLAIN = ("inverted", "half empty")
SEED = 0
# Where drift is not looked at.
FEW_DAYS = 10
# The standard normal's 90 % quantile.
TEN_PERCENT = 1.2816


@dataclass(frozen=True)
class Replayed:
    """A frame that was replayed.

    Attributes:
        how: it was spoiled, or `CLEAN`.
        group: of the frame.
        judgement: of the frame; None where the frame was refused.
    """

    how: str
    group: Group
    judgement: Judgement | None

    @property
    def quality(self) -> Quality:
        return self.judgement.quality if self.judgement else Quality()

    @property
    def kinds(self) -> list[str]:
        return [doubt.kind for doubt in self.judgement.doubts] if self.judgement else []


def clean_frames(
    observed: Sequence[Observed], reference: QualityReference | None
) -> list[Replayed]:
    """The clean frames among those that were observed, judged by a reference."""
    return [
        Replayed(CLEAN, one.group, judge(one.quality, reference, one.group))
        for one in observed
        if one.clean
    ]


def spoiled_frames(
    samples: Sequence[Sample],
    engine: LocalEngine,
    served: ServedVersion,
    reference: QualityReference,
) -> list[Replayed]:
    """The middles of images, spoiled in every way, judged by a reference."""
    rng = np.random.default_rng(SEED)
    unjudged = replace(served, contract=replace(served.contract, quality=None))
    replayed = []
    for sample in track(samples, "replaying", console=Console(stderr=True), transient=True):
        part = middle(sample)
        for name, spoiler in SPOILERS.items():
            if name == STAIN and sample.pixels.shape[2] == 1:
                continue
            for word, strength in ({"": 1.0} if name in PLAIN else STRENGTHS).items():
                pixels = spoiler(part, strength, rng).pixels
                group = group_of(pixels)
                judgement = None
                # A stain on black looks like channels of fluorescence, of which one is asked for.
                with suppress(ChoiceRequired):
                    found = asyncio.run(segment(frame_from_array(pixels), engine, unjudged))
                    judgement = judge(found.quality or Quality(), reference, group)
                replayed.append(Replayed(f"{name} {word}".strip(), group, judgement))
    return replayed


def unseen_sources(observed: Sequence[Observed]) -> Table:
    """The share of clean frames that get a warning from limits of the other data sets."""
    table = Table("data set", "group", "frames", "warned", title="limits of the other data sets")
    for group in GROUPS:
        of_group = [one for one in observed if one.group == group]
        for source in sorted({one.source for one in of_group}):
            others = [one for one in of_group if one.source != source]
            its = [one for one in of_group if one.source == source and one.clean]
            if its and sum(one.clean for one in others) >= MIN_FRAMES:
                reference = calibrated(others, seed=SEED, days=FEW_DAYS)
                doubtful = sum(bool(one.kinds) for one in clean_frames(its, reference))
                table.add_row(source, group, str(len(its)), f"{doubtful / len(its):.0%}")
    return table


def moved(replayed: Sequence[Replayed], reference: QualityReference, group: Group) -> Table:
    """By how many robust deviations each measure moves, in the median frame."""
    features = reference.groups[group].features
    table = Table("spoiled", "frames", *features, title=f"deviations from clean, {group}")
    for how, frames in _by_how(replayed, group).items():
        row = []
        for name, feature in features.items():
            values = [getattr(one.quality, name) for one in frames]
            known = [value for value in values if value is not None]
            if not known:
                row.append("")
                continue
            low, usual, high = (feature.quantile(level) for level in (0.1, 0.5, 0.9))
            away = float(np.median(known)) - usual
            spread = ((high - usual) if away > 0 else (usual - low)) / TEN_PERCENT
            row.append(f"{away / spread:+.1f}" if spread > 0 else ("0" if not away else "far"))
        table.add_row(how, str(len(frames)), *row)
    return table


def warned(replayed: Sequence[Replayed], group: Group) -> Table:
    """The share of frames that get each warning."""
    kinds = sorted({*TOO_LOW, *TOO_HIGH} & {kind for one in replayed for kind in one.kinds})
    columns = ("spoiled", "frames", "refused", "any", *kinds, "score unknown")
    table = Table(*columns, title=f"warnings, {group}")
    for how, frames in _by_how(replayed, group).items():
        counts = Counter(kind for one in frames for kind in one.kinds)
        any_kind = sum(bool(one.kinds) for one in frames)
        refused = sum(one.judgement is None for one in frames)
        unknown = sum(one.quality.estimated_score is None for one in frames) - refused
        shares = [refused, any_kind, *(counts[kind] for kind in kinds), unknown]
        table.add_row(how, str(len(frames)), *(f"{count / len(frames):.0%}" for count in shares))
    return table


def estimates(observed: Sequence[Observed], left_out: Sequence[float | None]) -> Table:
    """Error and correlation of scores that trees estimated without the source of a frame."""
    table = Table(
        *("frames", "modality", "number", "unknown", "mean error", "always the mean", "Spearman"),
        title="estimated scores on sources that the trees did not see",
    )
    pairs = list(zip(observed, left_out, strict=True))
    for clean in (True, False):
        of_kind = [(one, estimate) for one, estimate in pairs if one.clean == clean]
        for modality in ("all", *sorted({one.modality for one, _ in of_kind})):
            chosen = [pair for pair in of_kind if modality in ("all", pair[0].modality)]
            known = [(one.score, estimate) for one, estimate in chosen if estimate is not None]
            if len(known) < 3:
                continue
            true, estimated = np.array(known).T
            table.add_row(
                "clean" if clean else "spoiled",
                modality,
                str(len(chosen)),
                f"{1 - len(known) / len(chosen):.0%}",
                f"{np.abs(true - estimated).mean():.3f}",
                f"{np.abs(true - true.mean()).mean():.3f}",
                f"{spearmanr(true, estimated).statistic:.2f}",
            )
    return table


def drawn(observed: Sequence[Observed], left_out: Sequence[float | None]) -> Figure:
    """Estimated against true scores, a panel each modality; colours are sources."""
    modalities = sorted({one.modality for one in observed})
    sources = sorted({one.source for one in observed})
    figure = Figure((4 * len(modalities), 4.6), layout="constrained")
    axes = figure.subplots(1, len(modalities), sharex=True, sharey=True, squeeze=False)[0]
    for axis, modality in zip(axes, modalities, strict=True):
        for number, source in enumerate(sources):
            for clean in (False, True):
                points = [
                    (one.score, estimate)
                    for one, estimate in zip(observed, left_out, strict=True)
                    if (one.modality, one.source, one.clean) == (modality, source, clean)
                    and estimate is not None
                ]
                if points:
                    axis.scatter(
                        *zip(*points, strict=True),
                        s=16 if clean else 8,
                        color=f"C{number}",
                        alpha=0.8 if clean else 0.3,
                        marker="o" if clean else "x",
                        label=source if clean else None,
                        linewidths=0.8,
                    )
        axis.plot((0, 1), (0, 1), color="grey", linewidth=0.8)
        axis.set(title=modality, xlabel="true DSB score", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.legend(fontsize="small", loc="upper left")
    axes[0].set_ylabel("estimated, by trees that saw no frame of the source")
    return figure


def _by_how(replayed: Sequence[Replayed], group: Group) -> dict[str, list[Replayed]]:
    frames = defaultdict(list)
    for one in replayed:
        if one.group == group:
            frames[one.how].append(one)
    return dict(frames)


def _images(path: Path, held_out: Sequence[str], most: int) -> list[Sample]:
    """Images of a data set that the model was not trained on."""
    samples = read_dataset(path)
    samples = [one for one in samples if one.id in held_out] or samples
    order = np.random.default_rng(SEED).permutation(len(samples))[:most]
    return [samples[index] for index in order]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="+", type=Path, help="folder or zip of images, see docs")
    parser.add_argument("--model", default="unet", help="name of the model [unet]")
    parser.add_argument("--images", type=int, default=40, help="most images of a data set [40]")
    parser.add_argument("--replayed", type=int, default=4, help="images of each that are spoiled")
    parser.add_argument("--out", type=Path, help="picture of estimated against true scores")
    options = parser.parse_args()
    engine = LocalEngine(REPOSITORY)
    served = engine.find(options.model)
    held_out = served.contract.held_out
    sources = {path.stem: _images(path, held_out, options.images) for path in options.data}
    observed = observe(sources, engine, served, seed=SEED)
    first = {(name, one.id) for name, samples in sources.items() for one in samples[::2]}
    reference = calibrated([one for one in observed if (one.source, one.image) in first], seed=SEED)
    if reference is None:
        parser.error("too few images to calibrate with")
    others = [one for one in observed if (one.source, one.image) not in first]
    to_spoil = [one for of in sources.values() for one in of[1::2][: options.replayed]]
    replayed = clean_frames(others, reference)
    replayed += spoiled_frames(to_spoil, engine, served, reference)
    show(observed, replayed, reference, options.out)


def show(
    observed: Sequence[Observed],
    replayed: Sequence[Replayed],
    reference: QualityReference,
    out: Path | None,
) -> None:
    """Print all tables, and draw the picture."""
    console = Console(width=220)
    for group in reference.groups:
        console.print(moved(replayed, reference, group), warned(replayed, group))
    console.print(unseen_sources(observed))
    # As a reference has them: trees for each group.
    observed = [one for group in GROUPS for one in observed if one.group == group]
    left_out = [
        estimate
        for group in GROUPS
        for estimate in left_out_estimates([one for one in observed if one.group == group])[0]
    ]
    console.print(estimates(observed, left_out))
    if out is not None:
        drawn(observed, left_out).savefig(out, dpi=110)


if __name__ == "__main__":
    main()
