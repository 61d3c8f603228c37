"""The exceptions that dagrec raises.

A message names the object, the violated rule, the value that was found, and a remedy.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

EXTRAS = ("train", "serve", "tune", "viz", "sql")


class DagrecError(Exception):
    """Base class of all errors of this package. The message is shown to users."""


class DataError(DagrecError):
    """A file or a composition violates a rule.

    ``rule`` is a short, stable name (such as ``duplicate-id``) by which skipped compositions are
    counted.
    """

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.rule = rule

    def at(self, place: str) -> DataError:
        """Return the same error with the place where it occurred in front of its message."""
        # A file name can contain bytes that cannot be encoded as UTF-8.
        printable = place.encode("utf-8", "backslashreplace").decode()
        return DataError(f"{printable}: {self}", rule=self.rule)


class ConfigError(DagrecError):
    """A configuration or an option is invalid, or a name does not exist."""


class MissingPackageError(ConfigError):
    """A required package is not installed; see :func:`missing_package`."""


class NotFittedError(DagrecError):
    """A recommender was used before it was fitted."""


class NumericalError(DagrecError):
    """A number became NaN or infinite.

    ``last_good`` is the last usable result of the training, a network and its history, or None.
    """

    last_good: Any = None


class StoreError(DagrecError):
    """A bundle or a store is missing, incomplete, modified or of another format version."""


class RefusedError(DagrecError):
    """A challenger is not published."""


class RequestError(DagrecError):
    """A prediction request is invalid."""


def missing_package(feature: str, error: ModuleNotFoundError, extra: str) -> MissingPackageError:
    """Return the error for a feature that needs a package: one of an extra, or ``extra`` itself."""
    install = f"dagrec[{extra}]" if extra in EXTRAS else extra
    return MissingPackageError(
        f"{feature} needs the package {error.name!r}, found it not installed; install {install}"
    )


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return the end of a message that suggests the choices most similar to ``name``, or "" if none is.

    >>> did_you_mean("gru4re", ["markov", "gru4rec"])
    '; did you mean gru4rec?'
    """
    by_lower_case = {choice.lower(): choice for choice in choices}
    matches = get_close_matches(name.lower(), by_lower_case, n=3, cutoff=0.6)
    suggestions = [by_lower_case[match] for match in matches]
    return f"; did you mean {' or '.join(suggestions)}?" if suggestions else ""
