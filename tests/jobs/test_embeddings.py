from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from dagrec.config import load_config
from dagrec.data.formats import read
from dagrec.errors import ConfigError, DagrecError
from dagrec.evaluation.projection import mean_cosine
from dagrec.graph.evidence import Evidence
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


def bundle_of(store: Path, champion: str, *names: str) -> Bundle:
    options: dict[str, dict[str, object]] = {
        name: {} if name == "markov" else {"epochs": 2} for name in names
    }
    models = {name: Fitted(create(name, options[name]).fit(WORLD), WORLD.graph) for name in names}
    evidence = Evidence.of(WORLD.examples, WORLD.vocabulary)
    data = {"fingerprint": "of the data"}
    Store(store).publish(Bundle.of(models, evidence, champion=champion, data=data, config={}))
    return Store(store).load()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("store"), "lightgcn", "markov", "lightgcn", "gru4rec")


def test_the_file_holds_plain_arrays_of_all_that_is_known(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "new" / "vectors"
    Embeddings.of(bundle, "gru4rec").write(file)
    words = WORLD.vocabulary
    with np.load(file, allow_pickle=False) as found:
        assert found["keys"].tolist() == [*words.services, *words.others]
        assert found["kinds"].tolist() == ["service"] * len(words.services) + ["other"] * len(
            words.others
        )
        vectors = bundle.models["gru4rec"].recommender.embeddings()
        assert np.array_equal(found["nodes"], vectors["nodes"])
        assert np.array_equal(found["services"], vectors["services"])
        assert str(found["model"]) == str(found["recommender"]) == "gru4rec"
        assert str(found["version"]) == bundle.version
        assert str(found["data_fingerprint"]) == "of the data"
        assert str(found["vocabulary_fingerprint"]) == words.fingerprint
        assert str(found["graph_fingerprint"]) == WORLD.graph.fingerprint
    assert zipfile.is_zipfile(file)
    assert [path.name for path in file.parent.iterdir()] == ["vectors"]


def test_counts_are_examples_that_end_or_continue_at_a_node(bundle: Bundle) -> None:
    found = Embeddings.of(bundle, None)
    expected = {
        key: sum((e.context.path[-1] == key) + (e.target == key) for e in WORLD.examples)
        for key in found.keys
    }
    assert dict(zip(found.keys, found.counts, strict=True)) == expected


def test_the_champion_is_meant_where_no_model_is_named(bundle: Bundle) -> None:
    assert Embeddings.of(bundle, None).model == "lightgcn"


def test_a_model_without_vectors_is_refused_and_those_with_them_named(bundle: Bundle) -> None:
    with pytest.raises(ConfigError) as error:
        Embeddings.of(bundle, "markov")
    assert says(error, "'markov'", "no embeddings", "one of lightgcn, gru4rec")


def test_where_no_model_has_vectors_the_way_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Embeddings.of(bundle_of(tmp_path, "markov", "markov"), None)
    assert says(error, "'markov'", "trained by gradient")


def test_a_picture_shows_the_most_frequent_nodes(bundle: Bundle) -> None:
    found = Embeddings.of(bundle, "lightgcn")
    few, everyone = found.points(5), found.points()
    assert few.total == everyone.total == len(found.keys) == len(everyone.keys)
    assert sorted(few.counts) == sorted(found.counts)[-5:]
    places = [found.keys.index(key) for key in few.keys]
    assert found.nodes is not None
    assert np.array_equal(few.vectors, found.nodes[places])
    assert few.kinds == tuple(found.kinds[place] for place in places)


def test_a_model_of_services_alone_shows_these(bundle: Bundle) -> None:
    whole = Embeddings.of(bundle, "gru4rec")
    found = Embeddings(**{**vars(whole), "nodes": None})
    assert found.services is not None
    assert found.points().keys == WORLD.vocabulary.services
    assert np.array_equal(found.points().vectors, found.services)
    assert "nodes" not in found.arrays()
    assert found.summary()["nodes"] is None


def test_a_place_that_cannot_be_written_is_named_and_left_as_it_was(
    bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file" / "vectors.npz", tmp_path):
        with pytest.raises(DagrecError) as error:
            Embeddings.of(bundle, None).write(place)
        assert says(error, str(place), "cannot be written", "choose another place")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_summary_has_the_mean_cosine_of_the_services(bundle: Bundle) -> None:
    found = Embeddings.of(bundle, "gru4rec")
    assert found.services is not None
    assert found.summary()["service_cosine"] == mean_cosine(found.services)
    assert found.summary()["services"] == list(found.services.shape)


def test_an_evaluation_has_the_mean_cosine_of_models_with_vectors() -> None:
    config = load_config(models=["popularity", "gru4rec"], overrides=QUICK)
    result = evaluate(read(DATA), config, Plan(repeats=2))
    assert result["models"]["popularity"]["service_cosine"] is None
    cosine = result["models"]["gru4rec"]["service_cosine"]
    assert -1 <= cosine <= 1
    assert cosine != 0
