from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import packaging
import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dagrec.jobs.doctor import CORE, check, doctor, memory, status
from tests.processes import Completed, command, python

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ABSENT = "dagrec-test-does-not-exist"
OTHER_SYSTEM = "linux" if sys.platform == "win32" else "win32"
PIP = f"{shlex.quote(sys.executable)} -m pip install "


# Requirements


@pytest.mark.parametrize(
    ("specifier", "installed", "expected"),
    [
        ("", "0.0.1", "ok"),
        ("", "1.0rc1", "ok"),
        ("", None, "missing"),
        (">=2.3", None, "missing"),
        (">=2.3", "2.3", "ok"),
        (">=2.3", "2.3.0", "ok"),
        (">=2.3.0", "2.3", "ok"),
        (">=2.3", "2.13.0+cpu", "ok"),
        (">=2.3", "10.0", "ok"),
        (">=2.3", "2.2.9", "too old"),
        (">=2.3", "2.3rc1", "too old"),
        (">=2.3", "2.3.0.dev20240101+cu121", "too old"),
        (">=2.3", "2.4.0a0+git12", "ok"),
        (">=2.3", "2.3.post1", "ok"),
        (">=2.3", "no version", "too old"),
        (">2.3", "2.3", "too old"),
        (">2.3", "2.3.1", "ok"),
        (">=1,<3", "3.0", "too new"),
        (">=1,<3", "3.1", "too new"),
        (">=1,<3", "0.9", "too old"),
        (">=1,<3", "2.99", "ok"),
        ("<=3", "3.0.1", "too new"),
        ("<=3", "3.0", "ok"),
        ("==2.13.0", "2.13.0+cpu", "ok"),
        ("==2.13.0", "2.12.1", "too old"),
        ("==2.13.0", "2.14", "too new"),
        ("==2.*", "2.14", "ok"),
        ("==2.*", "3.0", "too new"),
        ("~=2.13", "2.12.9", "too old"),
        ("~=2.13", "3.0", "too new"),
    ],
)
def test_status_of_installed_version(specifier: str, installed: str | None, expected: str) -> None:
    assert status(SpecifierSet(specifier), installed) == expected


def test_check_lists_packages_and_install_command_of_each_part() -> None:
    texts = [
        "numpy>=1.26",
        "rich>=13",
        'torch>=2.3; extra == "train"',
        'scipy>=1,<2; extra == "train"',
        'ruff>=0.5; extra == "train"',
        f'uvloop>=0.19; sys_platform == "{OTHER_SYSTEM}" and extra == "serve"',
    ]
    versions = {"numpy": "2.0", "rich": "13.1", "scipy": "2.1", "ruff": "0.6"}
    parts = check([Requirement(text) for text in texts], ["train", "serve"], versions)
    assert list(parts) == [CORE, "train", "serve"]
    assert [(part["complete"], part["command"]) for part in parts.values()] == [
        (True, None),
        (False, f"{PIP}'torch>=2.3' 'scipy<2,>=1'"),
        (True, None),
    ]
    assert parts["train"]["packages"] == [
        {"package": "torch", "wanted": ">=2.3", "found": None, "status": "missing"},
        {"package": "scipy", "wanted": "<2,>=1", "found": "2.1", "status": "too new"},
        {"package": "ruff", "wanted": ">=0.5", "found": "0.6", "status": "ok"},
    ]
    assert parts["serve"]["packages"] == []


def test_core_without_requirements_is_complete() -> None:
    assert check([], [], {}) == {CORE: {"complete": True, "command": None, "packages": []}}


# This installation


def test_doctor_checks_every_dependency_of_project() -> None:
    result = doctor()
    expected = {CORE: PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    assert list(result["parts"]) == list(expected)
    for part, texts in expected.items():
        rows = result["parts"][part]["packages"]
        requirements = [Requirement(text) for text in texts]
        names = [r.name for r in requirements if r.marker is None or r.marker.evaluate()]
        assert [row["package"] for row in rows] == names
        for row in rows:
            assert row["status"] == "ok", f"{row}: the tests need all packages"
            assert row["found"] == metadata.version(row["package"])
        assert result["parts"][part]["complete"]
    assert result["dagrec"] == PROJECT["version"]


def test_doctor_describes_machine() -> None:
    result = doctor()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["python"] == sys.version.split()[0]
    assert 1 <= result["cores"] <= 4096
    assert result["threads"] == torch.get_num_threads()
    assert 0 < result["memory_free"] <= result["memory_total"]
    assert 0 < result["disk_free"] <= shutil.disk_usage(".").total
    assert result["torch_problem"] is None
    first, *gpus = result["devices"]
    assert (first["name"], first["memory"]) == ("cpu", result["memory_total"])
    assert first["bf16"] in (True, False, None)
    assert [gpu["name"] for gpu in gpus] == [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    assert all(gpu["about"] and gpu["memory"] > 0 for gpu in gpus)


def test_memory_with_and_without_meminfo(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       2000 kB\nMemFree:    1 kB\nMemAvailable:   1500 kB\nPages: 7\n")
    assert memory(meminfo) == (2000 * 1024, 1500 * 1024)
    meminfo.write_text("Pages: 7\n")
    assert memory(meminfo) == (None, None)
    total, free = memory(tmp_path / "missing")
    assert total
    assert free
    assert 0 < free <= total
    if Path("/proc/meminfo").exists():
        assert total == memory()[0]


# Other installations


def install(folder: Path, requirements: Sequence[str]) -> None:
    """Install dagrec in a folder, with metadata that contain these requirements."""
    (folder / "dagrec").symlink_to(ROOT / "dagrec")
    dist_info = folder / "dagrec-7.0.dist-info"
    dist_info.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: dagrec", "Version: 7.0"]
    lines += [f"Provides-Extra: {extra}" for extra in PROJECT["optional-dependencies"]]
    lines += [f"Requires-Dist: {text}" for text in requirements]
    (dist_info / "METADATA").write_text("\n".join(lines) + "\n")


def doctor_in(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the job with only this folder, packaging and the standard library."""
    (folder / "packaging").symlink_to(Path(packaging.__file__).parent)
    code = (
        f"import sys; sys.path.append({str(folder)!r})\n"
        "import json; from dagrec.jobs.doctor import doctor; print(json.dumps(doctor()))"
    )
    arguments = [sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=folder)


def test_all_packages_are_missing_without_site_packages(tmp_path: Path) -> None:
    install(tmp_path, metadata.requires("dagrec") or [])
    completed = doctor_in(tmp_path)
    assert completed.returncode == 0, completed.stderr
    result = json.loads(completed.stdout)
    assert result["dagrec"] == "7.0"
    assert (result["devices"], result["threads"]) == ([], None)
    assert "No module named 'torch'" in result["torch_problem"]
    for part in result["parts"].values():
        assert not part["complete"]
        assert {row["status"] for row in part["packages"]} == {"missing"}
    assert result["parts"]["train"]["command"] == f"{PIP}'lightgbm>=4' 'scikit-learn>=1.5' 'torch>=2.3'"


def test_torch_without_shared_library_is_reported(tmp_path: Path) -> None:
    install(tmp_path, [])
    (tmp_path / "torch.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    completed = doctor_in(tmp_path)
    assert completed.returncode == 0, completed.stderr
    result = json.loads(completed.stdout)
    assert result["devices"] == []
    assert "libgomp.so.1" in result["torch_problem"]


def test_doctor_needs_installed_package(tmp_path: Path) -> None:
    (tmp_path / "dagrec").symlink_to(ROOT / "dagrec")
    completed = doctor_in(tmp_path)
    assert completed.returncode == 1
    last = completed.stderr.splitlines()[-1]
    assert "DagrecError: dagrec: must be an installed package" in last
    assert "pip install -e ." in last


# The command


def squeeze(completed: Completed) -> str:
    return re.sub(r" +", " ", completed.out)


def test_command_shows_machine_and_packages(tmp_path: Path) -> None:
    completed = command("doctor", folder=tmp_path)
    assert (completed.status, completed.err) == (0, "")
    text = squeeze(completed)
    assert f"python {sys.version.split()[0]}" in text
    assert re.search(r"memory free \d+\.\d GB", text)
    assert re.search(r"^cpu .* GB (yes|no|-)$", text, re.MULTILINE)
    assert re.search(r"^train torch >=2.3 \S+ ok", text, re.MULTILINE)
    for part in (CORE, *PROJECT["optional-dependencies"]):
        assert re.search(rf"^{part} ", text, re.MULTILINE)


def test_command_prints_only_json(tmp_path: Path) -> None:
    completed = command("doctor", "--json", folder=tmp_path)
    assert (completed.status, completed.err) == (0, "")
    result = json.loads(completed.out)
    expected: Mapping[str, Any] = doctor()
    assert result.keys() == expected.keys()
    assert result["parts"] == expected["parts"]


def command_with_requirements(folder: Path, requirements: Sequence[str], *arguments: str) -> Completed:
    """Run the command with metadata that contain these requirements."""
    install(folder, requirements)
    (folder / "dagrec").unlink()
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); sys.argv = {['dagrec', *arguments]!r}\n"
    return python(f"{code}from dagrec.cli import main; main()", folder=folder)


def test_missing_extra_is_a_note(tmp_path: Path) -> None:
    requirements = ["numpy>=1", f'{ABSENT}>=1; extra == "viz"']
    completed = command_with_requirements(tmp_path, requirements, "doctor")
    assert completed.status == 0
    assert f"viz {ABSENT} >=1 - missing" in squeeze(completed)
    assert completed.err == f"note: viz is incomplete; {PIP}'{ABSENT}>=1'\n"


@pytest.mark.parametrize("arguments", [[], ["--json"]], ids=str)
def test_incomplete_core_fails_the_command(arguments: Sequence[str], tmp_path: Path) -> None:
    completed = command_with_requirements(tmp_path, ["numpy>=99"], "doctor", *arguments)
    assert completed.status == 1
    assert completed.err == f"dagrec: the core is incomplete; {PIP}'numpy>=99'\n"
    if arguments:
        assert json.loads(completed.out)["parts"][CORE]["packages"][0]["status"] == "too old"
    else:
        assert re.search(r"core numpy >=99 \S+ too old", squeeze(completed))
