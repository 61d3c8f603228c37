"""The command line around what was learned: embeddings, and what `models` tells of a store."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.cli.commands import DATA, Run
from tests.consoles import python


@pytest.fixture(scope="module")
def store(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    quick = ("--measure", "0", "--set", "lightgcn.epochs=2", "--set", "lightgcn.width=8")
    done = run("train", DATA, "--store", folder, "--model", "markov", "--model", "lightgcn", *quick)
    assert done.status == 0, done.err
    return folder


def test_vectors_are_written_drawn_and_told_of(store: Path, run: Run, tmp_path: Path) -> None:
    file, picture = tmp_path / "new" / "vectors.npz", tmp_path / "other" / "vectors.png"
    options = ("--model", "lightgcn", "--out", file, "--plot", picture, "--colour", "popularity")
    done = run("embeddings", "--store", store, *options, "--json", "-")
    assert done.status == 0, done.err
    told = json.loads(done.out)
    with np.load(file, allow_pickle=False) as found:
        assert told["nodes"] == list(found["nodes"].shape) == [62, 8]
        assert told["services"] == list(found["services"].shape) == [16, 8]
        assert told["version"] == str(found["version"])
        assert told["fingerprints"]["data"] == str(found["data_fingerprint"])
    assert -1 <= told["service_cosine"] <= 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"written to {file}\nwritten to {picture}\n" == done.err


def test_a_person_sees_shapes_and_the_mean_cosine(store: Path, run: Run, tmp_path: Path) -> None:
    file, told = tmp_path / "vectors.npz", tmp_path / "told.json"
    done = run("embeddings", "--store", store, "--model", "lightgcn", "--out", file, "--json", told)
    assert done.status == 0, done.err
    cosine = json.loads(told.read_text())["service_cosine"]
    for text in ("62 vectors of 8", "16 vectors of 8", f"{cosine:.3f}"):
        assert text in done.out


@pytest.mark.parametrize(
    ("options", "status", "texts"),
    [
        (("--model", "markov"), 2, ["'markov'", "no embeddings", "one of lightgcn"]),
        ((), 2, ["'markov'", "one of lightgcn"]),  # the champion
        (("--model", "nobody"), 2, ["one of markov, lightgcn", "'nobody'"]),
        (("--model", "lightgcn", "--version", "none"), 1, ["cannot be read"]),
        (("--model", "lightgcn", "--plot", "/dev/null/a.png"), 1, ["/dev/null/a.png", "another place"]),
    ],
    ids=["no vectors", "champion", "unknown", "version", "plot"],
)
def test_what_has_no_vectors_is_refused_in_one_line(
    options: tuple[str, ...], status: int, texts: list[str], store: Path, run: Run, tmp_path: Path
) -> None:
    done = run("embeddings", "--store", store, "--out", tmp_path / "vectors.npz", *options)
    last = done.err.splitlines()[-1]
    assert (done.status, done.out) == (status, "")
    assert last.startswith("dagrec: ")
    assert all(text in last for text in texts), last
    assert "Traceback" not in done.err


def test_a_store_that_is_not_there_and_a_place_that_cannot_be_written_are_refused(
    store: Path, run: Run, tmp_path: Path
) -> None:
    missing = run("embeddings", "--store", tmp_path / "none", "--out", tmp_path / "v.npz")
    assert missing.status == 1
    assert "must contain a published bundle, found none" in missing.err
    file = "/dev/null/v.npz"
    refused = run("embeddings", "--store", store, "--model", "lightgcn", "--out", file)
    assert refused.status == 1
    assert f"{file}: cannot be written" in refused.err
    assert run("embeddings", "--store", store).status == 2


def test_without_matplotlib_the_picture_is_refused_and_nothing_written(
    store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "vectors.npz"
    arguments = ["dagrec", "embeddings", "--store", str(store), "--model", "lightgcn"]
    arguments += ["--out", str(file)]
    code = (
        "import sys\nsys.modules['matplotlib.figure'] = None\nfrom dagrec import cli\n"
        "sys.argv = {}\ncli.main()"
    )
    done = python(code.format([*arguments, "--plot", str(tmp_path / "a.png")]), folder=tmp_path)
    assert done.status == 2
    assert "install dagrec[viz]" in done.err
    assert not file.exists()
    assert python(code.format(arguments), folder=tmp_path).status == 0
    assert file.exists()


def test_models_of_a_store_are_told_with_what_they_learned(store: Path, run: Run) -> None:
    found = {m["name"]: m for m in json.loads(run("models", "--store", store, "--json").out)}
    learned = {name: m["parameters"] for name, m in found.items() if m["parameters"]}
    assert learned.keys() == {"markov", "lightgcn"}
    count = learned["lightgcn"]["lightgcn"]
    assert re.search(rf"^lightgcn +bipartite .* {count:,}$", run("models", "--store", store).out, re.M)
    assert f"lightgcn has learned {count:,} numbers" in run("models", "lightgcn", "--store", store).out


def test_models_of_a_store_that_is_not_there_and_unknown_names_are_refused(
    run: Run, tmp_path: Path
) -> None:
    missing = run("models", "--store", tmp_path / "none")
    assert (missing.status, missing.out) == (1, "")
    unknown = run("models", "markov", "nobody")
    assert (unknown.status, unknown.out) == (2, "")
    assert "no recommender 'nobody'" in unknown.err
