"""The search for hyperparameters."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from dagrec.data.dataset import Dataset, ReadReport
from dagrec.data.examples import extract
from dagrec.data.formats import read_composition
from dagrec.data.synthetic import World, WorldOptions
from dagrec.errors import ConfigError, DagrecError, NumericalError
from dagrec.evaluation.evaluator import TestPart
from dagrec.jobs import tune as job
from dagrec.jobs.config import RunConfig, load_config
from dagrec.jobs.search_space import defaults
from dagrec.jobs.train import held_out_parts
from dagrec.jobs.tune import MAX_TRIALS, TuneOptions, TuneResult, tune
from dagrec.metrics.ranking import METRICS
from dagrec.models.base import Recommender
from dagrec.models.registry import create, recommender_class
from dagrec.training.data import Candidates
from tests.checks import says
from tests.processes import Job, print_and_stop
from tests.worlds import memory

ROOT = Path(__file__).parents[2]
TRIALS = 12
OPTIONS = TuneOptions(trials=TRIALS, parts=2)


def world() -> Dataset:
    """Sixty compositions of the known world."""
    drawn = World(WorldOptions(compositions=60)).draw()
    return Dataset.of([read_composition(each) for each in drawn], ReadReport(), source="the world")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return world()


def config(name: str = "markov", *, seed: int = 0, **options: Any) -> RunConfig:
    return load_config(changes={"seed": seed, "models": {name: options}})


@pytest.fixture(scope="module")
def whole(data: Dataset) -> TuneResult:
    """A search that nothing interrupted."""
    return tune(data, config(seed=3), OPTIONS)


# What is chosen, and on what


def test_the_first_trial_has_the_defaults_and_the_others_do_not(whole: TuneResult) -> None:
    assert len(whole.trials) == TRIALS
    assert [trial.number for trial in whole.trials] == list(range(TRIALS))
    assert whole.trials[0].options == {"order": 8, "mu": None}
    assert create("markov", whole.trials[0].options).config == create("markov").config
    assert whole.default_value == whole.trials[0].value
    assert len({repr(trial.options) for trial in whole.trials}) > TRIALS / 2


def test_values_are_means_over_held_out_parts(data: Dataset, whole: TuneResult) -> None:
    examples, _ = extract(data.compositions)
    parts = held_out_parts(examples, config(seed=3), Candidates(), OPTIONS.parts, OPTIONS.share)
    for trial in whole.trials:
        if trial.value is not None:
            values = []
            for number, part in enumerate(parts):
                model = create("markov", trial.options, seed=3 + number).fit(part.data)
                values.append(METRICS["mrr"](part.outcome(part.fitted(model).probabilities)))
            assert trial.value == pytest.approx(sum(values) / len(values))


@pytest.mark.parametrize(("metric", "best"), [("mrr", max), ("nll", min), ("mean_rank", min)])
def test_the_best_trial_is_the_one_with_the_best_value(
    metric: str, best: Callable[[Iterator[float]], float], data: Dataset
) -> None:
    result = tune(data, config(), OPTIONS.model_copy(update={"metric": metric, "parts": 1}))
    values = [trial.value for trial in result.trials if trial.value is not None]
    assert len(set(values)) > 1
    assert result.best.value == best(iter(values))
    first = next(t for t in result.trials if t.value == result.best.value)
    assert result.best == first


def test_a_planted_best_setting_is_found() -> None:
    """What follows ``hub`` depends on the table two steps back: with an order of 1 nobody can tell."""
    data = Dataset.of(memory(copies=8).compositions, ReadReport(), source="memory")
    options = TuneOptions(trials=16, metric="accuracy", parts=3)
    result = tune(data, config(mu=0.1, seed=1), options)
    blind = [t.value for t in result.trials if t.options["order"] == 1 and t.value is not None]
    assert result.best.options["order"] >= 2
    assert result.best.value == pytest.approx(1.0)
    assert blind, "the search must have tried what is wrong, too"
    assert max(blind) < 0.9


class Spy:
    """The search's own data and models, held-out labels being rotated where asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, rotate: bool) -> None:
        self.parts: list[TestPart] = []
        self.models: list[Recommender] = []

        def parts(*arguments: Any) -> list[TestPart]:
            self.parts = held_out_parts(*arguments)
            if rotate:
                self.parts = [self._rotated(part) for part in self.parts]
            return self.parts

        def make(*arguments: Any, **options: Any) -> Recommender:
            self.models.append(create(*arguments, **options))
            return self.models[-1]

        monkeypatch.setattr(job, "held_out_parts", parts)
        monkeypatch.setattr(job, "create", make)

    @staticmethod
    def _rotated(part: TestPart) -> TestPart:
        targets = [example.target for example in part.examples]
        moved = zip(part.examples, [*targets[1:], targets[0]], strict=True)
        return TestPart.of(part.data, [replace(e, target=t) for e, t in moved], part.mask)


def test_labels_of_held_out_parts_reach_values_and_no_model(data: Dataset) -> None:
    """With other labels on the held-out parts, the same settings give the same models."""
    found: list[tuple[Spy, TuneResult]] = []
    for rotate in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            spy = Spy(patch, rotate=rotate)
            # Random settings at the start do not depend on values: both searches try the same.
            found.append((spy, tune(data, config(), TuneOptions(trials=8, parts=2))))
    (spy, result), (rotated_spy, rotated) = found
    assert [trial.options for trial in result.trials] == [trial.options for trial in rotated.trials]
    assert len(spy.models) == len(rotated_spy.models) == 16
    for one, other in zip(spy.models, rotated_spy.models, strict=True):
        assert all((array == other.state()[name]).all() for name, array in one.state().items())
    assert [trial.value for trial in result.trials] != [trial.value for trial in rotated.trials]
    for part in spy.parts:
        assert not {e.composition for e in part.examples} & {e.composition for e in part.data.examples}


def test_searches_with_equal_settings_are_equal(data: Dataset, whole: TuneResult) -> None:
    assert tune(data, config(seed=3), OPTIONS) == whole
    assert tune(data, config(seed=4), OPTIONS).trials != whole.trials


def test_what_is_given_stays_as_it_is(data: Dataset) -> None:
    result = tune(data, config(order=2), OPTIONS)
    assert {trial.options["order"] for trial in result.trials} == {2}
    assert result.trials[0].options == {"mu": None, "order": 2}
    assert list(result.best.options)[-1] == "order"


def test_hopeless_trials_are_given_up(data: Dataset) -> None:
    result = tune(data, config(), TuneOptions(trials=40, parts=5, metric="nll"))
    stopped = [trial for trial in result.trials if trial.value is None]
    assert stopped
    assert all(trial.failed is None and trial.number >= 8 for trial in stopped)


def test_progress_is_told_after_each_trial(data: Dataset) -> None:
    told: list[tuple[int, float | None]] = []
    result = tune(data, config(), OPTIONS, advance=lambda done, best: told.append((done, best)))
    assert [done for done, _ in told] == list(range(1, TRIALS + 1))
    bests = [best for _, best in told if best is not None]
    assert bests == sorted(bests)
    assert bests[-1] == result.best.value


def test_optuna_says_nothing_and_keeps_its_own_setting(
    data: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        tune(data, config(), TuneOptions(trials=2, parts=1))
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(before)
    assert capfd.readouterr() == ("", "")


# Failures


@pytest.mark.parametrize("error", [ConfigError("does not fit"), NumericalError("is not finite")])
def test_failing_trials_are_counted_and_the_others_go_on(
    error: DagrecError,
    data: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def failing(name: str, options: dict[str, Any], *, seed: int) -> Recommender:
        if options["order"] > 6:
            raise error
        return create(name, options, seed=seed)

    monkeypatch.setattr(job, "create", failing)
    result = tune(data, config(seed=3), OPTIONS)
    assert len(result.trials) == TRIALS
    for trial in result.trials:
        if trial.options["order"] > 6:
            assert (trial.value, trial.failed) == (None, str(error))
        else:
            assert trial.failed is None
    assert 0 < sum(trial.failed is not None for trial in result.trials) < TRIALS
    assert result.trials[0].failed is not None
    assert result.default_value is None
    assert result.best.options["order"] <= 6
    assert "not finished with the defaults" in result.to_toml()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", ["fit", "score"])
def test_a_search_without_a_finished_trial_says_why(
    method: str, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise NumericalError("markov: it is not finite")

    monkeypatch.setattr(recommender_class("markov"), method, fail)
    result = tune(data, config(), TuneOptions(trials=2, parts=1))
    assert [trial.value for trial in result.trials] == [None, None]
    with pytest.raises(ConfigError) as error:
        _ = result.best
    assert says(error, "markov", "no trial was finished", "it is not finite")


def test_a_value_that_is_not_finite_is_a_failure(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(job.METRICS, "mrr", lambda _: float("nan"))
    result = tune(data, config(), TuneOptions(trials=2, parts=1))
    assert [trial.failed for trial in result.trials] == ["mrr must be finite, found nan"] * 2


def test_other_errors_end_the_search_and_the_trial_is_done_again(
    data: Dataset, whole: TuneResult, tmp_path: Path
) -> None:
    calls = 0

    def interrupted(name: str, options: dict[str, Any], *, seed: int) -> Recommender:
        nonlocal calls
        calls += 1
        if calls in (1, 7):
            raise KeyboardInterrupt
        return create(name, options, seed=seed)

    study = tmp_path / "new" / "study.journal"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "create", interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                tune(data, config(seed=3), OPTIONS, study=study)
        result = tune(data, config(seed=3), OPTIONS, study=study)
    assert result == whole


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("popularity", {}, ("'popularity'", "no hyperparameters to tune", "choose another one")),
        ("markov", {"order": 2, "mu": 1.0}, ("'markov'", "no hyperparameters to tune")),
    ],
)
def test_a_recommender_without_hyperparameters_is_refused_in_one_line(
    name: str, options: dict[str, Any], parts: tuple[str, ...], data: Dataset
) -> None:
    with pytest.raises(ConfigError) as error:
        tune(data, config(name, **options), OPTIONS)
    assert says(error, *parts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("metric", "parts"),
    [
        ("mr", ("no metric 'mr'", "did you mean mrr?")),
        ("zzz", ("no metric 'zzz'", "there are", "ndcg@10")),
    ],
)
def test_an_unknown_metric_names_the_nearest(
    metric: str, parts: tuple[str, ...], data: Dataset
) -> None:
    with pytest.raises(ConfigError) as error:
        tune(data, config(), TuneOptions(metric=metric))
    assert says(error, *parts)


# The study file


def test_a_study_is_extended_by_more_trials(data: Dataset, whole: TuneResult, tmp_path: Path) -> None:
    study = tmp_path / "study.journal"
    few = tune(data, config(seed=3), OPTIONS.model_copy(update={"trials": 5}), study=study)
    assert few.trials == whole.trials[:5]
    assert tune(data, config(seed=3), OPTIONS, study=study) == whole
    again = tune(data, config(seed=3), OPTIONS.model_copy(update={"trials": 5}), study=study)
    assert again.trials == few.trials


def test_searches_of_other_settings_share_a_file(
    data: Dataset, whole: TuneResult, tmp_path: Path
) -> None:
    study = tmp_path / "study.journal"
    others = [
        (data, config(seed=3, order=2), OPTIONS),
        (data, config("ease"), OPTIONS),
        (data, config(seed=3), OPTIONS.model_copy(update={"metric": "nll"})),
        (Dataset.of(data.compositions[:40], data.report, source="x"), config(seed=3), OPTIONS),
    ]
    for each in others:
        tune(*each, study=study)
    assert tune(data, config(seed=3), OPTIONS, study=study) == whole


def test_a_line_that_was_cut_off_is_dropped(data: Dataset, whole: TuneResult, tmp_path: Path) -> None:
    study = tmp_path / "study.journal"
    tune(data, config(seed=3), OPTIONS.model_copy(update={"trials": 5}), study=study)
    content = study.read_bytes()
    study.write_bytes(content + content[:20])
    assert tune(data, config(seed=3), OPTIONS, study=study) == whole
    assert study.read_bytes().startswith(content)


@pytest.mark.parametrize("text", ["# a read-me\n", "{}\n", "5\n", "null\n", '{"op_code": 0', "\xff"])
def test_a_file_of_anything_else_is_refused_and_left_alone(
    text: str, data: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "study"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DagrecError) as error:
        tune(data, config(), OPTIONS, study=file)
    assert says(error, str(file), "trials of earlier searches", "other content", "choose another study")
    assert file.read_bytes() == text.encode("latin-1")
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


@pytest.mark.parametrize("place", ["folder", "file/study", "x" * 300])
def test_a_study_that_cannot_be_kept_says_so(place: str, data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(DagrecError) as error:
        tune(data, config(), OPTIONS, study=tmp_path / place)
    assert says(error, str(tmp_path / place), "trials cannot be stored", "choose another study")


# Killed


def killed(study: Path, stop: int) -> list[int]:
    """The models that a search told of until it was killed in that of number ``stop``, or was done."""
    process = Job(search, (study, stop))
    if stop:
        process.wait_for_line(str(stop))
        done = process.kill()
    else:
        done = process.wait()
    assert done.status == (-9 if stop else 0), done.err
    return [int(line) for line in done.out.splitlines()]


def test_a_killed_search_ends_where_an_uninterrupted_one_does(
    data: Dataset, whole: TuneResult, tmp_path: Path
) -> None:
    """It is killed in the first trial, in the second part of a later one, and then left to itself."""
    study = tmp_path / "study.journal"
    assert killed(study, 1) == [1]
    assert killed(study, 8) == list(range(1, 9))
    rest = killed(study, 0)
    done = sum(1 if trial.value is None else 2 for trial in whole.trials)
    assert len(rest) == done - 6  # the first process finished none, the second one three trials
    result = tune(data, config(seed=3), OPTIONS, study=study)
    assert result == whole


def search(study: Path, stop: int) -> None:
    """Print the number of each model that is made; do nothing more after that of number ``stop``."""
    made = 0

    def tell(*arguments: Any, **options: Any) -> Recommender:
        nonlocal made
        made += 1
        if made == stop:
            print_and_stop(made)
        print(made, flush=True)
        return create(*arguments, **options)

    job.create = tell  # type: ignore[attr-defined]
    tune(world(), config(seed=3), OPTIONS, study=study)


# TOML


def test_toml_gives_the_best_recommender(data: Dataset, whole: TuneResult, tmp_path: Path) -> None:
    file = tmp_path / "best.toml"
    file.write_text(whole.to_toml())
    run = load_config(file)
    assert run.recommender("markov").config == create("markov", whole.best.options).config
    assert (run.seed, run.mask) == (3, whole.config.mask)
    for text in (f"{whole.best.value:.4f}", f"{whole.default_value:.4f}", data.fingerprint):
        assert f"{text}" in whole.to_toml().partition("seed =")[0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("blend", {"members": {"markov": {"order": 2}, "a b.c": {"recommender": "stan"}}, "folds": 2}),
        ("auto", {"candidates": ["markov", "ease"], "folds": 2}),
        (
            "gru4rec",
            {"epochs": 1, "learning_rate": 1e-05, "tied": True, "loss": "bpr", "patience": None},
        ),
        ("gru4rec", {"epochs": 1, "negatives": None, "loss": "bpr"}),
    ],
    ids=["tables", "lists", "numbers", "null"],
)
def test_toml_holds_options_of_every_kind(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    run = load_config(
        changes={
            "seed": 5,
            "mask": "soft",
            "models": {"mine": {"recommender": name, **options}},
            "examples": {"form": "links", "max_paths": 7},
            "read": {"on_error": "skip", "owner_column": 'the "owner"'},
        }
    )
    values = {key: value for key, value in defaults(name, options).items() if value is not None}
    trial = job.Trial(0, {**values, **options}, 0.5, None)
    about = {"path": "a\nb = 1\u2028", "fingerprint": "x"}
    toml = TuneResult(name, OPTIONS, run, about, (trial,)).to_toml()
    file = tmp_path / "best.toml"
    file.write_text(toml, encoding="utf-8")
    unset = [key for key, value in options.items() if value is None]
    given = [f"{name}.{key}=null" for key in unset]
    found = load_config(file, overrides=given, models=[name])
    assert found.recommender(name).config == create(name, trial.options).config
    expected = run.model_dump(exclude={"models"})
    assert found.model_dump(exclude={"models"}) == expected
    assert ("--set gru4rec.negatives=null" in toml) == ("negatives" in unset)
    assert "patience" not in toml
    assert set(tomllib.loads(toml)) == {"seed", "mask", "read", "examples", "models"}


def test_summary_is_what_json_needs(whole: TuneResult) -> None:
    summary = whole.summary()
    assert summary["model"] == "markov"
    assert summary["best"]["options"] == whole.best.options
    assert summary["default_value"] == whole.default_value
    assert len(summary["trials"]) == TRIALS
    assert summary["options"] == {"trials": TRIALS, "metric": "mrr", "parts": 2, "share": 0.2}
    assert summary["data"]["fingerprint"] == whole.data["fingerprint"]


@pytest.mark.parametrize(
    "options",
    [
        {"trials": 0},
        {"trials": MAX_TRIALS + 1},
        {"parts": 0},
        {"share": 0},
        {"share": 1},
        {"trails": 5},
    ],
    ids=str,
)
def test_options_have_bounds(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        TuneOptions(**options)
