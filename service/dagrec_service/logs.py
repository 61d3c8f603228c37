"""Logging to standard error, one line per record, as JSON or text."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any, TextIO


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object that includes the entries of its attribute ``fields``."""

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
    """Formats a record as readable text, in which line breaks and control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        line = _text(_moment(record.created), record.levelname.lower(), record.getMessage(), fields)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class AccessLog:
    """Writes one line per request, in the same format (``json`` or ``text``) as the other log lines.

    It bypasses the logging module, which takes longer to write a line than a model to score a context.
    """

    def __init__(self, log_format: str, stream: TextIO | None = None) -> None:
        self.log_format = log_format
        self.stream = stream or sys.stderr

    def write(self, message: str, fields: dict[str, Any]) -> None:
        """Write a record of level info."""
        moment = _moment(time.time())
        if self.log_format == "json":
            line = json.dumps({"time": moment, "level": "info", "message": message, **fields})
        else:
            line = _text(moment, "info", message, fields)
        with suppress(OSError):  # requests are answered even if standard error is closed
            self.stream.write(line + "\n")


def _text(moment: str, level: str, message: str, fields: dict[str, Any]) -> str:
    suffix = "".join(f" {name}={value}" for name, value in fields.items())
    line = f"{moment} {level:8} {message}{suffix}"
    return (
        line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    )


def _moment(seconds: float) -> str:
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03}Z"


@lru_cache(2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def logging_config(level: str, log_format: str) -> dict[str, Any]:
    """Return the configuration of Python's logging for the loggers of uvicorn and dagrec."""
    loggers = ("uvicorn", "uvicorn.error", "dagrec")
    formatter = JsonLines if log_format == "json" else TextLines
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
