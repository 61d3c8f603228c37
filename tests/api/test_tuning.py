"""Tuning from Python: what comes back, what it is good for, and what is refused."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dagrec
from dagrec import cli
from dagrec.data.dataset import Dataset
from dagrec.data.synthetic import World, WorldOptions, dump
from dagrec.errors import ConfigError, DagrecError, DataError
from dagrec.jobs.tune import Trial, TuneResult
from dagrec.metrics.ranking import METRICS
from dagrec.models.base import Recommender
from dagrec.models.registry import create
from tests.checks import says

QUICK: dict[str, Any] = {"epochs": 1, "min_steps": 0, "hidden": 8, "embedding": 8}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tuning") / "data.json"
    file.write_text(dump(World(WorldOptions(compositions=60)).draw()))
    return file


@pytest.fixture(scope="module")
def data(file: Path) -> Dataset:
    return dagrec.read(file)


@pytest.fixture(scope="module")
def tuning(data: Dataset) -> dagrec.Tuning:
    return dagrec.tune(data, "markov", 6, parts=2)


def test_tuning_holds_all_trials_and_the_best(tuning: dagrec.Tuning) -> None:
    assert len(tuning.trials) == 6
    assert [trial.number for trial in tuning.trials] == list(range(6))
    assert tuning.trials[0].options == {"order": 8, "mu": None}
    values = [trial.value for trial in tuning.trials if trial.value is not None]
    assert tuning.best_value == max(values)
    best = next(trial for trial in tuning.trials if trial.value == tuning.best_value)
    assert tuning.best_options == best.options


def test_tune_gives_the_same_result_again(data: Dataset, tuning: dagrec.Tuning) -> None:
    assert dagrec.tune(data, "markov", 6, parts=2).result == tuning.result
    assert dagrec.tune(data, "markov", 6, parts=2, seed=1).trials != tuning.trials


def test_the_best_recommender_is_fitted_and_evaluated(data: Dataset, tuning: dagrec.Tuning) -> None:
    best = tuning.recommender
    assert best.config.model_dump() == tuning.best_options
    model = dagrec.fit(data, best)
    assert model.recommender.config == best.config
    assert dagrec.evaluate(data, {"tuned": best, "markov": "markov"}, repeats=1).result["models"]


def test_options_that_are_given_stay_as_they_are(data: Dataset) -> None:
    by_name = dagrec.tune(data, "gru4rec", 2, parts=1, **QUICK)
    for trial in by_name.trials:
        assert trial.options.items() >= QUICK.items()
    configured = dagrec.tune(data, dagrec.models.GRU4Rec(**QUICK), 2, parts=1)
    assert configured.trials == by_name.trials
    assert configured.recommender.config.epochs == 1  # type: ignore[attr-defined]


def test_a_recommenders_own_seed_counts(data: Dataset) -> None:
    by_name = dagrec.tune(data, "markov", 3, parts=1, seed=7)
    own = dagrec.tune(data, dagrec.models.Markov(seed=7), 3, parts=1)
    assert own.result == by_name.result
    assert own.recommender.seed == 7


@pytest.mark.parametrize("given", [0, 9])
def test_a_given_seed_comes_before_that_of_the_recommender(given: int, data: Dataset) -> None:
    by_name = dagrec.tune(data, "markov", 3, parts=1, seed=given)
    own = dagrec.tune(data, dagrec.models.Markov(seed=7), 3, parts=1, seed=given)
    assert own.result == by_name.result
    assert own.recommender.seed == own.result.config.seed == given


def test_without_any_seed_it_is_0(data: Dataset) -> None:
    zero = dagrec.tune(data, "markov", 3, parts=1, seed=0)
    for model in ("markov", dagrec.models.Markov()):
        assert dagrec.tune(data, model, 3, parts=1).result == zero.result
        assert dagrec.tune(data, model, 3, parts=1, seed=None).result == zero.result
    assert zero.recommender.seed == 0


def test_a_mask_and_examples_are_those_of_fit(data: Dataset) -> None:
    tuning = dagrec.tune(data, "markov", 1, parts=1, mask="soft", examples="links", metric="nll")
    config = tuning.result.config
    assert (config.mask, config.examples.form) == ("soft", "links")
    assert tuning.result.options.metric == "nll"


def test_study_is_resumed(
    data: Dataset, tuning: dagrec.Tuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "new" / "study.journal"
    made: list[str] = []

    def counted(name: str, *arguments: Any, **options: Any) -> Recommender:
        made.append(name)
        return create(name, *arguments, **options)

    monkeypatch.setattr("dagrec.jobs.tune.create", counted)
    dagrec.tune(data, "markov", 2, parts=2, study=study)
    assert len(made) == 2 * 2
    assert dagrec.tune(data, "markov", 6, parts=2, study=str(study)).result == tuning.result
    assert len(made) == 6 * 2
    assert dagrec.tune(data, "markov", 6, parts=2, study=study).result == tuning.result
    assert len(made) == 6 * 2


def test_toml_is_taken_by_the_command_line_and_gives_that_recommender(
    file: Path,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tuning = dagrec.tune(data, "ease", 4, parts=1, mask="soft", examples="links", seed=2)
    tuning.save(tmp_path / "new" / "ease.toml")
    assert (tmp_path / "new" / "ease.toml").read_text() == tuning.to_toml()
    command = ["dagrec", "train", str(file), "--store", str(tmp_path / "store"), "--measure", "0"]
    monkeypatch.setattr(sys, "argv", [*command, "--config", str(tmp_path / "new" / "ease.toml")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0, capsys.readouterr().err
    trained = dagrec.load(tmp_path / "store")
    assert trained.recommender.config == tuning.recommender.config
    assert trained.recommender.seed == 2
    fitted = dagrec.fit(data, tuning.recommender, mask="soft", examples="links", seed=2)
    for name, array in fitted.recommender.state().items():
        assert (trained.recommender.state()[name] == array).all()
    assert trained.recommend(["service_301"]).services == fitted.recommend(["service_301"]).services


def test_to_dataframe_has_a_row_a_trial(tuning: dagrec.Tuning) -> None:
    frame = tuning.to_dataframe()
    assert frame.columns.tolist() == ["number", "value", "failed", "order", "mu"]
    assert frame["number"].tolist() == list(range(6))
    assert frame["order"].tolist() == [trial.options["order"] for trial in tuning.trials]
    assert frame["value"].max() == tuning.best_value
    assert frame["mu"].isna().tolist() == [trial.options["mu"] is None for trial in tuning.trials]
    assert pd.isna(frame.loc[0, "mu"])


def test_tuning_shows_the_best_trials_and_the_defaults(tuning: dagrec.Tuning) -> None:
    lines = repr(tuning).splitlines()
    assert lines[0] == "markov: mrr on 2 held-out parts, best trials"
    assert lines[1].split() == ["trial", "mrr", "order", "mu"]
    assert lines[2].split()[1] == f"{tuning.best_value:.4f}"
    assert len(lines) <= 2 + 5 + 1
    assert "0 failed" in lines[-1]
    assert f"the defaults (trial 0) have {tuning.trials[0].value:.4f}" in lines[-1]
    values = [float(line.split()[1]) for line in lines[2:-1]]
    assert values == sorted(values, reverse=True)
    assert tuning._repr_html_().startswith("<div>")


def test_tuning_counts_what_failed_and_what_was_given_up(tuning: dagrec.Tuning) -> None:
    trials = (
        Trial(0, {"order": 8, "mu": None}, None, "markov: not finite"),
        Trial(1, {"order": 2, "mu": 0.123456}, 0.5, None),
        Trial(2, {"order": 3, "mu": 1.0}, None, None),
        Trial(3, {"order": 3, "mu": 1.0}, None, None),
    )
    result = tuning.result
    shown = repr(
        dagrec.Tuning(TuneResult("markov", result.options, result.config, result.data, trials))
    )
    assert "of 4 trials, 2 were given up early and 1 failed" in shown
    assert "the defaults (trial 0) have no value" in shown
    assert "0.123" in shown
    assert "0.123456" not in shown


def test_html_of_a_tuning_is_escaped(data: Dataset) -> None:
    tuning = dagrec.tune(data, "cache", 1, parts=1, base="markov", base_options={"order": 1})
    object.__setattr__(tuning.result, "model", "<script>")
    html = tuning._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_hyperparameters_that_are_tables_come_back_from_toml(data: Dataset) -> None:
    tuning = dagrec.tune(data, "cache", 1, parts=1, base="markov", base_options={"order": 1})
    found = tomllib.loads(tuning.to_toml())["models"]["cache"]
    assert found["base_options"] == {"order": 1}
    assert found["base"] == "markov"
    assert dagrec.models.Cache(**found).config == tuning.recommender.config
    assert json.dumps(tuning.result.summary())


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"trials": 0}, ("tune", "trials", "greater than or equal to 1", "found 0")),
        ({"trials": "many"}, ("tune", "trials", "found 'many'")),
        ({"metric": "mr"}, ("no metric 'mr'", "did you mean mrr?")),
        ({"metric": "zzz"}, ("no metric 'zzz'", "there are", *METRICS)),
        ({"metric": 5}, ("tune", "metric", "found 5")),
        ({"parts": 0}, ("tune", "parts", "found 0")),
        ({"share": 2}, ("tune", "share", "less than 1", "found 2")),
        ({"mask": "sof"}, ("tune", "mask", "'soft'", "found 'sof'")),
        ({"mask": "catalogue"}, ("tune", "mask", "found 'catalogue'", "choose another mask")),
        ({"examples": 5}, ("tune: examples", "found int")),
        ({"seed": -1}, ("tune", "seed", "from 0 to", "found -1")),
        ({"study": 5}, ("tune: study", "text or a path", "found int")),
        ({"study": ""}, ("tune: study", "must name a file")),
        ({"study": __file__}, (__file__, "trials of earlier searches", "choose another study")),
        ({"device": "gpu"}, ("device", "auto, cpu or cuda", "found 'gpu'")),
        ({"ordr": 2}, ("tune", "'ordr'", "did you mean order?")),
        ({"tirals": 2}, ("tune", "'tirals'", "did you mean trials")),
        ({"order": 0}, ("markov", "order", "found 0")),
        ({"order": 2, "mu": 1.0}, ("'markov'", "no hyperparameters to tune", "choose another one")),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_tune_refuses_wrong_options(
    options: dict[str, Any], parts: tuple[str, ...], data: Dataset
) -> None:
    with pytest.raises(DagrecError) as error:
        dagrec.tune(data, "markov", **{"trials": 1, **options})
    assert says(error, *parts)
    assert "\n" not in str(error.value)


def test_tune_refuses_a_recommender_without_hyperparameters(data: Dataset) -> None:
    for model in ("popularity", dagrec.models.Popularity()):
        with pytest.raises(ConfigError) as error:
            dagrec.tune(data, model)
        assert says(error, "'popularity'", "no hyperparameters to tune")


def test_tune_needs_two_compositions_with_examples() -> None:
    with pytest.raises(DataError) as error:
        dagrec.tune(dagrec.from_paths([["a", "b"]]), "markov", 1)
    assert says(error, "two", "found 1")


def test_tune_says_that_optuna_is_missing(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError) as error:
        dagrec.tune(data, "markov", 1)
    assert says(error, "tuning", "'optuna'", "dagrec[tune]")


@pytest.mark.parametrize(("package", "extra"), [("pandas", "pandas"), ("matplotlib", "dagrec[viz]")])
def test_what_needs_a_missing_package_names_it(
    package: str, extra: str, tuning: dagrec.Tuning, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = dagrec.evaluate(data, "markov", repeats=1)
    answer = dagrec.fit(data, "markov").recommend(["service_301"])
    for name in (package, f"{package}.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    calls = {
        "pandas": [tuning.to_dataframe, report.to_dataframe, answer.to_dataframe],
        "matplotlib": [report.plot],
    }
    for call in calls[package]:
        with pytest.raises(ConfigError) as error:
            call()
        assert says(error, package, "not installed", f"install {extra}")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.tuples(inner),
    max_leaves=3,
)
SETTINGS = ("trials", "metric", "parts", "share", "mask", "examples", "seed", "device", "order", "zzz")


@given(st.sampled_from(SETTINGS), JUNK)
def test_tune_searches_or_refuses_with_any_setting(name: str, junk: Any) -> None:
    data = dagrec.from_paths([["a", "b", "c"], ["b", "c", "a"], ["c", "a"]])
    try:
        tuning = dagrec.tune(data, "markov", **{"trials": 1, "parts": 1, "mu": 1.0, name: junk})
    except DagrecError:
        return
    assert tuning.best_value is not None


@given(JUNK)
def test_tune_refuses_any_junk_for_a_model_or_a_study(junk: Any) -> None:
    data = dagrec.from_paths([["a", "b", "c"], ["b", "c", "a"], ["c", "a"]])
    with pytest.raises(DagrecError):
        dagrec.tune(data, junk, 1)
    if junk is not None and not isinstance(junk, str):
        with pytest.raises(DagrecError):
            dagrec.tune(data, "markov", 1, study=junk)
