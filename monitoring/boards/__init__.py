"""The dashboards: what each shows, as descriptions of `monitoring.panels`."""

from monitoring.boards.fleet import fleet
from monitoring.boards.microscope import microscope
from monitoring.boards.promotion import promotion
from monitoring.boards.quality import quality
from monitoring.boards.service import service
from monitoring.boards.triton import triton
from monitoring.panels import Dashboard
from monitoring.thresholds import Thresholds


def dashboards(thresholds: Thresholds) -> tuple[Dashboard, ...]:
    """All of them; the limits that they draw are the thresholds of the alerts."""
    return (
        service(thresholds),
        triton(thresholds),
        quality(thresholds),
        promotion(thresholds),
        fleet(),
        microscope(),
    )
