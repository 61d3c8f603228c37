from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dagrec.data.dataset import Dataset
from dagrec.data.formats import read
from dagrec.data.synthetic import World, WorldOptions, dump
from dagrec.errors import ConfigError, DataError
from dagrec.jobs.config import RunConfig, load_config
from dagrec.jobs.evaluate import evaluate
from dagrec.jobs.experiment import Plan
from dagrec.metrics.ranking import METRICS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A hundred synthetic compositions."""
    file = tmp_path_factory.mktemp("evaluate") / "data.json"
    file.write_text(dump(World(WorldOptions(compositions=100)).draw()))
    return read(file)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Forty more compositions from the same distribution."""
    file = tmp_path_factory.mktemp("other") / "test.json"
    file.write_text(dump(World(WorldOptions(compositions=140)).draw()[100:]))
    return read(file)


def config(*models: str, **overrides: Any) -> RunConfig:
    return load_config(
        models=models or ["markov", "popularity"],
        overrides=[f"{name}={value}" for name, value in overrides.items()],
    )


def run(data: Dataset, run_config: RunConfig | None = None, **options: Any) -> dict[str, Any]:
    plan = {name: options.pop(name) for name in list(options) if name in Plan.model_fields}
    return evaluate(data, run_config or config(), Plan(**plan), **options)


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    for model in result["models"].values():
        del model["seconds"]
    return result


def test_result_fields(data: Dataset) -> None:
    result = run(data, repeats=3)
    assert {"data", "protocol", "mask", "models", "comparisons", "reference"} <= set(result)
    assert set(result["models"]) == {"markov", "popularity"}
    for model in result["models"].values():
        assert set(model["metrics"]) == set(METRICS)
        for estimate in model["metrics"].values():
            assert {"mean", "std", "low", "high", "values"} <= set(estimate)
            assert len(estimate["values"]) == 3
            assert estimate["low"] <= estimate["mean"] <= estimate["high"]
        assert set(model["seconds"]) == {"fit", "score"}
        assert model["parameters"] > 0
    text = json.dumps(result, allow_nan=False)
    assert json.dumps(json.loads(text)) == text


def test_popularity_model_equals_popularity_line(data: Dataset) -> None:
    result = run(data, config("popularity"), repeats=3)
    line = result["reference"]["popularity"]
    for metric in ("accuracy", "mrr", "ndcg@10"):
        mean = result["models"]["popularity"]["metrics"][metric]["mean"]
        assert mean == pytest.approx(line[metric], abs=1e-6)


def test_ceiling_depends_only_on_mask(data: Dataset) -> None:
    ceilings = {}
    for mask in ("none", "soft", "observed"):
        result = run(data, config(mask=mask), repeats=2)
        ceilings[mask] = result["reference"]["ceiling"]
        for model in result["models"].values():
            assert model["metrics"]["ceiling"]["mean"] == pytest.approx(ceilings[mask])
    assert ceilings["observed"] < ceilings["soft"] == ceilings["none"] <= 1


def test_result_and_splits_depend_on_seed(data: Dataset) -> None:
    first, again, other = (
        without_seconds(run(data, config(seed=seed), repeats=2)) for seed in (1, 1, 2)
    )
    assert first == again
    assert not set(first["splits"]) & set(other["splits"])


@pytest.mark.parametrize("protocol", ["pairs", "compositions", "cold-services"])
def test_random_protocol_has_one_split_per_repeat(protocol: str, data: Dataset) -> None:
    result = run(data, protocol=protocol, repeats=4)
    assert len(set(result["splits"])) == 4
    assert "corrected resampled t over splits" in result["interval"]


@pytest.mark.parametrize(
    ("mask", "warning_expected"), [("observed", True), ("none", False), ("soft", False)]
)
def test_warning_if_mask_excludes_cold_services(
    mask: str, warning_expected: bool, data: Dataset
) -> None:
    result = run(data, config(mask=mask), protocol="cold-services", repeats=2)
    assert any("--mask none or soft" in warning for warning in result["warnings"]) == warning_expected
    assert (result["reference"]["ceiling"] < 0.5) == warning_expected


@pytest.mark.parametrize("protocol", ["temporal", "prequential", "leave-one-out"])
def test_single_split_protocol_has_bootstrap_intervals(protocol: str, data: Dataset) -> None:
    result = run(data, protocol=protocol, repeats=1)
    assert len(set(result["splits"])) == 1
    assert "bootstrap over test compositions" in result["interval"]
    accuracy = result["models"]["markov"]["metrics"]["accuracy"]
    assert accuracy["low"] < accuracy["mean"] < accuracy["high"]


def test_temporal_split_does_not_depend_on_seed(data: Dataset) -> None:
    result = run(data, protocol="temporal", share=0.3, repeats=1)
    again = run(data, config(seed=9), protocol="temporal", share=0.3, repeats=1)
    assert result["splits"] == again["splits"]


def test_separate_test_data(data: Dataset, other: Dataset) -> None:
    result = run(data, protocol="test-file", repeats=1, test=other)
    assert result["protocol"] == "test-file"
    assert (result["data"]["compositions"], result["test"]["compositions"]) == (100, 40)
    assert result["test"]["path"] == other.source
    itself = run(data, protocol="test-file", repeats=1, test=data)
    assert itself["reference"]["unseen_links"] == 0
    assert itself["reference"]["ceiling"] == pytest.approx(1)
    assert result["reference"]["unseen_links"] > 0


def test_catalogue_mask_in_every_split(data: Dataset) -> None:
    catalogue = (("unknown", "service_301"),)
    run_config = config(mask="catalogue")
    masked = run(data, run_config, repeats=2, catalogue=catalogue)
    unmasked = run(data, config(mask="none"), repeats=2)
    values = [
        result["models"]["markov"]["metrics"]["accuracy"]["values"] for result in (masked, unmasked)
    ]
    assert values[0] == values[1], "after nodes without declared links, all services are allowed"
    with pytest.raises(ConfigError, match="mask 'catalogue' needs links"):
        run(data, run_config, repeats=1)


def test_stored_runs_are_not_repeated(data: Dataset, tmp_path: Path) -> None:
    first = run(data, repeats=3, keep=tmp_path)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(times) == 3 * 2
    again = run(data, repeats=3, keep=tmp_path)
    assert again == first, "seconds are equal, too"
    more = run(data, repeats=4, keep=tmp_path)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert len(list(tmp_path.iterdir())) == 4 * 2
    assert more["splits"][:3] == first["splits"]


def test_warning_if_two_labels_have_same_metrics(data: Dataset) -> None:
    run_config = load_config(changes={"models": {"one": {"recommender": "markov"}, "markov": {}}})
    result = run(data, run_config, repeats=2)
    (warning,) = [text for text in result["warnings"] if "same value of every metric" in text]
    assert warning.startswith("one and markov")
    assert not any("same value" in text for text in run(data, repeats=2)["warnings"])


def test_advance_is_called_after_every_run(data: Dataset) -> None:
    labels: list[str] = []
    run(data, repeats=2, seeds=2, advance=labels.append)
    assert sorted(labels) == ["markov"] * 4 + ["popularity"] * 4


def test_invalid_input_is_rejected(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there must be a model to evaluate, found none"):
        run(data, load_config())
    no_links = tmp_path / "no_links.json"
    no_links.write_text('{"nodes": [{"id": 1, "mid": 1}], "links": []}')
    with pytest.raises(DataError, match="training needs compositions"):
        run(read(no_links))
    with pytest.raises(DataError, match="training needs compositions"):
        run(data, protocol="test-file", repeats=1, test=read(no_links))
    no_times = tmp_path / "no_times.json"
    no_times.write_text(
        '[{"nodes": [{"id": "t"}, {"id": 1, "mid": 1}], "links": [{"source": "t", "target": 1}]}]'
    )
    with pytest.raises(DataError, match="needs a time for each composition or target"):
        run(read(no_times), protocol="temporal", repeats=1)
