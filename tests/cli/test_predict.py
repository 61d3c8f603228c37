"""The command predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Run, assert_fails, native


def comparable(text: str) -> dict[str, Any]:
    """An answer without the fields that depend on the form of the request: the node and the time."""
    return {key: value for key, value in json.loads(text).items() if key not in ("took_ms", "at")}


def test_predict_from_trained_store(run: Run, store: Path) -> None:
    completed = run(
        "predict", "--store", store, "--path", "table_1000000, service_301", "-k", "3", "--json"
    )
    answer = json.loads(completed.out)
    assert set(answer) == {
        *("model", "version", "at", "mask", "candidates", "strategy", "why", "terminal", "unknown"),
        *("dropped", "mask_fallback", "predictions", "explanation", "took_ms"),
    }
    assert len(answer["predictions"]) == 3
    assert answer["version"] == (store / "current").read_text().strip()
    without_space = run(
        "predict", "--store", store, "--path", "table_1000000,service_301", "-k", "3", "--json"
    )
    assert comparable(without_space.out) == comparable(completed.out)
    shown = run("predict", "--store", store, "--path", "table_1000000,service_301", "-k", "3")
    for prediction in answer["predictions"]:
        assert f"{prediction['probability']:.4f}" in shown.out


def test_predict_options_composition_model_mask_version(run: Run, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "composition.json"
    file.write_text(
        '{"composition": {"nodes": [{"id": "1000000"}, {"id": 5, "mid": 301}], '
        '"links": [{"source": "1000000", "target": 5}]}}'
    )
    options = [
        "--model",
        "gru4rec",
        "--mask",
        "soft",
        "--version",
        (store / "current").read_text().strip(),
    ]
    by_composition = run("predict", "--store", store, "--composition", file, "--json", *options)
    at = run("predict", "--store", store, "--composition", file, "--at", "5", "--json", *options)
    path = run("predict", "--store", store, "--path", "table_1000000,service_301", "--json", *options)
    assert json.loads(by_composition.out)["at"] == "5"
    answer = comparable(path.out)
    assert comparable(by_composition.out) == comparable(at.out) == answer
    assert (answer["model"], answer["mask"]) == ("gru4rec", "soft")


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--path", "a", "--model", "unknown"], ["model must be one of", "'unknown'"]),
        (["--path", "a", "--mask", "catalogue"], ["mask 'catalogue' needs links"]),
        (["--path", "a", "--at", "x"], ["at needs a composition"]),
        (["--path", "a", "--version", "x"], ["x/manifest.json", "cannot be read"]),
        (["--composition", "missing.json"], ["missing.json: cannot be read"]),
        (["--contexts", "missing.jsonl"], ["missing.jsonl: cannot be read"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_invalid_predict_options_fail(
    arguments: list[str], texts: list[str], run: Run, store: Path
) -> None:
    assert_fails(run("predict", "--store", store, *arguments), 1, *texts)


def test_predict_from_empty_store_suggests_train(run: Run, tmp_path: Path) -> None:
    completed = run("predict", "--store", tmp_path, "--path", "a")
    assert_fails(completed, 1, str(tmp_path), "dagrec train DATA --store")


def test_contexts_are_answered_in_order(run: Run, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "contexts.jsonl"
    file.write_text('{"path": ["service_301"]}\n\n{"path": ["service_302"], "k": 1}\n')
    completed = run("predict", "--store", store, "--contexts", file, "-k", "2", "--json", "-")
    assert (completed.status, completed.err) == (0, "")
    answers = [json.loads(line) for line in completed.out.splitlines()]
    for answer, path, k in zip(answers, ("service_301", "service_302"), (2, 1), strict=True):
        single = run("predict", "--store", store, "--path", path, "-k", str(k), "--json")
        assert comparable(json.dumps(answer)) == comparable(single.out)


def test_predict_with_several_models(run: Run, store: Path) -> None:
    path = ("--path", "table_1000000,service_301")
    completed = run(
        "predict", "--store", store, *path, "--models", "gru4rec,markov", "-k", "2", "--json"
    )
    answers = json.loads(completed.out)["answers"]
    assert [answer["model"] for answer in answers] == ["gru4rec", "markov"]
    single = run("predict", "--store", store, *path, "--model", "markov", "-k", "2", "--json")
    assert comparable(json.dumps(answers[1])) == comparable(single.out)
    shown = run("predict", "--store", store, *path, "--models", "all", "-k", "2")
    for name in ("markov", "popularity", "gru4rec", *(p["service"] for p in answers[1]["predictions"])):
        assert name in shown.out


def test_predict_prints_open_ends_in_order(run: Run, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "composition.json"
    file.write_text(native('{"id": "x", "mid": 301}, {"id": "y", "mid": 302}', "")[1:-1])
    shown = run("predict", "--store", store, "--composition", file)
    assert shown.status == 0, shown.err
    assert shown.out.index("after node x") < shown.out.index("after node y")


def test_invalid_context_gives_error_line_and_status_1(run: Run, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "contexts.jsonl"
    file.write_text('{"path": "a"}\n{"path": ["service_302"]}\n')
    completed = run("predict", "--store", store, "--contexts", file)
    first, second = (json.loads(line) for line in completed.out.splitlines())
    assert first["error"].startswith("line 1: path")
    assert second["predictions"]
    assert completed.status == 1
    assert (
        completed.err
        == f"dagrec: {file}: 1 requests could not be answered; see `error` in their lines\n"
    )


def test_catalogue_mask_and_note_on_ignored_links(run: Run, small: Path, tmp_path: Path) -> None:
    links, store = tmp_path / "links.json", tmp_path / "store"
    links.write_text('[["service_301", "service_302"], ["unknown", "service_302"]]')
    arguments = ["train", small, "--store", store, "--model", "markov", "--measure", "0"]
    completed = run(*arguments, "--catalogue", links, "--mask", "catalogue")
    assert completed.status == 0
    assert "1 declared links were ignored" in completed.err
    answer = json.loads(run("predict", "--store", store, "--path", "service_301", "--json").out)
    assert [p["service"] for p in answer["predictions"]] == ["service_302"]
    links.write_text('[["service_301"]]')
    completed = run(*arguments, "--catalogue", links)
    assert_fails(completed, 1, str(links), "link 1: must be [source key, service key], found 1 items")


def test_keys_are_not_interpreted_as_markup(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "[bold]data.json"
    keys = ("[/b]", "[red]x")
    nodes = '{"id": "t"}, ' + ", ".join(f'{{"id": "{key}", "key": "{key}"}}' for key in keys)
    file.write_text(native(nodes, ", ".join(f'{{"source": "t", "target": "{key}"}}' for key in keys)))
    assert "[bold]data.json" in run("inspect", file).out
    run("train", file, "--store", tmp_path / "s", "--model", "markov", "--measure", "0")
    shown = run("predict", "--store", tmp_path / "s", "--path", "table_t")
    assert shown.status == 0
    assert all(key in shown.out for key in keys)
