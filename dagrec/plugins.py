"""Plug-ins: readers and recommenders that other installed packages add with entry points.

Their names are known from the metadata of the packages. A plug-in itself is only imported when it is
used. One that cannot be used is reported in one line, and left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from threading import RLock
from typing import Generic, TypeVar

from dagrec.errors import ConfigError

log = logging.getLogger("dagrec.plugins")
T = TypeVar("T")

RESERVED = ("all", "auto")
"""Names with a meaning of their own on the command line."""
MAX_REASON_LENGTH = 300


@dataclass(frozen=True)
class Plugin:
    """What the metadata of a package say about a plug-in: ``target`` is ``module:attribute``."""

    name: str
    target: str
    package: str
    version: str
    entry: metadata.EntryPoint

    @property
    def attribute(self) -> str:
        """The name of the object in its module."""
        return self.target.partition(":")[2].partition("[")[0].strip()


@dataclass(frozen=True)
class Status:
    """A plug-in of a group, and why it cannot be used; None if it can."""

    group: str
    name: str
    package: str
    version: str
    problem: str | None


class Plugins(Generic[T]):
    """The plug-ins of one group of entry points.

    ``kind`` says what they are. Names in ``taken`` belong to dagrec. ``check`` gets the name of a
    plug-in and its object; it returns what is used, or raises :class:`ConfigError` with a rule and the
    value that was found.
    """

    def __init__(
        self, group: str, kind: str, taken: Container[str], check: Callable[[str, object], T]
    ) -> None:
        self.group = group
        self._kind = kind
        self._taken = taken
        self._check = check
        self._loaded: dict[str, T | ConfigError] = {}
        self._lock = RLock()

    @property
    def entries(self) -> Mapping[str, Plugin]:
        """The plug-ins by name, in the order of their packages; none is imported."""
        return self._scan[0]

    @cached_property
    def _scan(self) -> tuple[dict[str, Plugin], list[tuple[Plugin, str]]]:
        """The plug-ins by name, and those that cannot have their name, with the reason."""
        entries: dict[str, Plugin] = {}
        refused: list[tuple[Plugin, str]] = []
        found = [_plugin(entry) for entry in _entry_points(self.group)]
        for plugin in sorted(found, key=lambda p: (p.package.lower(), p.name, p.target)):
            if reason := self._name_problem(plugin.name, entries):
                refused.append((plugin, self._message(plugin, reason)))
            else:
                entries[plugin.name] = plugin
        return entries, refused

    def _name_problem(self, name: str, entries: Mapping[str, Plugin]) -> str | None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
            return "its name must have at most 100 letters, digits, points, hyphens and underscores"
        if name in self._taken or name in RESERVED:
            return "its name must be free, found that dagrec has it"
        if name in entries:
            return f"its name must be free, found that the package {entries[name].package} has it"
        return None

    def package(self, name: str) -> str | None:
        """The package of a plug-in; None if there is no plug-in of this name."""
        plugin = self.entries.get(name)
        return None if plugin is None else plugin.package

    def get(self, name: str) -> T:
        """Return a plug-in, imported and checked.

        Raises :class:`ConfigError` if it cannot be used, and :class:`KeyError` if there is none.
        """
        plugin = self.entries[name]
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._load(plugin)
            loaded = self._loaded[name]
        if isinstance(loaded, ConfigError):
            raise ConfigError(str(loaded)) from loaded.__cause__
        return loaded

    def usable(self) -> dict[str, T]:
        """Import all plug-ins, and return those that can be used; warn once about each other one."""
        usable = {}
        for name in self.entries:
            try:
                usable[name] = self.get(name)
            except ConfigError as error:
                warn(str(error))
        for _, message in self._scan[1]:
            warn(message)
        return usable

    def statuses(self) -> list[Status]:
        """All plug-ins of the group, which are imported, and what is wrong with them."""
        result = []
        for name, plugin in self.entries.items():
            try:
                self.get(name)
                problem = None
            except ConfigError as error:
                problem = str(error)
            result.append(Status(self.group, name, plugin.package, plugin.version, problem))
        for plugin, message in self._scan[1]:
            result.append(Status(self.group, plugin.name, plugin.package, plugin.version, message))
        return result

    def _load(self, plugin: Plugin) -> T | ConfigError:
        try:
            return self._check(plugin.name, plugin.entry.load())
        except ConfigError as error:
            return ConfigError(self._message(plugin, str(error)))
        except (Exception, SystemExit) as error:  # whatever the code of others raises
            failure = ConfigError(
                self._message(plugin, f"{plugin.target} must be importable, found {describe(error)}")
            )
            failure.__cause__ = error
            return failure

    def _message(self, plugin: Plugin, reason: str) -> str:
        return (
            f"{self._kind} {plugin.name!r} of the package {plugin.package}: {reason}; "
            f"update or uninstall {plugin.package}"
        )


@cache
def warn(message: str) -> None:
    """Log a warning once in a process. Without other settings of logging it is on standard error."""
    log.warning("skipped: %s", message)


def describe(error: BaseException) -> str:
    """Describe an error in one line of limited length."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    return text if len(text) <= MAX_REASON_LENGTH else f"{text[:MAX_REASON_LENGTH]}..."


def _plugin(entry: metadata.EntryPoint) -> Plugin:
    package, version = "?", "?"
    if entry.dist is not None:
        package, version = entry.dist.name or "?", entry.dist.version or "?"
    return Plugin(entry.name, entry.value, package, version, entry)


def _entry_points(group: str) -> Iterable[metadata.EntryPoint]:
    """The entry points of a group in all packages whose metadata can be read."""
    try:
        return tuple(metadata.entry_points(group=group))
    except Exception:  # the metadata of any package may be damaged
        return _readable_entry_points(group)


def _readable_entry_points(group: str) -> list[metadata.EntryPoint]:
    found: list[metadata.EntryPoint] = []
    seen = set()
    for distribution in metadata.distributions():
        try:
            name = re.sub(r"[-_.]+", "-", distribution.name).lower()
            if name in seen:  # another version is earlier on the path
                continue
            seen.add(name)
            found += distribution.entry_points.select(group=group)
        except Exception as error:
            log.debug("metadata of a package cannot be read: %s", describe(error))
    return found
