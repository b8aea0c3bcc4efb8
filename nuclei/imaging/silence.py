"""Decoders that log nothing: the caller learns what is wrong with an image from our errors."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_thread = threading.local()


@contextmanager
def silent_decoders() -> Iterator[None]:
    """Keep tifffile from logging, and numpy from warning, in this thread; others are left alone."""
    logging.getLogger("tifffile").addFilter(_is_heard)  # once, however often it is added
    before = getattr(_thread, "is_silent", False)
    _thread.is_silent = True
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _thread.is_silent = before


def _is_heard(record: logging.LogRecord) -> bool:
    return not getattr(_thread, "is_silent", False)
