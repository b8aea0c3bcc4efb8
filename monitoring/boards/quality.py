"""Quality: do frames and results look like those that the models were trained and tested on?"""

from typing import NamedTuple

from monitoring.boards.choices import INSTANCE, MODEL, VERSION, VERSIONS
from monitoring.panels import Dashboard, Kind, Limit, Panel, Query, Row, Unit, Variable
from monitoring.promql import mean, quantile, rate, share, total
from monitoring.thresholds import Thresholds

GROUP = Variable("group", "Images", "label_values(nuclei_quality_reference, group)")


class Measure(NamedTuple):
    """How a field of `nuclei.results.quality.Quality` is shown.

    Attributes:
        title: a few words.
        question: that its distribution answers.
        unit: of its values.
        highest: largest value that makes sense.
    """

    title: str
    question: str
    unit: Unit
    highest: float


MEASURES = {
    "nuclei_per_mm2": Measure(
        "Nuclei per mm²", "Are there as many nuclei as usual?", Unit.PER_MM2, 1e6
    ),
    "coverage": Measure("Coverage", "Which share of a frame is nuclei?", Unit.SHARE, 1),
    "median_area_px": Measure(
        "Median area", "Are the nuclei as large as those of the training?", Unit.PIXELS, 1e7
    ),
    "area_spread": Measure(
        "Spread of areas", "Are nuclei merged or torn apart more than usual?", Unit.RATIO, 100
    ),
    "mean_probability": Measure(
        "Mean probability", "Is the model as sure of its nuclei as usual?", Unit.SHARE, 1
    ),
    "boundary_entropy": Measure(
        "Entropy at the boundary", "How unsure is the model of the outlines?", Unit.BITS, 1
    ),
    "near_threshold": Measure(
        "Pixels near the threshold", "How much would change with the threshold?", Unit.SHARE, 1
    ),
    "tta_disagreement": Measure(
        "Disagreement of the views",
        "With test-time augmentation: do the eight views see the same nuclei?",
        Unit.SHARE,
        1,
    ),
    "edge_share": Measure(
        "Nuclei at the edge", "Which share of the nuclei is cut off?", Unit.SHARE, 1
    ),
    "focus": Measure("Focus", "Are the frames as sharp as usual?", Unit.RATIO, 100),
    "saturated": Measure("Saturated pixels", "Are frames over-exposed?", Unit.SHARE, 1),
    "dynamic_range": Measure(
        "Dynamic range used", "Are frames under-exposed or of low contrast?", Unit.SHARE, 1
    ),
    "signal_to_noise": Measure("Signal to noise", "Are frames noisy?", Unit.RATIO, 1e6),
    "pixel_size_ratio": Measure(
        "Pixel size against the training's",
        "Is the magnification that of the training?",
        Unit.RATIO,
        1000,
    ),
    "previous_agreement": Measure(
        "Agreement with the previous frame",
        "In a time-lapse: does a position look as it did a frame ago?",
        Unit.SHARE,
        1,
    ),
    "estimated_score": Measure(
        "Estimated score", "Which DSB score are the frames expected to reach?", Unit.SHARE, 1
    ),
}
OF_GROUP = f'{VERSIONS},group=~"$group"'
OF_ALL = "nuclei_quality_frames_total"


def _distribution(name: str, measure: Measure) -> Panel:
    """The distribution of the frames beside that of the validation images."""
    frames = tuple(
        Query(
            quantile(q, f"nuclei_quality_{name}", VERSIONS, "model", "version"),
            f"{q:.0%} of {{{{model}}}} {{{{version}}}}",
        )
        for q in (0.05, 0.5, 0.95)
    )
    reference = Query(
        f"max by (model, version, group, quantile) (nuclei_quality_reference{{{OF_GROUP},"
        f'feature="{name}",quantile=~"0.05|0.5|0.95"}})',
        "{{group}} reference, {{quantile}}, of {{model}} {{version}}",
    )
    return Panel(
        measure.title,
        f"{measure.question} The reference is of the validation images.",
        (*frames, reference),
        measure.unit,
        highest=measure.highest,
    )


def _share_of_frames(title: str, question: str, limit: float, part: str, *labels: str) -> Panel:
    per = (*labels, "model", "version")
    # The part has labels that the whole has not, so the whole is joined by those of both.
    parts = total(rate(part, VERSIONS), *per)
    whole = total(rate(OF_ALL, VERSIONS), "model", "version")
    joined = f"{parts} / on (model, version) group_left () ({whole} > 0)"
    legend = " ".join(f"{{{{{label}}}}}" for label in per)
    return Panel(
        title, question, (Query(joined, legend),), Unit.SHARE, highest=1, limit=Limit(limit)
    )


def _now(thresholds: Thresholds) -> Row:
    return Row(
        "Now",
        (
            Panel(
                "Mean estimated score",
                "Which DSB score are the frames expected to reach?",
                (Query(mean("nuclei_quality_estimated_score", VERSIONS), "mean"),),
                Unit.SHARE,
                Kind.STAT,
                leads_to="promotion",
                highest=1,
                limit=Limit(thresholds.alerts.EstimatedScoreLow.score, below=True),
                width=4,
            ),
            Panel(
                "Frames of an unknown score",
                "Which share of the frames is unlike all that the estimate has seen?",
                (
                    Query(
                        share(
                            rate("nuclei_quality_unknown_score_total", VERSIONS),
                            rate(OF_ALL, VERSIONS),
                        ),
                        "unknown",
                    ),
                ),
                Unit.SHARE,
                Kind.STAT,
                highest=1,
                width=4,
            ),
            Panel(
                "Estimated scores",
                "Are there groups of good and bad frames that the mean hides?",
                (
                    Query(
                        total(rate("nuclei_quality_estimated_score_bucket", VERSIONS), "le"),
                        "{{le}}",
                    ),
                ),
                Unit.SHARE,
                Kind.HEATMAP,
                highest=10_000,
                width=16,
            ),
        ),
    )


def _drift(thresholds: Thresholds) -> Row:
    return Row(
        "Drift and doubts",
        (
            Panel(
                "Drift against its threshold",
                "Does a feature's distribution leave that of the validation images? Above 1 it "
                "has; the thresholds are calibrated for a stated rate of false alarms.",
                (
                    Query(
                        "max by (model, version, group, feature) ("
                        f"nuclei_quality_drift{{{OF_GROUP}}}"
                        f" / nuclei_quality_drift_threshold{{{OF_GROUP}}})",
                        "{{feature}}, {{group}}, of {{model}} {{version}}",
                    ),
                ),
                Unit.RATIO,
                highest=1e4,
                limit=Limit(1),
                width=16,
            ),
            Panel(
                "Frames in the window of the drift",
                "How many frames is the drift judged from?",
                (
                    Query(
                        f"max by (model, version, group) (nuclei_quality_drift_window_frames"
                        f"{{{VERSIONS}}})",
                        "{{group}} of {{model}} {{version}}",
                    ),
                ),
                Unit.COUNT,
                highest=1e6,
                limit=Limit(thresholds.alerts.QualityDrift.least_frames, below=True),
            ),
            _share_of_frames(
                "Doubtful frames, by reason",
                "Which warnings do the replies carry?",
                thresholds.alerts.DoubtfulFrames.share,
                "nuclei_quality_doubtful_frames_total",
                "kind",
            ),
            _share_of_frames(
                "Empty frames",
                "In which share of the frames is no nucleus found?",
                thresholds.alerts.EmptyFrames.share,
                "nuclei_quality_empty_frames_total",
            ),
            Panel(
                "Frames, grey and colour",
                "Which kind of frames are the measures of?",
                (Query(total(rate(OF_ALL, VERSIONS), "group"), "{{group}}"),),
                Unit.FRAMES_PER_SECOND,
                highest=10_000,
                stacked=True,
            ),
        ),
    )


def quality(thresholds: Thresholds) -> Dashboard:
    """Do frames and results look like those that the models were trained and tested on?"""
    return Dashboard(
        "quality",
        "Quality",
        "Do frames and results look like those that the models were trained and tested on?",
        (
            _now(thresholds),
            _drift(thresholds),
            Row(
                "Distributions against the reference",
                tuple(_distribution(name, measure) for name, measure in MEASURES.items()),
            ),
        ),
        (MODEL, VERSION, GROUP, INSTANCE),
    )
