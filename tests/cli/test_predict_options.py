"""Options of the command predict: filters, diversity, novelty and history."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Completed, command

PATH = "table_a"


def compositions() -> list[dict[str, Any]]:
    """Ten compositions of each of two owners, who call different services."""
    return [
        {
            "nodes": [
                {"id": "t", "key": "table_a", "kind": "table"},
                {
                    "id": f"{owner}-{day}",
                    "key": f"service_{owner}",
                    "owner": owner,
                    "start_time": f"2026-01-{day:02}T12:00:00Z",
                },
            ],
            "links": [{"source": "t", "target": f"{owner}-{day}"}],
        }
        for day in range(1, 11)
        for owner in ("ann", "bob")
    ]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Completed]:
    folder = tmp_path_factory.mktemp("predict")
    (folder / "data.json").write_text(json.dumps(compositions()), encoding="utf-8")
    trained = command(
        "train", "data.json", "--store", "store", "--model", "cache", "--measure", "0", folder=folder
    )
    assert trained.status == 0, trained.err

    def ask(*arguments: str | Path) -> Completed:
        return command("predict", "--store", "store", "--path", PATH, *arguments, folder=folder)

    return ask


def probabilities(completed: Completed) -> dict[str, float]:
    assert completed.status == 0, completed.err
    return {p["service"]: p["probability"] for p in json.loads(completed.out)["predictions"]}


def write_history(folder: Path, content: Any) -> Path:
    file = folder / "history.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_allow_and_deny(ask: Callable[..., Completed]) -> None:
    assert set(probabilities(ask("--json"))) == {"service_ann", "service_bob"}
    assert probabilities(ask("--json", "--deny", "service_ann, unknown")) == {"service_bob": 1.0}
    assert probabilities(ask("--json", "--allow", "service_ann")) == {"service_ann": 1.0}
    assert probabilities(ask("--json", "--allow", "")) == {}


def test_history_changes_ranking(ask: Callable[..., Completed], tmp_path: Path) -> None:
    for owner in ("ann", "bob"):
        file = write_history(
            tmp_path, [{"path": ["table_a", f"service_{owner}"], "time": i} for i in range(3)]
        )
        assert probabilities(ask("--json", "--history", file))[f"service_{owner}"] > 0.9
    expected = probabilities(ask("--json"))
    assert expected["service_ann"] == pytest.approx(0.5, abs=0.05)
    assert probabilities(ask("--json", "--history", write_history(tmp_path, []))) == expected


def test_diversity_and_novelty_keep_probabilities(ask: Callable[..., Completed]) -> None:
    expected = probabilities(ask("--json"))
    assert probabilities(ask("--json", "--diversity", "0.5", "--novelty", "1")) == expected


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"path": ["a"]}, ["history", "list"]),
        ([{"path": ["a"], "when": 1}], ["history.0.when"]),
        ([{"time": 1}], ["history.0", "either a path or a composition"]),
        ([{"composition": {"nodes": 5, "links": []}}], ["history.0", "nodes"]),
    ],
)
def test_invalid_history_fails(
    ask: Callable[..., Completed], tmp_path: Path, content: Any, parts: list[str]
) -> None:
    completed = ask("--history", write_history(tmp_path, content))
    assert completed.status == 1
    assert completed.err.count("\n") == 1
    assert all(part in completed.err for part in parts), completed.err


def test_missing_history_file_is_named(ask: Callable[..., Completed], tmp_path: Path) -> None:
    completed = ask("--history", tmp_path / "missing.json")
    assert completed.status == 1
    assert "missing.json" in completed.err
