from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import Run, check_refused
from tests.test_feedback import decision, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path / "feedback-1.jsonl",
        decision("1", "taken", "a"),
        decision("2", "taken", "b", time="2026-02-02T00:00:00Z"),
        decision("3", "refused", model="popularity"),
        after=b"{",
    )
    return tmp_path


def test_feedback_shows_rates_of_each_model_and_what_was_skipped(run: Run, folder: Path) -> None:
    done = run("feedback", folder)
    assert done.status == 0, done.err
    for text in ("markov", "popularity", "(all)", "0.750 [", "hit rate", "undecided"):
        assert text in done.out
    assert "skipped: 1 lines, incomplete" in done.err


def test_feedback_as_json_from_a_time_on(run: Run, folder: Path) -> None:
    done = run("feedback", folder, "--since", "2026-02-01", "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["all"]["decided"] == 1
    assert found["all"]["mrr"]["mean"] == 0.5
    assert [m["model"] for m in found["models"]] == ["markov"]
    assert found["skipped"]["older than requested"] == 2


def test_what_was_taken_is_inspected_and_trained_on(run: Run, folder: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "out" / "taken.json", tmp_path / "store"
    done = run("feedback", folder, "--out", out)
    assert done.status == 0, done.err
    done = run("inspect", out, "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert (found["compositions"], found["formats"], found["owners"]) == (2, {"native": 1}, 0)
    assert found["services"] == 2
    trained = run("train", out, "--store", store, "--model", "markov", "--measure", "0")
    assert trained.status == 0, trained.err
    answer = run("predict", "--store", store, "--path", "table_1,b", "--json")
    assert {p["service"] for p in json.loads(answer.out)["predictions"][:2]} == {"a", "b"}


def test_what_cannot_be_done_is_said(run: Run, folder: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    check_refused(run("feedback", missing), 1, str(missing), "cannot be read")
    check_refused(run("feedback", folder, "--since", "lately"), 2, "--since must be ISO 8601", "lately")
    later = ("--since", "2030-01-01", "--out", tmp_path / "out.json")
    check_refused(run("feedback", folder, *later), 1, "needs a step that was taken after a path")
    assert not (tmp_path / "out.json").exists()
