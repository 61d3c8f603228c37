"""The commands embeddings and models with a store."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.cli.commands import DATA, Run
from tests.processes import python


@pytest.fixture(scope="module")
def store(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    quick = (
        "--measure",
        "0",
        "--set",
        "lightgcn.epochs=2",
        "--set",
        "lightgcn.min_steps=0",
        "--set",
        "lightgcn.width=8",
    )
    completed = run(
        "train", DATA, "--store", folder, "--model", "markov", "--model", "lightgcn", *quick
    )
    assert completed.status == 0, completed.err
    return folder


def test_embeddings_writes_file_plot_and_json(store: Path, run: Run, tmp_path: Path) -> None:
    file, picture = tmp_path / "new" / "vectors.npz", tmp_path / "other" / "vectors.png"
    options = ("--model", "lightgcn", "--out", file, "--plot", picture, "--colour", "popularity")
    completed = run("embeddings", "--store", store, *options, "--json", "-")
    assert completed.status == 0, completed.err
    summary = json.loads(completed.out)
    with np.load(file, allow_pickle=False) as arrays:
        assert summary["nodes"] == list(arrays["nodes"].shape) == [62, 8]
        assert summary["services"] == list(arrays["services"].shape) == [16, 8]
        assert summary["version"] == str(arrays["version"])
        assert summary["fingerprints"]["data"] == str(arrays["data_fingerprint"])
    assert -1 <= summary["service_cosine"] <= 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"written to {file}\nwritten to {picture}\n" == completed.err


def test_embeddings_prints_shapes_and_mean_cosine(store: Path, run: Run, tmp_path: Path) -> None:
    file, json_file = tmp_path / "vectors.npz", tmp_path / "summary.json"
    completed = run(
        "embeddings", "--store", store, "--model", "lightgcn", "--out", file, "--json", json_file
    )
    assert completed.status == 0, completed.err
    cosine = json.loads(json_file.read_text())["service_cosine"]
    for text in ("62 vectors of 8", "16 vectors of 8", f"{cosine:.3f}"):
        assert text in completed.out


@pytest.mark.parametrize(
    ("options", "status", "texts"),
    [
        (("--model", "markov"), 2, ["'markov'", "must have embeddings", "one of lightgcn"]),
        ((), 2, ["'markov'", "one of lightgcn"]),  # the champion
        (("--model", "unknown"), 2, ["one of markov, lightgcn", "'unknown'"]),
        (("--model", "lightgcn", "--version", "none"), 1, ["cannot be read"]),
        (("--model", "lightgcn", "--plot", "/dev/null/a.png"), 1, ["/dev/null/a.png", "another place"]),
    ],
    ids=["no vectors", "champion", "unknown", "version", "plot"],
)
def test_invalid_embeddings_options_fail(
    options: tuple[str, ...], status: int, texts: list[str], store: Path, run: Run, tmp_path: Path
) -> None:
    completed = run("embeddings", "--store", store, "--out", tmp_path / "vectors.npz", *options)
    last = completed.err.splitlines()[-1]
    assert (completed.status, completed.out) == (status, "")
    assert last.startswith("dagrec: ")
    assert all(text in last for text in texts), last
    assert "Traceback" not in completed.err


def test_embeddings_with_missing_store_or_unwritable_file_fails(
    store: Path, run: Run, tmp_path: Path
) -> None:
    missing = run("embeddings", "--store", tmp_path / "none", "--out", tmp_path / "v.npz")
    assert missing.status == 1
    assert "must contain a published bundle, found none" in missing.err
    file = "/dev/null/v.npz"
    unwritable = run("embeddings", "--store", store, "--model", "lightgcn", "--out", file)
    assert unwritable.status == 1
    assert f"{file}: cannot be written" in unwritable.err
    assert run("embeddings", "--store", store).status == 2


def test_plot_without_matplotlib_fails_and_writes_nothing(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "vectors.npz"
    arguments = ["dagrec", "embeddings", "--store", str(store), "--model", "lightgcn"]
    arguments += ["--out", str(file)]
    code = (
        "import sys\nsys.modules['matplotlib.figure'] = None\nfrom dagrec import cli\n"
        "sys.argv = {}\ncli.main()"
    )
    completed = python(code.format([*arguments, "--plot", str(tmp_path / "a.png")]), folder=tmp_path)
    assert completed.status == 2
    assert "install dagrec[viz]" in completed.err
    assert not file.exists()
    assert python(code.format(arguments), folder=tmp_path).status == 0
    assert file.exists()


def test_models_with_store_has_numbers_of_parameters(store: Path, run: Run) -> None:
    models = {m["name"]: m for m in json.loads(run("models", "--store", store, "--json").out)}
    parameters = {name: m["parameters"] for name, m in models.items() if m["parameters"]}
    assert parameters.keys() == {"markov", "lightgcn"}
    count = parameters["lightgcn"]["lightgcn"]
    assert re.search(rf"^lightgcn +bipartite .* {count:,}$", run("models", "--store", store).out, re.M)
    assert (
        f"lightgcn has {count:,} learned parameters" in run("models", "lightgcn", "--store", store).out
    )


def test_models_with_missing_store_or_unknown_name_fails(run: Run, tmp_path: Path) -> None:
    missing = run("models", "--store", tmp_path / "none")
    assert (missing.status, missing.out) == (1, "")
    unknown = run("models", "markov", "unknown")
    assert (unknown.status, unknown.out) == (2, "")
    assert "no recommender 'unknown'" in unknown.err
