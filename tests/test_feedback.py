"""Records of feedback, what is read back from disk, and the rates by hand and by definition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.formats import read
from dagrec.errors import DataError, RequestError
from dagrec.feedback.outcomes import (
    by_model,
    finals,
    read_feedback,
    summary,
    training_documents,
    wilson,
)
from dagrec.feedback.record import Decision, Feedback, choose, decide
from dagrec.recommend.predictor import predict
from dagrec.recommend.request import make_request
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store
from tests.recommend.asking import chain

SHOWN = ["a", "b", "c", "d"]


def decision(request_id: str, action: str, service: str | None = None, **other: Any) -> Decision:
    values: dict[str, Any] = {
        "time": "2026-01-31T09:30:00Z",
        "request_id": request_id,
        "item": 0,
        "at": None,
        "action": action,
        "service": service,
        "model": "markov",
        "version": "1",
        "mask": "none",
        "k": 4,
        "shown": SHOWN,
        "path": [{"key": "table_1", "kind": "table"}, {"key": "b", "kind": "service"}],
        "unknown": [],
    }
    values["rank"] = SHOWN.index(service) + 1 if service in SHOWN else None
    return Decision.model_validate(values | other)


def write(file: Path, *decisions: Decision, after: bytes = b"") -> Path:
    file.write_bytes(b"".join(d.model_dump_json().encode() + b"\n" for d in decisions) + after)
    return file


def test_the_rates_are_those_by_hand() -> None:
    decisions = [
        decision("1", "taken", "a"),  # rank 1
        decision("2", "refused", "a"),
        decision("2", "taken", "b"),  # then rank 2
        decision("3", "taken", "d"),  # rank 4
        decision("4", "taken", "elsewhere"),
        decision("5", "refused"),
        decision("6", "refused", "a"),  # b, c and d may still be taken
    ]
    found = summary(finals(decisions))
    counts = {name: found[name] for name in ("decided", "taken", "elsewhere", "refused", "undecided")}
    assert counts == {"decided": 5, "taken": 3, "elsewhere": 1, "refused": 1, "undecided": 1}
    assert found["hit_rate"]["mean"] == pytest.approx(3 / 5)
    assert found["accuracy@1"]["mean"] == pytest.approx(1 / 5)
    assert found["mrr"]["mean"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 5)
    assert found["mrr"]["low"] < found["mrr"]["mean"] < found["mrr"]["high"]


def test_wilsons_interval_is_that_of_the_literature() -> None:
    """Newcombe (1998), table I, method 3: 81 of 263, and 0 of 20."""
    found = wilson(81, 263)
    assert found is not None
    assert (round(found["low"], 4), round(found["high"], 4)) == (0.2553, 0.3662)
    found = wilson(0, 20)
    assert found is not None
    assert (found["low"], round(found["high"], 4)) == (0.0, 0.1611)
    assert wilson(0, 0) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from("123"),
            st.sampled_from(["taken", "refused"]),
            st.sampled_from([*SHOWN, "other"]),
        ),
        max_size=12,
    )
)
def test_rates_keep_their_order_and_their_bounds(reports: list[tuple[str, str, str]]) -> None:
    ends = finals(decision(*report) for report in reports)
    found = summary(ends)
    subjects = {report[0] for report in reports}
    assert len(ends) == len(subjects) == found["decided"] + found["undecided"]
    assert found["decided"] == found["taken"] + found["elsewhere"] + found["refused"]
    last = {id_: (action, service) for id_, action, service in reports}
    for end in ends:
        action, service = last[end.by.request_id]
        if action == "taken":
            assert (end.by.service, end.outcome) == (
                service,
                "taken" if service in SHOWN else "elsewhere",
            )
    if found["decided"]:
        means = [found[name]["mean"] for name in ("accuracy@1", "mrr", "hit_rate")]
        assert means == sorted(means)
        for name in ("accuracy@1", "mrr", "hit_rate"):
            low, mean, high = (found[name][part] for part in ("low", "mean", "high"))
            assert 0 <= low <= mean + 1e-12
            assert mean <= high + 1e-12
            assert high <= 1 + 1e-12
    else:
        assert found["mrr"] is None


def test_each_model_of_each_bundle_has_rates_of_its_own() -> None:
    decisions = [
        decision("1", "taken", "a"),
        decision("1", "taken", "a", model="popularity", shown=["c", "a"], rank=2),
        decision("1", "refused", version="2"),
    ]
    found = by_model(finals(decisions))
    assert [(m["version"], m["model"], m["mrr"]["mean"]) for m in found] == [
        ("1", "markov", 1.0),
        ("1", "popularity", 0.5),
        ("2", "markov", 0.0),
    ]


def test_what_is_not_whole_is_left_out_and_counted(tmp_path: Path) -> None:
    good = decision("1", "taken", "a")
    lines = [
        b"{\n",
        b"\xff\xfe\n",
        b"[]\n",
        json.dumps(good.model_dump(mode="json") | {"rank": 2}).encode() + b"\n",
        json.dumps(good.model_dump(mode="json") | {"time": "yesterday"}).encode() + b"\n",
        good.model_dump_json().encode(),  # whole, but for the end of the line
    ]
    file = write(tmp_path / "feedback-1.jsonl", good, after=b"".join(lines))
    write(tmp_path / "feedback-0.jsonl", decision("0", "taken", "b", time="2027-01-01T00:00:00Z"))
    (tmp_path / "other.jsonl").write_text("{}\n")
    found = read_feedback(tmp_path)
    assert [d.request_id for d in found.decisions] == ["1", "0"]
    assert (found.files, found.lines, found.skipped.total()) == (2, 8, 6)
    assert found.skipped["torn: the end of the line was never written"] == 1
    assert found.skipped["not JSON"] == 2
    assert any("rank must be the place" in reason for reason in found.skipped)
    since = read_feedback(tmp_path, since=1_790_000_000)
    assert [d.request_id for d in since.decisions] == ["0"]
    assert since.skipped["older than asked for"] == 1
    assert read_feedback(file).decisions == [good]


def test_what_cannot_be_read_at_all_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a folder of feedback holds feedback-\*\.jsonl, found none"):
        read_feedback(tmp_path)
    with pytest.raises(DataError, match="missing: cannot be read: No such file"):
        read_feedback(tmp_path / "missing")


def test_steps_that_were_taken_become_compositions_once(tmp_path: Path) -> None:
    decisions = [
        decision("1", "taken", "a"),
        decision("1", "taken", "a", model="popularity"),
        decision("2", "taken", "new"),
        decision("3", "refused"),
        decision("4", "taken", "a", path=[]),
        decision("5", "taken", "a", item=1, at="n"),
    ]
    documents = list(training_documents(finals(decisions)))
    file = tmp_path / "taken.json"
    file.write_text(json.dumps(documents))
    compositions = read(file).compositions
    assert [c.id for c in compositions] == ["feedback-1-0", "feedback-2-0", "feedback-5-1-n"]
    first = compositions[0]
    kinds = [(node.key, node.kind) for node in first.nodes]
    assert kinds == [("table_1", "table"), ("b", "service"), ("a", "service")]
    assert first.links == (("n0", "n1"), ("n1", "n2"))
    assert (first.owner, first.time) == (None, 1769851800.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from dagrec.config import load_config
    from dagrec.jobs.train import train

    data = Path(__file__).parents[1] / "data" / "compositions.json"
    store = Store(tmp_path_factory.mktemp("feedback"))
    train(read(data), store, load_config(models=["popularity", "markov"]), measure=0)
    return store.load()


def test_a_decision_tells_what_was_shown_after_which_path(bundle: Bundle) -> None:
    request = make_request(chain(301, 303, table="1001002", at="n1", k=3))
    answer = predict(bundle, request)
    service = answer.predictions[1].service  # type: ignore[union-attr]
    feedback = Feedback(request_id="r", action="taken", service=service)
    found = decide(feedback, request, choose([answer], feedback), bundle.vocabulary)
    assert (found.rank, found.k, found.at, found.version) == (2, 3, "n1", bundle.version)
    assert len(found.shown) == 3
    steps = [(step.key, step.kind) for step in found.path]
    assert steps == [
        ("table_1001002", "table"),
        ("service_301", "service"),
        ("service_303", "service"),
    ]


def test_the_kinds_of_a_path_are_those_of_the_vocabulary(bundle: Bundle) -> None:
    request = make_request({"path": ["table_1001002", "never seen", "service_303"]})
    feedback = Feedback(request_id="r", action="refused")
    answer = choose([predict(bundle, request)], feedback)
    found = decide(feedback, request, answer, bundle.vocabulary)
    assert [step.kind for step in found.path] == ["other", "other", "service"]
    assert found.unknown == ["never seen"]
    assert found.rank is None


def test_the_answer_must_be_named_where_there_are_several(bundle: Bundle) -> None:
    fork = {
        "nodes": [{"id": 1}, {"id": "a", "mid": 301}, {"id": "b", "mid": 303}],
        "links": [{"source": 1, "target": "a"}, {"source": 1, "target": "b"}],
    }
    found = [
        predict(bundle, make_request({"composition": fork, "models": "all"})),
        predict(bundle, make_request({"path": []})),
        RequestError("wrong"),
    ]

    def report(**about: Any) -> Feedback:
        return Feedback(request_id="r", action="refused", **about)

    chosen = choose(found, report(item=0, at="b", model="popularity"))
    assert (chosen.at, chosen.model) == ("b", "popularity")
    assert choose(found, report(item=1)).at is None
    for about, why in {
        "item must be named, 0 to 2": {},
        "item must be below 3": {"item": 3},
        "found that it was refused: wrong": {"item": 2},
        r"at must be one of \['a', 'b'\], which were answered, found none": {"item": 0},
        "found 'c'": {"item": 0, "at": "c"},
        "model must be one of .*, found none": {"item": 0, "at": "a"},
        r"at must be one of \[None\]": {"item": 1, "at": "a"},
    }.items():
        with pytest.raises(RequestError, match=about):
            choose(found, report(**why))
