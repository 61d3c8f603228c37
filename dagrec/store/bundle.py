"""A bundle: a folder with everything that is needed to answer requests, without executable code.

manifest.json        format, fingerprints, configuration, metrics, SHA-256 of every other file
vocabulary.json      keys of the services and of the other nodes
graph.safetensors    links of the training data, and declared links
evidence.safetensors training compositions of each step
models/<label>/      model.json (recommender, then its configuration) and tensors.safetensors
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import ConfigError, DagrecError, StoreError
from dagrec.graph.evidence import Evidence
from dagrec.graph.mask import MaskPolicy
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender
from dagrec.models.fitted import Fitted
from dagrec.models.registry import PLUGINS, model_names, plugin_packages, recommender_class
from dagrec.plugins import describe
from dagrec.types import Options, validation_message

FORMAT = 3
MANIFEST = "manifest.json"


class Quality(Options):
    """The quality of a model on held-out parts of the training data."""

    metrics: dict[str, float] = Field(default_factory=dict)
    """Means over the held-out parts."""
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """95 % intervals of the means; empty for fewer than two parts."""
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Divides the scores before the softmax."""


class ModelEntry(Quality):
    """The entry of a model in the manifest."""

    recommender: str
    parameters: int
    fit_seconds: float
    plugins: dict[str, str] = Field(default_factory=dict)
    """Recommenders of other packages that the model is or contains -> package."""


class Manifest(Options):
    """The description of a bundle. It is written last, so a folder with a manifest is complete."""

    format: int
    version: str
    created: str
    dagrec: str
    data: dict[str, Any]
    """Path, fingerprint, and numbers of compositions and examples."""
    vocabulary: str
    graph: str
    mask: MaskPolicy
    config: dict[str, Any]
    champion: str
    models: dict[str, ModelEntry]
    files: dict[str, str] = Field(default_factory=dict)
    """Relative path -> SHA-256 of all other files; empty until the bundle is written."""


@dataclass(frozen=True)
class Bundle:
    """Fitted models with a common vocabulary and graph, and the evidence for their answers."""

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
        """Return a new bundle of fitted models with the same graph and mask.

        ``data`` is the result of :meth:`Dataset.about`; ``config`` is stored for reference. Raises
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
                plugins=plugin_packages(model.recommender),
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
        return cls(manifest, fitted.graph, evidence, models).with_new_version()

    def with_new_version(self) -> Bundle:
        """The same bundle with the current time and a new version."""
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
        """The mask of requests that have none."""
        return self.manifest.mask

    def model(self, label: str | None) -> tuple[str, Fitted]:
        """Return a label and its model, by default the champion. Raises :class:`ConfigError`."""
        label = self.manifest.champion if label is None else label
        if label not in self.models:
            raise ConfigError(f"model must be one of {', '.join(self.models)}, found {label!r}")
        return label, self.models[label]


def check_labels(labels: Iterable[str]) -> None:
    """Raise :class:`ConfigError` for a label that is not a plain name: each becomes a folder."""
    for label in labels:
        if not re.fullmatch(r"[^./\\\0][^/\\\0]{0,99}", label):
            raise ConfigError(
                f"a model's label must be a plain name of at most 100 characters, without slashes or a "
                f"leading dot, found {label!r}; rename it"
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
    for path in paths:
        path.chmod(0o644)  # only the owner can read the files that safetensors writes
    files = {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}
    manifest = bundle.manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Write a bundle to a new folder, or replace the bundle in a folder once all files are written.

    Raises :class:`StoreError` for a folder with other content, or if it cannot be written.
    """
    try:
        if (
            folder.exists()
            and not (folder / MANIFEST).is_file()
            and (not folder.is_dir() or any(folder.iterdir()))
        ):
            raise StoreError(
                f"{folder}: must be a new folder or one with a saved model, found other content; "
                "choose another folder"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            write_bundle(draft, bundle)
            draft.chmod(0o755)
            if folder.exists():
                _replace_folder(folder, draft)
            else:
                draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(
            f"{folder}: cannot be written: {reason}; check space and permissions"
        ) from error


def _replace_folder(folder: Path, draft: Path) -> None:
    """Replace a folder by a draft. If that fails, the folder is unchanged."""
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        folder.rename(aside / "old")
        try:
            draft.rename(folder)
        except BaseException:
            (aside / "old").rename(folder)
            raise
    except BaseException:
        with suppress(OSError):
            aside.rmdir()  # only where it is empty
        raise
    shutil.rmtree(aside, ignore_errors=True)


def load_bundle(folder: Path) -> Bundle:
    """Load and check a bundle. Raises :class:`StoreError` with the file and its defect."""
    manifest = read_manifest(folder)
    for name in _files_of(manifest):
        if name not in manifest.files:
            raise StoreError(f"{folder / MANIFEST}: must list {name}, which is missing; publish again")
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise StoreError(f"{path}: must exist, found no such file; publish again")
        if _sha256(path) != expected:
            raise StoreError(
                f"{path}: must not change after publication, found another hash; publish again"
            )
    try:
        keys = json.loads((folder / "vocabulary.json").read_bytes())
        vocabulary = Vocabulary(tuple(keys["services"]), tuple(keys["others"]))
        graph = ServiceGraph.restore(load_file(folder / "graph.safetensors"), vocabulary)
        evidence = Evidence.restore(load_file(folder / "evidence.safetensors"), vocabulary)
        model_files = {
            label: json.loads((folder / "models" / label / "model.json").read_bytes())
            for label in manifest.models
        }
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StoreError(f"{folder}: files must be readable, found {error!r}; publish again") from error
    if (vocabulary.fingerprint, graph.fingerprint) != (manifest.vocabulary, manifest.graph):
        raise StoreError(f"{folder}: fingerprints of vocabulary and graph must match the manifest")
    if manifest.champion not in manifest.models:
        labels = ", ".join(manifest.models)
        raise StoreError(f"{folder}: champion must be one of {labels}, found {manifest.champion!r}")
    models = {}
    for label, entry in manifest.models.items():
        about = model_files[label]
        recommender = _load_model(folder / "models" / label, entry, about, vocabulary, graph)
        models[label] = Fitted(recommender, graph, manifest.mask, entry.temperature)
    return Bundle(manifest, graph, evidence, models)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle. Raises :class:`StoreError`."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}; is this a bundle?") from None
    try:
        # The format is checked first, because another format may have other fields.
        format_ = _AnyFormat.model_validate_json(text).format
        if format_ != FORMAT:
            raise StoreError(
                f"{path}: format must be {FORMAT}, found {format_}; publish again with this dagrec"
            )
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(f"{path}: {validation_message(error)}; publish again") from None


class _AnyFormat(BaseModel):
    format: int


def _files_of(manifest: Manifest) -> list[str]:
    """The files from which a bundle is loaded."""
    names = ("model.json", "tensors.safetensors")
    model_files = [f"models/{label}/{name}" for label in manifest.models for name in names]
    return ["vocabulary.json", "graph.safetensors", "evidence.safetensors", *model_files]


def _load_model(
    folder: Path, entry: ModelEntry, about: Any, vocabulary: Vocabulary, graph: ServiceGraph
) -> Recommender:
    name = about.get("recommender") if isinstance(about, dict) else None
    if name != entry.recommender:
        raise StoreError(
            f"{folder / 'model.json'}: recommender must be {entry.recommender!r}, as in the manifest, "
            f"found {name!r}; publish again"
        )
    try:
        class_ = recommender_class(entry.recommender)
        _check_package(entry)
        return class_.load(folder, about, vocabulary, graph)
    except DagrecError as error:
        message = _missing_plugins(entry)
        if message is None and not isinstance(error, ConfigError):
            raise
        raise StoreError(f"{folder / 'model.json'}: {message or error}") from None
    except Exception as error:
        package = entry.plugins.get(entry.recommender)
        if package is None:
            raise
        raise StoreError(
            f"{folder}: the recommender {entry.recommender!r} of the package {package} must load it, "
            f"found {describe(error)}; install the version of {package} that it was trained with"
        ) from error


def _check_package(entry: ModelEntry) -> None:
    """Raise :class:`ConfigError` if the recommender is now that of another package."""
    was = entry.plugins.get(entry.recommender, "dagrec")
    now = PLUGINS.package(entry.recommender) or "dagrec"
    if was != now:
        raise ConfigError(
            f"recommender {entry.recommender!r} must be that of the package {was}, found that of "
            f"{now}; install {was} or train again"
        )


def _missing_plugins(entry: ModelEntry) -> str | None:
    """Say which plug-ins are not installed; None if they all are."""
    known = model_names()
    missing = {name: package for name, package in entry.plugins.items() if name not in known}
    if not missing:
        return None
    what = ", ".join(f"{name!r} of the package {package}" for name, package in missing.items())
    return (
        f"recommender {what} must be installed, found that it is not; "
        f"install {', '.join(dict.fromkeys(missing.values()))}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
