"""Every failure that dagrec raises on purpose.

A message names the object, the rule it broke, the value found and the way out.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

EXTRAS = ("train", "serve", "tune", "viz")


class DagrecError(Exception):
    """Base of all errors of this package; its text is meant for people."""


class DataError(DagrecError):
    """Something in a file or a composition breaks a rule.

    ``rule`` is a short stable name (``duplicate-id``), by which skipped compositions are counted.
    """

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.rule = rule

    def at(self, place: str) -> DataError:
        """The same error, with the place it was found in front of it."""
        # The name of a file may hold bytes that no terminal and no JSON can.
        shown = place.encode("utf-8", "backslashreplace").decode()
        return DataError(f"{shown}: {self}", rule=self.rule)


class ConfigError(DagrecError):
    """A configuration, an option or a name that does not exist or does not fit."""


class MissingPackageError(ConfigError):
    """Something needs a package that is not installed; see :func:`missing_package`."""


class NotFittedError(DagrecError):
    """A recommender was asked for scores before it had learned anything."""


class NumericalError(DagrecError):
    """A number became NaN or infinite.

    ``last_good`` is what training had reached before, where it had: a network and its history.
    """

    last_good: Any = None


class StoreError(DagrecError):
    """A bundle or a store is missing, incomplete, changed or of another version."""


class RefusedError(DagrecError):
    """A challenger that is not published."""


class RequestError(DagrecError):
    """A prediction request that cannot be answered as it stands."""


def missing_package(what: str, error: ModuleNotFoundError, extra: str) -> MissingPackageError:
    """The error of something that needs a package of an extra, or a package by itself."""
    install = f"dagrec[{extra}]" if extra in EXTRAS else extra
    return MissingPackageError(
        f"{what} needs the package {error.name!r}, found it not installed; install {install}"
    )


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The choices that a misspelt name is nearest to, as the end of a message; empty without any.

    >>> did_you_mean("gru4re", ["markov", "gru4rec"])
    '; did you mean gru4rec?'
    """
    spelt = {choice.lower(): choice for choice in choices}
    nearest = [spelt[match] for match in get_close_matches(name.lower(), spelt, n=3, cutoff=0.6)]
    return f"; did you mean {' or '.join(nearest)}?" if nearest else ""
