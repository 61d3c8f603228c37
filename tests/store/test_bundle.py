from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from dagrec.data.examples import Context
from dagrec.errors import ConfigError, StoreError
from dagrec.graph.evidence import Evidence
from dagrec.graph.mask import MaskPolicy
from dagrec.models.counting.markov import Markov
from dagrec.models.fitted import Fitted
from dagrec.models.registry import MODELS
from dagrec.store.bundle import (
    FORMAT,
    MANIFEST,
    Bundle,
    ModelEntry,
    Quality,
    load_bundle,
    read_manifest,
    save_bundle,
)
from dagrec.store.store import Store
from dagrec.training.data import TrainingData
from tests.store.conftest import SMALL, part_of


def files_of(labels: Iterable[str]) -> list[str]:
    """The files of a bundle with these models, except the manifest."""
    names = ("model.json", "tensors.safetensors")
    files = [f"models/{label}/{name}" for label in labels for name in names]
    return sorted(["evidence.safetensors", "graph.safetensors", "vocabulary.json", *files])


FILES = files_of(SMALL)


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Replace the content of a file and its SHA-256 in the manifest."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edit_manifest(folder, files=files | {name: hashlib.sha256(content).hexdigest()})


def assert_load_fails(folder: Path, *texts: str) -> None:
    with pytest.raises(StoreError) as caught:
        load_bundle(folder)
    for text in texts:
        assert text in str(caught.value)
    assert not re.search(r"\{[a-z_.]+\}", str(caught.value)), "a literal brace: an f-prefix is missing"


@pytest.fixture(scope="module")
def loaded_again(full_store: Store) -> Bundle:
    return full_store.load()


@pytest.mark.parametrize("name", MODELS)
def test_loaded_recommender_scores_like_published_one(
    name: str, loaded_again: Bundle, trained: Bundle, training: TrainingData
) -> None:
    bundle = loaded_again
    known = training.contexts.origins
    unknown = [Context(("unknown",)), Context(("unknown", *known[0].path)), Context(())]
    contexts = bundle.vocabulary.encode([*known, *unknown])
    loaded, published = bundle.models[name].recommender, trained.models[name].recommender
    np.testing.assert_array_equal(loaded.score(contexts), published.score(contexts))
    assert loaded.config == published.config
    assert loaded.seed == published.seed
    assert loaded.history == published.history


def test_vocabulary_and_graph_round_trip(store: Store, training: TrainingData) -> None:
    bundle = store.load()
    assert bundle.vocabulary == training.vocabulary
    assert bundle.graph.fingerprint == training.graph.fingerprint
    assert bundle.graph.declared is not None


def test_manifest_describes_bundle(full_store: Store, trained: Bundle) -> None:
    folder = full_store.bundles / full_store.current()
    manifest = read_manifest(folder)
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert files == sorted([MANIFEST, *files_of(MODELS)])
    assert manifest.files == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files_of(MODELS)
    }
    assert manifest.format == FORMAT
    assert manifest.version == folder.name == full_store.current()
    assert manifest.vocabulary == trained.vocabulary.fingerprint
    assert manifest.graph == trained.graph.fingerprint
    assert manifest.mask is MaskPolicy.OBSERVED
    assert (manifest.champion, manifest.data) == ("markov", trained.manifest.data)
    assert manifest.config == trained.manifest.config
    assert manifest.models == {
        name: ModelEntry(recommender=name, parameters=model.recommender.parameters(), fit_seconds=0.0)
        for name, model in trained.models.items()
    }


def test_mask_temperature_and_quality_round_trip(training: TrainingData, tmp_path: Path) -> None:
    fitted = Fitted(Markov().fit(training), training.graph, MaskPolicy.SOFT, temperature=0.5)
    quality = Quality(metrics={"mrr": 0.4}, intervals={"mrr": (0.3, 0.5)}, temperature=0.5)
    bundle = Bundle.of(
        {"label": fitted},
        Evidence.of(training.examples, training.vocabulary),
        champion="label",
        data={},
        config={},
        quality={"label": quality},
        fit_seconds={"label": 2.5},
    )
    store = Store(tmp_path)
    store.publish(bundle)
    loaded = store.load()
    entry = loaded.manifest.models["label"]
    assert (entry.recommender, entry.fit_seconds, entry.temperature) == ("markov", 2.5, 0.5)
    assert (entry.metrics, entry.intervals) == (quality.metrics, quality.intervals)
    assert loaded.mask is loaded.models["label"].mask is MaskPolicy.SOFT
    contexts = training.contexts
    np.testing.assert_array_equal(
        loaded.models["label"].probabilities(contexts).log_probabilities,
        fitted.probabilities(contexts).log_probabilities,
    )


def test_manifest_is_written_last(folder: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert times[folder / MANIFEST] == max(times.values())


def test_bundle_contains_only_json_and_safetensors(folder: Path) -> None:
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} == {".json", ".safetensors"}


def test_model_without_label_is_champion(store: Store) -> None:
    bundle = store.load()
    assert bundle.model(None) == ("markov", bundle.models["markov"])
    assert bundle.model("auto") == ("auto", bundle.models["auto"])
    assert bundle.mask is MaskPolicy.OBSERVED
    with pytest.raises(ConfigError, match=f"must be one of {', '.join(SMALL)}, found 'unknown'"):
        bundle.model("unknown")


@pytest.mark.parametrize("name", FILES)
def test_load_rejects_flipped_byte(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    for position in (0, len(content) // 3, len(content) // 2, len(content) - 1):
        flipped = bytearray(content)
        flipped[position] ^= 1
        (folder / name).write_bytes(flipped)
        assert_load_fails(
            folder, str(folder / name), "must not change after publication", "publish again"
        )


def test_load_names_missing_file(full_store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(full_store.bundles / full_store.current(), folder)
    for name in [*files_of(MODELS), MANIFEST]:
        (folder / name).rename(tmp_path / "aside")
        assert_load_fails(folder, str(folder / name))
        (tmp_path / "aside").rename(folder / name)
    assert set(load_bundle(folder).models) == set(MODELS)


def test_load_rejects_truncated_manifest(folder: Path) -> None:
    content = (folder / MANIFEST).read_bytes()
    content = content.rstrip()
    for length in range(0, len(content), 101):
        (folder / MANIFEST).write_bytes(content[:length])
        assert_load_fails(folder, str(folder / MANIFEST), "publish again")


def test_load_checks_format_before_other_fields(folder: Path) -> None:
    edit_manifest(folder, format=FORMAT + 1)
    assert_load_fails(folder, f"format must be {FORMAT}, found {FORMAT + 1}")
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT + 1, "other": "field"}))
    assert_load_fails(folder, f"format must be {FORMAT}, found {FORMAT + 1}")


@pytest.mark.parametrize("outside", ["../secret", "models/../../secret", "/etc/hostname", "linked"])
def test_load_rejects_file_outside_folder(outside: str, folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text("secret")
    (folder / "linked").symlink_to(secret)
    path = folder / outside
    content = path.read_bytes() if path.is_file() else b""
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edit_manifest(folder, files=files | {outside: hashlib.sha256(content).hexdigest()})
    assert_load_fails(folder, str(path), "must exist, found no such file")


def test_load_rejects_label_outside_folder(folder: Path) -> None:
    models = json.loads((folder / MANIFEST).read_text())["models"]
    other = folder.with_name("other")
    (folder / "models" / "markov").rename(other)
    models["../../other"] = models.pop("markov")
    files = json.loads((folder / MANIFEST).read_text())["files"]
    files = {name: sha for name, sha in files.items() if "markov" not in name}
    edit_manifest(folder, models=models, files=files, champion="../../other")
    assert_load_fails(folder, "../../other")


@pytest.mark.parametrize("name", FILES)
def test_load_rejects_manifest_without_file(name: str, folder: Path) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edit_manifest(folder, files={other: sha for other, sha in files.items() if other != name})
    assert_load_fails(folder, name)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".safetensors")])
def test_load_rejects_truncated_tensors_with_valid_hash(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    for length in (0, 7, 8, 40, len(content) // 2, len(content) - 1):
        replace_file(folder, name, content[:length])
        assert_load_fails(folder, str(folder), "must be readable", "publish")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b'{"services": 5}'])
@pytest.mark.parametrize("name", ["vocabulary.json", "models/markov/model.json"])
def test_load_rejects_invalid_json_with_valid_hash(content: bytes, name: str, folder: Path) -> None:
    replace_file(folder, name, content)
    assert_load_fails(folder, str(folder))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"recommender": "unknown"},
            "recommender must be 'markov', as in the manifest, found 'unknown'",
        ),
        ({"recommender": "popularity", "config": {}}, "must be 'markov', as in the manifest"),
        ({"vocabulary": "0" * 64}, "must have been trained with the bundle's vocabulary"),
        ({"config": {"order": 0}}, "order"),
        ({"config": {"ordre": 3}}, "ordre"),
        ({"seed": "x"}, "must be readable"),
        ({"history": [[1]]}, "must be readable"),
    ],
)
def test_load_rejects_model_that_does_not_match_bundle(
    change: dict[str, Any], text: str, folder: Path
) -> None:
    name = "models/markov/model.json"
    model = json.loads((folder / name).read_text())
    replace_file(folder, name, json.dumps(model | change).encode())
    assert_load_fails(folder, text)


def test_load_names_unknown_recommender(folder: Path) -> None:
    name = "models/markov/model.json"
    model = json.loads((folder / name).read_text())
    replace_file(folder, name, json.dumps(model | {"recommender": "unknown"}).encode())
    models = json.loads((folder / MANIFEST).read_text())["models"]
    models["markov"]["recommender"] = "unknown"
    edit_manifest(folder, models=models)
    assert_load_fails(folder, str(folder / name), "no recommender 'unknown'", *MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_load_rejects_missing_or_misshaped_tensors(name: str, trained: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    save_bundle(folder, part_of(trained, name))
    file = f"models/{name}/tensors.safetensors"
    tensors = load_file(folder / file)
    replace_file(folder, file, save({n: a for n, a in tensors.items() if n != "prior"}))
    assert_load_fails(folder, name, "prior must have one value for each of", "found none")
    replace_file(folder, file, save(tensors | {"prior": tensors["prior"][1:]}))
    assert_load_fails(folder, name, "prior must have one value for each of")
    others = [n for n in tensors if n != "prior"]
    for missing in others[:: len(others) // 4 + 1]:
        replace_file(folder, file, save({n: a for n, a in tensors.items() if n != missing}))
        # A nested recommender reports its tensors without the prefix.
        assert_load_fails(folder, name, missing.rpartition("/")[2])


def test_load_rejects_graph_that_does_not_match_vocabulary(folder: Path) -> None:
    arrays = load_file(folder / "graph.safetensors")
    for name, changed in {
        "observed.starts": arrays["observed.starts"][1:],
        "observed.services": arrays["observed.services"] + 1000,
        "observed.counts": arrays["observed.counts"] * np.nan,
    }.items():
        replace_file(folder, "graph.safetensors", save(arrays | {name: changed}))
        assert_load_fails(folder, "graph: it must have")
    without_counts = {name: array for name, array in arrays.items() if name != "observed.counts"}
    replace_file(folder, "graph.safetensors", save(without_counts))
    assert_load_fails(folder, "observed.counts", "found none")
    replace_file(
        folder, "graph.safetensors", save(arrays | {"observed.counts": arrays["observed.counts"] + 1})
    )
    assert_load_fails(
        folder, str(folder), "fingerprints of vocabulary and graph must match the manifest"
    )


def test_load_rejects_unknown_champion(folder: Path) -> None:
    edit_manifest(folder, champion="unknown")
    assert_load_fails(folder, "champion must be one of", "found 'unknown'")
