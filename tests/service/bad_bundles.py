"""What can be wrong with a bundle that somebody made live."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def cut_off(folder: Path) -> None:
    """The end of a file is missing."""
    file = folder / "graph.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def another_format(folder: Path) -> None:
    """A manifest of another version of dagrec."""
    edit(folder, {"format": 99})


def no_numbers(folder: Path) -> None:
    """Learned values that are NaN, in a bundle whose checksums are right."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for label in manifest["models"]:
        name = f"models/{label}/tensors.safetensors"
        tensors = load_file(folder / name)
        tensors["prior"] = np.full_like(tensors["prior"], np.nan)
        save_file(tensors, folder / name)
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    edit(folder, manifest)


def edit(folder: Path, changes: dict[str, object]) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changes))


SPOILED = (cut_off, another_format, no_numbers)
