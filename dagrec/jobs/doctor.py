"""Diagnose the installation: versions, devices, memory, disk, and missing packages."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from dagrec.errors import DagrecError

CORE = "core"


def doctor() -> dict[str, Any]:
    """Return versions, devices, memory, disk, and the packages of the core and of each extra.

    ``parts`` is the result of :func:`check` for the core and the extras. Sizes are in bytes, or None if
    they are unknown on this system. If torch cannot be imported, ``devices`` is empty, ``threads`` is
    None, and ``torch_problem`` is the reason. ``plugins`` are all plug-ins, with the ``problem`` of
    each that cannot be used. Raises :class:`DagrecError` if dagrec is not installed, because its
    requirements are then unknown.
    """
    try:
        distribution = metadata.distribution("dagrec")
    except metadata.PackageNotFoundError:
        raise DagrecError(
            f"dagrec: must be an installed package, found none in {sys.prefix}; "
            f"run `{shlex.quote(sys.executable)} -m pip install -e .` in its folder"
        ) from None
    requirements = [Requirement(text) for text in distribution.requires or ()]
    extras = distribution.metadata.get_all("Provides-Extra") or []
    total, free = memory()
    devices, threads, problem = _torch(total)
    return {
        "dagrec": distribution.version,
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
        "plugins": _plugins(),
    }


def _plugins() -> list[dict[str, Any]]:
    """All plug-ins; none if packages of the core are missing."""
    try:
        from dagrec.data import formats
        from dagrec.models import registry
    except ImportError:
        return []
    groups = (formats.PLUGINS, registry.PLUGINS)
    return [asdict(status) for plugins in groups for status in plugins.statuses()]


def check(
    requirements: Sequence[Requirement], extras: Iterable[str], versions: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Check the core and each extra.

    The result maps each of them to its ``packages`` with their ``status``, whether it is ``complete``,
    and the ``command`` that installs what is missing. ``versions`` maps installed packages to their
    versions. Requirements of other systems are left out. The command contains the packages instead of
    ``dagrec[extra]``, because a registry may have another version of dagrec.
    """
    core = [requirement for requirement in requirements if _applies(requirement, "")]
    parts = {CORE: core}
    for extra in extras:
        applicable = [requirement for requirement in requirements if _applies(requirement, extra)]
        parts[extra] = [requirement for requirement in applicable if requirement not in core]
    return {name: _check_part(part, versions) for name, part in parts.items()}


def _applies(requirement: Requirement, extra: str) -> bool:
    """Whether an extra, or the core if ``extra`` is empty, needs the package on this system."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _check_part(requirements: Iterable[Requirement], versions: Mapping[str, str]) -> dict[str, Any]:
    packages, missing = [], []
    for requirement in requirements:
        name, specifier = requirement.name, requirement.specifier
        version = versions.get(name)
        package_status = status(specifier, version)
        packages.append(
            {"package": name, "wanted": str(specifier), "found": version, "status": package_status}
        )
        if package_status != "ok":
            missing.append(f"{name}{specifier}")
    command = shlex.join([sys.executable, "-m", "pip", "install", *missing]) if missing else None
    return {"complete": not missing, "command": command, "packages": packages}


def status(specifier: SpecifierSet, installed: str | None) -> str:
    """``ok``, ``missing``, ``too old`` or ``too new``, for an installed version."""
    if installed is None:
        return "missing"
    try:
        version = Version(installed)
    except InvalidVersion:
        return "too old"
    for bound in specifier:
        if not bound.contains(version, prereleases=True):
            limit = Version(bound.version.removesuffix(".*"))
            return "too old" if bound.operator != "<" and version <= limit else "too new"
    return "ok"


def _versions(requirements: Iterable[Requirement]) -> dict[str, str]:
    versions = {}
    for requirement in requirements:
        with suppress(metadata.PackageNotFoundError):
            versions[requirement.name] = metadata.version(requirement.name)
    return versions


def _torch(memory_total: int | None) -> tuple[list[dict[str, Any]], int | None, str | None]:
    """The devices and threads of torch, and why it cannot be imported."""
    try:
        # Only dagrec.training may import torch. A missing shared library raises OSError.
        import dagrec.training.seed  # noqa: F401
    except (ImportError, OSError) as error:
        return [], None, f"torch cannot be imported: {error}"
    torch: Any = sys.modules["torch"]
    # Older versions of torch have no get_capabilities.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    flags = [capabilities[name] for name in ("avx512_bf16", "amx_bf16", "bf16") if name in capabilities]
    devices = [
        {
            "name": "cpu",
            "about": capabilities.get("cpu_name") or platform.processor() or platform.machine(),
            "memory": memory_total,
            "bf16": any(flags) if flags else None,
        }
    ]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(i)
        # NVIDIA GPUs support bf16 since Ampere. All AMD GPUs, which torch also calls cuda, support it.
        bf16 = torch.version.hip is not None or gpu.major >= 8
        devices.append(
            {"name": f"cuda:{i}", "about": gpu.name, "memory": gpu.total_memory, "bf16": bf16}
        )
    return devices, torch.get_num_threads(), None


def memory(meminfo: Path = Path("/proc/meminfo")) -> tuple[int | None, int | None]:
    """Return the total memory and the memory that is available to a new process, in bytes.

    They are read from ``meminfo``. Without it, they are computed from numbers of pages, and memory that
    only caches files counts as used. None if the system provides neither.
    """
    try:
        text = meminfo.read_text(encoding="utf-8")
    except OSError:
        return _pages("SC_PHYS_PAGES"), _pages("SC_AVPHYS_PAGES")
    sizes = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}
    return sizes.get("MemTotal"), sizes.get("MemAvailable")


def _pages(name: str) -> int | None:
    """The size in bytes of the pages that ``os.sysconf`` counts under this name."""
    if not {name, "SC_PAGE_SIZE"} <= getattr(os, "sysconf_names", {}).keys():
        return None
    return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")


def _cores() -> int | None:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _disk_free() -> int | None:
    """The free disk space of the working folder in bytes; None if the folder does not exist."""
    try:
        return shutil.disk_usage(os.curdir).free
    except OSError:
        return None
