"""The dashboards: what each shows, as descriptions of `monitoring.panels`."""

from monitoring.boards.fleet import FLEET
from monitoring.boards.microscope import MICROSCOPE
from monitoring.boards.promotion import PROMOTION
from monitoring.boards.quality import QUALITY
from monitoring.boards.service import SERVICE
from monitoring.boards.triton import TRITON_BOARD

DASHBOARDS = (SERVICE, TRITON_BOARD, QUALITY, PROMOTION, FLEET, MICROSCOPE)
