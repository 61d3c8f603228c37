"""What this machine and this installation have, and what they lack.

Standard library only, so that it can be called where nothing else is installed.
"""

from __future__ import annotations

import operator
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dagrec.errors import DagrecError

CORE = "core"
REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*([^;]*?)\s*(?:;\s*(.*?)\s*)?")
BOUND = re.compile(r"\s*(>=|<=|==|>|<)\s*(\d[\w.+!-]*)\s*")
MARKER = re.compile(r"[(\s]*(\w+)\s*(==|!=)\s*[\"']([^\"']*)[\"'][)\s]*")
VERSION = re.compile(r"v?(?:\d+!)?(\d+(?:\.\d+)*)[.-]?((?:a|b|rc|dev|alpha|beta|pre)[.-]?\d*)?.*", re.I)
ENVIRONMENT = {
    "os_name": os.name,
    "platform_machine": platform.machine(),
    "platform_system": platform.system(),
    "sys_platform": sys.platform,
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


def doctor() -> dict[str, Any]:
    """Versions, devices, memory and disk; and for the core and every extra what is missing of it.

    ``parts`` maps ``core`` and the names of the extras to what :func:`check` says of them. Sizes are
    in bytes, None where this system does not tell. Without torch ``devices`` is empty, ``threads`` is
    None, and ``torch_problem`` says why. Raises :class:`DagrecError` where dagrec runs from a folder
    without being installed: then nobody knows what it requires.
    """
    try:
        own = metadata.distribution("dagrec")
    except metadata.PackageNotFoundError:
        raise DagrecError(
            f"dagrec: must be installed for its requirements to be known, found no such package in "
            f"{sys.prefix}; run `{shlex.quote(sys.executable)} -m pip install -e .` in its folder"
        ) from None
    requirements = [parse(text) for text in own.requires or ()]
    total, free = memory()
    devices, threads, problem = _torch(total)
    return {
        "dagrec": own.version,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cores": _cores(),
        "threads": threads,
        "memory_total": total,
        "memory_free": free,
        "disk_free": _disk_free(),
        "devices": devices,
        "torch_problem": problem,
        "parts": check(requirements, _versions(requirements)),
    }


@dataclass(frozen=True)
class Requirement:
    """A package that a part needs; ``bounds`` are pairs of comparison and version."""

    package: str
    bounds: tuple[tuple[str, str], ...]
    part: str = CORE
    applies: bool = True
    """False where the requirement is for another system than this one."""

    @property
    def wanted(self) -> str:
        return ",".join(f"{comparison}{version}" for comparison, version in self.bounds)

    def status(self, found: str | None) -> str:
        """``ok``, ``missing``, ``too old`` or ``too new``, for the version that was found."""
        if found is None:
            return "missing"
        for comparison, version in self.bounds:
            if not COMPARE[comparison](_order(found), _order(version)):
                older = comparison != "<" and _order(found) <= _order(version)
                return "too old" if older else "too new"
        return "ok"


def parse(text: str) -> Requirement:
    """A requirement as a package's metadata states it: ``uvloop>=0.19; sys_platform != "win32"``.

    Of PEP 508 this reads what dagrec's own requirements need: the bounds >=, >, <=, < and ==, and
    markers joined by ``and`` that compare ``extra`` or the system. Raises :class:`DagrecError` at
    anything else.
    """
    whole = _read(REQUIREMENT, text, text)
    bounds = [_read(BOUND, bound, text) for bound in whole[2].split(",") if whole[2]]
    part, applies = CORE, True
    for marker in re.split(r"\s+and\s+", whole[3]) if whole[3] else ():
        variable, comparison, value = _read(MARKER, marker, text).groups()
        if (variable, comparison) == ("extra", "=="):
            part = value
        elif variable in ENVIRONMENT:
            applies &= (ENVIRONMENT[variable] == value) is (comparison == "==")
        else:
            raise _unreadable(marker, text)
    return Requirement(whole[1], tuple((bound[1], bound[2]) for bound in bounds), part, applies)


def _read(pattern: re.Pattern[str], piece: str, text: str) -> re.Match[str]:
    match = pattern.fullmatch(piece)
    if match is None:
        raise _unreadable(piece, text)
    return match


def _unreadable(piece: str, text: str) -> DagrecError:
    return DagrecError(
        f"requirement {text!r}: must be a name, bounds like >=1.2,<2 and markers joined by `and`, "
        f"found {piece!r}; write it so in pyproject.toml, or teach dagrec.jobs.doctor.parse to read it"
    )


def check(
    requirements: Iterable[Requirement], versions: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """For each part: its ``packages`` and their ``status``, whether it is ``complete``, and if not the
    ``command`` that completes it.

    ``versions`` are those of the installed packages. The command names the packages themselves: what
    is called dagrec in a registry need not be this.
    """
    parts: dict[str, list[tuple[Requirement, dict[str, str | None]]]] = {CORE: []}
    for requirement in requirements:
        rows = parts.setdefault(requirement.part, [])
        if requirement.applies:
            found = versions.get(requirement.package)
            status = requirement.status(found)
            about = {"package": requirement.package, "wanted": requirement.wanted}
            rows.append((requirement, {**about, "found": found, "status": status}))
    result: dict[str, dict[str, Any]] = {}
    for part, rows in parts.items():
        lacks = [f"{r.package}{r.wanted}" for r, row in rows if row["status"] != "ok"]
        command = shlex.join([sys.executable, "-m", "pip", "install", *lacks]) if lacks else None
        packages = [row for _, row in rows]
        result[part] = {"complete": not lacks, "command": command, "packages": packages}
    return result


def _order(version: str) -> tuple[tuple[int, ...], bool]:
    """What versions are compared by: numbers, and whether they are final; builds do not count."""
    match = VERSION.fullmatch(version)
    if match is None:
        return (), False
    numbers = [int(number) for number in match[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers), match[2] is None


def _versions(requirements: Iterable[Requirement]) -> dict[str, str]:
    found = {}
    for requirement in requirements:
        try:
            found[requirement.package] = metadata.version(requirement.package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _torch(memory_total: int | None) -> tuple[list[dict[str, Any]], int | None, str | None]:
    """Its devices, its threads, and why it cannot be used."""
    try:
        # Only the room of training imports torch; a broken one lacks a library, which is an OSError.
        import dagrec.training.seed  # noqa: F401
    except (ImportError, OSError) as error:
        return [], None, f"torch cannot be imported: {error}"
    torch: Any = sys.modules["torch"]
    # Older versions of torch do not tell what a processor can.
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    flags = [able[name] for name in ("avx512_bf16", "amx_bf16", "bf16") if name in able]
    devices = [
        {
            "name": "cpu",
            "about": able.get("cpu_name") or platform.processor() or platform.machine(),
            "memory": memory_total,
            "bf16": any(flags) if flags else None,
        }
    ]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(i)
        # Of NVIDIA's from Ampere on; AMD's, which torch calls cuda too, all have it.
        bf16 = torch.version.hip is not None or about.major >= 8
        device = {"name": f"cuda:{i}", "about": about.name, "memory": about.total_memory, "bf16": bf16}
        devices.append(device)
    return devices, torch.get_num_threads(), None


def memory(meminfo: Path = Path("/proc/meminfo")) -> tuple[int | None, int | None]:
    """Bytes of memory in all, and of those that a new process can have.

    From the kernel's own account, or without one from the numbers of pages, which take what files
    only cache for used. None where this system tells neither.
    """
    try:
        text = meminfo.read_text(encoding="utf-8")
    except OSError:
        return _pages("SC_PHYS_PAGES"), _pages("SC_AVPHYS_PAGES")
    found = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}
    return found.get("MemTotal"), found.get("MemAvailable")


def _pages(name: str) -> int | None:
    """Bytes in the pages that the system counts under this name."""
    if not {name, "SC_PAGE_SIZE"} <= getattr(os, "sysconf_names", {}).keys():
        return None
    return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")


def _cores() -> int | None:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _disk_free() -> int | None:
    """Bytes that can be written in the working folder; None where it is gone."""
    try:
        return shutil.disk_usage(os.curdir).free
    except OSError:
        return None
