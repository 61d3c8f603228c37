"""The log: one line a record on standard error, as JSON or as text."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any, TextIO


class JsonLines(logging.Formatter):
    """A record as one JSON object; ``fields`` of a record become fields of it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _moment(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """A record as a person reads it; line breaks and what steers a terminal are shown, not sent."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        line = _text(_moment(record.created), record.levelname.lower(), record.getMessage(), fields)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class AccessLog:
    """A line for every request, in the form of the other lines.

    Written without the logging module, which takes longer over a line than a model over an answer.
    """

    def __init__(self, form: str, stream: TextIO | None = None) -> None:
        self.form = form
        self.stream = stream or sys.stderr

    def write(self, what: str, fields: dict[str, Any]) -> None:
        """One record of level info."""
        moment = _moment(time.time())
        if self.form == "json":
            line = json.dumps({"time": moment, "level": "info", "message": what, **fields})
        else:
            line = _text(moment, "info", what, fields)
        with suppress(OSError):  # nobody may read the log any more: no reason to refuse requests
            self.stream.write(line + "\n")


def _text(moment: str, level: str, what: str, fields: dict[str, Any]) -> str:
    told = "".join(f" {name}={value}" for name, value in fields.items())
    line = f"{moment} {level:8} {what}{told}"
    return (
        line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    )


def _moment(seconds: float) -> str:
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03}Z"


@lru_cache(2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def configure(level: str, form: str) -> dict[str, Any]:
    """The configuration of Python's logging, for uvicorn's loggers and ours."""
    loggers = ("uvicorn", "uvicorn.error", "dagrec")
    formatter = JsonLines if form == "json" else TextLines
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": formatter}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "lines",
                "stream": "ext://sys.stderr",
            }
        },
        "loggers": {
            name: {"handlers": ["stderr"], "level": level.upper(), "propagate": False}
            for name in loggers
        },
    }
