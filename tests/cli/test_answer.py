"""dagrec predict, from what dagrec train has published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import (
    Run,
    check_refused,
    native,
)


def plain(text: str) -> dict[str, Any]:
    """An answer without what differs between equal questions: time and form."""
    return {key: value for key, value in json.loads(text).items() if key not in ("took_ms", "at")}


def test_train_measures_and_predict_answers_from_what_it_published(run: Run, store: Path) -> None:
    done = run("predict", "--store", store, "--path", "table_1000000, service_301", "-k", "3", "--json")
    answer = json.loads(done.out)
    assert set(answer) == {
        *("model", "version", "at", "mask", "candidates", "strategy", "why", "terminal", "unknown"),
        *("mask_fallback", "predictions", "explanation", "took_ms"),
    }
    assert len(answer["predictions"]) == 3
    assert answer["version"] == (store / "current").read_text().strip()
    named = run("predict", "--store", store, "--path", "table_1000000,service_301", "-k", "3", "--json")
    assert plain(named.out) == plain(done.out)
    shown = run("predict", "--store", store, "--path", "table_1000000,service_301", "-k", "3")
    for prediction in answer["predictions"]:
        assert f"{prediction['probability']:.4f}" in shown.out


def test_predict_takes_a_composition_a_model_a_mask_and_a_version(
    run: Run, store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "composition.json"
    file.write_text(
        '{"composition": {"nodes": [{"id": "1000000"}, {"id": 5, "mid": 301}], '
        '"links": [{"source": "1000000", "target": 5}]}}'
    )
    more = [
        "--model",
        "gru4rec",
        "--mask",
        "soft",
        "--version",
        (store / "current").read_text().strip(),
    ]
    by_composition = run("predict", "--store", store, "--composition", file, "--json", *more)
    at = run("predict", "--store", store, "--composition", file, "--at", "5", "--json", *more)
    path = run("predict", "--store", store, "--path", "table_1000000,service_301", "--json", *more)
    assert json.loads(by_composition.out)["at"] == "5"
    answer = plain(path.out)
    assert plain(by_composition.out) == plain(at.out) == answer
    assert (answer["model"], answer["mask"]) == ("gru4rec", "soft")


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--path", "a", "--model", "nobody"], ["model must be one of", "'nobody'"]),
        (["--path", "a", "--mask", "catalogue"], ["mask 'catalogue' needs links"]),
        (["--path", "a", "--at", "x"], ["at names a node of a composition"]),
        (["--path", "a", "--version", "x"], ["x/manifest.json", "cannot be read"]),
        (["--composition", "nowhere.json"], ["nowhere.json: cannot be read"]),
        (["--contexts", "nowhere.jsonl"], ["nowhere.jsonl: cannot be read"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_prediction_that_cannot_be_made_is_refused(
    arguments: list[str], texts: list[str], run: Run, store: Path
) -> None:
    check_refused(run("predict", "--store", store, *arguments), 1, *texts)


def test_predict_from_an_empty_store_says_how_to_fill_it(run: Run, tmp_path: Path) -> None:
    done = run("predict", "--store", tmp_path, "--path", "a")
    check_refused(done, 1, str(tmp_path), "dagrec train DATA --store")


def test_contexts_are_answered_line_by_line_in_order(run: Run, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "contexts.jsonl"
    file.write_text('{"path": ["service_301"]}\n\n{"path": ["service_302"], "k": 1}\n')
    done = run("predict", "--store", store, "--contexts", file, "-k", "2", "--json", "-")
    assert (done.status, done.err) == (0, "")
    answers = [json.loads(line) for line in done.out.splitlines()]
    for answer, path, k in zip(answers, ("service_301", "service_302"), (2, 1), strict=True):
        one = run("predict", "--store", store, "--path", path, "-k", str(k), "--json")
        assert plain(json.dumps(answer)) == plain(one.out)


def test_several_models_are_answered_side_by_side(run: Run, store: Path) -> None:
    path = ("--path", "table_1000000,service_301")
    done = run("predict", "--store", store, *path, "--models", "gru4rec,markov", "-k", "2", "--json")
    found = json.loads(done.out)["answers"]
    assert [answer["model"] for answer in found] == ["gru4rec", "markov"]
    one = run("predict", "--store", store, *path, "--model", "markov", "-k", "2", "--json")
    assert plain(json.dumps(found[1])) == plain(one.out)
    shown = run("predict", "--store", store, *path, "--models", "all", "-k", "2")
    for name in ("markov", "popularity", "gru4rec", *(p["service"] for p in found[1]["predictions"])):
        assert name in shown.out


def test_open_ends_are_answered_one_after_another(run: Run, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "composition.json"
    file.write_text(native('{"id": "x", "mid": 301}, {"id": "y", "mid": 302}', "")[1:-1])
    shown = run("predict", "--store", store, "--composition", file)
    assert shown.status == 0, shown.err
    assert shown.out.index("after node x") < shown.out.index("after node y")


def test_a_wrong_context_is_answered_in_its_place_and_fails_the_command(
    run: Run, store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "contexts.jsonl"
    file.write_text('{"path": "a"}\n{"path": ["service_302"]}\n')
    done = run("predict", "--store", store, "--contexts", file)
    first, second = (json.loads(line) for line in done.out.splitlines())
    assert first["error"].startswith("line 1: path")
    assert second["predictions"]
    assert done.status == 1
    assert done.err == f"dagrec: {file}: 1 requests could not be answered; see their lines\n"


def test_a_catalogue_is_the_mask_and_what_it_names_in_vain_is_told(
    run: Run, small: Path, tmp_path: Path
) -> None:
    links, store = tmp_path / "links.json", tmp_path / "store"
    links.write_text('[["service_301", "service_302"], ["nobody", "service_302"]]')
    arguments = ["train", small, "--store", store, "--model", "markov", "--measure", "0"]
    done = run(*arguments, "--catalogue", links, "--mask", "catalogue")
    assert done.status == 0
    assert "1 declared links were ignored" in done.err
    answer = json.loads(run("predict", "--store", store, "--path", "service_301", "--json").out)
    assert [p["service"] for p in answer["predictions"]] == ["service_302"]
    links.write_text('[["service_301"]]')
    done = run(*arguments, "--catalogue", links)
    check_refused(done, 1, str(links), "link 1: must be [source key, service key], found 1 items")


def test_keys_in_brackets_are_shown_as_they_stand(run: Run, tmp_path: Path) -> None:
    """rich takes [/b] for markup, and fails at it."""
    file = tmp_path / "[bold]data.json"
    keys = ("[/b]", "[red]x")
    nodes = '{"id": "t"}, ' + ", ".join(f'{{"id": "{key}", "key": "{key}"}}' for key in keys)
    file.write_text(native(nodes, ", ".join(f'{{"source": "t", "target": "{key}"}}' for key in keys)))
    assert "[bold]data.json" in run("inspect", file).out
    run("train", file, "--store", tmp_path / "s", "--model", "markov", "--measure", "0")
    shown = run("predict", "--store", tmp_path / "s", "--path", "table_t")
    assert shown.status == 0
    assert all(key in shown.out for key in keys)
