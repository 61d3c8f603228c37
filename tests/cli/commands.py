"""Paths, options, small files and checks for tests of commands."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from tests.processes import Completed

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "compositions.json"
GEOPORTAL = ROOT.parent / "shared" / "data" / "geoportal" / "compositions.json"
DAGREC = Path(sys.executable).with_name("dagrec")
SMALL = ["--model", "markov", "--model", "popularity"]
NETWORK = ["--model", "gru4rec", "--set", "gru4rec.epochs=2", "--set", "gru4rec.hidden=8"]
A_NODE = '{"id": "t"}, {"id": "a", "mid": 1}'
Run = Callable[..., Completed]


def assert_fails(completed: Completed, status: int, *texts: str) -> None:
    """Check the exit status, empty standard output, and one error line with these texts.

    It may follow the line that says what was read.
    """
    assert completed.status == status, completed
    assert completed.out == ""
    *others, error = completed.err.splitlines()
    assert error.startswith("dagrec: "), completed.err
    assert all(line.startswith("read ") for line in others), completed.err
    assert not re.search(r"\{[a-z_.]+\}", error), "a literal brace: an f-prefix is missing"
    for text in texts:
        assert text in error


def native(nodes: str = A_NODE, links: str = '{"source": "t", "target": "a"}') -> str:
    return f'[{{"nodes": [{nodes}], "links": [{links}]}}]'
