"""The architecture (docs/design.md): the direction of imports, the form of files, and light imports."""

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
from dagrec.data.formats import read
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.models.registry import MODELS, recommender_class
from dagrec.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT, ROOT / "service")
"""The parent folders of the packages dagrec and dagrec_service."""
PACKAGES = ("dagrec", "dagrec_service")
FILES = sorted(
    path
    for source, package in zip(SOURCES, PACKAGES, strict=True)
    for path in (source / package).rglob("*.py")
)
TEST_FILES = sorted((ROOT / "tests").rglob("test_*.py"))

ROOMS = (
    {"errors", "types", "plugins"},
    {"output"},
    {"metrics"},
    {"data"},
    {"graph"},
    {"training"},
    {"models"},
    {"evaluation"},
    {"store"},
    {"recommend"},
    {"jobs"},
    {"api", None},
    {"cli"},
)
"""The rooms of dagrec. A room may import itself and earlier ones. None is the package dagrec itself,
which re-exports names of the room api."""
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
ALLOWED_FOR_SERVICE = {"recommend", "store", "output", "errors", "types", "data"}
MAX_LINES = 400
HELPER = re.compile(r"(?:^|[._])(?:assert_|checks?(?:_|$))")
"""The names of helpers with assertions: assert_whole, check_bundle, CHECKS[name]."""
HEAVY = {"scipy", "sklearn", "torch"}
UNSAFE_SERIALISERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def name_of(path: Path) -> str:
    """The module name of a file: ``dagrec.graph.mask``."""
    source = next(source for source in reversed(SOURCES) if path.is_relative_to(source))
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in FILES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """The (line, module name) of every import, including those in functions and for types."""
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


def internal_imports(path: Path) -> list[tuple[int, str]]:
    """The imports of modules of dagrec and dagrec_service."""
    return [
        (line, name)
        for line, name in imports(tree_of(path), name_of(path))
        if name.split(".")[0] in PACKAGES
    ]


def room(name: str) -> str | None:
    """The room of a module: ``graph`` for ``dagrec.graph.mask``, and None for the package itself."""
    return name.split(".")[1] if "." in name else None


def is_forbidden(name: str, imported: str) -> bool:
    """Whether module ``name`` must not import module ``imported``."""
    package, target = name.split(".")[0], imported.split(".")[0]
    if package == "dagrec_service":
        return target == "dagrec" and room(imported) not in ALLOWED_FOR_SERVICE
    if target == "dagrec_service":
        return room(name) != "cli"
    return LEVEL[room(imported)] > LEVEL[room(name)]


def type_checking_blocks(tree: ast.Module) -> Iterator[ast.AST]:
    """The statements under ``if TYPE_CHECKING``, which are never executed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from node.body


def test_every_room_is_in_order() -> None:
    rooms = {room(name) for name in NAMES if name.split(".")[0] == "dagrec"}
    assert rooms == set(LEVEL), f"{rooms ^ set(LEVEL)}: give each room one place in ROOMS"


def test_modules_import_only_earlier_rooms() -> None:
    forbidden = [
        f"{path}:{line}: {name_of(path)} imports {imported}"
        for path in FILES
        for line, imported in internal_imports(path)
        if is_forbidden(name_of(path), imported)
    ]
    assert not forbidden, "\n".join(forbidden)


@pytest.mark.parametrize(
    ("name", "imported", "forbidden"),
    [
        ("dagrec.models.base", "dagrec.training.loop", False),
        ("dagrec.training.loop", "dagrec.models.base", True),
        ("dagrec.recommend.request", "dagrec.jobs.train", True),
        ("dagrec.jobs.train", "dagrec.recommend.request", False),
        ("dagrec.data.paths", "dagrec.graph", True),
        ("dagrec.errors", "dagrec.types", False),
        ("dagrec.output.files", "dagrec.errors", False),
        ("dagrec.output.progress", "dagrec.metrics.ranks", True),
        ("dagrec", "dagrec.api.model", False),
        ("dagrec", "dagrec.cli.console", True),
        ("dagrec.jobs.train", "dagrec", True),
        ("dagrec.cli.console", "dagrec", False),
        ("dagrec.recommend.predictor", "dagrec_service.app", True),
        ("dagrec.cli.predict", "dagrec_service.app", False),
        ("dagrec_service.app", "dagrec.jobs.config", True),
        ("dagrec_service.app", "dagrec.store.bundle", False),
        ("dagrec_service.app", "dagrec_service.errors", False),
        ("dagrec_service.app", "dagrec", True),
    ],
)
def test_is_forbidden(name: str, imported: str, forbidden: bool) -> None:
    assert is_forbidden(name, imported) is forbidden


def test_imports_include_functions_and_type_checking_blocks() -> None:
    text = (
        "if TYPE_CHECKING:\n    from dagrec.training.loop import train\n"
        "def f():\n    from dagrec.recommend import predictor as library\n    from . import mask\n"
        "    import dagrec_service.app\n"
    )
    imported = {name for _, name in imports(ast.parse(text), "dagrec.graph.x")}
    assert imported == {
        "dagrec.training.loop",
        "dagrec.recommend.predictor",
        "dagrec.graph.mask",
        "dagrec_service.app",
    }


def test_imports_have_no_cycles() -> None:
    graph = networkx.DiGraph(
        (name_of(path), to) for path in FILES for _, to in internal_imports(path) if to != name_of(path)
    )
    cycles = list(networkx.simple_cycles(graph))
    assert not cycles


@pytest.mark.parametrize("name", MODELS)
def test_registered_recommender_has_module_of_its_name(name: str) -> None:
    module, _, attribute = MODELS[name].partition(":")
    path = ROOT / (module.replace(".", "/") + ".py")
    assert path.is_file(), f"{path}: registered as {name!r}, found no file"
    assert path.stem == name
    assert getattr(importlib.import_module(module), attribute).name == name


def test_dynamic_imports_are_only_in_registry_and_package() -> None:
    calls = {
        name_of(path)
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("import_module", "__import__"))
    }
    assert calls == {"dagrec", "dagrec.models.registry"}


def test_dynamic_imports_of_package_are_repeated_for_types() -> None:
    """Otherwise the tests of this file would miss them."""
    imported = {name for _, name in internal_imports(ROOT / "dagrec" / "__init__.py")}
    assert {*dagrec._MODULES.values(), "dagrec.models"} <= imported
    for name in dagrec.__all__:
        assert getattr(dagrec, name) is not None


def test_torch_is_imported_only_for_networks() -> None:
    """It is allowed in room training, in networks, and in modules that only networks import."""
    graph = networkx.DiGraph(
        (name_of(path), to)
        for path in FILES
        for _, to in internal_imports(path)
        if room(to) == "models"
    )
    modules = {name: MODELS[name].partition(":")[0] for name in MODELS}
    networks = {m for n, m in modules.items() if recommender_class(n).traits.gradient_trained}
    allowed = networks.union(*(networkx.descendants(graph, module) for module in networks))
    for module in set(modules.values()) - networks:
        allowed -= {module, *networkx.descendants(graph, module)}
    for path in FILES:
        name = name_of(path)
        for_types = {
            line for block in type_checking_blocks(tree_of(path)) for line, _ in imports(block, name)
        }
        lines = [
            line
            for line, imported in imports(tree_of(path), name)
            if imported.split(".")[0] == "torch" and line not in for_types
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
def test_imports_are_light(code: str) -> None:
    assert_light(code)


def test_help_of_command_line_is_light() -> None:
    assert_light(
        "from dagrec.cli import main; sys.argv = ['dagrec', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code"
    )


def test_predictions_without_networks_are_light(tmp_path: Path) -> None:
    """A process that only serves such models does not import torch."""
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
    """Run code in a new interpreter, and check that no heavy package was imported."""
    script = f"import sys\n{code}\nprint(*({HEAVY} & set(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert not process.stdout.splitlines()[-1], f"imported: {process.stdout}"


def test_files_have_docstrings_and_bounded_length_and_no_forbidden_calls() -> None:
    defects = [defect for path in FILES for defect in defects_of(path)]
    assert not defects, "\n".join(defects)


def defects_of(path: Path) -> Iterator[str]:
    """What breaks a rule for the form of a file."""
    text, tree = path.read_text(encoding="utf-8"), tree_of(path)
    lines = text.count("\n")
    if lines > MAX_LINES:
        yield f"{path}: a file may have {MAX_LINES} lines, found {lines}"
    if (text.strip() or path.name != "__init__.py") and not ast.get_docstring(tree):
        yield f"{path}: needs a docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            if function == "print":
                yield f"{path}:{node.lineno}: the library must not print"
            pickles = function in ("torch.load", "torch.save")
            if pickles or any(k.arg == "allow_pickle" for k in node.keywords):
                yield f"{path}:{node.lineno}: files must not contain pickles"


@pytest.mark.parametrize(
    ("text", "defects"),
    [
        ('"""About it."""\nrun()', []),
        ("run()", ["needs a docstring"]),
        ('"""About it."""\nprint(1)', ["must not print"]),
        ('"""About it."""\ntorch.save(1)', ["must not contain pickles"]),
        ('"""About it."""\nnp.load(file, allow_pickle=False)', ["must not contain pickles"]),
        ('"""About it."""' + "\n" * (MAX_LINES + 1), [f"may have {MAX_LINES} lines"]),
    ],
)
def test_defects_of_recognises_defects(text: str, defects: list[str], tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(text, encoding="utf-8")
    found = list(defects_of(file))
    assert len(found) == len(defects)
    assert all(part in defect for part, defect in zip(defects, found, strict=True))


def test_files_do_not_import_unsafe_serialisers() -> None:
    unsafe = [
        f"{path}:{line}: imports {name}"
        for path in FILES
        for line, name in imports(tree_of(path), name_of(path))
        if name.split(".")[0] in UNSAFE_SERIALISERS
    ]
    assert not unsafe, "\n".join(unsafe)


def test_every_test_asserts_something() -> None:
    without = []
    for path in TEST_FILES:
        functions = [
            node
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and re.match(r"test_|.*assert_|.*check_", node.name)
        ]
        without += [f"{path}:{f.lineno}: {f.name}" for f in functions if not asserts(f)]
        assert any(f.name.startswith("test_") for f in functions), f"{path}: has no tests"
    assert not without, "\n".join(without)


def asserts(test: ast.AST) -> bool:
    """Whether a test has an assertion, or calls a helper named assert_... or check_..."""
    for node in ast.walk(test):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func).partition("[")[0]
            if function in ("pytest.raises", "pytest.warns") or HELPER.search(function.lower()):
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
def test_asserts_recognises_assertions(text: str, expected: bool) -> None:
    assert asserts(ast.parse(text)) is expected
