"""Parsing of times, and the report of a reader."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.dataset import ReadReport
from dagrec.data.formats.documents import Json
from dagrec.data.formats.times import parse_time
from dagrec.errors import DataError
from tests.checks import says

NOON = datetime(2020, 3, 16, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0.0),
        (-1.5, -1.5),
        (NOON, NOON),
        ("2020-03-16T12:00:00.000Z", NOON),
        ("2020-03-16T12:00:00+00:00", NOON),
        ("2020-03-16T14:00:00+02:00", NOON),
        ("2020-03-16 12:00:00.000000", NOON),
        (" 2020-03-16T12:00:00 ", NOON),
        ("2020-03-16", NOON - 12 * 3600),
        ("0001-01-01T00:00:00+23:59", datetime(1, 1, 1, tzinfo=UTC).timestamp() - 86340),
    ],
)
def test_parse_time_of_iso_text_and_numbers(value: Json, seconds: float | None) -> None:
    assert parse_time(value, "time") == seconds


@given(
    moment=st.datetimes(timezones=st.just(UTC)),
    hours=st.integers(-23, 23),
    separator=st.sampled_from("T "),
)
def test_parse_time_respects_time_zone(moment: datetime, hours: int, separator: str) -> None:
    try:
        text = moment.astimezone(timezone(timedelta(hours=hours))).isoformat(separator)
    except OverflowError:  # before year 1 or after year 9999 in that zone
        text = moment.isoformat(separator)
    assert parse_time(text, "time") == moment.timestamp()


@pytest.mark.parametrize(
    ("value", "description"),
    [
        ("noon", '"noon"'),
        ("2020-13-01", '"2020-13-01"'),
        ("\ud800", '"\\ud800"'),
        (True, "true"),
        (10**13, "10000000000000"),
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
    assert says(
        error, f"node 3: start_time must be ISO 8601 or seconds since 1970, found {description}; "
    )


def test_report_counts_skips_and_keeps_first_messages() -> None:
    report = ReadReport()
    for i in range(30):
        report.skip(DataError(f"problem {i}", rule="cycle" if i % 3 else "bad-time"))
    assert dict(report.skipped) == {"cycle": 20, "bad-time": 10}
    assert report.problems == [f"problem {i}" for i in range(20)]
