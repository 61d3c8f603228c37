from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dagrec.data.formats import read
from dagrec.errors import DagrecError
from dagrec.evaluation.page import write_page
from dagrec.evaluation.plots import report_plots
from dagrec.jobs.config import load_config
from dagrec.jobs.evaluate import evaluate
from dagrec.jobs.experiment import Plan

DATA = Path(__file__).parents[2] / "data" / "compositions.json"


class LinkParser(HTMLParser):
    """Collects the URLs of a page, and counts table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.cells += tag == "td"
        self.urls += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    config = load_config(models=["popularity", "markov"])
    return evaluate(read(DATA), config, Plan(repeats=3))


def test_page_is_self_contained(result: dict[str, Any], tmp_path: Path) -> None:
    page = write_page(result, tmp_path / "report")
    parser = LinkParser()
    parser.feed(page.read_text(encoding="utf-8"))
    assert len(parser.urls) == len(report_plots(result))
    assert all(link.startswith("data:image/png;base64,") for link in parser.urls)
    assert parser.cells > 2 * 14


def test_page_has_models_metrics_and_fingerprint(result: dict[str, Any], tmp_path: Path) -> None:
    text = write_page(result, tmp_path).read_text(encoding="utf-8")
    for label, model in result["models"].items():
        assert label in text
        assert f"{model['metrics']['accuracy']['mean']:.4f}" in text
    assert result["data"]["fingerprint"] in text
    assert f"{result['reference']['ceiling']:.4f}" in text


def test_plots_are_written_as_files(result: dict[str, Any], tmp_path: Path) -> None:
    write_page(result, tmp_path)
    for name in report_plots(result):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_page_escapes_html(result: dict[str, Any], tmp_path: Path) -> None:
    named = result | {"data": result["data"] | {"path": "<script>alert(1)</script>"}}
    assert "<script>" not in write_page(named, tmp_path).read_text(encoding="utf-8")


def test_unwritable_folder_is_rejected(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DagrecError, match="cannot be written there"):
        write_page(result, tmp_path / "file" / "report")
