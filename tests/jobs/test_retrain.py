"""The retraining job: when it publishes, when it refuses, and what it never does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagrec.config import load_config
from dagrec.data.examples import Example, extract
from dagrec.data.formats import read, read_composition
from dagrec.data.synthetic import World, WorldOptions, dump
from dagrec.errors import ConfigError, DataError, NumericalError, StoreError
from dagrec.jobs import retrain as module
from dagrec.jobs.comparison import AS_PUBLISHED, FITTED_AGAIN, compare, hold_back
from dagrec.jobs.retrain import Job, Report, make_retrain_options, retrain
from dagrec.jobs.train import train
from dagrec.models.counting.markov import Markov
from dagrec.store.store import Store

NONE = ["mask=none"]
"""Without a mask frequencies are far behind."""
DOCUMENTS = World(WorldOptions(compositions=200, predictability=0.9)).draw()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two files."""
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "1.json", DOCUMENTS[:60])
    write(folder / "2.json", DOCUMENTS[60:120])
    return folder


def write(file: Path, documents: Sequence[Any]) -> None:
    file.write_text(dump(documents))


def run(
    data: Path, store: Store, *models: str, force: bool = False, dry_run: bool = False, **options: Any
) -> Report:
    config = load_config(
        models=models or ("markov", "popularity"), overrides=options.pop("overrides", ())
    )
    job = Job(read(data, config.read), store, config, make_retrain_options(options))
    return retrain(job, force=force, dry_run=dry_run)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_first_attempt_publishes_all_models_fitted_on_all_data(data: Path, store: Store) -> None:
    report = run(data, store)
    bundle = store.load()
    assert (report.outcome, report.version, report.instead_of) == ("published", bundle.version, None)
    assert set(bundle.models) == {"markov", "popularity"}
    assert bundle.manifest.data["compositions"] == report.compositions == 120
    assert report.comparison is not None
    assert report.comparison.champion is None
    assert bundle.manifest.champion == report.comparison.challenger.label == "markov"
    for label, entry in bundle.manifest.models.items():
        low, high = entry.intervals["mrr"]
        assert low < entry.metrics["mrr"] < high
        assert entry.metrics == report.quality[label].metrics
    examples, _ = extract(read(data).compositions)
    assert bundle.graph.popularity.sum() == len(examples)


def test_nothing_is_done_where_nothing_has_changed(data: Path, store: Store) -> None:
    first = run(data, store)
    before = files(store.root)
    again = run(data, store)
    assert again == first.model_copy(update={"repeated": True})
    assert files(store.root).keys() == before.keys()
    changed = {name for name, content in files(store.root).items() if content != before[name]}
    assert changed <= {"lock.holder"}
    assert run(data, store, force=True).version != first.version
    assert not run(data, store, margin=0.02).repeated, "another configuration is another attempt"
    write(data / "3.json", DOCUMENTS[120:121])
    assert not run(data, store, margin=0.02).repeated, "more data are another attempt"


def test_a_worse_challenger_is_refused_and_what_is_live_stays(data: Path, store: Store) -> None:
    live = run(data, store, overrides=NONE).version
    report = run(data, store, "popularity", overrides=NONE)
    assert (report.outcome, report.version, store.current()) == ("refused", None, live)
    (reason,) = report.reasons
    assert "popularity: a challenger may be worse than the champion markov by 0.01 in MRR" in reason
    again = run(data, store, "popularity", overrides=NONE)
    assert (again.outcome, again.repeated) == ("refused", True)
    assert len(store.versions()) == 1
    assert run(data, store, "popularity", overrides=NONE, margin=1.0).outcome == "published"


def test_a_challenger_that_frequencies_beat_is_refused(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Markov._score
    monkeypatch.setattr(Markov, "_score", lambda self, contexts: -score(self, contexts))
    report = run(data, store, "markov")
    assert (report.outcome, store.versions()) == ("refused", [])
    assert "markov: it must not be worse than frequencies, found it between 0." in report.reasons[0]


def test_the_champion_answers_as_published_what_it_never_saw(data: Path, store: Store) -> None:
    run(data, store)
    write(data / "3.json", DOCUMENTS[120:200])
    report = run(data, store)
    assert report.comparison is not None
    assert report.comparison.champion is not None
    assert report.comparison.champion.how == AS_PUBLISHED
    assert report.comparison.compositions == 40, "the newest fifth of 200, all of them new"


def test_the_champion_is_fitted_again_where_it_has_seen_the_answers(data: Path, store: Store) -> None:
    run(data, store, "markov")
    report = run(data, store, "markov", overrides=["seed=1"])
    assert report.comparison is not None
    assert report.comparison.champion is not None
    assert report.comparison.champion.how == FITTED_AGAIN
    assert report.comparison.difference == pytest.approx(0, abs=0.05)


def test_only_unseen_compositions_are_asked_about_where_they_are_enough(
    store: Store, data: Path
) -> None:
    train(read(data), store, load_config(models=["markov"]), measure=0)
    examples, _ = extract([read_composition(document) for document in DOCUMENTS[:150]])
    live = store.load()
    newest = {e.composition for e in examples if e.composition >= 105}
    fresh = {number for number in newest if number >= 120}
    few, many = hold_back(examples, 0.3, live, 10_000), hold_back(examples, 0.3, live, 20)
    assert (few.unseen, many.unseen) == (False, True)
    assert {e.composition for e in few.split.test} == newest
    assert {e.composition for e in many.split.test} == fresh
    for held in (few, many):
        both = {e.composition for e in held.split.train} & {e.composition for e in held.split.test}
        assert not both, "a composition is on one side"
        assert len(held.split.train) + len(held.split.test) == len(examples)


def test_the_newest_are_told_by_time_where_all_have_one() -> None:
    def document(id_: str, time: str | None) -> dict[str, Any]:
        nodes = [{"id": "t"}, {"id": "a", "mid": 1}]
        found: dict[str, Any] = {"id": id_, "nodes": nodes, "links": [{"source": "t", "target": "a"}]}
        return found if time is None else found | {"time": time}

    def newest(*times: str | None) -> list[str]:
        compositions = [read_composition(document(f"c{i}", t)) for i, t in enumerate(times)]
        examples: Sequence[Example] = extract(compositions)[0]
        held = hold_back(examples, 0.34, None, 1).split
        return [e.context.composition.id for e in held.test if e.context.composition]

    days = ("2026-01-03", "2026-01-01", "2026-01-02")
    assert newest(*days) == ["c0"]
    assert newest(days[0], None, days[2]) == ["c2"], "in their order, where one has none"


def test_data_that_shrank_are_refused(data: Path, store: Store) -> None:
    live = run(data, store).version
    (data / "2.json").unlink()
    write(data / "1.json", DOCUMENTS[:50])
    report = run(data, store)
    assert (report.outcome, store.current()) == ("refused", live)
    assert (
        "at most 50% of the 120 compositions of the live bundle may be gone, found 50"
        in report.reasons[0]
    )
    assert run(data, store, max_shrink=0.6).outcome == "published"


def test_a_dry_run_says_what_would_be_done_and_changes_nothing_that_is_live(
    data: Path, store: Store
) -> None:
    report = run(data, store, dry_run=True)
    assert (report.outcome, report.version, store.versions()) == ("would be published", None, [])
    assert not (store.root / "retrain.json").exists()
    assert run(data, store).outcome == "published"


def test_what_was_rolled_back_is_not_published_again(data: Path, store: Store) -> None:
    first = run(data, store).version
    write(data / "3.json", DOCUMENTS[120:200])
    second = run(data, store)
    assert second.outcome == "published"
    store.rollback()
    again = run(data, store)
    assert (again.repeated, again.version, store.current()) == (True, second.version, first)


def test_a_job_killed_between_publishing_and_reporting_has_published(data: Path, store: Store) -> None:
    first = run(data, store)
    (store.root / "retrain.json").unlink()
    again = run(data, store)
    assert (again.repeated, again.version, len(store.versions())) == (True, first.version, 1)
    assert json.loads((store.root / "retrain.json").read_text())["version"] == first.version


def test_what_was_rolled_back_before_it_was_reported_does_not_come_back(
    data: Path, store: Store
) -> None:
    first = run(data, store).version
    second = run(data, store, "markov").version
    (store.root / "retrain.json").unlink()
    assert store.rollback() == first
    again = run(data, store, "markov")
    assert (again.repeated, again.version, store.current()) == (True, second, first)


def test_a_bundle_that_a_kill_kept_from_being_live_becomes_it(data: Path, store: Store) -> None:
    first = run(data, store).version
    assert first is not None
    second = run(data, store, "markov").version
    (store.root / "retrain.json").unlink()
    store.pointer.write_text(first)
    os.utime(store.pointer, (0, 0))
    again = run(data, store, "markov")
    assert (again.repeated, store.current()) == (True, second)


def test_a_live_network_is_fitted_again_by_a_run_without_networks(data: Path, store: Store) -> None:
    overrides = ["gru4rec.epochs=2", "gru4rec.hidden=4"]
    train(read(data), store, load_config(models=["gru4rec"], overrides=overrides), measure=0)
    job = Job(read(data), store, load_config(models=["markov"]), make_retrain_options({}))
    report = retrain(job)
    assert report.comparison is not None
    assert report.comparison.champion is not None
    assert (report.comparison.champion.label, report.comparison.champion.how) == (
        "gru4rec",
        FITTED_AGAIN,
    )


def test_old_versions_are_removed_but_for_those_one_may_go_back_to(data: Path, store: Store) -> None:
    versions = [run(data, store, force=True, keep=2).version for _ in range(4)]
    assert store.versions() == versions[-2:]


def test_finished_work_of_a_job_that_failed_is_not_done_again(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []
    fit = Markov._fit

    def counted(self: Markov, *arguments: Any) -> None:
        fitted.append(1)
        fit(self, *arguments)

    monkeypatch.setattr(Markov, "_fit", counted)

    def fails(*_: Any, **__: Any) -> str:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "publish", fails)
        with pytest.raises(StoreError, match="the disk is full"):
            run(data, store, "markov")
    assert len(fitted) == 5, "three parts, the older part, all"
    assert store.versions() == []
    report = run(data, store, "markov")
    assert report.outcome == "published"
    assert len(fitted) == 5
    assert not (store.root / "work").exists()
    whole = run(data, Store(store.root.with_name("other")), "markov")
    assert whole.comparison == report.comparison


def test_a_bundle_that_went_live_meanwhile_stays(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, store)

    def meanwhile(*arguments: Any) -> Any:
        config = load_config(models=["popularity"])
        other = Store(store.root)
        monkeypatch.setattr(Store, "lock", unlocked)
        train(read(data), other, config, measure=0)
        return compare(*arguments)

    monkeypatch.setattr(module, "compare", meanwhile)
    with pytest.raises(StoreError, match=r"must still be live, found "):
        run(data, store, force=True)
    assert store.load().manifest.champion == "popularity"


@contextmanager
def unlocked(_: Store) -> Iterator[None]:
    """A lock that locks nothing."""
    yield


def broken_json(data: Path) -> None:
    (data / "2.json").write_text("{")


def nothing_left(data: Path) -> None:
    for file in data.iterdir():
        file.unlink()


def nothing_to_learn(data: Path) -> None:
    for file in data.iterdir():
        file.write_text(json.dumps([{"nodes": [{"id": 1, "mid": 1}], "links": []}] * 60))


@pytest.mark.parametrize(
    "spoil", [broken_json, nothing_left, nothing_to_learn], ids=lambda f: f.__name__
)
def test_data_that_come_to_nothing_leave_what_is_live(
    spoil: Callable[[Path], None], data: Path, store: Store
) -> None:
    live = run(data, store).version
    spoil(data)
    with pytest.raises(DataError):
        run(data, store)
    assert store.current() == live


def test_scores_that_are_no_numbers_leave_what_is_live(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = run(data, store).version
    nowhere = np.full((1, 1), np.nan, dtype=np.float32)
    monkeypatch.setattr(Markov, "_score", lambda *_: nowhere)
    with pytest.raises(NumericalError, match="markov: scores must be finite"):
        run(data, store, force=True)
    assert store.current() == live


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"share": 1.5}, "share"),
        ({"keep": 1}, "keep"),
        ({"margin": -1}, "margin"),
        ({"kept": 3}, "kept"),
    ],
)
def test_wrong_options_are_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make_retrain_options(values)
