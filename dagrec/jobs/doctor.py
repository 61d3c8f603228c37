"""What this machine and this installation have, and what they lack."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from dagrec.errors import DagrecError

CORE = "core"


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
    requirements = [Requirement(text) for text in own.requires or ()]
    extras = own.metadata.get_all("Provides-Extra") or []
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
        "parts": check(requirements, extras, _versions(requirements)),
    }


def check(
    requirements: Sequence[Requirement], extras: Iterable[str], versions: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """For the core and each extra: its ``packages`` and their ``status``, whether it is ``complete``,
    and if not the ``command`` that completes it.

    ``versions`` are those of the installed packages. Requirements of another system are left out. The
    command names the packages themselves, because the dagrec of a registry need not be this one.
    """
    core = [requirement for requirement in requirements if _applies(requirement, "")]
    parts = {CORE: core}
    for extra in extras:
        own = [requirement for requirement in requirements if _applies(requirement, extra)]
        parts[extra] = [requirement for requirement in own if requirement not in core]
    return {part: _check_part(own, versions) for part, own in parts.items()}


def _applies(requirement: Requirement, extra: str) -> bool:
    """Whether this system needs the package for an extra, or for the core where ``extra`` is empty."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _check_part(requirements: Iterable[Requirement], versions: Mapping[str, str]) -> dict[str, Any]:
    packages, lacks = [], []
    for requirement in requirements:
        name, wanted = requirement.name, str(requirement.specifier)
        found = versions.get(name)
        state = status(requirement.specifier, found)
        packages.append({"package": name, "wanted": wanted, "found": found, "status": state})
        if state != "ok":
            lacks.append(f"{name}{wanted}")
    command = shlex.join([sys.executable, "-m", "pip", "install", *lacks]) if lacks else None
    return {"complete": not lacks, "command": command, "packages": packages}


def status(wanted: SpecifierSet, found: str | None) -> str:
    """``ok``, ``missing``, ``too old`` or ``too new``, for the version that was found."""
    if found is None:
        return "missing"
    try:
        version = Version(found)
    except InvalidVersion:
        return "too old"
    for bound in wanted:
        if not bound.contains(version, prereleases=True):
            limit = Version(bound.version.removesuffix(".*"))
            return "too old" if bound.operator != "<" and version <= limit else "too new"
    return "ok"


def _versions(requirements: Iterable[Requirement]) -> dict[str, str]:
    found = {}
    for requirement in requirements:
        try:
            found[requirement.name] = metadata.version(requirement.name)
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
