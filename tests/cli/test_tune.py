"""The command that searches hyperparameters."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

import dagrec
from dagrec.jobs.config import load_config
from tests.cli.commands import Run, assert_fails

QUICK = ("--trials", "4", "--parts", "1")


def test_tune_prints_toml_that_train_takes(run: Run, small: Path, tmp_path: Path) -> None:
    best, study = tmp_path / "new" / "best.toml", tmp_path / "study"
    done = run("tune", small, "--model", "markov", *QUICK, "--study", study, "--out", best)
    assert done.status == 0, done.err
    assert done.out == best.read_text()
    assert f"written to {best}" in done.err
    assert study.stat().st_size > 0
    trained = run("train", small, "--store", tmp_path / "store", "--config", best, "--measure", "0")
    assert trained.status == 0, trained.err
    loaded = dagrec.load(tmp_path / "store")
    assert loaded.recommender.config == load_config(best).recommender("markov").config


def test_tune_equals_the_python_interface(run: Run, small: Path, tmp_path: Path) -> None:
    settings = ("--metric", "nll", "--seed", "3", "--mask", "soft", "--set", "markov.order=2")
    done = run("tune", small, "--model", "markov", *QUICK, *settings, "--json", "-")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    tuning = dagrec.tune(
        dagrec.read(small), "markov", 4, parts=1, metric="nll", seed=3, mask="soft", order=2
    )
    assert found == json.loads(json.dumps(tuning.result.summary()))
    again = run("tune", small, "--model", "markov", *QUICK, *settings, "--study", tmp_path / "study")
    assert again.out == tuning.to_toml()


def test_tune_goes_on_where_it_stopped(run: Run, small: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    command = ("tune", small, "--model", "ease", "--parts", "1", "--study", study)
    few = run(*command, "--trials", "2", "--json", "-")
    lines = study.read_text().splitlines()
    more = run(*command, "--trials", "4", "--json", "-")
    assert study.read_text().splitlines()[: len(lines)] == lines
    trials = json.loads(more.out)["trials"]
    assert trials[:2] == json.loads(few.out)["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    assert run(*command, "--trials", "4", "--json", "-").out == more.out


def test_tune_searches_a_label_of_a_configuration(run: Run, small: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('seed = 4\n[models.mine]\nrecommender = "markov"\nmu = 2.5\n[models.ease]\n')
    done = run("tune", small, "--config", config, "--model", "mine", *QUICK)
    assert done.status == 0, done.err
    found = tomllib.loads(done.out)
    assert found["seed"] == 4
    assert found["models"]["markov"]["mu"] == 2.5
    assert set(found["models"]) == {"markov"}


def test_tune_keeps_how_the_data_are_read(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"{who},{what},{at}" for who in "abcd" for at, what in enumerate("xyzx")]
    log.write_text("\n".join(["who,what,when", *rows]))
    columns = ("--owner-column", "who", "--service-column", "what", "--time-column", "when")
    done = run("tune", log, "--model", "markov", *QUICK, "--format", "calls", *columns)
    assert done.status == 0, done.err
    (tmp_path / "best.toml").write_text(done.out)
    trained = run(
        *("train", log, "--store", tmp_path / "store"),
        *("--config", tmp_path / "best.toml", "--measure", "0"),
    )
    assert trained.status == 0, trained.err


@pytest.mark.parametrize(
    ("options", "status", "texts"),
    [
        (("--model", "popularity"), 2, ("'popularity'", "no hyperparameters to tune")),
        (("--model", "makrov"), 2, ("no recommender 'makrov'", "did you mean markov?")),
        (("--model", "all"), 2, ("one recommender", "found 'all'")),
        (("--model", "markov", "--metric", "mr"), 2, ("no metric 'mr'", "did you mean mrr?")),
        (("--model", "markov", "--mask", "catalogue"), 2, ("mask", "found 'catalogue'")),
        (("--model", "markov", "--set", "markov.ordr=2"), 2, ("ordr", "did you mean order?")),
        (("--model", "markov", "--study", "/proc/nowhere/x"), 1, ("the trials cannot be stored",)),
        (("--model", "markov", "--study", __file__), 1, ("trials of earlier searches",)),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, tuple) else "",
)
def test_tune_refuses_in_one_line(
    options: tuple[str, ...], status: int, texts: tuple[str, ...], run: Run, small: Path
) -> None:
    assert_fails(run("tune", small, *options, *QUICK), status, *texts)


@pytest.mark.parametrize("option", ["--trials=0", "--trials=10001", "--parts=51", "--share=1"])
def test_tune_bounds_its_numbers(option: str, run: Run, small: Path) -> None:
    done = run("tune", small, "--model", "markov", option)
    assert done.status == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    assert option.partition("=")[0] in done.err
