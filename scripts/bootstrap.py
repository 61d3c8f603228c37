"""Script that sets up `.venv` if it is missing or out of date, and then runs a command in it.

`python3.11 scripts/bootstrap.py dagrec --help` runs `dagrec --help`; without arguments, the script only
sets up the environment. The environment is out of date after a change of pyproject.toml or
constraints.txt; checking this takes a few milliseconds. The script uses only the standard library.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "dagrec-stamp"
EXTRAS = "train,serve,tune,viz,dev"


def fingerprint() -> str:
    """Return a hash of everything that determines what is installed."""
    digest = hashlib.sha256(f"{sys.version} {EXTRAS} {ROOT}".encode())
    for name in ("pyproject.toml", "constraints.txt", "scripts/bootstrap.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def install() -> None:
    """Create the environment from scratch. The stamp is written last."""
    print("dagrec: setting up .venv (once; a minute or two) ...", file=sys.stderr)
    STAMP.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run(
        [*pip, "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[{EXTRAS}]"], check=True, cwd=ROOT
    )
    STAMP.write_text(fingerprint(), encoding="utf-8")


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 (the version has not been checked yet)
        print(f"dagrec: needs Python 3.11 or newer, found {sys.version.split()[0]}", file=sys.stderr)
        return 1
    if not STAMP.is_file() or STAMP.read_text(encoding="utf-8") != fingerprint():
        try:
            install()
        except subprocess.CalledProcessError as error:
            print(f"dagrec: set-up failed at: {' '.join(map(str, error.cmd))}", file=sys.stderr)
            return 1
    if len(sys.argv) > 1:
        command = VENV / "bin" / sys.argv[1]
        os.execv(command, [str(command), *sys.argv[2:]])
    return 0


if __name__ == "__main__":
    sys.exit(main())
