from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import Run, assert_fails
from tests.recommend.test_feedback import decision, write


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


def test_feedback_prints_rates_and_skipped_lines(run: Run, folder: Path) -> None:
    completed = run("feedback", folder)
    assert completed.status == 0, completed.err
    for text in ("markov", "popularity", "(all)", "0.750 [", "hit rate", "undecided"):
        assert text in completed.out
    assert "skipped: 1 lines, incomplete" in completed.err


def test_feedback_json_with_since(run: Run, folder: Path) -> None:
    completed = run("feedback", folder, "--since", "2026-02-01", "--json")
    assert completed.status == 0, completed.err
    result = json.loads(completed.out)
    assert result["all"]["decided"] == 1
    assert result["all"]["mrr"]["mean"] == 0.5
    assert [m["model"] for m in result["models"]] == ["markov"]
    assert result["skipped"]["older than requested"] == 2


def test_feedback_out_is_training_data(run: Run, folder: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "out" / "taken.json", tmp_path / "store"
    completed = run("feedback", folder, "--out", out)
    assert completed.status == 0, completed.err
    completed = run("inspect", out, "--json")
    assert completed.status == 0, completed.err
    result = json.loads(completed.out)
    assert (result["compositions"], result["formats"], result["owners"]) == (2, {"native": 1}, 0)
    assert result["services"] == 2
    trained = run("train", out, "--store", store, "--model", "markov", "--measure", "0")
    assert trained.status == 0, trained.err
    answer = run("predict", "--store", store, "--path", "table_1,b", "--json")
    assert {p["service"] for p in json.loads(answer.out)["predictions"][:2]} == {"a", "b"}


def test_invalid_feedback_options_fail(run: Run, folder: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert_fails(run("feedback", missing), 1, str(missing), "cannot be read")
    assert_fails(run("feedback", folder, "--since", "lately"), 2, "--since must be ISO 8601", "lately")
    later = ("--since", "2030-01-01", "--out", tmp_path / "out.json")
    assert_fails(run("feedback", folder, *later), 1, "needs a step that was taken after a path")
    assert not (tmp_path / "out.json").exists()
