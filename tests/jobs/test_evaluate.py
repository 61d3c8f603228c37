from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dagrec.config import RunConfig, load_config
from dagrec.data.dataset import Dataset
from dagrec.data.formats import read
from dagrec.data.synthetic import World, WorldOptions, dump
from dagrec.errors import ConfigError, DataError
from dagrec.jobs.evaluate import evaluate
from dagrec.jobs.experiment import Plan
from dagrec.metrics.ranking import METRICS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A hundred compositions of the known world."""
    file = tmp_path_factory.mktemp("evaluate") / "data.json"
    file.write_text(dump(World(WorldOptions(compositions=100)).draw()))
    return read(file)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Forty more of the same world, drawn in other numbers: the services are the same."""
    file = tmp_path_factory.mktemp("other") / "test.json"
    file.write_text(dump(World(WorldOptions(compositions=140)).draw()[100:]))
    return read(file)


def config(*models: str, **overrides: Any) -> RunConfig:
    return load_config(
        models=models or ["markov", "popularity"],
        overrides=[f"{name}={value}" for name, value in overrides.items()],
    )


def measure(data: Dataset, run: RunConfig | None = None, **options: Any) -> dict[str, Any]:
    plan = {name: options.pop(name) for name in list(options) if name in Plan.model_fields}
    return evaluate(data, run or config(), Plan(**plan), **options)


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    for model in result["models"].values():
        del model["seconds"]
    return result


def test_the_result_has_the_form_that_benchmarks_read(data: Dataset) -> None:
    result = measure(data, repeats=3)
    assert {"data", "protocol", "mask", "models", "comparisons", "reference"} <= set(result)
    assert set(result["models"]) == {"markov", "popularity"}
    for model in result["models"].values():
        assert set(model["metrics"]) == set(METRICS)
        for found in model["metrics"].values():
            assert {"mean", "std", "low", "high", "values"} <= set(found)
            assert len(found["values"]) == 3
            assert found["low"] <= found["mean"] <= found["high"]
        assert set(model["seconds"]) == {"fit", "score"}
        assert model["parameters"] > 0
    text = json.dumps(result, allow_nan=False)
    assert json.dumps(json.loads(text)) == text


def test_popularity_is_the_popularity_line_and_random_scores_are_the_random_line(data: Dataset) -> None:
    result = measure(data, config("popularity"), repeats=3)
    line = result["reference"]["popularity"]
    for metric in ("accuracy", "mrr", "ndcg@10"):
        mean = result["models"]["popularity"]["metrics"][metric]["mean"]
        assert mean == pytest.approx(line[metric], abs=1e-6)


def test_the_ceiling_of_no_mask_is_what_training_knows(data: Dataset) -> None:
    """Every model and line has the same ceiling, and a mask can only lower it."""
    ceilings = {}
    for mask in ("none", "soft", "observed"):
        result = measure(data, config(mask=mask), repeats=2)
        ceilings[mask] = result["reference"]["ceiling"]
        for model in result["models"].values():
            assert model["metrics"]["ceiling"]["mean"] == pytest.approx(ceilings[mask])
    assert ceilings["observed"] < ceilings["soft"] == ceilings["none"] <= 1


def test_one_seed_gives_one_result_and_another_seed_other_splits(data: Dataset) -> None:
    first, again, other = (
        without_seconds(measure(data, config(seed=seed), repeats=2)) for seed in (1, 1, 2)
    )
    assert first == again
    assert not set(first["splits"]) & set(other["splits"])


@pytest.mark.parametrize("protocol", ["pairs", "compositions", "cold-services"])
def test_random_protocols_draw_a_split_a_repeat(protocol: str, data: Dataset) -> None:
    result = measure(data, protocol=protocol, repeats=4)
    assert len(set(result["splits"])) == 4
    assert "corrected resampled t over splits" in result["interval"]


@pytest.mark.parametrize(("mask", "warned"), [("observed", True), ("none", False), ("soft", False)])
def test_a_mask_that_no_cold_service_can_pass_is_told(mask: str, warned: bool, data: Dataset) -> None:
    result = measure(data, config(mask=mask), protocol="cold-services", repeats=2)
    assert any("--mask none or soft" in warning for warning in result["warnings"]) == warned
    assert (result["reference"]["ceiling"] < 0.5) == warned


@pytest.mark.parametrize("protocol", ["temporal", "prequential", "leave-one-out"])
def test_single_split_protocols_give_intervals_from_their_compositions(
    protocol: str, data: Dataset
) -> None:
    result = measure(data, protocol=protocol, repeats=1)
    assert len(set(result["splits"])) == 1
    assert "bootstrap over test compositions" in result["interval"]
    found = result["models"]["markov"]["metrics"]["accuracy"]
    assert found["low"] < found["mean"] < found["high"]


def test_the_temporal_protocol_tests_what_came_later(data: Dataset) -> None:
    """Learning from the first compositions only is the same as giving the later ones as a test file."""
    result = measure(data, protocol="temporal", share=0.3, repeats=1)
    again = measure(data, config(seed=9), protocol="temporal", share=0.3, repeats=1)
    assert result["splits"] == again["splits"], "a temporal split has no chance in it"


def test_a_test_file_is_tested_on_and_all_data_are_learned(data: Dataset, other: Dataset) -> None:
    result = measure(data, protocol="test-file", repeats=1, test=other)
    assert result["protocol"] == "test-file"
    assert (result["data"]["compositions"], result["test"]["compositions"]) == (100, 40)
    assert result["test"]["path"] == other.source
    itself = measure(data, protocol="test-file", repeats=1, test=data)
    assert itself["reference"]["unseen_links"] == 0
    assert itself["reference"]["ceiling"] == 1
    assert result["reference"]["unseen_links"] > 0


def test_a_catalogue_is_the_mask_in_every_split(data: Dataset) -> None:
    catalogue = [("nobody", "service_301")]
    run = config(mask="catalogue")
    nothing = measure(data, run, repeats=2, catalogue=tuple(catalogue))
    unmasked = measure(data, config(mask="none"), repeats=2)
    values = [
        result["models"]["markov"]["metrics"]["accuracy"]["values"] for result in (nothing, unmasked)
    ]
    assert values[0] == values[1], "a node without declared links is open"
    with pytest.raises(ConfigError, match="mask 'catalogue' needs links"):
        measure(data, run, repeats=1)


def test_kept_runs_are_not_measured_again(data: Dataset, tmp_path: Path) -> None:
    first = measure(data, repeats=3, keep=tmp_path)
    runs = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(runs) == 3 * 2
    again = measure(data, repeats=3, keep=tmp_path)
    assert again == first, "seconds included: nothing was run"
    more = measure(data, repeats=4, keep=tmp_path)
    assert {file: file.stat().st_mtime_ns for file in runs} == runs
    assert len(list(tmp_path.iterdir())) == 4 * 2
    assert more["splits"][:3] == first["splits"]


def test_two_names_of_one_model_are_pointed_out(data: Dataset) -> None:
    run = load_config(changes={"models": {"one": {"recommender": "markov"}, "markov": {}}})
    result = measure(data, run, repeats=2)
    (warning,) = [text for text in result["warnings"] if "same value of every metric" in text]
    assert warning.startswith("one and markov")
    assert not any("same value" in text for text in measure(data, repeats=2)["warnings"])


def test_progress_is_told_after_every_run(data: Dataset) -> None:
    told: list[str] = []
    measure(data, repeats=2, seeds=2, advance=told.append)
    assert sorted(told) == ["markov"] * 4 + ["popularity"] * 4


def test_what_cannot_be_measured_is_refused(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there must be a model to measure, found none"):
        measure(data, load_config())
    lonely = tmp_path / "lonely.json"
    lonely.write_text('{"nodes": [{"id": 1, "mid": 1}], "links": []}')
    with pytest.raises(DataError, match="training needs compositions"):
        measure(read(lonely))
    with pytest.raises(DataError, match="training needs compositions"):
        measure(data, protocol="test-file", repeats=1, test=read(lonely))
    timeless = tmp_path / "timeless.json"
    timeless.write_text(
        '[{"nodes": [{"id": "t"}, {"id": 1, "mid": 1}], "links": [{"source": "t", "target": 1}]}]'
    )
    with pytest.raises(DataError, match="needs a time for each composition or target"):
        measure(read(timeless), protocol="temporal", repeats=1)
