"""The retraining job."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagrec.data.examples import Example, extract
from dagrec.data.formats import read, read_composition
from dagrec.data.synthetic import World, WorldOptions, dump
from dagrec.errors import ConfigError, DataError, NumericalError, StoreError
from dagrec.jobs import retrain as retrain_module
from dagrec.jobs.comparison import AS_PUBLISHED, FITTED_AGAIN, compare, hold_back
from dagrec.jobs.config import load_config
from dagrec.jobs.retrain import Job, make_retrain_options, retrain
from dagrec.jobs.retrain_report import Report
from dagrec.jobs.train import train
from dagrec.models.counting.markov import Markov
from dagrec.store.store import Store

NO_MASK = ["mask=none"]
"""Without a mask, popularity is much worse than markov."""
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


def retrain_on(
    data: Path, store: Store, *models: str, force: bool = False, dry_run: bool = False, **options: Any
) -> Report:
    config = load_config(
        models=models or ("markov", "popularity"), overrides=options.pop("overrides", ())
    )
    job = Job(read(data, config.read), store, config, make_retrain_options(**options))
    return retrain(job, force=force, dry_run=dry_run)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_first_attempt_publishes_models_fitted_on_all_data(data: Path, store: Store) -> None:
    report = retrain_on(data, store)
    bundle = store.load()
    assert (report.status, report.version, report.instead_of) == ("published", bundle.version, None)
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


def test_unchanged_attempt_is_not_repeated(data: Path, store: Store) -> None:
    first = retrain_on(data, store)
    before = files(store.root)
    again = retrain_on(data, store)
    assert again == first.model_copy(update={"repeated": True})
    assert files(store.root).keys() == before.keys()
    changed = {name for name, content in files(store.root).items() if content != before[name]}
    assert changed <= {"lock.holder"}
    assert retrain_on(data, store, force=True).version != first.version
    assert not retrain_on(data, store, margin=0.02).repeated, "the configuration changed"
    write(data / "3.json", DOCUMENTS[120:121])
    assert not retrain_on(data, store, margin=0.02).repeated, "the data changed"


def test_challenger_worse_than_champion_is_refused(data: Path, store: Store) -> None:
    live = retrain_on(data, store, overrides=NO_MASK).version
    report = retrain_on(data, store, "popularity", overrides=NO_MASK)
    assert (report.status, report.version, store.current()) == ("refused", None, live)
    (reason,) = report.reasons
    assert "popularity: the MRR may be at most 0.01 below that of the champion markov" in reason
    again = retrain_on(data, store, "popularity", overrides=NO_MASK)
    assert (again.status, again.repeated) == ("refused", True)
    assert len(store.versions()) == 1
    assert retrain_on(data, store, "popularity", overrides=NO_MASK, margin=1.0).status == "published"


def test_challenger_worse_than_popularity_is_refused(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Markov._score
    monkeypatch.setattr(Markov, "_score", lambda self, contexts: -score(self, contexts))
    report = retrain_on(data, store, "markov")
    assert (report.status, store.versions()) == ("refused", [])
    assert "markov: must not be worse than popularity, found an MRR between 0." in report.reasons[0]


def test_champion_is_compared_as_published_on_unseen_compositions(data: Path, store: Store) -> None:
    retrain_on(data, store)
    write(data / "3.json", DOCUMENTS[120:200])
    report = retrain_on(data, store)
    assert report.comparison is not None
    assert report.comparison.champion is not None
    assert report.comparison.champion.how == AS_PUBLISHED
    assert report.comparison.compositions == 40, "the newest fifth of 200"


def test_champion_is_fitted_again_if_compositions_were_seen(data: Path, store: Store) -> None:
    retrain_on(data, store, "markov")
    report = retrain_on(data, store, "markov", overrides=["seed=1"])
    assert report.comparison is not None
    assert report.comparison.champion is not None
    assert report.comparison.champion.how == FITTED_AGAIN
    assert report.comparison.difference == pytest.approx(0, abs=0.05)


def test_hold_back_uses_only_unseen_compositions_if_there_are_enough(store: Store, data: Path) -> None:
    train(read(data), store, load_config(models=["markov"]), measure=0)
    examples, _ = extract([read_composition(document) for document in DOCUMENTS[:150]])
    live = store.load()
    newest = {e.composition for e in examples if e.composition >= 105}
    unseen = {number for number in newest if number >= 120}
    too_few, enough = hold_back(examples, 0.3, live, 10_000), hold_back(examples, 0.3, live, 20)
    assert (too_few.unseen, enough.unseen) == (False, True)
    assert {e.composition for e in too_few.split.test} == newest
    assert {e.composition for e in enough.split.test} == unseen
    for held_back in (too_few, enough):
        split = held_back.split
        assert not {e.composition for e in split.train} & {e.composition for e in split.test}
        assert len(split.train) + len(split.test) == len(examples)


def test_hold_back_sorts_by_time_if_all_compositions_have_one() -> None:
    def document(id_: str, time: str | None) -> dict[str, Any]:
        nodes = [{"id": "t"}, {"id": "a", "mid": 1}]
        result: dict[str, Any] = {"id": id_, "nodes": nodes, "links": [{"source": "t", "target": "a"}]}
        return result if time is None else result | {"time": time}

    def newest(*times: str | None) -> list[str]:
        compositions = [read_composition(document(f"c{i}", t)) for i, t in enumerate(times)]
        examples: Sequence[Example] = extract(compositions)[0]
        test = hold_back(examples, 0.34, None, 1).split.test
        return [e.context.composition.id for e in test if e.context.composition]

    days = ("2026-01-03", "2026-01-01", "2026-01-02")
    assert newest(*days) == ["c0"]
    assert newest(days[0], None, days[2]) == ["c2"], "in the order of the data"


def test_shrunken_data_are_refused(data: Path, store: Store) -> None:
    live = retrain_on(data, store).version
    (data / "2.json").unlink()
    write(data / "1.json", DOCUMENTS[:50])
    report = retrain_on(data, store)
    assert (report.status, store.current()) == ("refused", live)
    assert (
        "at most 50% of the 120 compositions of the live bundle may be missing, found 50"
        in report.reasons[0]
    )
    assert retrain_on(data, store, max_shrink=0.6).status == "published"


def test_dry_run_publishes_nothing(data: Path, store: Store) -> None:
    report = retrain_on(data, store, dry_run=True)
    assert (report.status, report.version, store.versions()) == ("would be published", None, [])
    assert not (store.root / "retrain.json").exists()
    assert retrain_on(data, store).status == "published"


def test_rolled_back_version_is_not_published_again(data: Path, store: Store) -> None:
    first = retrain_on(data, store).version
    write(data / "3.json", DOCUMENTS[120:200])
    second = retrain_on(data, store)
    assert second.status == "published"
    store.rollback()
    again = retrain_on(data, store)
    assert (again.repeated, again.version, store.current()) == (True, second.version, first)


def test_report_is_recovered_after_kill_between_publishing_and_reporting(
    data: Path, store: Store
) -> None:
    first = retrain_on(data, store)
    (store.root / "retrain.json").unlink()
    again = retrain_on(data, store)
    assert (again.repeated, again.version, len(store.versions())) == (True, first.version, 1)
    assert json.loads((store.root / "retrain.json").read_text())["version"] == first.version


def test_recovery_keeps_rollback(data: Path, store: Store) -> None:
    first = retrain_on(data, store).version
    second = retrain_on(data, store, "markov").version
    (store.root / "retrain.json").unlink()
    assert store.rollback() == first
    again = retrain_on(data, store, "markov")
    assert (again.repeated, again.version, store.current()) == (True, second, first)


def test_recovery_makes_bundle_live_after_kill_before_pointer_update(data: Path, store: Store) -> None:
    first = retrain_on(data, store).version
    assert first is not None
    second = retrain_on(data, store, "markov").version
    (store.root / "retrain.json").unlink()
    store.pointer.write_text(first)
    os.utime(store.pointer, (0, 0))
    again = retrain_on(data, store, "markov")
    assert (again.repeated, store.current()) == (True, second)


def test_live_network_is_fitted_again_by_attempt_without_networks(data: Path, store: Store) -> None:
    overrides = ["gru4rec.epochs=2", "gru4rec.hidden=4"]
    train(read(data), store, load_config(models=["gru4rec"], overrides=overrides), measure=0)
    job = Job(read(data), store, load_config(models=["markov"]), make_retrain_options())
    report = retrain(job)
    assert report.comparison is not None
    assert report.comparison.champion is not None
    assert (report.comparison.champion.label, report.comparison.champion.how) == (
        "gru4rec",
        FITTED_AGAIN,
    )


def test_old_versions_are_pruned(data: Path, store: Store) -> None:
    versions = [retrain_on(data, store, force=True, keep=2).version for _ in range(4)]
    assert store.versions() == versions[-2:]


def test_finished_steps_of_failed_attempt_are_not_repeated(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_fits = 0
    fit = Markov._fit

    def count_and_fit(self: Markov, *arguments: Any) -> None:
        nonlocal num_fits
        num_fits += 1
        fit(self, *arguments)

    monkeypatch.setattr(Markov, "_fit", count_and_fit)

    def fail(*_: Any, **__: Any) -> str:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "publish", fail)
        with pytest.raises(StoreError, match="the disk is full"):
            retrain_on(data, store, "markov")
    assert num_fits == 5, "three held-out parts, the older part, all data"
    assert store.versions() == []
    report = retrain_on(data, store, "markov")
    assert report.status == "published"
    assert num_fits == 5
    assert not (store.root / "work").exists()
    uninterrupted = retrain_on(data, Store(store.root.with_name("other")), "markov")
    assert uninterrupted.comparison == report.comparison


def test_bundle_published_meanwhile_stays_live(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrain_on(data, store)

    def publish_and_compare(*arguments: Any) -> Any:
        monkeypatch.setattr(Store, "lock", no_lock)
        train(read(data), Store(store.root), load_config(models=["popularity"]), measure=0)
        return compare(*arguments)

    monkeypatch.setattr(retrain_module, "compare", publish_and_compare)
    with pytest.raises(StoreError, match=r"must still be live, found "):
        retrain_on(data, store, force=True)
    assert store.load().manifest.champion == "popularity"


@contextmanager
def no_lock(_: Store) -> Iterator[None]:
    yield


def write_invalid_json(data: Path) -> None:
    (data / "2.json").write_text("{")


def remove_files(data: Path) -> None:
    for file in data.iterdir():
        file.unlink()


def remove_links(data: Path) -> None:
    for file in data.iterdir():
        file.write_text(json.dumps([{"nodes": [{"id": 1, "mid": 1}], "links": []}] * 60))


@pytest.mark.parametrize(
    "spoil", [write_invalid_json, remove_files, remove_links], ids=lambda f: f.__name__
)
def test_unusable_data_leave_live_bundle(
    spoil: Callable[[Path], None], data: Path, store: Store
) -> None:
    live = retrain_on(data, store).version
    spoil(data)
    with pytest.raises(DataError):
        retrain_on(data, store)
    assert store.current() == live


def test_non_finite_scores_leave_live_bundle(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = retrain_on(data, store).version
    nan = np.full((1, 1), np.nan, dtype=np.float32)
    monkeypatch.setattr(Markov, "_score", lambda *_: nan)
    with pytest.raises(NumericalError, match="markov: scores must be finite"):
        retrain_on(data, store, force=True)
    assert store.current() == live


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"share": 1.5}, "share"),
        ({"keep": 1}, "keep"),
        ({"margin": -1}, "margin"),
        ({"unknown": 3}, "unknown"),
    ],
)
def test_invalid_option_is_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make_retrain_options(**values)
