"""Ways to damage a published bundle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def truncate_file(folder: Path) -> None:
    """Remove the last byte of a file."""
    file = folder / "graph.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def change_format(folder: Path) -> None:
    """Give the manifest the format of another version of dagrec."""
    edit_manifest(folder, {"format": 99})


def set_scores_to_nan(folder: Path) -> None:
    """Replace learned values by NaN, with correct checksums."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for label in manifest["models"]:
        name = f"models/{label}/tensors.safetensors"
        tensors = load_file(folder / name)
        tensors["prior"] = np.full_like(tensors["prior"], np.nan)
        save_file(tensors, folder / name)
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    edit_manifest(folder, manifest)


def edit_manifest(folder: Path, changes: dict[str, object]) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changes))


DAMAGES = (truncate_file, change_format, set_scores_to_nan)
