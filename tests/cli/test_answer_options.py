"""What `dagrec predict` takes beyond a question: filters, order, and what was done before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.consoles import Done, command

PATH = "table_a"


def made() -> list[dict[str, Any]]:
    """Each of two owners calls a service of their own again and again."""
    return [
        {
            "nodes": [
                {"id": "t", "key": "table_a", "kind": "table"},
                {
                    "id": f"{owner}-{day}",
                    "key": f"of_{owner}",
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
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    folder = tmp_path_factory.mktemp("predict")
    (folder / "data.json").write_text(json.dumps(made()), encoding="utf-8")
    trained = command(
        "train", "data.json", "--store", "store", "--model", "cache", "--measure", "0", folder=folder
    )
    assert trained.status == 0, trained.err

    def ask(*arguments: str | Path) -> Done:
        return command("predict", "--store", "store", "--path", PATH, *arguments, folder=folder)

    return ask


def answered(done: Done) -> dict[str, float]:
    assert done.status == 0, done.err
    return {p["service"]: p["probability"] for p in json.loads(done.out)["predictions"]}


def history(folder: Path, content: Any) -> Path:
    file = folder / "history.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_filters_leave_out_services(ask: Callable[..., Done]) -> None:
    assert set(answered(ask("--json"))) == {"of_ann", "of_bob"}
    assert answered(ask("--json", "--deny", "of_ann, nobody")) == {"of_bob": 1.0}
    assert answered(ask("--json", "--allow", "of_ann")) == {"of_ann": 1.0}
    assert answered(ask("--json", "--allow", "")) == {}


def test_history_tells_who_asks(ask: Callable[..., Done], tmp_path: Path) -> None:
    for owner in ("ann", "bob"):
        file = history(tmp_path, [{"path": ["table_a", f"of_{owner}"], "time": i} for i in range(3)])
        found = answered(ask("--json", "--history", file))
        assert found[f"of_{owner}"] > 0.9
    alone = answered(ask("--json"))
    assert alone["of_ann"] == pytest.approx(0.5, abs=0.05)
    assert answered(ask("--json", "--history", history(tmp_path, []))) == alone


def test_order_changes_alone(ask: Callable[..., Done]) -> None:
    plain = answered(ask("--json"))
    assert answered(ask("--json", "--diversity", "0.5", "--novelty", "1")) == plain


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"path": ["a"]}, ["history", "list"]),
        ([{"path": ["a"], "when": 1}], ["history.0.when"]),
        ([{"time": 1}], ["history.0", "either a path or a composition"]),
        ([{"composition": {"nodes": 5, "links": []}}], ["history.0", "nodes"]),
    ],
)
def test_a_history_that_breaks_a_rule_is_refused(
    ask: Callable[..., Done], tmp_path: Path, content: Any, parts: list[str]
) -> None:
    done = ask("--history", history(tmp_path, content))
    assert done.status == 1
    assert done.err.count("\n") == 1
    assert all(part in done.err for part in parts), done.err


def test_a_missing_history_file_is_named(ask: Callable[..., Done], tmp_path: Path) -> None:
    done = ask("--history", tmp_path / "nowhere.json")
    assert done.status == 1
    assert "nowhere.json" in done.err
