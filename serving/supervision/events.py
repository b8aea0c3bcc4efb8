"""What `nuclei serve` prints to the terminal while it runs."""

import logging


def show_events() -> None:
    """Print the events of our servers, one per line."""
    # A full disk or a closed terminal must not end the process: such lines are lost.
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("serving").setLevel(logging.INFO)
