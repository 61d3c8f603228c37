"""Arbitrary files and documents give valid compositions or a DataError."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagrec.data.formats import FORMATS, ReadOptions, read, read_composition
from dagrec.errors import DataError
from tests.contract.samples import (
    DOCUMENTS,
    JSON_FORMATS,
    SAMPLES,
    Json,
    is_valid,
    places,
    value_at,
)

NAMES = sorted(
    {
        step
        for document in DOCUMENTS.values()
        for place in places(document)
        for step in place
        if isinstance(step, str)
    }
    | {"content_id", "createdAt"}
)
WORDS = ["1", "2", "0", "out", "data_input", "subworkflow", "tool", "n8n.stickyNote", "2020-01-01"]
TEXT = st.text(st.characters(), max_size=8)
"""Strings of any characters, including lone surrogates."""
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | TEXT
VALUES = st.recursive(
    ATOMS,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | TEXT, v, max_size=5),
    max_leaves=25,
)
OPTIONS = st.builds(
    ReadOptions,
    format=st.sampled_from(["auto", "auto", *FORMATS]),
    on_error=st.sampled_from(["fail", "skip"]),
    on_cycle=st.sampled_from([None, "fail", "skip", "break"]),
    table_mid=st.sampled_from([None, "^3", ""]),
    session_gap=st.sampled_from([None, 1.0]),
    time_column=st.sampled_from([None, "time", "absent"]),
)
more_examples = settings(
    max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@st.composite
def mutants(draw: st.DrawFn) -> Json:
    """A valid document in which a few values are replaced, removed, added or copied."""
    valid = [SAMPLES[name].document("7", back=True) for name in JSON_FORMATS]
    document = copy.deepcopy(draw(st.sampled_from([*valid, *DOCUMENTS.values()])))
    for _ in range(draw(st.integers(1, 4))):
        all_places = list(places(document))
        if not all_places:
            break
        *path, last = draw(st.sampled_from(all_places))
        target = value_at(document, tuple(path))
        edit = draw(st.sampled_from(["replace", "remove", "copy", "add"]))
        if edit == "replace":
            target[last] = draw(VALUES)
        elif edit == "remove":
            del target[last]
        elif edit == "copy":
            target[last] = copy.deepcopy(value_at(document, draw(st.sampled_from(all_places))))
        elif isinstance(target, dict):
            target[draw(st.sampled_from(NAMES) | TEXT)] = draw(VALUES)
        else:
            target.append(draw(VALUES))
    return document


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "file.json"


def is_read_or_rejected(file: Path, options: ReadOptions) -> bool:
    """Whether the compositions are valid, or the error has a rule and a printable message."""
    try:
        return all(map(is_valid, read(file, options).compositions))
    except DataError as error:
        return bool(error.rule and str(error).encode())


@more_examples
@given(documents=st.lists(VALUES | mutants(), max_size=3), lines=st.booleans(), options=OPTIONS)
def test_json_files(documents: list[Json], lines: bool, options: ReadOptions, file: Path) -> None:
    texts = [json.dumps(document) for document in documents]
    file.write_text("\n".join(texts) if lines else f"[{','.join(texts)}]")
    assert is_read_or_rejected(file, options)


@more_examples
@given(document=VALUES | mutants(), options=OPTIONS)
def test_parsed_json(document: Json, options: ReadOptions) -> None:
    try:
        assert is_valid(read_composition(document, options))
    except DataError as error:
        assert error.rule and str(error).encode()  # noqa: PT017, PT018


CUTS = st.tuples(st.integers(0, 2000), st.integers(0, 40), st.binary(max_size=6))


@more_examples
@given(name=st.sampled_from(sorted(SAMPLES)), cuts=st.lists(CUTS, max_size=5), options=OPTIONS)
def test_corrupted_files(
    name: str, cuts: list[tuple[int, int, bytes]], options: ReadOptions, file: Path
) -> None:
    sample = SAMPLES[name]
    content = sample.text(sample.document("7"), sample.document("8")).encode()
    for start, length, replacement in cuts:
        start %= len(content) + 1
        content = content[:start] + replacement + content[start + length :]
    file.write_bytes(content)
    assert is_read_or_rejected(file, options)


@more_examples
@given(
    header=st.sampled_from(["", "owner,service,time\n", "user\tmid\tts\n"]),
    cells=st.text(st.sampled_from('\t\n\r,;"\\ 12a/é\0\x1c\x85\u2028\ufeff')),
    options=OPTIONS,
)
def test_tables(header: str, cells: str, options: ReadOptions, file: Path) -> None:
    file.write_bytes((header + cells).encode())
    assert is_read_or_rejected(file, options)
