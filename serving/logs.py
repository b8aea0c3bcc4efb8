"""What our processes log: one line per record, as text or as JSON."""

import json
import logging
import math
import sys
from datetime import datetime
from textwrap import indent
from types import TracebackType
from typing import TextIO

from nuclei.quoting import printable, shortened
from serving.settings import ProcessSettings

# Loggers that follow the setting; all others write at least warnings only.
OURS = ("serving", "nuclei", "bentoml")

# Longest value of a field, longest message, and longest traceback.
FIELD_CHARACTERS = 2_000
MESSAGE_CHARACTERS = 8_000
TRACEBACK_CHARACTERS = 32_000

ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)
Value = str | int | float | bool | None


class Event:
    """A log message with fields: `logger.info(Event("listening", port=80))`.

    Any formatter gives the text `listening port=80`; ours can write the fields as JSON instead.
    """

    def __init__(self, name: str, /, **fields: Value) -> None:
        """Args: name: what happened; fields: those that are None or empty are left out."""
        self.name = name
        self.fields = {
            key: shortened(value, FIELD_CHARACTERS) if isinstance(value, str) else value
            for key, value in fields.items()
            if value not in (None, "")
        }

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={_text(v)}" for key, v in self.fields.items())])


def write_logs(settings: ProcessSettings, stream: TextIO | None = None) -> None:
    """Write all records of this process in one format, those of libraries too.

    Args:
        settings: format and level.
        stream: None is standard error.
    """
    # A full disk or a closed terminal is no reason to end: such lines are lost.
    logging.raiseExceptions = False
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if settings.log_format == "json" else _TextFormatter())
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    for name in logging.root.manager.loggerDict:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in OURS:
        logging.getLogger(name).setLevel(level)


class _Formatter(logging.Formatter):
    def formatException(self, info: ExceptionInfo) -> str:  # noqa: N802
        return shortened(super().formatException(info), TRACEBACK_CHARACTERS)


class _TextFormatter(_Formatter):
    """A line a record, and indented lines for a traceback; no other control character passes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        message = printable(_message(record))
        return f"{_time(record)} {record.levelname} {message}"

    def formatException(self, info: ExceptionInfo) -> str:  # noqa: N802
        return indent(printable(super().formatException(info), keep="\n"), "  ")


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = record.msg if isinstance(record.msg, Event) else None
        line: dict[str, Value] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": event.name if event else _message(record),
            **{name: _in_json(value) for name, value in (event.fields if event else {}).items()},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, allow_nan=False)


def _in_json(value: Value) -> Value:
    """The value, as text where it is a number that JSON does not have."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _message(record: logging.LogRecord) -> str:
    return shortened(record.getMessage(), MESSAGE_CHARACTERS)


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, in local time."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


def _text(value: Value) -> str:
    """The value, in quotes when it would not be read as one word."""
    text = str(value)
    return text if text.isprintable() and not set(text) & set(" ='\"") else repr(text)
