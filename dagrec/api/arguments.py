"""What functions of the Python interface do with arguments of all kinds: check them, write to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

from dagrec.data.scalars import quoted
from dagrec.errors import ConfigError, DagrecError, did_you_mean
from dagrec.output.files import replace_file


def require_path(value: object, what: str) -> Path:
    """A path from text or a path object; raises :class:`ConfigError` for anything else."""
    if not isinstance(value, str | PathLike):
        raise ConfigError(
            f"{what} must be text or a path, found {type(value).__name__}; write 'folder/name'"
        )
    try:
        path = Path(value)
    except TypeError:  # a path object of bytes
        raise ConfigError(f"{what} must be text or a path, found bytes; decode it") from None
    if value == "" or "\0" in str(path):
        raise ConfigError(f"{what} must name a file or a folder, found {value!r}; write its path")
    return path


def write_result(path: object, content: str | bytes) -> None:
    """Write a file; raises :class:`DagrecError` where it cannot be written."""
    file = require_path(path, "save: path")
    try:
        replace_file(file, content)
    except OSError as error:
        raise DagrecError(
            f"{file}: cannot be written: {error.strerror}; choose another place"
        ) from None


def require_count(value: object, what: str, minimum: int) -> int:
    """An integer that is large enough; raises :class:`ConfigError` for anything else."""
    if not isinstance(value, Integral) or value < minimum:
        raise ConfigError(f"{what} must be an integer of {minimum} or more, found {quoted(value)}")
    return int(value)


def require_flag(value: object, what: str) -> bool:
    """A truth value; raises :class:`ConfigError` for anything else."""
    if not isinstance(value, bool):
        raise ConfigError(f"{what} must be True or False, found {quoted(value)}")
    return value


def require_known(options: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise :class:`ConfigError` for an option that is not known, naming the nearest ones."""
    names = list(known)
    for name in options:
        if name not in names:
            nearest = did_you_mean(name, names) or f"; there are {', '.join(names)}"
            raise ConfigError(f"{what} has no option {name!r}{nearest}")


def option_names(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments that a function takes by keyword."""
    parameters = signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is not Parameter.VAR_KEYWORD]
