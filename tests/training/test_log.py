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


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_epoch_is_a_line_of_json(tmp_path: Path) -> None:
    log, start = tmp_path / "new" / "training.jsonl", time.time()
    model = gru(epochs=3, patience=2, validation_metric="mrr", seed=4)
    with on_cpu(log=log):
        model.fit(everything().data)
    found = lines(log)
    about = {"model": "gru4rec", "seed": 4, "epochs": 3, "metric": "mrr"}
    for line, epoch in zip(found, model.history, strict=True):
        told = asdict(epoch)
        assert {key: line[key] for key in about} == about
        assert {key: line[key] for key in told} == told
        assert line.keys() == {*about, *told, "time", "seconds", "training"}
        assert start <= line["time"] <= time.time()
        assert 0 < line["seconds"] <= time.time() - start


def test_a_line_tells_which_training_it_is_of(tmp_path: Path) -> None:
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
    names = [line["training"] for line in lines(log)]
    assert names[::2] == names[1::2]
    assert names[0] == names[2]
    assert len(set(names)) == len(trainings) - 1


def test_lines_are_appended(tmp_path: Path) -> None:
    log = tmp_path / "training.jsonl"
    log.write_text('{"model": "earlier"}\n', encoding="utf-8")
    with on_cpu(log=log):
        for model in (table(epochs=2), gru(epochs=1)):
            model.fit(chain().data)
    assert [line["model"] for line in lines(log)] == ["earlier", "table", "table", "gru4rec"]


def test_an_epoch_is_in_the_log_when_it_is_told(tmp_path: Path) -> None:
    """So that a training can be followed: the line is not kept in a buffer until the end."""
    log = tmp_path / "training.jsonl"
    seen: list[int] = []

    def look(*_: object) -> None:
        seen.append(len(lines(log)) if log.exists() else 0)

    with on_cpu(log=log, progress=look):
        table(epochs=3).fit(chain().data)
    assert seen == [0, 1, 2]
    assert len(lines(log)) == 3


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for log in (tmp_path, tmp_path / "file" / "training.jsonl"):
        with pytest.raises(DagrecError) as error, on_cpu(log=log):
            table(epochs=1).fit(chain().data)
        assert says(error, str(log), "the log must be written", "choose another --log")
