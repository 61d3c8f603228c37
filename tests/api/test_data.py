"""``dagrec.read``: files and folders into data sets, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dagrec
from dagrec.data.dataset import Dataset
from dagrec.data.formats import FORMATS, ReadOptions
from dagrec.data.formats import read as read_path
from dagrec.errors import ConfigError, DagrecError, DataError
from tests.checks import says

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "data" / "compositions.json"
CALLS = "user,item,time\nann,a,1\nann,b,100\nbob,b,2\n"
GOOD = {"nodes": [{"id": 1}, {"id": 2, "mid": 3}], "links": [{"source": 1, "target": 2}]}


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    file = tmp_path / "calls.csv"
    file.write_text(CALLS)
    return file


NOWHERE = st.text(st.characters(exclude_characters="/.~"), max_size=5)
"""No name of a file or a folder that is there."""


class Elsewhere:
    """A path object of some other library."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return self.path


@pytest.mark.parametrize("kind", [str, Path, PurePosixPath, Elsewhere])
def test_read_takes_text_and_any_path_object(kind: Any) -> None:
    data = dagrec.read(kind(str(BUNDLED)))
    assert isinstance(data, Dataset)
    assert len(data) == 900
    assert data.source == str(BUNDLED)
    assert data.fingerprint == read_path(BUNDLED).fingerprint


def test_read_takes_a_folder(calls: Path) -> None:
    (calls.parent / "more").mkdir()
    (calls.parent / "more" / "compositions.json").write_text(json.dumps([GOOD]))
    (calls.parent / "README").write_text("not read")
    data = dagrec.read(calls.parent)
    assert [len(composition.nodes) for composition in data] == [2, 1, 2]
    assert (data.report.files, data.report.ignored_files) == (2, 1)


def test_read_hands_options_on(calls: Path) -> None:
    assert len(dagrec.read(calls, session_gap=1)) == 3
    assert len(dagrec.read(calls, format="calls", owner_column="item", service_column="user")) == 2
    with pytest.raises(DataError):
        dagrec.read(calls, max_mb=1, format="n8n")


def test_read_skips_what_is_broken_where_asked(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(json.dumps([GOOD, {"nodes": [], "links": []}]))
    with pytest.raises(DataError) as error:
        dagrec.read(file)
    assert says(error, str(file), "composition 2", "node", "found none")
    data = dagrec.read(file, on_error="skip")
    assert (len(data), data.report.skipped) == (1, {"no-nodes": 1})


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("sesion_gap", "session_gap"),
        ("owner_colum", "owner_column"),
        ("on_eror", "on_error"),
        ("fromat", "format"),
        ("progres", "progress"),
    ],
)
def test_read_names_the_option_nearest_to_a_misspelt_one(option: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as error:
        dagrec.read(BUNDLED, **{option: 1})  # type: ignore[arg-type]
    assert says(error, "read", repr(option), f"did you mean {nearest}")


def test_read_lists_the_options_where_none_is_near() -> None:
    with pytest.raises(ConfigError) as error:
        dagrec.read(BUNDLED, zzz=1)
    assert says(error, "read", "'zzz'", *ReadOptions.model_fields)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"format": "nativ"}, ("no format 'nativ'", "did you mean native?")),
        ({"format": "xyz"}, ("no format 'xyz'", *FORMATS)),
        ({"format": None}, ("read", "format", "found None")),
        ({"on_error": "skp"}, ("read", "on_error", "'skip'", "found 'skp'")),
        ({"on_cycle": True}, ("read", "on_cycle", "found True")),
        ({"session_gap": -1}, ("read", "session_gap", "greater than 0", "found -1")),
        ({"session_gap": float("nan")}, ("read", "session_gap", "found nan")),
        ({"max_mb": "many"}, ("read", "max_mb", "found 'many'")),
        ({"table_mid": "("}, ("read", "table_mid", "not a regular expression")),
    ],
)
def test_read_refuses_wrong_values_of_options(options: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        dagrec.read(BUNDLED, **options)
    assert says(error, *parts)


def test_read_of_a_missing_file_names_it() -> None:
    with pytest.raises(DataError) as error:
        dagrec.read("x.csv")
    assert says(error, "x.csv", "file", "folder")


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (None, ("read: path", "text or a path", "found NoneType")),
        (5, ("read: path", "found int")),
        (["a.json"], ("read: path", "found list")),
        (b"a.json", ("read: path", "found bytes")),
        ("", ("read: path", "must name a file or a folder", "found ''")),
        ("a\0b", ("read: path", "must name a file or a folder")),
        ("x" * 5000, ("cannot be read", "File name too long", "check the path")),
        (ROOT / "README.md", ("README.md", "format", "native")),
        (ROOT / "dagrec", ("dagrec", "composition", "found none")),
    ],
    ids=["None", "number", "list", "bytes", "empty", "null byte", "long", "markdown", "folder of code"],
)
def test_read_refuses_what_is_no_path_or_holds_no_data(path: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(DagrecError) as error:
        dagrec.read(path)
    assert says(error, *parts)


@given(
    st.none() | st.integers() | st.floats() | st.binary(max_size=3) | st.tuples() | NOWHERE,
    st.dictionaries(
        st.sampled_from([*ReadOptions.model_fields, "progres"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers()),
        min_size=1,
        max_size=2,
    ),
)
def test_read_takes_or_refuses_any_junk(path: Any, options: dict[str, Any]) -> None:
    for place, given_options in ((path, {}), (BUNDLED, {**options, "zzz": 0}), (path, options)):
        with pytest.raises(DagrecError):
            dagrec.read(place, **given_options)


def test_read_shows_no_progress_where_it_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dagrec.output.progress.DELAY", 0.0)
    monkeypatch.setattr("dagrec.output.progress.LINE_INTERVAL", 0.0)
    dagrec.read(BUNDLED, progress=False)
    assert capsys.readouterr() == ("", "")
    dagrec.read(BUNDLED)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "reading compositions" in shown.err
