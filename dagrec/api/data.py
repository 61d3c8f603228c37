"""``dagrec.read``."""

from __future__ import annotations

from os import PathLike
from typing import Any

from pydantic import ValidationError

from dagrec.api.arguments import option_names, require_known, require_path
from dagrec.data.dataset import Dataset
from dagrec.data.formats import ReadOptions
from dagrec.data.formats import read as read_path
from dagrec.errors import ConfigError, DataError
from dagrec.output.progress import Progress
from dagrec.types import validation_message


def read(path: str | PathLike[str], *, progress: bool = True, **options: Any) -> Dataset:
    """The compositions of a file, or of all files below a folder.

    Parameters
    ----------
    path
        A file or a folder. ``dagrec formats`` lists what is read; the format is recognised by content.
    progress
        Whether long reading shows its progress.
    **options
        ``format`` names the format. ``on_error="skip"`` leaves broken compositions out and counts
        them. ``on_cycle`` is ``fail``, ``skip`` or ``break``. ``owner_column``, ``service_column``,
        ``time_column`` and ``session_gap`` are for call logs, ``table_mid`` for native JSON; ``max_mb``
        is the largest file that is read.

    Raises
    ------
    DataError
        For a file that cannot be read, or its first broken composition, naming the place, the rule and
        the value found.
    ConfigError
        For an option that does not exist, naming the nearest ones, or does not fit.

    Examples
    --------
    >>> import dagrec
    >>> data = dagrec.read("data/compositions.json")
    >>> len(data)
    900
    """
    file = require_path(path, "read: path")
    require_known(options, [*ReadOptions.model_fields, *option_names(read)], "read")
    try:
        read_options = ReadOptions.model_validate(options)
    except ValidationError as error:
        raise ConfigError(f"read: {validation_message(error, ReadOptions)}") from None
    with Progress(enabled=progress) as bars:
        task = bars.add("reading compositions")
        try:
            return read_path(file, read_options, advance=lambda n: bars.update(task, advance=n))
        except OSError as error:
            raise DataError(
                f"{file}: cannot be read: {error.strerror}; check the path and its permissions",
                rule="unreadable",
            ) from None
