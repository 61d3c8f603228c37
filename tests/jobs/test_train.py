from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dagrec.data.formats import read
from dagrec.errors import ConfigError, DataError
from dagrec.jobs.config import load_config
from dagrec.jobs.train import CHAMPION_METRIC, train
from dagrec.recommend.predictor import predict
from dagrec.recommend.request import make_request
from dagrec.store.bundle import load_bundle
from dagrec.store.store import Store
from dagrec.training.data import Candidates, TrainingData

DATA = Path(__file__).parents[2] / "data" / "compositions.json"


def test_champion_has_best_mrr_on_held_out_parts(tmp_path: Path) -> None:
    for models in (["popularity", "markov"], ["markov", "popularity"]):
        report = train(read(DATA), Store(tmp_path), load_config(models=models), measure=2)
        mrr = {label: entry.metrics[CHAMPION_METRIC] for label, entry in report.entries.items()}
        assert report.champion == max(mrr, key=lambda label: mrr[label]) == "markov"
        bundle = Store(tmp_path).load()
        assert bundle.manifest.champion == report.champion
        assert bundle.version == report.version
        assert {label: entry.metrics for label, entry in bundle.manifest.models.items()} == {
            label: entry.metrics for label, entry in report.entries.items()
        }


def test_first_model_is_champion_without_held_out_parts(tmp_path: Path) -> None:
    for models in (["popularity", "markov"], ["markov", "popularity"]):
        report = train(read(DATA), Store(tmp_path), load_config(models=models), measure=0)
        assert report.champion == models[0]
        assert [entry.metrics for entry in report.entries.values()] == [{}, {}]


def test_held_out_parts_do_not_change_published_models(tmp_path: Path) -> None:
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


def test_bundle_contains_data_and_configuration(tmp_path: Path) -> None:
    config = load_config(
        models=["popularity"], overrides=["seed=5", "mask=soft", "examples.max_paths=7"]
    )
    dataset = read(DATA, config.read)
    train(dataset, Store(tmp_path), config, measure=1, share=0.3)
    bundle = Store(tmp_path).load()
    examples, _ = dataset.examples(config.examples)
    assert bundle.manifest.data == {
        "path": str(DATA),
        "fingerprint": dataset.fingerprint,
        "compositions": len(dataset.compositions),
        "form": "paths",
        "examples": len(examples),
        "skipped": {},
    }
    assert bundle.manifest.config == config.model_dump(mode="json") | {"measure": 1, "share": 0.3}
    assert bundle.mask.value == "soft"
    data = TrainingData.of(examples)
    assert bundle.vocabulary == data.vocabulary
    assert bundle.graph.fingerprint == data.graph.fingerprint


def test_label_can_differ_from_recommender(tmp_path: Path) -> None:
    models = {"short": {"recommender": "markov", "order": 1}, "long": {"recommender": "markov"}}
    config = load_config(changes={"models": models})
    report = train(read(DATA), Store(tmp_path), config, measure=0)
    assert {label: entry.recommender for label, entry in report.entries.items()} == {
        "short": "markov",
        "long": "markov",
    }
    bundle = Store(tmp_path).load()
    short, long = (bundle.models[label].recommender.parameters() for label in models)
    assert short < long


@pytest.mark.parametrize(
    "label", ["../outside", "a/b", "..", ".", "", "a\\b", ".hidden", "n\0l", "x" * 101]
)
def test_invalid_label_is_rejected_before_training(label: str, tmp_path: Path) -> None:
    config = load_config(changes={"models": {label: {"recommender": "popularity"}}})
    with pytest.raises(ConfigError, match="a model's label must be a plain name") as caught:
        train(read(DATA), Store(tmp_path / "store"), config)
    assert repr(label) in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_catalogue_is_published_and_unknown_links_are_counted(tmp_path: Path) -> None:
    catalogue = [("service_301", "service_302"), ("unknown", "service_302"), ("service_301", "unknown")]
    config = load_config(models=["popularity"], overrides=["mask=catalogue"])
    report = train(read(DATA), Store(tmp_path), config, Candidates(catalogue), measure=1)
    assert report.notes == ("2 declared links were ignored: no example contains their node or service",)
    graph = Store(tmp_path).load().graph
    assert graph.declared is not None
    columns, counts = graph.declared.row(graph.vocabulary.ids["service_301"])
    assert [graph.vocabulary.services[column] for column in columns] == ["service_302"]
    assert counts.tolist() == [1.0]
    without = train(read(DATA), Store(tmp_path / "b"), load_config(models=["popularity"]), measure=0)
    assert without.notes == ()
    assert Store(tmp_path / "b").load().graph.declared is None


def test_bundle_counts_skipped_compositions(tmp_path: Path) -> None:
    broken = tmp_path / "data.json"
    broken.write_text(json.dumps([*json.loads(DATA.read_text())[:50], {"nodes": 5, "links": []}, 7]))
    config = load_config(models=["popularity"], overrides=["read.on_error=skip"])
    dataset = read(broken, config.read)
    train(dataset, Store(tmp_path / "store"), config, measure=0)
    assert dict(dataset.report.skipped) == {"wrong-type": 2}
    assert Store(tmp_path / "store").load().manifest.data["skipped"] == {"wrong-type": 2}


def test_declared_services_are_candidates(tmp_path: Path) -> None:
    config = load_config(models=["markov"], changes={"mask": "none"})
    train(read(DATA), Store(tmp_path), config, Candidates(services={"new_service": "text"}), measure=1)
    bundle = Store(tmp_path).load()
    assert "new_service" in bundle.vocabulary.services
    answer = predict(bundle, make_request({"path": ["table_1001002"], "k": 1000}))
    assert "new_service" in {p.service for p in answer.predictions}


def test_temperature_is_fitted_on_held_out_parts(tmp_path: Path) -> None:
    config = load_config(changes={"models": {"ridge": {}, "markov": {}}})
    entries = train(read(DATA), Store(tmp_path), config, measure=3).entries
    # The scores of ridge are proportions, whose softmax is almost uniform.
    assert entries["ridge"].temperature < 0.3
    assert entries["markov"].temperature == pytest.approx(1, abs=0.3)
    assert entries["ridge"].metrics["nll"] < 1.5 * entries["markov"].metrics["nll"]
    assert Store(tmp_path).load().models["ridge"].temperature == entries["ridge"].temperature


def test_temperature_is_one_without_held_out_parts(tmp_path: Path) -> None:
    entries = train(read(DATA), Store(tmp_path), load_config(models=["ridge"]), measure=0).entries
    assert entries["ridge"].temperature == 1
    assert entries["ridge"].metrics == {}


def test_advance_is_called_after_every_fit(tmp_path: Path) -> None:
    labels: list[str] = []
    config = load_config(models=["popularity", "markov"])
    train(read(DATA), Store(tmp_path), config, measure=2, advance=labels.append)
    assert labels == [*["popularity"] * 2, *["markov"] * 2, "popularity", "markov"]


def test_failed_training_leaves_live_bundle(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    version = train(read(DATA), store, load_config(models=["popularity"]), measure=0).version
    no_links = tmp_path / "no_links.json"
    no_links.write_text('{"nodes": [{"id": 1, "mid": 1}], "links": []}')
    with pytest.raises(
        DataError, match="training needs compositions in which a service follows a node"
    ):
        train(read(no_links), store, load_config(models=["popularity"]))
    with pytest.raises(ConfigError, match="there must be a model to train, found none"):
        train(read(DATA), store, load_config())
    assert store.versions() == [store.current()] == [version]
    assert load_bundle(store.bundles / version).version == version
