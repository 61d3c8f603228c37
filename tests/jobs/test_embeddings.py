from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dagrec.data.formats import read
from dagrec.errors import ConfigError, DagrecError
from dagrec.evaluation.projection import mean_cosine
from dagrec.graph.evidence import Evidence
from dagrec.jobs.config import load_config
from dagrec.jobs.embeddings import Embeddings
from dagrec.jobs.evaluate import evaluate
from dagrec.jobs.experiment import Plan
from dagrec.models.fitted import Fitted
from dagrec.models.registry import create
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store
from tests.checks import says
from tests.worlds import everything

DATA = Path(__file__).parents[2] / "data" / "compositions.json"
WORLD = everything().data
QUICK = ["gru4rec.epochs=2", "gru4rec.hidden=4", "gru4rec.embedding=4"]


def publish(store: Path, champion: str, *names: str) -> Bundle:
    options: dict[str, dict[str, object]] = {
        name: {} if name == "markov" else {"epochs": 2, "min_steps": 0} for name in names
    }
    models = {name: Fitted(create(name, options[name]).fit(WORLD), WORLD.graph) for name in names}
    evidence = Evidence.of(WORLD.examples, WORLD.vocabulary)
    data = {"fingerprint": "data fingerprint"}
    Store(store).publish(Bundle.of(models, evidence, champion=champion, data=data, config={}))
    return Store(store).load()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return publish(tmp_path_factory.mktemp("store"), "lightgcn", "markov", "lightgcn", "gru4rec")


def test_file_contains_arrays_of_all_nodes(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "new" / "vectors"
    Embeddings.of(bundle, "gru4rec").write(file)
    vocabulary = WORLD.vocabulary
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["keys"].tolist() == [*vocabulary.services, *vocabulary.others]
        assert arrays["kinds"].tolist() == ["service"] * len(vocabulary.services) + ["other"] * len(
            vocabulary.others
        )
        vectors = bundle.models["gru4rec"].recommender.embeddings()
        assert np.array_equal(arrays["nodes"], vectors["nodes"])
        assert np.array_equal(arrays["services"], vectors["services"])
        assert str(arrays["model"]) == str(arrays["recommender"]) == "gru4rec"
        assert str(arrays["version"]) == bundle.version
        assert str(arrays["data_fingerprint"]) == "data fingerprint"
        assert str(arrays["vocabulary_fingerprint"]) == vocabulary.fingerprint
        assert str(arrays["graph_fingerprint"]) == WORLD.graph.fingerprint
    assert zipfile.is_zipfile(file)
    assert [path.name for path in file.parent.iterdir()] == ["vectors"]


def test_counts_are_examples_with_node_as_last_or_target(bundle: Bundle) -> None:
    embeddings = Embeddings.of(bundle, None)
    expected = {
        key: sum((e.context.path[-1] == key) + (e.target == key) for e in WORLD.examples)
        for key in embeddings.keys
    }
    assert dict(zip(embeddings.keys, embeddings.counts, strict=True)) == expected


def test_model_defaults_to_champion(bundle: Bundle) -> None:
    assert Embeddings.of(bundle, None).model == "lightgcn"


def test_model_without_embeddings_is_rejected_with_alternatives(bundle: Bundle) -> None:
    with pytest.raises(ConfigError) as error:
        Embeddings.of(bundle, "markov")
    assert says(error, "'markov'", "must have embeddings", "one of lightgcn, gru4rec")


def test_bundle_without_embeddings_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Embeddings.of(publish(tmp_path, "markov", "markov"), None)
    assert says(error, "'markov'", "by gradient descent")


def test_points_are_the_most_frequent_nodes(bundle: Bundle) -> None:
    embeddings = Embeddings.of(bundle, "lightgcn")
    some, all_ = embeddings.points(5), embeddings.points()
    assert some.total == all_.total == len(embeddings.keys) == len(all_.keys)
    assert sorted(some.counts) == sorted(embeddings.counts)[-5:]
    rows = [embeddings.keys.index(key) for key in some.keys]
    assert embeddings.nodes is not None
    assert np.array_equal(some.vectors, embeddings.nodes[rows])
    assert some.kinds == tuple(embeddings.kinds[row] for row in rows)


def test_points_are_services_if_nodes_have_no_vectors(bundle: Bundle) -> None:
    embeddings = replace(Embeddings.of(bundle, "gru4rec"), nodes=None)
    assert embeddings.services is not None
    assert embeddings.points().keys == WORLD.vocabulary.services
    assert np.array_equal(embeddings.points().vectors, embeddings.services)
    assert "nodes" not in embeddings.arrays()
    assert embeddings.summary()["nodes"] is None


def test_write_error_names_path_and_leaves_no_files(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    for path in (tmp_path / "file" / "vectors.npz", tmp_path):
        with pytest.raises(DagrecError) as error:
            Embeddings.of(bundle, None).write(path)
        assert says(error, str(path), "cannot be written", "choose another place")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_summary_has_mean_cosine_of_services(bundle: Bundle) -> None:
    embeddings = Embeddings.of(bundle, "gru4rec")
    assert embeddings.services is not None
    assert embeddings.summary()["service_cosine"] == mean_cosine(embeddings.services)
    assert embeddings.summary()["services"] == list(embeddings.services.shape)


def test_evaluation_has_mean_cosine_of_services() -> None:
    config = load_config(models=["popularity", "gru4rec"], overrides=QUICK)
    result = evaluate(read(DATA), config, Plan(repeats=2))
    assert result["models"]["popularity"]["service_cosine"] is None
    cosine = result["models"]["gru4rec"]["service_cosine"]
    assert -1 <= cosine <= 1
    assert cosine != 0
