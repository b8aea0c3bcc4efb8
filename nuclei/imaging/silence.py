"""Decoders that log nothing: the caller learns what is wrong with an image from our errors."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import cv2

_cv2_logging = cv2.utils.logging
_tifffile_logger = logging.getLogger("tifffile")


class _Silence:
    """The decoders' log levels while images are decoded; they apply to the whole process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._levels = (0, 0)

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._levels = _cv2_logging.getLogLevel(), _tifffile_logger.level
                _cv2_logging.setLogLevel(_cv2_logging.LOG_LEVEL_SILENT)
                _tifffile_logger.setLevel(logging.CRITICAL)
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _cv2_logging.setLogLevel(self._levels[0])
                _tifffile_logger.setLevel(self._levels[1])


_silence = _Silence()


@contextmanager
def silent_decoders() -> Iterator[None]:
    """Keep OpenCV and tifffile from logging; the last thread to finish restores their levels."""
    _silence.enter()
    try:
        yield
    finally:
        _silence.leave()
