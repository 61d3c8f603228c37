"""Plug-ins whose metadata are written by hand; tests/contract/test_extending.py installs real ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dagrec.data import formats
from dagrec.data.formats import Content, Format, ReadOptions, recognise
from dagrec.data.formats.guard import checked_format
from dagrec.errors import ConfigError, DataError
from dagrec.models import registry
from dagrec.plugins import Plugins, describe, log, warn
from tests.checks import says

GROUP = "dagrec.test-numbers"
Write = Callable[..., None]
Messages = Callable[[], list[str]]


def require_number(_name: str, value: object) -> int:
    if not isinstance(value, int):
        raise ConfigError(f"must be a number, found {value!r}")
    return value


def plugins(**taken: int) -> Plugins[int]:
    return Plugins(GROUP, "number", taken, require_number)


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Messages]:
    """The warnings about plug-ins, however other tests have configured logging."""
    warn.cache_clear()
    monkeypatch.setattr(log, "propagate", False)
    log.addHandler(caplog.handler)
    yield lambda: caplog.messages
    log.removeHandler(caplog.handler)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A function that writes the metadata of a package, and a module of its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(package: str, entries: str, code: str = "", group: str = GROUP) -> None:
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\n{entries}\n")
        (tmp_path / f"{package}.py").write_text(code)
        monkeypatch.delitem(sys.modules, package, raising=False)

    return write


def test_plugin_is_imported_when_it_is_used(write: Write) -> None:
    write("dagrec_one", "one = dagrec_one:NUMBER", "NUMBER = 1")
    found = plugins()
    assert (list(found.entries), found.package("one")) == (["one"], "dagrec_one")
    assert found.entries["one"].attribute == "NUMBER"
    assert "dagrec_one" not in sys.modules
    assert found.get("one") == 1
    assert "dagrec_one" in sys.modules


def test_unknown_name_has_no_package() -> None:
    assert plugins().package("one") is None
    with pytest.raises(KeyError):
        plugins().get("one")


def test_first_package_by_name_keeps_a_name(write: Write, messages: Messages) -> None:
    write("dagrec_zwei", "two = dagrec_zwei:NUMBER", "NUMBER = 22")
    write("dagrec_two", "two = dagrec_two:NUMBER", "NUMBER = 2")
    assert plugins().usable() == {"two": 2}
    (message,) = messages()
    assert "number 'two' of the package dagrec_zwei: its name must be free" in message
    assert "found that the package dagrec_two has it" in message


@pytest.mark.parametrize(
    ("entries", "code", "fault"),
    [
        ("one = dagrec_x:NUMBER", "1 / 0", "ZeroDivisionError: division by zero"),
        ("one = dagrec_x:NUMBER", "import sys; sys.exit('bye')", "SystemExit: bye"),
        ("one = dagrec_x:NUMBER", "NUMBER =", "SyntaxError: invalid syntax"),
        ("one = dagrec_x:NUMBER", "", "AttributeError: module 'dagrec_x' has no attribute 'NUMBER'"),
        ("one = dagrec_x:NUMBER", "import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("one = dagrec_x:NUMBER", "raise ValueError('a\\nb')", "ValueError: a b"),
        ("one = dagrec_x:NUMBER", "NUMBER = 'x'", "must be a number, found 'x'"),
        ("one = not/a:reference:at all", "", "not/a:reference:at all must be importable"),
        ("one two = dagrec_x:NUMBER", "NUMBER = 1", "its name must have at most 100 letters"),
        ("all = dagrec_x:NUMBER", "NUMBER = 1", "its name must be free, found that dagrec has it"),
        ("auto = dagrec_x:NUMBER", "NUMBER = 1", "its name must be free, found that dagrec has it"),
        ("mine = dagrec_x:NUMBER", "NUMBER = 1", "its name must be free, found that dagrec has it"),
    ],
)
def test_broken_plugin_is_skipped_with_one_warning(
    entries: str, code: str, fault: str, write: Write, messages: Messages
) -> None:
    write("dagrec_x", entries, code)
    write("dagrec_y", "sound = dagrec_y:NUMBER", "NUMBER = 9")
    found = plugins(mine=1)
    for _ in range(2):
        assert found.usable() == {"sound": 9}
    (message,) = messages()
    assert "\n" not in message
    assert message.startswith("skipped: number ")
    assert "of the package dagrec_x: " in message
    assert fault in message
    assert message.endswith("; update or uninstall dagrec_x")
    problems = {status.name: status.problem for status in found.statuses()}
    assert problems.pop("sound") is None
    assert [f"skipped: {problem}" for problem in problems.values()] == [message]


def test_named_broken_plugin_raises_its_reason_and_cause(write: Write) -> None:
    write("dagrec_x", "one = dagrec_x:NUMBER", "1 / 0")
    for _ in range(2):
        with pytest.raises(ConfigError) as error:
            plugins().get("one")
        assert says(error, "number 'one' of the package dagrec_x", "ZeroDivisionError")
        assert isinstance(error.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("damage", [b"[" + GROUP.encode() + b"]\nno equals sign\n", b"\xff\xfe[x"])
def test_damaged_metadata_of_a_package_hide_no_other_plugin(
    damage: bytes, write: Write, tmp_path: Path
) -> None:
    write("dagrec_one", "one = dagrec_one:NUMBER", "NUMBER = 1")
    write("dagrec_damaged", "")
    (tmp_path / "dagrec_damaged-1.0.dist-info" / "entry_points.txt").write_bytes(damage)
    assert plugins().usable() == {"one": 1}


def test_package_without_metadata_is_harmless(write: Write, tmp_path: Path) -> None:
    write("dagrec_one", "one = dagrec_one:NUMBER", "NUMBER = 1")
    (tmp_path / "dagrec_one-1.0.dist-info" / "METADATA").unlink()
    assert plugins().usable() == {"one": 1}


def test_describe_gives_one_line_of_limited_length() -> None:
    assert describe(ValueError("a\n  b\tc")) == "ValueError: a b c"
    assert describe(ValueError()) == "ValueError"
    assert len(describe(ValueError("x" * 10_000))) < 400


# Formats and recommenders


def test_format_of_plugin_is_tried_after_those_of_dagrec(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from dagrec.data.formats import Format\n"
        "GREEDY = Format('greedy', '', lambda *_: True, lambda *_: iter(()), suffixes=('.greedy',))\n"
    )
    write("dagrec_greedy", "greedy = dagrec_greedy:GREEDY", code, "dagrec.formats")
    fresh: Plugins[Format] = Plugins("dagrec.formats", "format", formats.FORMATS, checked_format)
    monkeypatch.setattr(formats, "PLUGINS", fresh)
    native = Content.of_value({"nodes": [{"id": "a", "mid": 1}], "links": []})
    assert recognise(native).name == "native"
    assert "dagrec_greedy" not in sys.modules
    assert recognise(Content.of_value({"x": 1})).name == "greedy"
    assert recognise(Content("no JSON")).name == "greedy"
    assert formats.format_names()[-1] == "greedy"
    assert ".greedy" in formats.suffixes()
    with pytest.raises(ConfigError) as error:
        formats.find_format("greeedy")
    assert says(error, "no format 'greeedy'", "did you mean greedy?")


def test_recogniser_of_plugin_that_raises_declines(messages: Messages) -> None:
    def refuse(_content: Content, _options: ReadOptions) -> bool:
        raise DataError("not mine", rule="x")

    def fail(content: Content, _options: ReadOptions) -> bool:
        raise KeyError(content.text)

    for recognises, warnings in ((refuse, 0), (fail, 1)):
        format_ = checked_format("f", Format("f", "", recognises, lambda *_: iter(())))
        for text in ("a", "b"):
            assert not format_.recognises(Content(text), ReadOptions())
        assert len(messages()) == warnings
    assert "format 'f': recognises must not raise errors, found KeyError" in messages()[0]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"suffixes": ".json"}, "suffixes must be endings"),
        ({"suffixes": (".JSON",)}, "suffixes must be endings"),
        ({"suffixes": ("json",)}, "suffixes must be endings"),
        ({"suffixes": (1,)}, "suffixes must be endings"),
        ({"description": None}, "description must be a text, found None"),
        ({"recognises": True}, "recognises must be a function, found True"),
        ({"documents": []}, "documents must be a function"),
        ({"fields": "nodes"}, "fields must be a list of names"),
        ({"on_cycle": "explode"}, "on_cycle must be one of fail, skip, break, found 'explode'"),
        ({"examples": "nodes"}, "examples must be one of paths, links, found 'nodes'"),
        ({"name": "g"}, "must have the name of the entry point, found 'g'"),
    ],
)
def test_format_of_plugin_is_checked(changes: dict[str, object], fault: str) -> None:
    parts = {
        "name": "f",
        "description": "",
        "recognises": lambda *_: False,
        "documents": lambda *_: iter(()),
    }
    with pytest.raises(ConfigError) as error:
        checked_format("f", Format(**(parts | changes)))  # type: ignore[arg-type]
    assert says(error, fault)


def test_plugins_are_tried_for_unknown_recommenders(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from dagrec.models.counting.popularity import Popularity\n"
        "class Mine(Popularity):\n    name = 'mine'\n"
    )
    write("dagrec_mine", "mine = dagrec_mine:Mine\nbad = dagrec_mine:Bad", code, "dagrec.models")
    fresh = Plugins("dagrec.models", "recommender", registry.MODELS, registry.checked_class)
    monkeypatch.setattr(registry, "PLUGINS", fresh)
    assert registry.model_names() == [*registry.MODELS, "bad", "mine"]
    assert registry.class_names()["Mine"] == "mine"
    assert "dagrec_mine" not in sys.modules
    assert registry.usable_models() == [*registry.MODELS, "mine"]
    assert registry.family("mine") == "plug-in"
    model = registry.create("mine")
    assert type(model) is registry.recommender_class("mine")
    assert registry.plugin_packages(model) == {"mine": "dagrec_mine"}
    assert registry.plugin_packages(registry.create("cache", {"base": "mine"})) == {
        "mine": "dagrec_mine"
    }
    assert registry.plugin_packages(registry.create("markov")) == {}
    with pytest.raises(ConfigError) as error:
        registry.recommender_class("mime")
    assert says(error, "no recommender 'mime'", "did you mean mine?")
