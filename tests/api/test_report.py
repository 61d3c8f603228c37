"""Evaluation from Python: what is measured, what the report holds, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dagrec
from dagrec import cli
from dagrec.api.report import Picture
from dagrec.data.dataset import Dataset
from dagrec.data.synthetic import World, WorldOptions, dump
from dagrec.errors import ConfigError, DagrecError, DataError
from dagrec.evaluation.evaluator import RunResult
from dagrec.jobs import runs
from dagrec.metrics.ranking import METRICS
from tests.checks import says

COMPOSITIONS = 60
PAIR = ["markov", "popularity"]
PNG = b"\x89PNG\r\n\x1a\n"
QUICK: dict[str, Any] = {"epochs": 1, "min_steps": 0, "hidden": 8, "embedding": 8}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compositions of the known world."""
    file = tmp_path_factory.mktemp("report") / "data.json"
    file.write_text(dump(World(WorldOptions(compositions=COMPOSITIONS)).draw()))
    return file


@pytest.fixture(scope="module")
def data(file: Path) -> Dataset:
    return dagrec.read(file)


@pytest.fixture(scope="module")
def report(data: Dataset) -> dagrec.Report:
    return dagrec.evaluate(data, PAIR, repeats=3)


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    """A copy of a result without what no two measurements share."""
    copy: dict[str, Any] = json.loads(json.dumps(result))
    for model in copy["models"].values():
        del model["seconds"]
    return copy


def mean(report: dagrec.Report, label: str, metric: str = "mrr") -> float:
    found = report.result["models"][label]["metrics"][metric]["mean"]
    assert isinstance(found, float)
    return found


# What is measured


@pytest.mark.parametrize(
    ("models", "options", "arguments"),
    [
        (PAIR, {"repeats": 2}, ["--repeats", "2"]),
        (
            PAIR,
            {"protocol": "compositions", "repeats": 2, "mask": "soft", "seed": 5, "share": 0.2},
            ["--protocol=compositions", "--repeats=2", "--mask=soft", "--seed=5", "--test-share=0.2"],
        ),
        (
            PAIR,
            {"protocol": "temporal", "weight": "compositions", "examples": "links", "seeds": 2},
            ["--protocol=temporal", "--weight=compositions", "--examples=links", "--seeds=2"],
        ),
        (
            {"markov": dagrec.models.Markov(order=1), "popularity": "popularity"},
            {"repeats": 1, "calibrate": True},
            ["--repeats", "1", "--set", "markov.order=1", "--set", "calibrate=true"],
        ),
        (
            ["gru4rec", "popularity"],
            {"repeats": 1, **QUICK},
            ["--repeats", "1", *(f"--set=gru4rec.{key}={value}" for key, value in QUICK.items())],
        ),
    ],
    ids=["pairs", "compositions", "temporal", "configured", "network"],
)
def test_evaluate_equals_the_command_line(
    models: Any,
    options: dict[str, Any],
    arguments: list[str],
    file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"--model={name}" for name in models]
    monkeypatch.setattr(
        sys, "argv", ["dagrec", "evaluate", str(file), *names, *arguments, "--json", "-"]
    )
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit) as end:
        cli.main()
    torch.set_num_threads(threads)
    shown = capsys.readouterr()
    assert end.value.code == 0, shown.err
    mine = dagrec.evaluate(dagrec.read(file), models, **options)
    assert without_seconds(mine.result) == without_seconds(json.loads(shown.out))


def test_evaluate_gives_the_same_report_again(data: Dataset, report: dagrec.Report) -> None:
    again = dagrec.evaluate(data, PAIR, repeats=3)
    assert without_seconds(again.result) == without_seconds(report.result)
    other = dagrec.evaluate(data, PAIR, repeats=3, seed=1)
    assert other.result["splits"] != report.result["splits"]


def test_evaluate_tells_a_model_that_reads_the_path_from_one_that_does_not(
    report: dagrec.Report,
) -> None:
    assert mean(report, "markov") > mean(report, "popularity")


@pytest.mark.parametrize(
    ("models", "labels"),
    [
        ("markov", ["markov"]),
        (dagrec.models.Markov(order=1), ["markov"]),
        (["markov", "markov"], ["markov", "markov-2"]),
        (["markov", dagrec.models.Markov(order=1), "popularity"], ["markov", "markov-2", "popularity"]),
        ({"one": dagrec.models.Markov(order=1), "many": "markov"}, ["one", "many"]),
        ({"one": {"recommender": "markov", "order": 1}, "markov": {}}, ["one", "markov"]),
        ((name for name in ("markov", "popularity")), ["markov", "popularity"]),
        ({7: "markov"}, ["7"]),
    ],
    ids=["name", "recommender", "twice", "mixed", "labelled", "options", "generator", "number"],
)
def test_evaluate_labels_its_models(models: Any, labels: list[str], data: Dataset) -> None:
    report = dagrec.evaluate(data, models, repeats=1)
    assert list(report.result["models"]) == labels


def test_two_configurations_of_a_recommender_are_told_apart(data: Dataset) -> None:
    models = {"order 1": dagrec.models.Markov(order=1), "markov": "markov"}
    report = dagrec.evaluate(data, models, repeats=2)
    assert mean(report, "order 1") != mean(report, "markov")
    assert report.result["config"]["models"] == {
        "order 1": {"recommender": "markov", "order": 1},
        "markov": {},
    }
    alone = dagrec.evaluate(data, "markov", repeats=2, order=1)
    assert mean(alone, "markov") == mean(report, "order 1")
    assert {(row["a"], row["b"]) for row in report.result["comparisons"]} == {("order 1", "markov")}
    assert "order 1" in repr(report)


def test_options_go_to_the_models_by_name_that_have_them(data: Dataset) -> None:
    models = ["markov", "popularity", dagrec.models.Markov(order=4)]
    report = dagrec.evaluate(data, models, repeats=1, order=1, mu=2.0)
    assert report.result["config"]["models"] == {
        "markov": {"order": 1, "mu": 2.0},
        "popularity": {},
        "markov-2": {"recommender": "markov", "order": 4},
    }
    labelled = {"own": {"recommender": "markov", "order": 3}}
    report = dagrec.evaluate(data, labelled, repeats=1, order=1, mu=2.0)
    assert report.result["config"]["models"]["own"] == {
        "recommender": "markov",
        "order": 3,
        "mu": 2.0,
    }


def test_evaluate_all_takes_every_registered_recommender(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagrec.api.training.usable_models", lambda: ["markov", "popularity"])
    report = dagrec.evaluate(data, "all", repeats=1, order=1)
    assert report.result["config"]["models"] == {"markov": {"order": 1}, "popularity": {}}


def test_evaluate_trains_on_all_data_and_tests_on_a_separate_set(data: Dataset) -> None:
    train = Dataset.of(data.compositions[:40], data.report, source="train")
    test = Dataset.of(data.compositions[40:], data.report, source="test")
    report = dagrec.evaluate(train, "markov", test=test)
    assert report.result["protocol"] == "test-file"
    assert report.result["data"]["compositions"] == 40
    assert report.result["test"]["path"] == "test"
    assert report.result["test"]["fingerprint"] == test.fingerprint
    assert report.result["repeats"] == 1
    assert without_seconds(dagrec.evaluate(train, "markov", "test-file", test=test).result) == (
        without_seconds(report.result)
    )
    same = dagrec.evaluate(train, "markov", test=train)
    assert mean(same, "markov") > mean(report, "markov")


def test_evaluate_repeats_random_splits_twenty_times_and_others_once(data: Dataset) -> None:
    assert dagrec.evaluate(data, "popularity").result["repeats"] == 20
    assert dagrec.evaluate(data, "popularity", "temporal").result["repeats"] == 1


def test_evaluate_with_a_catalogue(data: Dataset) -> None:
    node = {node.id: node.key for composition in data for node in composition.nodes}
    links = [(node[a], node[b]) for composition in data for a, b in composition.links]
    report = dagrec.evaluate(data, "markov", repeats=2, mask="catalogue", catalogue=links)
    observed = dagrec.evaluate(data, "markov", repeats=2)
    assert report.result["reference"]["ceiling"] > observed.result["reference"]["ceiling"]
    assert report.result["mask"] == "catalogue"


# Kept runs


Counted = list[str]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """A line for every run that is measured, and not read."""
    found: Counted = []
    measure: Callable[..., RunResult] = runs.evaluate_run

    def count(make: Any, *arguments: Any, **options: Any) -> RunResult:
        if len(found) == 3:
            found.append("interrupted")
            raise KeyboardInterrupt
        found.append(make().name)
        return measure(make, *arguments, **options)

    monkeypatch.setattr(runs, "evaluate_run", count)
    return found


def test_an_interrupted_evaluation_is_resumed(
    data: Dataset, report: dagrec.Report, counted: Counted, tmp_path: Path
) -> None:
    keep = tmp_path / "new" / "runs"
    with pytest.raises(KeyboardInterrupt):
        dagrec.evaluate(data, PAIR, repeats=3, keep=keep)
    assert counted == ["markov", "popularity", "markov", "interrupted"]
    resumed = dagrec.evaluate(data, PAIR, repeats=3, keep=str(keep))
    assert counted[4:] == ["popularity", "markov", "popularity"]
    assert without_seconds(resumed.result) == without_seconds(report.result)
    again = dagrec.evaluate(data, PAIR, repeats=3, keep=keep)
    assert len(counted) == 7
    assert again.result == resumed.result


def test_kept_runs_of_other_settings_are_measured_anew(
    data: Dataset, counted: Counted, tmp_path: Path
) -> None:
    counted.extend(["", "", "", ""])
    dagrec.evaluate(data, "markov", repeats=1, keep=tmp_path)
    dagrec.evaluate(data, "markov", repeats=1, keep=tmp_path, order=1)
    dagrec.evaluate(data, "markov", repeats=1, keep=tmp_path, mask="soft")
    dagrec.evaluate(data, "markov", repeats=1, keep=tmp_path)
    assert counted[4:] == ["markov"] * 3


# The report


def test_report_shows_intervals_reference_lines_and_comparisons(report: dagrec.Report) -> None:
    text = repr(report)
    for part in ("protocol pairs", "3 repeats", "markov", "(random)", "(popularity)", "difference to"):
        assert part in text
    assert "note: protocol pairs" in text
    assert str(report) == text


def test_html_of_a_report_is_escaped(data: Dataset) -> None:
    label = "<script>alert(1)</script>"
    marked = Dataset.of(data.compositions, data.report, source="<img src=x>")
    report = dagrec.evaluate(marked, {label: "markov", "<b>": "markov"}, repeats=2)
    html = report._repr_html_()
    assert html.startswith("<div>")
    for text in ("<script", "<img", "<b>"):
        assert text not in html
    for text in ("&lt;script&gt;", "&lt;img src=x&gt;", "&lt;b&gt;"):
        assert text in html
    assert f"note: {escape(report.result['warnings'][0])}" in html
    assert label in repr(report)


def test_to_dataframe_has_a_row_a_model_and_metric(report: dagrec.Report) -> None:
    frame = report.to_dataframe()
    assert frame.columns.tolist() == ["model", "metric", "mean", "low", "high", "std"]
    assert frame[["model", "metric"]].to_numpy().tolist() == [
        [label, metric] for label in PAIR for metric in METRICS
    ]
    row = frame[(frame["model"] == "markov") & (frame["metric"] == "mrr")].iloc[0]
    found = report.result["models"]["markov"]["metrics"]["mrr"]
    assert all(row[key] == found[key] for key in ("mean", "low", "high", "std"))
    assert (frame["low"] <= frame["high"]).all()


@pytest.mark.parametrize("metric", ["mrr", "accuracy", "nll"])
def test_plot_is_a_png(metric: str, report: dagrec.Report, tmp_path: Path) -> None:
    picture = report.plot(metric)
    assert isinstance(picture, Picture)
    assert picture.png.startswith(PNG)
    assert picture._repr_png_() == picture.png
    assert "PNG" in repr(picture)
    assert len(repr(picture)) < 100
    picture.save(tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes() == picture.png


def test_plot_takes_labels_that_look_like_formulas(data: Dataset) -> None:
    report = dagrec.evaluate(data, {"$\\bad$": "markov", "$": "popularity", "_x": "markov"}, repeats=1)
    assert report.plot().png.startswith(PNG)
    assert "$\\bad$" in report.result["models"]


def test_save_writes_all_that_is_needed_to_get_it_again(
    data: Dataset, report: dagrec.Report, tmp_path: Path
) -> None:
    report.save(tmp_path / "new" / "report.json")
    report.save(str(tmp_path / "new" / "report.json"))
    saved = json.loads((tmp_path / "new" / "report.json").read_text())
    assert saved == json.loads(json.dumps(report.result))
    assert saved["data"]["fingerprint"] == data.fingerprint
    assert saved["data"]["path"] == data.source
    assert saved["config"]["seed"] == 0
    assert saved["plan"]["repeats"] == 3
    config = saved["config"]
    again = dagrec.evaluate(
        data,
        config["models"],
        saved["protocol"],
        repeats=saved["repeats"],
        mask=config["mask"],
        examples=config["examples"],
        seed=config["seed"],
    )
    assert without_seconds(again.result) == without_seconds(saved)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (None, ("path", "text or a path", "found NoneType")),
        (5, ("path", "found int")),
        ("", ("path", "must name a file")),
        ("a\0b", ("path", "must name a file")),
        ("x" * 300, ("cannot be written", "File name too long", "choose another place")),
        (Path(__file__).parent, ("cannot be written", "Is a directory", "choose another place")),
        (Path(__file__) / "x", ("cannot be written", "choose another place")),
    ],
    ids=["None", "number", "empty", "null byte", "long", "folder", "below a file"],
)
def test_nothing_is_written_to_what_is_no_file(
    path: Any, parts: tuple[str, ...], report: dagrec.Report
) -> None:
    for save in (report.save, Picture(PNG).save):
        with pytest.raises(DagrecError) as error:
            save(path)
        assert says(error, *parts)


# What is refused


@pytest.mark.parametrize(
    ("metric", "parts"),
    [
        ("mr", ("no metric 'mr'", "did you mean mrr?")),
        ("zzzz", ("no metric 'zzzz'", "there are", *METRICS)),
        (None, ("no metric None", "there are")),
        (["mrr"], ("no metric ['mrr']",)),
    ],
)
def test_plot_names_the_nearest_metric(
    metric: Any, parts: tuple[str, ...], report: dagrec.Report
) -> None:
    with pytest.raises(ConfigError) as error:
        report.plot(metric)
    assert says(error, *parts)


@pytest.mark.parametrize(
    ("models", "parts"),
    [
        (None, ("evaluate: models", "names and configured recommenders", "found NoneType")),
        (5, ("evaluate: models", "found int")),
        (b"markov", ("evaluate: models", "found bytes")),
        ([], ("evaluate", "there must be a model", "found none", "'markov'")),
        ([None], ("a model must be a name", "found None")),
        (["markov", 5], ("a model must be a name", "found 5")),
        ({"a": None}, ("a model must be a name", "found None")),
        (dagrec.models.Markov, ("evaluate: models", "found a class", "write Markov()")),
        ([dagrec.models.Markov], ("a model must be a name", "found a class", "write Markov()")),
        (["markov", "populaity"], ("no recommender 'populaity'", "did you mean popularity?")),
        ({"a": "makrov"}, ("models.a", "no recommender 'makrov'", "did you mean markov?")),
        ({"a": {"order": 1}}, ("models.a", "no recommender 'a'", "there are")),
        ({"a": {"recommender": "markov", "ordr": 1}}, ("models.a", "ordr", "did you mean order?")),
        ({"a": {"recommender": "markov", 1: 2}}, ("models",)),
    ],
    ids=lambda value: repr(value)[:40] if not isinstance(value, tuple) else "",
)
def test_evaluate_refuses_what_is_no_model(models: Any, parts: tuple[str, ...], data: Dataset) -> None:
    with pytest.raises(ConfigError) as error:
        dagrec.evaluate(data, models, repeats=1)
    assert says(error, *parts)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"protocol": "pair"}, ("evaluate", "no protocol 'pair'", "did you mean pairs?")),
        ({"protocol": "leave_one_out"}, ("'leave_one_out'", "did you mean leave-one-out?")),
        ({"protocol": "zzz"}, ("no protocol 'zzz'", "there are pairs, compositions, temporal")),
        ({"protocol": "test-file"}, ("no protocol 'test-file'",)),
        ({"protocol": None}, ("no protocol None",)),
        ({"protocol": ["pairs"]}, ("no protocol ['pairs']",)),
        ({"repeats": 0}, ("evaluate", "repeats", "found 0")),
        ({"repeats": "x"}, ("evaluate", "repeats", "valid integer", "found 'x'")),
        ({"seeds": 0}, ("evaluate", "seeds", "found 0")),
        ({"seed": -1}, ("evaluate", "seed", "from 0 to", "found -1")),
        ({"share": 0}, ("evaluate", "share", "greater than 0", "found 0")),
        ({"share": 1.5}, ("evaluate", "share", "less than 1", "found 1.5")),
        ({"weight": "pair"}, ("evaluate", "weight", "'pairs' or 'compositions'", "found 'pair'")),
        ({"calibrate": "x"}, ("evaluate", "calibrate", "valid boolean", "found 'x'")),
        ({"mask": "sof"}, ("evaluate", "mask", "'soft'", "found 'sof'")),
        ({"mask": "catalogue"}, ("evaluate", "declared links", "found none", "catalogue=[")),
        ({"catalogue": 5}, ("evaluate: catalogue", "found 5")),
        ({"catalogue": [("a",)]}, ("evaluate: catalogue: link 1", "found ('a',)")),
        ({"examples": 5}, ("evaluate: examples", "found int")),
        ({"processes": 0}, ("evaluate: processes", "integer of 1 or more", "found 0")),
        ({"processes": "x"}, ("evaluate: processes", "found 'x'")),
        ({"device": "gpu"}, ("device", "auto, cpu or cuda", "found 'gpu'")),
        ({"keep": 5}, ("evaluate: keep", "text or a path", "found int")),
        ({"keep": __file__}, ("finished runs cannot be kept there", "choose another folder")),
        ({"repeat": 3}, ("evaluate", "'repeat'", "did you mean repeats")),
        ({"epochs": 3}, ("evaluate", "'epochs'", "no hyperparameter of markov, popularity", "order")),
        ({"test": 5}, ("evaluate: test", "data set", "found int")),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_evaluate_refuses_wrong_options(
    options: dict[str, Any], parts: tuple[str, ...], data: Dataset
) -> None:
    with pytest.raises((ConfigError, DataError, DagrecError)) as error:
        dagrec.evaluate(data, PAIR, **{"repeats": 1, **options})
    assert says(error, *parts)


def test_evaluate_takes_a_test_set_or_a_protocol(data: Dataset) -> None:
    with pytest.raises(ConfigError) as error:
        dagrec.evaluate(data, "markov", "temporal", test=data)
    assert says(error, "test set", "instead of a protocol", "'temporal'", "leave one of them out")


@pytest.mark.parametrize(
    ("protocol", "parts"),
    [
        ("pairs", ("two", "examples", "found 1")),
        ("compositions", ("two", "compositions", "found 1")),
        ("temporal", ("time", "composition 1", "found none")),
        ("prequential", ("time", "found none")),
        ("leave-one-out", ("time", "found none")),
        ("cold-services", ("two services", "found 1")),
    ],
)
def test_evaluate_refuses_data_that_a_protocol_cannot_split(
    protocol: str, parts: tuple[str, ...]
) -> None:
    with pytest.raises(DataError) as error:
        dagrec.evaluate(dagrec.from_paths([["a", "b"]]), "markov", protocol)
    assert says(error, *parts)


SMALL = st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3)
JUNK = st.recursive(
    SMALL,
    lambda inner: (
        st.lists(inner, max_size=2) | st.tuples(inner) | st.dictionaries(SMALL, inner, max_size=1)
    ),
    max_leaves=3,
)
SETTINGS = (
    *("protocol", "repeats", "test", "mask", "examples", "share", "weight", "seeds", "seed"),
    *("calibrate", "catalogue", "keep", "processes", "device", "zzz"),
)


@settings(max_examples=100)
@given(st.sampled_from(SETTINGS), JUNK)
def test_evaluate_measures_or_refuses_any_setting(name: str, junk: Any) -> None:
    data = dagrec.from_paths([["a", "b", "c"], ["b", "c", "a"], ["c", "a"]])
    if name == "keep" and isinstance(junk, str):
        return  # a folder of that name would be made
    try:
        report = dagrec.evaluate(data, "popularity", **{"repeats": 1, name: junk})
    except DagrecError:
        return
    assert report.result["models"]


@given(JUNK)
def test_evaluate_measures_or_refuses_any_models(junk: Any) -> None:
    data = dagrec.from_paths([["a", "b", "c"], ["b", "c", "a"], ["c", "a"]])
    with pytest.raises(DagrecError):
        dagrec.evaluate(data, junk, repeats=1)
