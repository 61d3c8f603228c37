"""What tests of commands share: where things are, small files, and how a refusal looks."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from tests.consoles import Done

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "compositions.json"
GEOPORTAL = ROOT.parent / "shared" / "data" / "geoportal" / "compositions.json"
DAGREC = Path(sys.executable).with_name("dagrec")
SMALL = ["--model", "markov", "--model", "popularity"]
NETWORK = ["--model", "gru4rec", "--set", "gru4rec.epochs=2", "--set", "gru4rec.hidden=8"]
A_NODE = '{"id": "t"}, {"id": "a", "mid": 1}'
Run = Callable[..., Done]


def check_refused(done: Done, status: int, *texts: str) -> None:
    """The exit status, nothing on standard output, and one clear line with these texts."""
    assert done.status == status, done
    assert done.out == ""
    assert done.err.startswith("dagrec: ")
    assert done.err.count("\n") == 1, done.err
    assert not re.search(r"\{[a-z_.]+\}", done.err), "a literal brace: an f-prefix is missing"
    for text in texts:
        assert text in done.err


def native(nodes: str = A_NODE, links: str = '{"source": "t", "target": "a"}') -> str:
    return f'[{{"nodes": [{nodes}], "links": [{links}]}}]'
