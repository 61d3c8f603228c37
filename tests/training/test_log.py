from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dagrec.errors import DagrecError
from tests.checks import says
from tests.training.learners import gru, on_cpu, table
from tests.worlds import chain, everything


def log_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_log_has_line_for_every_epoch(tmp_path: Path) -> None:
    log, start = tmp_path / "new" / "training.jsonl", time.time()
    model = gru(epochs=3, patience=2, validation_metric="mrr", seed=4)
    with on_cpu(log=log):
        model.fit(everything().data)
    constant = {"model": "gru4rec", "seed": 4, "epochs": 3, "metric": "mrr"}
    for line, epoch in zip(log_lines(log), model.history, strict=True):
        expected = constant | asdict(epoch)
        assert {key: line[key] for key in expected} == expected
        assert line.keys() == {*expected, "time", "seconds", "training"}
        assert start <= line["time"] <= time.time()
        assert 0 < line["seconds"] <= time.time() - start


def test_log_line_identifies_training(tmp_path: Path) -> None:
    log = tmp_path / "training.jsonl"
    trainings = [
        (table(epochs=2), chain()),
        (table(epochs=2), chain()),
        (table(epochs=2), everything()),
    ]
    trainings += [(table(epochs=2, seed=1), chain()), (table(epochs=2, margin=2.0), chain())]
    with on_cpu(log=log):
        for model, world in trainings:
            model.fit(world.data)
    identities = [line["training"] for line in log_lines(log)]
    assert identities[::2] == identities[1::2]
    assert identities[0] == identities[2]
    assert len(set(identities)) == len(trainings) - 1


def test_log_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "training.jsonl"
    log.write_text('{"model": "earlier"}\n', encoding="utf-8")
    with on_cpu(log=log):
        for model in (table(epochs=2), gru(epochs=1)):
            model.fit(chain().data)
    assert [line["model"] for line in log_lines(log)] == ["earlier", "table", "table", "gru4rec"]


def test_log_is_written_after_every_epoch(tmp_path: Path) -> None:
    """Lines are not buffered, so that a training can be monitored."""
    log = tmp_path / "training.jsonl"
    counts: list[int] = []

    def count_lines(*_: object) -> None:
        counts.append(len(log_lines(log)) if log.exists() else 0)

    with on_cpu(log=log, progress=count_lines):
        table(epochs=3).fit(chain().data)
    assert counts == [0, 1, 2]
    assert len(log_lines(log)) == 3


def test_unwritable_log_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for log in (tmp_path, tmp_path / "file" / "training.jsonl"):
        with pytest.raises(DagrecError) as error, on_cpu(log=log):
            table(epochs=1).fit(chain().data)
        assert says(error, str(log), "the log must be written", "choose another --log")
