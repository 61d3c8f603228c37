"""The reader of call logs."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import pytest

from dagrec.data.compositions import Composition
from dagrec.data.formats import ReadOptions, read
from dagrec.errors import DataError
from tests.checks import says

CALLS = Path(__file__).parents[4] / "shared" / "data" / "geoportal" / "calls.csv"


def load(folder: Path, text: str, **options: object) -> tuple[Composition, ...]:
    file = folder / "calls.csv"
    file.write_text(text)
    return read(file, ReadOptions.model_validate(options)).compositions


def keys(composition: Composition) -> list[str]:
    return [node.key for node in composition.nodes]


LOG = """owner,service,time
ann,join,2024-05-01T10:30:00
bob,cut,2024-05-01T09:00:00
ann,cut,2024-05-01T10:00:00
ann,plot,2024-05-01T12:00:00
"""


def test_calls_of_owner_are_path_in_order_of_time(tmp_path: Path) -> None:
    ann, bob = load(tmp_path, LOG)
    assert (ann.owner, bob.owner) == ("ann", "bob")
    assert (keys(ann), keys(bob)) == (["cut", "join", "plot"], ["cut"])
    # The id of a node is its line number.
    assert ann.links == (("4", "2"), ("2", "5"))
    times = [node.time for node in ann.nodes]
    assert times == sorted(time for time in times if time is not None)
    assert ann.time == times[-1]


@pytest.mark.parametrize(
    ("gap", "sessions"),
    [
        (None, [["cut", "join", "plot"], ["cut"]]),
        (90.0, [["cut", "join", "plot"], ["cut"]]),
        (89.9, [["cut", "join"], ["plot"], ["cut"]]),
        (29.9, [["cut"], ["join"], ["plot"], ["cut"]]),
    ],
)
def test_pause_longer_than_gap_starts_session(
    gap: float | None, sessions: list[list[str]], tmp_path: Path
) -> None:
    compositions = load(tmp_path, LOG, session_gap=gap)
    assert [keys(composition) for composition in compositions] == sessions
    assert len({composition.id for composition in compositions}) == len(sessions)


def test_calls_at_same_time_keep_file_order(tmp_path: Path) -> None:
    (composition,) = load(tmp_path, "user;item;ts\nann;b;5\nann;a;5\nann;c;4\n")
    assert keys(composition) == ["c", "b", "a"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "header",
    [("owner", "mid", "start_time"), ("Session_ID", "MID", "Timestamp"), ("user", "mid", "date")],
)
def test_usual_column_names_in_any_order(
    separator: str, header: tuple[str, ...], tmp_path: Path
) -> None:
    rows = [("id", *header[::-1]), ("1", "2024-05-01", "308", "ann")]
    (composition,) = load(tmp_path, "\n".join(separator.join(row) for row in rows))
    assert (keys(composition), composition.owner) == (["service_308"], "ann")


def test_wide_tab_separated_log_is_not_read_as_galaxy_table(tmp_path: Path) -> None:
    header = ["id", "owner", "service", "time", *"efghi"]
    row = ["1", "ann", "cut", "2024-05-01", *"12345"]
    (composition,) = load(tmp_path, "\t".join(header) + "\n" + "\t".join(row))
    assert keys(composition) == ["cut"]


def test_cells_can_be_quoted(tmp_path: Path) -> None:
    (composition,) = load(tmp_path, 'owner,service,time\n"Ann, B.","cut ""x""",2024-05-01\n')
    assert (composition.owner, keys(composition)) == ("Ann, B.", ['cut "x"'])


def test_quoted_cell_can_contain_line_breaks(tmp_path: Path) -> None:
    text = 'owner,service,time\nann,"cut\n\nand join",5\n\nann,plot,"6\n"\nann,map,7\n'
    (composition,) = load(tmp_path, text)
    assert keys(composition) == ["cut\n\nand join", "plot", "map"]
    assert [node.id for node in composition.nodes] == ["2", "6", "8"]
    with pytest.raises(DataError, match=r'line 6: time must be .*"noon"'):
        load(tmp_path, text.replace("6\n", "noon"))


@pytest.mark.parametrize(
    ("row", "rule", "message"),
    [
        ("ann,cut,5,more", "bad-row", "line 4: a row needs 3 columns, found 4"),
        ("ann,cut,5,", "bad-row", "line 4: a row needs 3 columns, found 4"),
        ('ann,"cut"s,5', "bad-row", "line 4: a row must be well-formed, found"),
        ('ann,"join\n",noon', "bad-time", "line 4: time must be"),
    ],
)
def test_invalid_row_is_rejected_or_skipped(row: str, rule: str, message: str, tmp_path: Path) -> None:
    text = f'owner,service,time\nann,"cut\n",5\n{row}\nann,plot,6\n'
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path, text)
    assert error.value.rule == rule
    (composition,) = load(tmp_path, text, on_error="skip")
    assert keys(composition) == ["cut", "plot"]


def test_unclosed_quote_is_reported_at_its_start(tmp_path: Path) -> None:
    text = 'time,service,owner\n5,cut,ann\n6,join,"ann\n7,plot,ann\n'
    with pytest.raises(DataError, match="line 3: a row must be well-formed, found unexpected end"):
        load(tmp_path, text)
    (composition,) = load(tmp_path, text, on_error="skip")
    assert keys(composition) == ["cut"]


def test_duplicate_column_names_are_rejected(tmp_path: Path) -> None:
    text = "time,owner,service, time \n5,ann,cut,6\n"
    for on_error in ("fail", "skip"):
        with pytest.raises(DataError, match='different names, found "time" more than once') as error:
            load(tmp_path, text, on_error=on_error)
        assert error.value.rule == "duplicate-column"


def test_columns_can_have_empty_names(tmp_path: Path) -> None:
    (composition,) = load(tmp_path, "\towner\tservice\ttime\t\n1\tann\tcut\t5\t\n")
    assert (composition.owner, keys(composition)) == ("ann", ["cut"])


def test_column_names_can_be_given(tmp_path: Path) -> None:
    text = "who,what,when,time\nann,cut,2024-05-01,noon\n"
    column_options = {"owner_column": "who", "service_column": "what", "time_column": "when"}
    (composition,) = load(tmp_path, text, format="calls", **column_options)
    assert (composition.owner, keys(composition)) == ("ann", ["cut"])


@pytest.mark.parametrize(
    ("text", "options", "parts"),
    [
        (
            "who,service,time\n",
            {},
            ["for the owner (one of owner, user,", "found the columns who, service"],
        ),
        ("owner,service,time\n", {"time_column": "when"}, ["for the time (when)", "--time-column"]),
        ("x" * 200_000, {}, ["for the owner"]),
    ],
)
def test_missing_column_is_named(
    text: str, options: dict[str, str], parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, text, format="calls", **options)
    assert error.value.rule == "missing-field"
    assert says(error, "calls.csv: a table needs a column", *parts)


def test_blank_lines_count_for_line_numbers(tmp_path: Path) -> None:
    (composition,) = load(tmp_path, "\n\nowner,service,time\n\nann,cut,5\n \nann,join,6\n")
    assert [node.id for node in composition.nodes] == ["5", "7"]


def test_geoportal_calls_are_all_read() -> None:
    if not CALLS.exists():
        pytest.skip(f"the real data of {CALLS} are not part of the project")
    compositions = read(CALLS).compositions
    assert sum(len(c.nodes) for c in compositions) == 11_429
    assert len(compositions) == len({c.owner for c in compositions}) == 153
    assert sum(len(c.nodes) == 1 for c in compositions) == 68
    assert len({node.key for c in compositions for node in c.nodes}) == 210
    with CALLS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    assert {c.owner for c in compositions} == {row["owner"] for row in rows}
    for composition in compositions:
        times = [node.time for node in composition.nodes if node.time is not None]
        assert all(before <= after for before, after in pairwise(times))
