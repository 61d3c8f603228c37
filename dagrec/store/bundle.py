"""A bundle: a folder with everything that answers predictions, and nothing that runs code.

manifest.json        format, fingerprints, configuration, metrics, SHA-256 of every other file
vocabulary.json      services and other nodes
graph.safetensors    links seen in training, and declared ones
evidence.safetensors which training compositions made which step
models/<label>/      model.json (name first, then configuration) and tensors.safetensors
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import ConfigError, StoreError
from dagrec.graph.evidence import Evidence
from dagrec.graph.mask import MaskPolicy
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender
from dagrec.models.registry import explain, recommender_class
from dagrec.types import Options

FORMAT = 2
MANIFEST = "manifest.json"


class ModelEntry(Options):
    """What the manifest says of one model."""

    recommender: str
    parameters: int
    metrics: dict[str, float] = Field(default_factory=dict)
    """Means over the held-out parts that the training job measured on."""
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Of these means, 95 %; none where fewer than two parts were measured on."""
    fit_seconds: float
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """By which scores are divided before they become probabilities; from held-out parts."""


class Manifest(Options):
    """The description of a bundle; its presence means that the folder is whole."""

    format: int
    version: str
    created: str
    dagrec: str
    data: dict[str, Any]
    """path, fingerprint, and counts of compositions and examples."""
    vocabulary: str
    graph: str
    config: dict[str, Any]
    champion: str
    models: dict[str, ModelEntry]
    files: dict[str, str]
    """Relative path -> SHA-256, of all files but this one."""


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory."""

    manifest: Manifest
    vocabulary: Vocabulary
    graph: ServiceGraph
    evidence: Evidence
    models: Mapping[str, Recommender]

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def mask(self) -> MaskPolicy:
        """The mask that the bundle was configured with."""
        return MaskPolicy(self.manifest.config.get("mask", MaskPolicy.OBSERVED))

    def temperature(self, label: str) -> float:
        """By what a model's scores are divided before they become probabilities."""
        return self.manifest.models[label].temperature

    def model(self, label: str | None) -> tuple[str, Recommender]:
        """A model by its label, or the champion. Raises :class:`ConfigError` with the choices."""
        label = self.manifest.champion if label is None else label
        if label not in self.models:
            raise ConfigError(
                f"model must be one of {', '.join(self.models)}, found {label!r}; see /models"
            )
        return label, self.models[label]


def check_labels(labels: Iterable[str]) -> None:
    """Raise :class:`ConfigError` for a label that is no plain name: it becomes a folder."""
    for label in labels:
        if not re.fullmatch(r"[^./\\\0][^/\\\0]{0,99}", label):
            raise ConfigError(
                f"a model's label must be a plain name of at most 100 characters, without slashes and "
                f"no dot in front, found {label!r}; rename it"
            )


def write_parts(
    folder: Path,
    vocabulary: Vocabulary,
    graph: ServiceGraph,
    evidence: Evidence,
    models: Mapping[str, Recommender],
) -> dict[str, str]:
    """Write all files but the manifest into an empty folder; returns their SHA-256 by path."""
    check_labels(models)
    words = {"services": vocabulary.services, "others": vocabulary.others}
    text = json.dumps(words, indent=0, ensure_ascii=False)
    (folder / "vocabulary.json").write_text(text + "\n", encoding="utf-8")
    save_file(graph.state(), folder / "graph.safetensors")
    save_file(evidence.state(), folder / "evidence.safetensors")
    for label, model in models.items():
        model.save(folder / "models" / label, vocabulary)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def load_bundle(folder: Path) -> Bundle:
    """Read and check a whole bundle. Raises :class:`StoreError` naming the file and what is wrong."""
    manifest = read_manifest(folder)
    for name in _files_of(manifest):
        if name not in manifest.files:
            raise StoreError(f"{folder / MANIFEST}: must list {name}, found it missing; publish again")
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise StoreError(f"{path}: the manifest lists it, found no such file; publish again")
        if _sha256(path) != expected:
            raise StoreError(f"{path}: must be as it was published, found other content; publish again")
    try:
        words = json.loads((folder / "vocabulary.json").read_bytes())
        vocabulary = Vocabulary(tuple(words["services"]), tuple(words["others"]))
        graph = ServiceGraph.restore(load_file(folder / "graph.safetensors"), vocabulary)
        evidence = Evidence.restore(load_file(folder / "evidence.safetensors"), vocabulary)
        abouts = {
            label: json.loads((folder / "models" / label / "model.json").read_bytes())
            for label in manifest.models
        }
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StoreError(
            f"{folder}: its files must be whole, found {error!r}; publish again"
        ) from error
    if (vocabulary.fingerprint, graph.fingerprint) != (manifest.vocabulary, manifest.graph):
        raise StoreError(f"{folder}: vocabulary and graph must be the manifest's, found others")
    models = {
        label: _load_model(folder / "models" / label, manifest.models[label], about, vocabulary, graph)
        for label, about in abouts.items()
    }
    if manifest.champion not in models:
        raise StoreError(f"{folder}: champion {manifest.champion!r} must be one of {list(models)}")
    return Bundle(manifest, vocabulary, graph, evidence, models)


def read_manifest(folder: Path) -> Manifest:
    """The checked manifest of a bundle."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}; is this a bundle?") from None
    try:
        # First of all, because another format may have other fields.
        found = _AnyFormat.model_validate_json(text).format
        if found != FORMAT:
            raise StoreError(
                f"{path}: format must be {FORMAT}, found {found}; publish it again with this dagrec"
            )
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(f"{path}: {explain(error)}; publish again") from None


class _AnyFormat(BaseModel):
    format: int


def _files_of(manifest: Manifest) -> list[str]:
    """The files that a bundle of these models is read from."""
    names = ("model.json", "tensors.safetensors")
    own = [f"models/{label}/{name}" for label in manifest.models for name in names]
    return ["vocabulary.json", "graph.safetensors", "evidence.safetensors", *own]


def _load_model(
    folder: Path, entry: ModelEntry, about: Any, vocabulary: Vocabulary, graph: ServiceGraph
) -> Recommender:
    name = about.get("recommender") if isinstance(about, dict) else None
    if name != entry.recommender:
        raise StoreError(
            f"{folder / 'model.json'}: recommender must be {entry.recommender!r} as in the manifest, "
            f"found {name!r}; publish again"
        )
    try:
        class_ = recommender_class(entry.recommender)
    except ConfigError as error:
        raise StoreError(f"{folder / 'model.json'}: {error}") from None
    return class_.load(folder, about, vocabulary, graph)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
