"""Parsing of times, and the report of a reader."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.dataset import ReadReport
from dagrec.data.formats import Reading, read
from dagrec.data.formats.documents import Json
from dagrec.data.formats.times import END, parse_time, parse_time_and_unit
from dagrec.errors import DataError
from tests.checks import says

NOON = datetime(2020, 3, 16, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0.0),
        (1.5, 1.5),
        (NOON, NOON),
        (str(int(NOON)), NOON),
        (NOON * 1000, NOON),
        (str(int(NOON * 1_000_000)), NOON),
        ("1.584360e9", NOON),
        ("2020-03-16T12:00:00.000Z", NOON),
        ("2020-03-16T12:00:00+00:00", NOON),
        ("2020-03-16T14:00:00+02:00", NOON),
        ("2020-03-16 12:00:00.000000", NOON),
        (" 2020-03-16T12:00:00 ", NOON),
        ("2020-03-16", NOON - 12 * 3600),
        ("20200316", 20200316.0),
    ],
)
def test_parse_time_of_iso_text_and_numbers(value: Json, seconds: float | None) -> None:
    assert parse_time(value, "time") == seconds


@given(
    moment=st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 30), timezones=st.just(UTC)),
    hours=st.integers(-23, 23),
    separator=st.sampled_from("T "),
)
def test_parse_time_respects_time_zone(moment: datetime, hours: int, separator: str) -> None:
    text = moment.astimezone(timezone(timedelta(hours=hours))).isoformat(separator)
    assert parse_time(text, "time") == moment.timestamp()


@given(seconds=st.integers(4_200_000, int(END) - 1))
def test_unit_of_number_is_told_by_its_size(seconds: int) -> None:
    for power, unit in enumerate(("seconds", "milliseconds", "microseconds")):
        assert parse_time_and_unit(seconds * 1000**power, "time") == (seconds, unit)


@pytest.mark.parametrize(
    ("value", "description"),
    [
        ("noon", '"noon"'),
        ("2020-13-01", '"2020-13-01"'),
        ("1969-12-31", '"1969-12-31"'),
        ("2100-01-01", '"2100-01-01"'),
        ("\ud800", '"\\ud800"'),
        (True, "true"),
        (-1, "-1"),
        (END * 1e6, str(END * 1e6)),
        ("9" * 30, '"' + "9" * 30 + '"'),
        (10**4000, "1" + 56 * "0" + "..."),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        ([1], "an array of 1"),
        ({}, "an object of 0"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_parse_time_rejects_other_values(value: Json, description: str) -> None:
    with pytest.raises(DataError) as error:
        parse_time(value, "node 3: start_time")
    assert error.value.rule == "bad-time"
    assert says(error, "node 3: start_time must be ISO 8601", f"found {description}; ")


def test_numbers_of_a_file_have_one_unit() -> None:
    reading = Reading()
    assert reading.time(NOON * 1000, "a") == NOON
    assert reading.time("2020-03-16T12:00:00", "b") == NOON
    assert dict(reading.notes) == {"files with times in milliseconds": 1}
    with pytest.raises(DataError) as error:
        reading.time(NOON, "c")
    assert error.value.rule == "mixed-times"
    assert says(error, "c must be in milliseconds", f"found {NOON}", "would be in seconds")


def test_milliseconds_and_seconds_give_equal_orders(tmp_path: Path) -> None:
    rows = [("ann", "cut", NOON + 30), ("ann", "plot", NOON)]
    paths = []
    for name, scale in (("seconds", 1), ("milliseconds", 1000), ("microseconds", 10**6)):
        file = tmp_path / f"{name}.csv"
        lines = [f"{owner},{service},{int(time * scale)}" for owner, service, time in rows]
        file.write_text("\n".join(["owner,service,time", *lines]), encoding="utf-8")
        data = read(file)
        assert ("files with times in " + name in data.report.notes) == (scale > 1)
        paths.append([(node.key, node.time) for node in data[0].nodes])
    assert paths == [[("plot", NOON), ("cut", NOON + 30)]] * 3


def test_report_counts_skips_and_keeps_first_messages() -> None:
    report = ReadReport()
    for i in range(30):
        report.skip(DataError(f"problem {i}", rule="cycle" if i % 3 else "bad-time"))
    assert dict(report.skipped) == {"cycle": 20, "bad-time": 10}
    assert report.problems == [f"problem {i}" for i in range(20)]
