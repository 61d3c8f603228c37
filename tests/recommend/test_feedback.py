"""Feedback records, reading them from disk, and the rates against hand-computed values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.formats import read
from dagrec.errors import DataError, RequestError
from dagrec.recommend.feedback import Decision, Feedback, make_decision, select_answer
from dagrec.recommend.feedback_summary import (
    by_model,
    final_decisions,
    read_feedback,
    summarise,
    training_documents,
    wilson,
)
from dagrec.recommend.predictor import predict
from dagrec.recommend.request import make_request
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store
from tests.recommend.requests import chain

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


def test_summarise_matches_hand_computed_rates() -> None:
    decisions = [
        decision("1", "taken", "a"),  # rank 1
        decision("2", "refused", "a"),
        decision("2", "taken", "b"),  # then rank 2
        decision("3", "taken", "d"),  # rank 4
        decision("4", "taken", "elsewhere"),
        decision("5", "refused"),
        decision("6", "refused", "a"),  # b, c and d may still be taken
    ]
    rates = summarise(final_decisions(decisions))
    counts = {name: rates[name] for name in ("decided", "taken", "elsewhere", "refused", "undecided")}
    assert counts == {"decided": 5, "taken": 3, "elsewhere": 1, "refused": 1, "undecided": 1}
    assert rates["hit_rate"]["mean"] == pytest.approx(3 / 5)
    assert rates["accuracy@1"]["mean"] == pytest.approx(1 / 5)
    assert rates["mrr"]["mean"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 5)
    assert rates["mrr"]["low"] < rates["mrr"]["mean"] < rates["mrr"]["high"]


def test_wilson_matches_published_intervals() -> None:
    """Newcombe (1998), table I, method 3: 81 of 263, and 0 of 20."""
    interval = wilson(81, 263)
    assert interval is not None
    assert (round(interval["low"], 4), round(interval["high"], 4)) == (0.2553, 0.3662)
    interval = wilson(0, 20)
    assert interval is not None
    assert (interval["low"], round(interval["high"], 4)) == (0.0, 0.1611)
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
def test_rates_are_ordered_and_within_their_intervals(reports: list[tuple[str, str, str]]) -> None:
    finals = final_decisions(decision(*report) for report in reports)
    rates = summarise(finals)
    subjects = {report[0] for report in reports}
    assert len(finals) == len(subjects) == rates["decided"] + rates["undecided"]
    assert rates["decided"] == rates["taken"] + rates["elsewhere"] + rates["refused"]
    last = {id_: (action, service) for id_, action, service in reports}
    for final in finals:
        action, service = last[final.decision.request_id]
        if action == "taken":
            assert (final.decision.service, final.verdict) == (
                service,
                "taken" if service in SHOWN else "elsewhere",
            )
    if rates["decided"]:
        means = [rates[name]["mean"] for name in ("accuracy@1", "mrr", "hit_rate")]
        assert means == sorted(means)
        for name in ("accuracy@1", "mrr", "hit_rate"):
            low, mean, high = (rates[name][part] for part in ("low", "mean", "high"))
            assert 0 <= low <= mean + 1e-12
            assert mean <= high + 1e-12
            assert high <= 1 + 1e-12
    else:
        assert rates["mrr"] is None


def test_by_model_separates_models_and_bundles() -> None:
    decisions = [
        decision("1", "taken", "a"),
        decision("1", "taken", "a", model="popularity", shown=["c", "a"], rank=2),
        decision("1", "refused", version="2"),
    ]
    rates = by_model(final_decisions(decisions))
    assert [(m["version"], m["model"], m["mrr"]["mean"]) for m in rates] == [
        ("1", "markov", 1.0),
        ("1", "popularity", 0.5),
        ("2", "markov", 0.0),
    ]


def test_read_feedback_skips_and_counts_invalid_lines(tmp_path: Path) -> None:
    good = decision("1", "taken", "a")
    lines = [
        b"{\n",
        b"\xff\xfe\n",
        b"[]\n",
        json.dumps(good.model_dump(mode="json") | {"rank": 2}).encode() + b"\n",
        json.dumps(good.model_dump(mode="json") | {"time": "yesterday"}).encode() + b"\n",
        good.model_dump_json().encode(),  # complete except for the line break
    ]
    file = write(tmp_path / "feedback-1.jsonl", good, after=b"".join(lines))
    write(tmp_path / "feedback-0.jsonl", decision("0", "taken", "b", time="2027-01-01T00:00:00Z"))
    (tmp_path / "other.jsonl").write_text("{}\n")
    loaded = read_feedback(tmp_path)
    assert [d.request_id for d in loaded.decisions] == ["1", "0"]
    assert (loaded.files, loaded.lines, loaded.skipped.total()) == (2, 8, 6)
    assert loaded.skipped["incomplete: the line break is missing"] == 1
    assert loaded.skipped["not JSON"] == 2
    assert any("rank must be the position" in reason for reason in loaded.skipped)
    recent = read_feedback(tmp_path, since=1_790_000_000)
    assert [d.request_id for d in recent.decisions] == ["0"]
    assert recent.skipped["older than requested"] == 1
    assert read_feedback(file).decisions == [good]


def test_read_feedback_rejects_folder_without_feedback_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a feedback folder must hold feedback-\*\.jsonl, found none"):
        read_feedback(tmp_path)
    with pytest.raises(DataError, match="missing: cannot be read: No such file"):
        read_feedback(tmp_path / "missing")


def test_training_documents_hold_each_taken_service_once(tmp_path: Path) -> None:
    decisions = [
        decision("1", "taken", "a"),
        decision("1", "taken", "a", model="popularity"),
        decision("2", "taken", "new"),
        decision("3", "refused"),
        decision("4", "taken", "a", path=[]),
        decision("5", "taken", "a", item=1, at="n"),
    ]
    documents = list(training_documents(final_decisions(decisions)))
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
    from dagrec.jobs.config import load_config
    from dagrec.jobs.train import train

    data = Path(__file__).parents[2] / "data" / "compositions.json"
    store = Store(tmp_path_factory.mktemp("feedback"))
    train(read(data), store, load_config(models=["popularity", "markov"]), measure=0)
    return store.load()


def test_decision_holds_shown_services_and_extended_path(bundle: Bundle) -> None:
    request = make_request(chain(301, 303, table="1001002", at="n1", k=3))
    answer = predict(bundle, request)
    service = answer.predictions[1].service  # type: ignore[union-attr]
    feedback = Feedback(request_id="r", action="taken", service=service)
    made = make_decision(feedback, request, select_answer([answer], feedback), bundle.vocabulary)
    assert (made.rank, made.k, made.at, made.version) == (2, 3, "n1", bundle.version)
    assert len(made.shown) == 3
    assert [(node.key, node.kind) for node in made.path] == [
        ("table_1001002", "table"),
        ("service_301", "service"),
        ("service_303", "service"),
    ]


def test_decision_on_path_takes_kinds_from_vocabulary(bundle: Bundle) -> None:
    request = make_request({"path": ["table_1001002", "never seen", "service_303"]})
    feedback = Feedback(request_id="r", action="refused")
    answer = select_answer([predict(bundle, request)], feedback)
    made = make_decision(feedback, request, answer, bundle.vocabulary)
    assert [node.kind for node in made.path] == ["other", "other", "service"]
    assert made.unknown == ["never seen"]
    assert made.rank is None


def test_select_answer_requires_enough_fields_to_identify_one(bundle: Bundle) -> None:
    fork = {
        "nodes": [{"id": 1}, {"id": "a", "mid": 301}, {"id": "b", "mid": 303}],
        "links": [{"source": 1, "target": "a"}, {"source": 1, "target": "b"}],
    }
    results = [
        predict(bundle, make_request({"composition": fork, "models": "all"})),
        predict(bundle, make_request({"path": []})),
        RequestError("wrong"),
    ]

    def report(**fields: Any) -> Feedback:
        return Feedback(request_id="r", action="refused", **fields)

    selected = select_answer(results, report(item=0, at="b", model="popularity"))
    assert (selected.at, selected.model) == ("b", "popularity")
    assert select_answer(results, report(item=1)).at is None
    for message, fields in {
        "item must be given, 0 to 2": {},
        "item must be below 3": {"item": 3},
        "item 2 must have been answered, found an error: wrong": {"item": 2},
        r"at must be one of \['a', 'b'\], as in the answers, found none": {"item": 0},
        "found 'c'": {"item": 0, "at": "c"},
        "model must be one of .*, found none": {"item": 0, "at": "a"},
        r"at must be one of \[None\]": {"item": 1, "at": "a"},
    }.items():
        with pytest.raises(RequestError, match=message):
            select_answer(results, report(**fields))
