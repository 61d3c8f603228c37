"""The package itself: what it loads, lists and calls itself, and what its docstrings promise."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dagrec
from dagrec import cli
from dagrec.models.registry import MODELS, class_names
from tests.checks import says

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "scipy", "sklearn", "lightgbm", "fastapi", "pandas", "matplotlib", "optuna")
FUNCTIONS = [name for name in dagrec.__all__ if inspect.isfunction(getattr(dagrec, name))]
CLASSES = [name for name in dagrec.__all__ if inspect.isclass(getattr(dagrec, name))]
VALUES = {"DagrecError", "Node"}
"""Classes with nothing to call: they need no example."""
WITH_EXAMPLES = (
    "dagrec",
    "dagrec.api.arguments",
    "dagrec.api.contexts",
    "dagrec.api.data",
    "dagrec.api.model",
    "dagrec.api.report",
    "dagrec.api.training",
    "dagrec.api.tuning",
    "dagrec.data.compositions",
    "dagrec.data.dataset",
    "dagrec.data.objects",
    "dagrec.data.scalars",
    "dagrec.output.tables",
    "dagrec.errors",
    "dagrec.models",
    "dagrec.output.progress",
    "dagrec.training.runtime",
)


# What it loads


def loaded(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after this code."""
    script = f"import sys\n{code}\nprint(*sys.modules.keys() & set({HEAVY!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    assert loaded("import dagrec; dir(dagrec); dir(dagrec.models); dagrec.__version__") == set()


def test_reading_and_counting_load_no_framework() -> None:
    code = (
        "import dagrec; data = dagrec.read('data/compositions.json'); "
        "model = dagrec.fit(data, 'popularity'); repr(data); repr(model); "
        "repr(model.recommend(['service_301']))"
    )
    assert loaded(code) <= {"scipy"}


# What it lists


def test_dir_lists_the_whole_face() -> None:
    assert {*dagrec.__all__, "__version__"} == set(dir(dagrec))
    assert dagrec.__all__ == sorted(dagrec.__all__)
    for name in dir(dagrec):
        assert getattr(dagrec, name) is not None


def test_star_import_gives_the_whole_face() -> None:
    names: dict[str, Any] = {}
    exec("from dagrec import *", names)
    assert set(dagrec.__all__) <= set(names)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("evalute", "evaluate"), ("form_paths", "from_paths"), ("Reports", "Report"), ("tuen", "tune")],
)
def test_misspelt_attribute_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(AttributeError) as error:
        getattr(dagrec, name)
    assert says(error, "dagrec has no attribute", repr(name), f"did you mean {nearest}")
    assert not hasattr(dagrec, name)


def test_models_lists_every_class_and_names_the_nearest() -> None:
    assert dir(dagrec.models) == sorted(class_names())
    assert len(dir(dagrec.models)) == len(MODELS)
    for wrong in ("Makrov", "markov", "MARKOV"):
        with pytest.raises(AttributeError) as error:
            getattr(dagrec.models, wrong)
        assert says(error, "dagrec.models", repr(wrong), "did you mean Markov?")


@pytest.mark.parametrize("name", class_names())
def test_models_has_the_class_of_every_recommender(name: str) -> None:
    assert getattr(dagrec.models, name).name == class_names()[name]


# What it calls itself


def test_version_is_that_of_the_project(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert dagrec.__version__ == project["version"]
    monkeypatch.setattr(sys, "argv", ["dagrec", "--version"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert capsys.readouterr().out == f"dagrec {project['version']}\n"


# What its docstrings promise


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of_docstrings_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = doctest.testmod(importlib.import_module(name))
    assert done.failed == 0, capsys.readouterr().out


def documented(function: Callable[..., Any], name: str) -> list[str]:
    """What the docstring of a function lacks."""
    text = inspect.getdoc(function) or ""
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    sections = dict(re.findall(r"^(\w+)\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL))
    faults = [f"{name}: {part}" for part in ("Raises", "Examples") if part not in sections]
    given = re.findall(r"^([\w*, ]+)$", sections.get("Parameters", ""), re.MULTILINE)
    told = {each.strip(" *") for line in given for each in line.split(",")}
    faults += [f"{name}: parameter {each}" for each in parameters if each not in told]
    faults += [] if re.match(r"[^\n]+\.\n", text + "\n") else [f"{name}: a summary in one line"]
    return faults


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_document_parameters_errors_and_an_example(name: str) -> None:
    assert documented(getattr(dagrec, name), name) == []


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_documented_with_an_example(name: str) -> None:
    class_ = getattr(dagrec, name)
    text = inspect.getdoc(class_) or ""
    assert re.match(r"[^\n]+\.\n", text + "\n"), f"{name}: a summary in one line"
    own = [method for key, method in vars(class_).items() if not key.startswith("_")]
    texts = [text, *(inspect.getdoc(getattr(method, "fget", method)) or "" for method in own)]
    assert name in VALUES or any(">>>" in each for each in texts)


@pytest.mark.parametrize("name", ["Dataset", "Model", "Recommendations", "Report", "Tuning"])
def test_public_methods_are_documented(name: str) -> None:
    class_ = getattr(dagrec, name)
    methods = {key: value for key, value in vars(class_).items() if not key.startswith("_")}
    assert methods
    for key, method in methods.items():
        if callable(method) or isinstance(method, property | classmethod):
            inner = getattr(method, "fget", getattr(method, "__func__", method))
            assert inspect.getdoc(inner), f"{name}.{key}: has no docstring"


def test_the_check_of_docstrings_sees_what_is_missing() -> None:
    def bare(a: int, b: int) -> int:
        """A sum

        Parameters
        ----------
        a
            The first.
        """
        return a + b

    found = documented(bare, "bare")
    assert found == [
        "bare: Raises",
        "bare: Examples",
        "bare: parameter b",
        "bare: a summary in one line",
    ]
