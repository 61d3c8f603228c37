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
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as package_version
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
from dagrec.models.fitted import Fitted
from dagrec.models.registry import recommender_class
from dagrec.types import Options, validation_message

FORMAT = 3
MANIFEST = "manifest.json"


class Quality(Options):
    """What held-out parts of the training data say of a model."""

    metrics: dict[str, float] = Field(default_factory=dict)
    """Means over the held-out parts."""
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """95 % intervals of these means; none where there were fewer than two parts."""
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Divides scores before they become probabilities."""


class ModelEntry(Quality):
    """What the manifest says of one model."""

    recommender: str
    parameters: int
    fit_seconds: float


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
    mask: MaskPolicy
    config: dict[str, Any]
    champion: str
    models: dict[str, ModelEntry]
    files: dict[str, str] = Field(default_factory=dict)
    """Relative path -> SHA-256, of all files but this one; empty until it is written."""


@dataclass(frozen=True)
class Bundle:
    """Fitted models over one vocabulary and one graph, and the evidence for their answers."""

    manifest: Manifest
    graph: ServiceGraph
    evidence: Evidence
    models: Mapping[str, Fitted]

    @classmethod
    def of(
        cls,
        models: Mapping[str, Fitted],
        evidence: Evidence,
        *,
        champion: str,
        data: dict[str, Any],
        config: dict[str, Any],
        quality: Mapping[str, Quality] | None = None,
        fit_seconds: Mapping[str, float] | None = None,
    ) -> Bundle:
        """A bundle of fitted models, which share a graph and a mask.

        ``data`` is what :meth:`Dataset.about` says; ``config`` is kept for the reader. Raises
        :class:`ConfigError` for a label that cannot be the name of a folder.
        """
        check_labels(models)
        if champion not in models:
            raise ConfigError(f"champion must be one of {', '.join(models)}, found {champion!r}")
        fitted = models[champion]
        entries = {
            label: ModelEntry(
                recommender=model.recommender.name,
                parameters=model.recommender.parameters(),
                fit_seconds=(fit_seconds or {}).get(label, 0.0),
                temperature=model.temperature,
                **(quality or {}).get(label, Quality()).model_dump(exclude={"temperature"}),
            )
            for label, model in models.items()
        }
        manifest = Manifest(
            format=FORMAT,
            version="",
            created="",
            dagrec=package_version("dagrec"),
            data=data,
            vocabulary=fitted.vocabulary.fingerprint,
            graph=fitted.graph.fingerprint,
            mask=fitted.mask,
            config=config,
            champion=champion,
            models=entries,
        )
        return cls(manifest, fitted.graph, evidence, models).stamped()

    def stamped(self) -> Bundle:
        """The same bundle, created now, under a version of its own."""
        now = datetime.now(UTC)
        version = f"{now:%Y%m%dT%H%M%S%f}-{self.graph.fingerprint[:8]}"
        created = now.isoformat(timespec="seconds")
        return replace(
            self, manifest=self.manifest.model_copy(update={"version": version, "created": created})
        )

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def vocabulary(self) -> Vocabulary:
        return self.graph.vocabulary

    @property
    def mask(self) -> MaskPolicy:
        """The mask that the models answer under where a request names none."""
        return self.manifest.mask

    def model(self, label: str | None) -> tuple[str, Fitted]:
        """A model by its label, or the champion. Raises :class:`ConfigError` with the choices."""
        label = self.manifest.champion if label is None else label
        if label not in self.models:
            raise ConfigError(f"model must be one of {', '.join(self.models)}, found {label!r}")
        return label, self.models[label]


def check_labels(labels: Iterable[str]) -> None:
    """Raise :class:`ConfigError` for a label that is no plain name: it becomes a folder."""
    for label in labels:
        if not re.fullmatch(r"[^./\\\0][^/\\\0]{0,99}", label):
            raise ConfigError(
                f"a model's label must be a plain name of at most 100 characters, without slashes and "
                f"no dot in front, found {label!r}; rename it"
            )


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write a bundle into an empty folder, its manifest last. Raises :class:`OSError`."""
    vocabulary = bundle.vocabulary
    keys = {"services": vocabulary.services, "others": vocabulary.others}
    text = json.dumps(keys, indent=0, ensure_ascii=False)
    (folder / "vocabulary.json").write_text(text + "\n", encoding="utf-8")
    save_file(bundle.graph.state(), folder / "graph.safetensors")
    save_file(bundle.evidence.state(), folder / "evidence.safetensors")
    for label, fitted in bundle.models.items():
        fitted.recommender.save(folder / "models" / label, vocabulary)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}
    manifest = bundle.manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Write a bundle to a folder of its own, replacing a bundle that is there in one step.

    Raises :class:`StoreError` for a folder that holds anything else, or that cannot be written.
    """
    if (
        folder.exists()
        and not (folder / MANIFEST).is_file()
        and (folder.is_file() or any(folder.iterdir()))
    ):
        raise StoreError(
            f"{folder}: a model is saved to a new folder, or over one that was saved before, found "
            "something else there; choose another folder"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            write_bundle(draft, bundle)
            draft.chmod(0o755)
            if folder.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
                folder.rename(old / "old")
                draft.rename(folder)
                shutil.rmtree(old)
            else:
                draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"{folder}: cannot be written: {why}; check space and permissions") from error


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
        keys = json.loads((folder / "vocabulary.json").read_bytes())
        vocabulary = Vocabulary(tuple(keys["services"]), tuple(keys["others"]))
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
    if manifest.champion not in abouts:
        raise StoreError(f"{folder}: champion {manifest.champion!r} must be one of {list(abouts)}")
    models = {}
    for label, about in abouts.items():
        entry = manifest.models[label]
        recommender = _load_model(folder / "models" / label, entry, about, vocabulary, graph)
        models[label] = Fitted(recommender, graph, manifest.mask, entry.temperature)
    return Bundle(manifest, graph, evidence, models)


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
        raise StoreError(f"{path}: {validation_message(error)}; publish again") from None


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
        return class_.load(folder, about, vocabulary, graph)
    except ConfigError as error:
        raise StoreError(f"{folder / 'model.json'}: {error}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
