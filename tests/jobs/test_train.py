from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dagrec.config import load_config
from dagrec.data.examples import require_examples
from dagrec.data.formats import read
from dagrec.errors import ConfigError, DataError
from dagrec.jobs.train import CHAMPION_METRIC, train
from dagrec.recommend.predictor import predict
from dagrec.recommend.request import make_request
from dagrec.store.bundle import load_bundle
from dagrec.store.store import Store
from dagrec.training.data import Candidates, TrainingData

DATA = Path(__file__).parents[2] / "data" / "compositions.json"


def test_the_champion_is_the_model_with_the_best_measured_mrr(tmp_path: Path) -> None:
    """Whatever place it has in the configuration: markov reads the path, popularity nothing."""
    for models in (["popularity", "markov"], ["markov", "popularity"]):
        done = train(read(DATA), Store(tmp_path), load_config(models=models), measure=2)
        measured = {label: entry.metrics[CHAMPION_METRIC] for label, entry in done.entries.items()}
        assert done.champion == max(measured, key=lambda label: measured[label]) == "markov"
        bundle = Store(tmp_path).load()
        assert bundle.manifest.champion == done.champion
        assert bundle.version == done.version
        assert {label: entry.metrics for label, entry in bundle.manifest.models.items()} == {
            label: entry.metrics for label, entry in done.entries.items()
        }


def test_without_measuring_the_first_model_is_the_champion(tmp_path: Path) -> None:
    for models in (["popularity", "markov"], ["markov", "popularity"]):
        done = train(read(DATA), Store(tmp_path), load_config(models=models), measure=0)
        assert done.champion == models[0]
        assert [entry.metrics for entry in done.entries.values()] == [{}, {}]


def test_measuring_does_not_change_what_is_published(tmp_path: Path) -> None:
    """The published models learn from all examples, measured or not."""
    config = load_config(models=["markov", "gru4rec"], overrides=["gru4rec.epochs=1", "seed=3"])
    store = Store(tmp_path)
    versions = [train(read(DATA), store, config, measure=measure).version for measure in (0, 1)]
    first, second = (store.load(version) for version in versions)
    assert first.graph.fingerprint == second.graph.fingerprint
    for label in config.models:
        a, b = first.models[label].recommender.state(), second.models[label].recommender.state()
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_the_bundle_knows_its_data_and_its_configuration(tmp_path: Path) -> None:
    config = load_config(
        models=["popularity"], overrides=["seed=5", "mask=soft", "examples.max_paths=7"]
    )
    dataset = read(DATA, config.read)
    train(dataset, Store(tmp_path), config, measure=1, share=0.3)
    bundle = Store(tmp_path).load()
    examples, _ = require_examples(dataset.compositions, config.examples)
    assert bundle.manifest.data == {
        "path": str(DATA),
        "fingerprint": dataset.fingerprint,
        "compositions": len(dataset.compositions),
        "examples": len(examples),
        "skipped": {},
    }
    assert bundle.manifest.config == config.model_dump(mode="json") | {"measure": 1, "share": 0.3}
    assert bundle.mask.value == "soft"
    data = TrainingData.of(examples)
    assert bundle.vocabulary == data.vocabulary
    assert bundle.graph.fingerprint == data.graph.fingerprint


def test_a_label_may_differ_from_the_recommender_it_names(tmp_path: Path) -> None:
    models = {"short": {"recommender": "markov", "order": 1}, "long memory": {"recommender": "markov"}}
    config = load_config(changes={"models": models})
    done = train(read(DATA), Store(tmp_path), config, measure=0)
    assert {label: entry.recommender for label, entry in done.entries.items()} == {
        "short": "markov",
        "long memory": "markov",
    }
    bundle = Store(tmp_path).load()
    short, long = (bundle.models[label].recommender.parameters() for label in models)
    assert short < long


@pytest.mark.parametrize(
    "label", ["../outside", "a/b", "..", ".", "", "a\\b", ".hidden", "n\0l", "x" * 101]
)
def test_a_label_that_is_no_plain_name_is_refused_before_anything_is_done(
    label: str, tmp_path: Path
) -> None:
    config = load_config(changes={"models": {label: {"recommender": "popularity"}}})
    with pytest.raises(ConfigError, match="a model's label must be a plain name") as caught:
        train(read(DATA), Store(tmp_path / "store"), config)
    assert repr(label) in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_a_catalogue_is_published_and_what_it_names_in_vain_is_counted(tmp_path: Path) -> None:
    catalogue = [("service_301", "service_302"), ("nobody", "service_302"), ("service_301", "nobody")]
    config = load_config(models=["popularity"], overrides=["mask=catalogue"])
    done = train(read(DATA), Store(tmp_path), config, Candidates(catalogue), measure=1)
    assert done.notes == (
        "2 declared links were ignored: no example contains their node or service",
    )
    graph = Store(tmp_path).load().graph
    assert graph.declared is not None
    columns, counts = graph.declared.row(graph.vocabulary.ids["service_301"])
    assert [graph.vocabulary.services[column] for column in columns] == ["service_302"]
    assert counts.tolist() == [1.0]
    without = train(read(DATA), Store(tmp_path / "b"), load_config(models=["popularity"]), measure=0)
    assert without.notes == ()
    assert Store(tmp_path / "b").load().graph.declared is None


def test_what_was_skipped_is_counted_in_the_bundle(tmp_path: Path) -> None:
    broken = tmp_path / "data.json"
    broken.write_text(json.dumps([*json.loads(DATA.read_text())[:50], {"nodes": 5, "links": []}, 7]))
    config = load_config(models=["popularity"], overrides=["read.on_error=skip"])
    dataset = read(broken, config.read)
    train(dataset, Store(tmp_path / "store"), config, measure=0)
    assert dict(dataset.report.skipped) == {"wrong-type": 2}
    assert Store(tmp_path / "store").load().manifest.data["skipped"] == {"wrong-type": 2}


def test_declared_services_are_candidates(tmp_path: Path) -> None:
    config = load_config(models=["markov"], changes={"mask": "none"})
    train(read(DATA), Store(tmp_path), config, Candidates(services={"brand_new": "text"}), measure=1)
    bundle = Store(tmp_path).load()
    assert "brand_new" in bundle.vocabulary.services
    found = predict(bundle, make_request({"path": ["table_1001002"], "k": 1000}))
    assert "brand_new" in {p.service for p in found.predictions}


def test_a_model_gets_the_temperature_that_the_held_out_parts_ask_for(tmp_path: Path) -> None:
    config = load_config(changes={"models": {"ridge": {}, "markov": {}}})
    entries = train(read(DATA), Store(tmp_path), config, measure=3).entries
    # Ridge's scores are shares: far too flat for a softmax.
    assert entries["ridge"].temperature < 0.3
    assert entries["markov"].temperature == pytest.approx(1, abs=0.3)
    assert entries["ridge"].metrics["nll"] < 1.5 * entries["markov"].metrics["nll"]
    assert Store(tmp_path).load().models["ridge"].temperature == entries["ridge"].temperature


def test_what_is_not_measured_has_no_temperature(tmp_path: Path) -> None:
    entries = train(read(DATA), Store(tmp_path), load_config(models=["ridge"]), measure=0).entries
    assert entries["ridge"].temperature == 1
    assert entries["ridge"].metrics == {}


def test_progress_is_told_after_every_fit(tmp_path: Path) -> None:
    told: list[str] = []
    config = load_config(models=["popularity", "markov"])
    train(read(DATA), Store(tmp_path), config, measure=2, advance=told.append)
    assert told == [*["popularity"] * 2, *["markov"] * 2, "popularity", "markov"]


def test_a_training_that_fails_leaves_the_live_bundle(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    version = train(read(DATA), store, load_config(models=["popularity"]), measure=0).version
    lonely = tmp_path / "lonely.json"
    lonely.write_text('{"nodes": [{"id": 1, "mid": 1}], "links": []}')
    with pytest.raises(
        DataError, match="training needs compositions in which a service follows a node"
    ):
        train(read(lonely), store, load_config(models=["popularity"]))
    with pytest.raises(ConfigError, match="there must be a model to train, found none"):
        train(read(DATA), store, load_config())
    assert store.versions() == [store.current()] == [version]
    assert load_bundle(store.bundles / version).version == version
