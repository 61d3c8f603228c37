"""URLs of databases, and their names without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from dagrec.errors import DataError, missing_package

if TYPE_CHECKING:
    from sqlalchemy import URL

SCHEME = re.compile(r"([a-z][a-z0-9_+.-]*)://", re.IGNORECASE)
COLLAPSED = re.compile(r"[a-z][a-z0-9_+.-]+:[/\\]", re.IGNORECASE)
"""The start of a URL that became a path and lost a slash. Drives of Windows have one letter."""
WEB = frozenset({"http", "https", "ftp", "ftps", "file", "s3", "gs"})
DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+asyncpg": "postgresql+psycopg",
    "postgresql+psycopg_async": "postgresql+psycopg",
    "sqlite+aiosqlite": "sqlite",
}
"""What is read in place of another name: the driver of the extra sql, and none that is asynchronous."""
SHOWN = frozenset({"charset", "host", "mode", "port", "service", "sslmode"})
"""The parameters of a URL that are no secrets."""
LEAST_SECRET = 4
"""The least length of a secret that is removed from messages. Shorter ones are parts of many words."""
EXAMPLES = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"


def is_url(location: str | PathLike[str]) -> bool:
    """Whether a location of data is the URL of a database, and not a path."""
    return isinstance(location, str) and SCHEME.match(location) is not None


def check_path(path: Path) -> None:
    """Raise :class:`DataError` for a URL that was made a path, which must not be shown."""
    if COLLAPSED.match(str(path)) and not path.exists():
        raise DataError(
            "a URL of a database must be text with ://, found a path; pass it as str", rule="bad-url"
        )


@dataclass(frozen=True)
class DatabaseUrl:
    """The URL of a database."""

    url: URL

    @classmethod
    def of(cls, text: str) -> DatabaseUrl:
        """Parse a URL. Raises :class:`DataError`, which does not contain it."""
        scheme = SCHEME.match(text)
        name = scheme[1].lower() if scheme else ""
        if name in WEB:
            raise DataError(
                f"must be a file, a folder or a database, found an address ({name}://); download it "
                f"first, or write {EXAMPLES}",
                rule="no-file",
            )
        try:
            from sqlalchemy import make_url
            from sqlalchemy.exc import ArgumentError
        except ModuleNotFoundError as error:
            raise missing_package("reading a database", error, "sql") from None
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            url = None
        # An @ that is not encoded ends a password too early, and the rest would be shown.
        is_file = name.startswith(("sqlite", "duckdb"))
        if url is None or "@" in (url.host or "") + ("" if is_file else url.database or ""):
            raise DataError(
                f"must be the URL of a database, found one that cannot be read; write {EXAMPLES}, and "
                "encode special characters of the password (@ as %40, : as %3A, / as %2F)",
                rule="bad-url",
            )
        return cls(url.set(drivername=DRIVERS.get(url.drivername, url.drivername)))

    @property
    def name(self) -> str:
        """The URL without the password and other secrets, as it is shown and stored."""
        shown = {key: value for key, value in self.url.query.items() if key in SHOWN}
        dialect = self.url.drivername.replace("postgresql+psycopg", "postgresql")
        url = self.url.set(drivername=dialect, query=shown)
        return url.render_as_string(hide_password=True)

    @property
    def dialect(self) -> str:
        return self.url.get_backend_name()

    def without_secrets(self, text: str) -> str:
        """Return a message of a database without the secrets that it may repeat."""
        for secret in self._secrets():
            if len(secret) >= LEAST_SECRET:
                text = text.replace(secret, "***")
        return text

    def _secrets(self) -> Iterator[str]:
        if self.url.password is not None:
            yield str(self.url.password)
        for key, value in self.url.query.items():
            if key not in SHOWN:
                yield from [value] if isinstance(value, str) else value
