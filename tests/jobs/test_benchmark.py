from __future__ import annotations

import json

import pytest

from dagrec.data.dataset import Dataset
from dagrec.data.formats import read
from dagrec.data.synthetic import World, WorldOptions, dump
from dagrec.errors import ConfigError
from dagrec.jobs.benchmark import benchmark
from dagrec.jobs.config import load_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    file = tmp_path_factory.mktemp("benchmark") / "data.json"
    file.write_text(dump(World(WorldOptions(compositions=40)).draw()))
    return read(file)


def test_fit_and_score_are_timed_for_each_model(data: Dataset) -> None:
    labels: list[str] = []
    small = ["gru4rec.epochs=2", "gru4rec.hidden=8", "gru4rec.embedding=8", "gru4rec.layers=1"]
    config = load_config(models=["popularity", "gru4rec"], overrides=small)
    result = benchmark(data, config, advance=labels.append)
    assert labels == ["popularity", "gru4rec"]
    for name, epochs in (("popularity", 0), ("gru4rec", 2)):
        times = result["models"][name]
        assert times["fit_seconds"] > 0
        assert 0 < times["microseconds_in_batch"] < times["microseconds_alone"]
        assert times["epochs"] == epochs
        assert times["parameters"] > 0
    assert json.loads(json.dumps(result)) == result


def test_benchmark_needs_a_model(data: Dataset) -> None:
    with pytest.raises(ConfigError, match="there must be a model to time, found none"):
        benchmark(data, load_config())
