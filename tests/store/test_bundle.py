from __future__ import annotations

import hashlib
import json
import re
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
)
from dagrec.store.store import Store
from dagrec.training.data import TrainingData

FILES = [
    "evidence.safetensors",
    "graph.safetensors",
    *(f"models/{name}/{file}" for name in MODELS for file in ("model.json", "tensors.safetensors")),
    "vocabulary.json",
]
SOME = [
    name
    for name in FILES
    if name.count("/") == 0 or name.split("/")[1] in ("auto", "markov", "gru4rec")
]
"""All models are stored alike."""


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace(folder: Path, name: str, content: bytes) -> None:
    """Other content under its right SHA-256, so that only the reader of the content can refuse it."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edit_manifest(folder, files=files | {name: hashlib.sha256(content).hexdigest()})


def assert_refused(folder: Path, *texts: str) -> None:
    with pytest.raises(StoreError) as caught:
        load_bundle(folder)
    for text in texts:
        assert text in str(caught.value)
    assert not re.search(r"\{[a-z_.]+\}", str(caught.value)), "a literal brace: an f-prefix is missing"


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_recommender_scores_exactly_as_the_published_one(
    name: str, store: Store, trained: Bundle, training: TrainingData
) -> None:
    bundle = store.load()
    known = training.contexts.origins
    strange = [Context(("never seen",)), Context(("never seen", *known[0].path)), Context(())]
    contexts = bundle.vocabulary.encode([*known, *strange])
    loaded, published = bundle.models[name].recommender, trained.models[name].recommender
    np.testing.assert_array_equal(loaded.score(contexts), published.score(contexts))
    assert loaded.config == published.config
    assert loaded.seed == published.seed
    assert loaded.history == published.history


def test_vocabulary_and_graph_come_back_whole(store: Store, training: TrainingData) -> None:
    bundle = store.load()
    assert bundle.vocabulary == training.vocabulary
    assert bundle.graph.fingerprint == training.graph.fingerprint
    assert bundle.graph.declared is not None


def test_the_manifest_describes_the_whole_bundle(store: Store, folder: Path, trained: Bundle) -> None:
    manifest = read_manifest(folder)
    found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert found == sorted([MANIFEST, *FILES])
    assert manifest.files == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES
    }
    assert manifest.format == FORMAT
    assert manifest.version == folder.name == store.current()
    assert manifest.vocabulary == trained.vocabulary.fingerprint
    assert manifest.graph == trained.graph.fingerprint
    assert manifest.mask is MaskPolicy.OBSERVED
    assert (manifest.champion, manifest.data) == ("markov", trained.manifest.data)
    assert manifest.config == trained.manifest.config
    assert manifest.models == {
        name: ModelEntry(recommender=name, parameters=model.recommender.parameters(), fit_seconds=0.0)
        for name, model in trained.models.items()
    }


def test_what_a_model_is_answered_with_comes_back(training: TrainingData, tmp_path: Path) -> None:
    fitted = Fitted(Markov().fit(training), training.graph, MaskPolicy.SOFT, temperature=0.5)
    quality = Quality(metrics={"mrr": 0.4}, intervals={"mrr": (0.3, 0.5)}, temperature=0.5)
    bundle = Bundle.of(
        {"mine": fitted},
        Evidence.of(training.examples, training.vocabulary),
        champion="mine",
        data={},
        config={},
        quality={"mine": quality},
        fit_seconds={"mine": 2.5},
    )
    store = Store(tmp_path)
    store.publish(bundle)
    found = store.load()
    entry = found.manifest.models["mine"]
    assert (entry.recommender, entry.fit_seconds, entry.temperature) == ("markov", 2.5, 0.5)
    assert (entry.metrics, entry.intervals) == (quality.metrics, quality.intervals)
    assert found.mask is found.models["mine"].mask is MaskPolicy.SOFT
    contexts = training.contexts
    np.testing.assert_array_equal(
        found.models["mine"].probabilities(contexts).log_probabilities,
        fitted.probabilities(contexts).log_probabilities,
    )


def test_the_manifest_is_written_last(folder: Path) -> None:
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert written[folder / MANIFEST] == max(written.values())


def test_a_bundle_holds_json_and_safetensors_only(folder: Path) -> None:
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} == {".json", ".safetensors"}


def test_a_model_is_found_by_its_label_and_the_champion_by_none(store: Store) -> None:
    bundle = store.load()
    assert bundle.model(None) == ("markov", bundle.models["markov"])
    assert bundle.model("popularity") == ("popularity", bundle.models["popularity"])
    assert bundle.mask is MaskPolicy.OBSERVED
    with pytest.raises(ConfigError, match=f"must be one of {', '.join(MODELS)}, found 'nobody'"):
        bundle.model("nobody")


@pytest.mark.parametrize("name", SOME)
def test_a_flipped_byte_is_found_in_every_file(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    for place in (0, len(content) // 3, len(content) // 2, len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 1
        (folder / name).write_bytes(flipped)
        assert_refused(folder, str(folder / name), "must be as it was published", "publish again")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert_refused(folder, str(folder / name))


def test_a_manifest_cut_anywhere_is_refused(folder: Path) -> None:
    content = (folder / MANIFEST).read_bytes()
    whole = content.rstrip()
    for length in range(0, len(whole), 101):
        (folder / MANIFEST).write_bytes(whole[:length])
        assert_refused(folder, str(folder / MANIFEST), "publish again")


def test_another_format_version_is_named_before_anything_else(folder: Path) -> None:
    edit_manifest(folder, format=FORMAT + 1)
    assert_refused(folder, f"format must be {FORMAT}, found {FORMAT + 1}")
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT + 1, "whatever": "comes"}))
    assert_refused(folder, f"format must be {FORMAT}, found {FORMAT + 1}")


@pytest.mark.parametrize("outside", ["../secret", "models/../../secret", "/etc/hostname", "linked"])
def test_a_manifest_leads_to_no_file_outside_its_folder(outside: str, folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text("secret")
    (folder / "linked").symlink_to(secret)
    place = folder / outside
    content = place.read_bytes() if place.is_file() else b""
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edit_manifest(folder, files=files | {outside: hashlib.sha256(content).hexdigest()})
    assert_refused(folder, str(folder / outside), "the manifest lists it")


def test_a_label_leads_to_no_file_outside_the_folder(folder: Path) -> None:
    models = json.loads((folder / MANIFEST).read_text())["models"]
    other = folder.with_name("other")
    (folder / "models" / "markov").rename(other)
    models["../../other"] = models.pop("markov")
    files = json.loads((folder / MANIFEST).read_text())["files"]
    kept = {name: sha for name, sha in files.items() if "markov" not in name}
    edit_manifest(folder, models=models, files=kept, champion="../../other")
    assert_refused(folder, "../../other")


@pytest.mark.parametrize("name", SOME)
def test_a_manifest_must_list_every_file_that_is_read(name: str, folder: Path) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edit_manifest(folder, files={other: sha for other, sha in files.items() if other != name})
    assert_refused(folder, name)


@pytest.mark.parametrize("name", [name for name in SOME if name.endswith(".safetensors")])
def test_cut_tensors_are_refused_even_with_a_right_checksum(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    for length in (0, 7, 8, 40, len(content) // 2, len(content) - 1):
        replace(folder, name, content[:length])
        assert_refused(folder, str(folder), "must be whole", "publish")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b'{"services": 5}'])
@pytest.mark.parametrize("name", ["vocabulary.json", "models/markov/model.json"])
def test_json_of_another_form_is_refused_even_with_a_right_checksum(
    content: bytes, name: str, folder: Path
) -> None:
    replace(folder, name, content)
    assert_refused(folder, str(folder))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"recommender": "nobody"}, "recommender must be 'markov' as in the manifest, found 'nobody'"),
        ({"recommender": "popularity", "config": {}}, "must be 'markov' as in the manifest"),
        ({"vocabulary": "0" * 64}, "must have been trained with the bundle's vocabulary"),
        ({"config": {"order": 0}}, "order"),
        ({"config": {"ordre": 3}}, "ordre"),
        ({"seed": "x"}, "must be whole"),
        ({"history": [[1]]}, "must be whole"),
    ],
)
def test_a_model_that_does_not_fit_the_bundle_is_refused(
    change: dict[str, Any], text: str, folder: Path
) -> None:
    name = "models/markov/model.json"
    about = json.loads((folder / name).read_text())
    replace(folder, name, json.dumps(about | change).encode())
    assert_refused(folder, text)


def test_a_recommender_that_this_dagrec_lacks_is_named(folder: Path) -> None:
    name = "models/markov/model.json"
    about = json.loads((folder / name).read_text())
    replace(folder, name, json.dumps(about | {"recommender": "nobody"}).encode())
    models = json.loads((folder / MANIFEST).read_text())["models"]
    models["markov"]["recommender"] = "nobody"
    edit_manifest(folder, models=models)
    assert_refused(folder, str(folder / name), "no recommender 'nobody'", *MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_tensors_that_do_not_fit_are_refused(name: str, folder: Path) -> None:
    file = f"models/{name}/tensors.safetensors"
    tensors = load_file(folder / file)
    replace(folder, file, save({n: a for n, a in tensors.items() if n != "prior"}))
    assert_refused(folder, name, "prior must have one value for each of", "found none")
    replace(folder, file, save(tensors | {"prior": tensors["prior"][1:]}))
    assert_refused(folder, name, "prior must have one value for each of")
    own = [n for n in tensors if n != "prior"]
    for missing in own[:: len(own) // 4 + 1]:
        replace(folder, file, save({n: a for n, a in tensors.items() if n != missing}))
        # Of a recommender within another, its own name for it is told.
        assert_refused(folder, name, missing.rpartition("/")[2])


def test_a_graph_that_does_not_fit_its_vocabulary_is_refused(folder: Path) -> None:
    arrays = load_file(folder / "graph.safetensors")
    for name, changed in {
        "observed.starts": arrays["observed.starts"][1:],
        "observed.services": arrays["observed.services"] + 1000,
        "observed.counts": arrays["observed.counts"] * np.nan,
    }.items():
        replace(folder, "graph.safetensors", save(arrays | {name: changed}))
        assert_refused(folder, "graph: it must have")
    rest = {name: array for name, array in arrays.items() if name != "observed.counts"}
    replace(folder, "graph.safetensors", save(rest))
    assert_refused(folder, "observed.counts", "found none")
    replace(
        folder, "graph.safetensors", save(arrays | {"observed.counts": arrays["observed.counts"] + 1})
    )
    assert_refused(folder, str(folder), "vocabulary and graph must be the manifest's")


def test_a_champion_that_is_no_model_is_refused(folder: Path) -> None:
    edit_manifest(folder, champion="nobody")
    assert_refused(folder, "champion 'nobody' must be one of")
