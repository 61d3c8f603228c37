"""The layout of design.md: which way imports point, what a file holds, and light imports."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx
import pytest

import dagrec
from dagrec.config import load_config
from dagrec.data.formats import read
from dagrec.jobs.train import train
from dagrec.models.registry import MODELS, recommender_class
from dagrec.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT, ROOT / "service")
"""Where the packages dagrec and dagrec_service lie."""
PACKAGES = ("dagrec", "dagrec_service")
FILES = sorted(
    path
    for source, package in zip(SOURCES, PACKAGES, strict=True)
    for path in (source / package).rglob("*.py")
)
TEST_FILES = sorted((ROOT / "tests").rglob("test_*.py"))

ROOMS = (
    {"errors", "types", "files", "display", "progress"},
    {"metrics"},
    {"data"},
    {"graph"},
    {"training"},
    {"models"},
    {"evaluation"},
    {"store"},
    {"recommend"},
    {"feedback"},
    {"config"},
    {"jobs"},
    {"api", None},
    {"cli"},
)
"""The rooms of dagrec; one may import its own and those before it. None is dagrec itself, which hands
on what the room api has."""
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
SEEN_BY_SERVICE = {"recommend", "store", "errors", "types", "data", "feedback"}
MOST_LINES = 400
HELPER = re.compile(r"(?:^|[._])(?:assert_|checks?(?:_|$))")
"""A name of something that asserts: assert_whole, check_bundle, CHECKS[name]."""
HEAVY = {"scipy", "sklearn", "torch"}
CODE_THAT_RUNS_WHEN_READ = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def name_of(path: Path) -> str:
    """The dotted name of a file: ``dagrec.graph.mask``."""
    source = next(source for source in reversed(SOURCES) if path.is_relative_to(source))
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in FILES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, wherever it stands: in a function, or for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*package, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield node.lineno, inner if inner in NAMES else source


def own_imports(path: Path) -> list[tuple[int, str]]:
    found = imports(tree_of(path), name_of(path))
    return [(line, name) for line, name in found if name.split(".")[0] in PACKAGES]


def room(name: str) -> str | None:
    """``graph`` of ``dagrec.graph.mask``; None of the package itself."""
    return name.split(".")[1] if "." in name else None


def wrong_way(name: str, imported: str) -> bool:
    """Whether this module may not import that one."""
    package, target = name.split(".")[0], imported.split(".")[0]
    if package == "dagrec_service":
        return target == "dagrec" and room(imported) not in SEEN_BY_SERVICE
    if target == "dagrec_service":
        return room(name) != "cli"
    return LEVEL[room(imported)] > LEVEL[room(name)]


def types_only(tree: ast.Module) -> Iterator[ast.AST]:
    """The blocks under ``if TYPE_CHECKING``, which never run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from node.body


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {room(name) for name in NAMES if name.split(".")[0] == "dagrec"}
    assert rooms == set(LEVEL), f"{rooms ^ set(LEVEL)}: give each room one place in ROOMS"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_import_points_back(path: Path) -> None:
    name = name_of(path)
    wrong = [
        f"{path}:{line}: {name} imports {to}" for line, to in own_imports(path) if wrong_way(name, to)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "imported", "wrong"),
    [
        ("dagrec.models.base", "dagrec.training.loop", False),
        ("dagrec.training.loop", "dagrec.models.base", True),
        ("dagrec.config", "dagrec.jobs.train", True),
        ("dagrec.jobs.train", "dagrec.config", False),
        ("dagrec.data.paths", "dagrec.graph", True),
        ("dagrec.errors", "dagrec.types", False),
        ("dagrec.files", "dagrec.errors", False),
        ("dagrec.progress", "dagrec.metrics.ranks", True),
        ("dagrec", "dagrec.api.model", False),
        ("dagrec", "dagrec.cli.console", True),
        ("dagrec.jobs.train", "dagrec", True),
        ("dagrec.cli.console", "dagrec", False),
        ("dagrec.recommend.predictor", "dagrec_service.app", True),
        ("dagrec.cli.answer", "dagrec_service.app", False),
        ("dagrec_service.app", "dagrec.config", True),
        ("dagrec_service.app", "dagrec.store.bundle", False),
        ("dagrec_service.app", "dagrec_service.errors", False),
        ("dagrec_service.app", "dagrec", True),
    ],
)
def test_the_rule_knows_both_directions(name: str, imported: str, wrong: bool) -> None:
    assert wrong_way(name, imported) is wrong


def test_imports_are_found_in_functions_and_under_type_checking() -> None:
    text = (
        "if TYPE_CHECKING:\n    from dagrec.training.loop import train\n"
        "def f():\n    from dagrec.recommend import predictor as library\n    from . import mask\n"
        "    import dagrec_service.app\n"
    )
    found = {name for _, name in imports(ast.parse(text), "dagrec.graph.x")}
    assert found == {
        "dagrec.training.loop",
        "dagrec.recommend.predictor",
        "dagrec.graph.mask",
        "dagrec_service.app",
    }


def test_modules_import_each_other_without_a_circle() -> None:
    graph = networkx.DiGraph(
        (name_of(path), to) for path in FILES for _, to in own_imports(path) if to != name_of(path)
    )
    circles = list(networkx.simple_cycles(graph))
    assert not circles


@pytest.mark.parametrize("name", MODELS)
def test_the_registry_names_modules_that_exist_by_their_own_name(name: str) -> None:
    module, _, attribute = MODELS[name].partition(":")
    path = ROOT / (module.replace(".", "/") + ".py")
    assert path.is_file(), f"{path}: registered as {name!r}, found no such file"
    assert path.stem == name
    assert getattr(importlib.import_module(module), attribute).name == name


def test_only_the_registry_and_the_package_itself_import_by_a_text() -> None:
    calls = {
        name_of(path)
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("import_module", "__import__"))
    }
    assert calls == {"dagrec", "dagrec.models.registry"}


def test_what_the_package_imports_by_a_text_it_imports_for_types() -> None:
    """So that the rules of this file see it."""
    seen = {name for _, name in own_imports(ROOT / "dagrec" / "__init__.py")}
    assert {*dagrec._MODULES.values(), "dagrec.models"} <= seen
    for name in dagrec.__all__:
        assert getattr(dagrec, name) is not None


def test_torch_is_imported_only_where_networks_are() -> None:
    """In the training room, in gradient-trained recommenders, and in what these alone import."""
    graph = networkx.DiGraph(
        (name_of(path), to) for path in FILES for _, to in own_imports(path) if room(to) == "models"
    )
    modules = {name: MODELS[name].partition(":")[0] for name in MODELS}
    gradual = {m for n, m in modules.items() if recommender_class(n).traits.gradient_trained}
    allowed = gradual.union(*(networkx.descendants(graph, module) for module in gradual))
    for module in set(modules.values()) - gradual:
        allowed -= {module, *networkx.descendants(graph, module)}
    for path in FILES:
        name = name_of(path)
        never_run = {line for block in types_only(tree_of(path)) for line, _ in imports(block, name)}
        lines = [
            line
            for line, imported in imports(tree_of(path), name)
            if imported.split(".")[0] == "torch" and line not in never_run
        ]
        if name not in allowed and room(name) != "training":
            assert not lines, f"{path}:{lines}: {name} may not import torch"


@pytest.mark.parametrize(
    "code",
    [
        "import dagrec",
        "import dagrec.cli, dagrec.jobs.train, dagrec.jobs.evaluate, dagrec.jobs.inspect",
        "import dagrec.models.counting.popularity, dagrec.models.counting.markov, dagrec.graph.mask",
        "import dagrec.training.data, dagrec.training.options, dagrec.training.runtime",
        "import dagrec.api.model, dagrec.api.report, dagrec.api.tuning",
        "import dagrec_service.app",
    ],
)
def test_imports_of_no_heavy_package(code: str) -> None:
    assert_light(code)


def test_help_of_the_command_line_imports_no_heavy_package() -> None:
    assert_light(
        "from dagrec.cli import main; sys.argv = ['dagrec', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code"
    )


def test_models_that_are_not_trained_by_gradient_answer_without_heavy_packages(tmp_path: Path) -> None:
    """A process that serves them stays small."""
    labels = ["popularity", "markov", "vsknn", "stan", "ridge", "ease", "itemknn", "ials", "svdgcn_s"]
    dataset = read(ROOT / "data" / "compositions.json")
    train(dataset, Store(tmp_path), load_config(models=labels), measure=0)
    assert_light(
        "import dagrec_service.app\n"
        "from pathlib import Path\n"
        "from dagrec.data.examples import Context\n"
        "from dagrec.store.store import Store\n"
        f"bundle = Store(Path({str(tmp_path)!r})).load()\n"
        "context = Context((bundle.vocabulary.services[0],))\n"
        "assert all(fitted.recommend([context], 3) for fitted in bundle.models.values())\n"
        f"assert len(bundle.models) == {len(labels)}"
    )


def assert_light(code: str) -> None:
    """Run it in a fresh interpreter, and look at what was loaded."""
    script = f"import sys\n{code}\nprint(*({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.splitlines()[-1], f"imported: {done.stdout}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_described_short_and_silent(path: Path) -> None:
    text, tree = path.read_text(encoding="utf-8"), tree_of(path)
    lines = text.count("\n")
    assert lines <= MOST_LINES, f"{path}: a file may have {MOST_LINES} lines, found {lines}"
    if text.strip() or path.name != "__init__.py":
        assert ast.get_docstring(tree), f"{path}: needs a docstring in front"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print", f"{path}:{node.lineno}: the library does not print"
            assert called not in ("torch.load", "torch.save"), f"{path}:{node.lineno}: unpickles"
            pickles = any(k.arg == "allow_pickle" for k in node.keywords)
            assert not pickles, f"{path}:{node.lineno}: arrays are stored without pickles"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_stored_in_a_form_that_runs_code(path: Path) -> None:
    found = {name.split(".")[0] for _, name in imports(tree_of(path), name_of(path))}
    assert not found & CODE_THAT_RUNS_WHEN_READ


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda p: str(p.relative_to(ROOT / "tests")))
def test_every_test_can_fail(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and re.match(r"test_|.*assert_|.*check_", node.name)
    ]
    idle = [f"{path}:{f.lineno}: {f.name}" for f in functions if not asserts(f)]
    assert any(f.name.startswith("test_") for f in functions), f"{path}: holds no test"
    assert not idle, "\n".join(idle)


def asserts(test: ast.AST) -> bool:
    """Whether a test asserts something, itself or by a helper named assert_... or check_..."""
    for node in ast.walk(test):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).partition("[")[0]
            if called in ("pytest.raises", "pytest.warns") or HELPER.search(called.lower()):
                return True
    return False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def test_x():\n    run()", False),
        ("def test_x():\n    assert run()", True),
        ("def test_x():\n    with pytest.raises(ValueError):\n        run()", True),
        ("def test_x():\n    _check_run()", True),
        ("def test_x(name):\n    CHECKS[name]()", True),
        ("def test_x(name):\n    json_check_run()", True),
        ("def test_x():\n    np.testing.assert_allclose(run(), 1)", True),
        ("def test_x():\n    checker = run()", False),
    ],
)
def test_the_rule_knows_a_test_that_asserts(text: str, expected: bool) -> None:
    assert asserts(ast.parse(text)) is expected
