"""The gates of a version as one self-contained HTML page."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from nuclei.evaluation.charts import charts_of_models, figure_of_images, scatter
from nuclei.evaluation.report import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from serving.promotion.gates import Judgement

TEMPLATE = Path(__file__).with_name("gates.html")


def page(title: str, judgement: "Judgement") -> str:
    """The page; its charts are left out where matplotlib is not installed.

    Args:
        title: the version.
        judgement: what its gates found.
    """
    drawn = _charts(title, judgement) if find_spec("matplotlib") else {}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        title=title,
        judgement=judgement,
        charts={heading: svg(figure) for heading, figure in drawn.items()},
    )


def _charts(title: str, judgement: "Judgement") -> "dict[str, Figure]":
    if judgement.evaluation is None:
        return {}
    charts = {"Scores": figure_of_images(judgement.evaluation)}
    champion, own = judgement.champion_scores, judgement.scores
    if champion is not None and own is not None:
        pairs = [(champion.images[name], own.images[name]) for name in judgement.images]
        charts["Against the champion"] = scatter(
            pairs, f"DSB score of {judgement.against}", f"of {title}"
        )
    return charts | charts_of_models({title: judgement.evaluation})
