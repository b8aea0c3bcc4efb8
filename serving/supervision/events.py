"""What `nuclei serve` tells the person at the terminal while it runs."""

import logging


def show_events() -> None:
    """Print what our servers log, a line for each event."""
    # A full disk or a closed terminal is no reason to end: such lines are lost.
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("serving").setLevel(logging.INFO)
