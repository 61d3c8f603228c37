"""The page in headless Chromium, with real clicks and key strokes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from dagrec.store.store import Store
from tests.playground.conftest import KEY, MODELS, PREFIX, opened, served
from tests.playground.webdriver import Browser

CY = "const cy = document.getElementById('graph')._cyreg.cy;"
BAD = {
    "{": "This is not JSON",
    '{"nodes": []}': 'A composition needs "links", an array; found nothing.',
    '{"nodes": [], "links": []}': "at least one node",
    '{"nodes": [{"id": 1}, {"id": "1"}], "links": []}': 'must differ; "1" stands there twice.',
    '{"nodes": [{"id": 1}], "links": [{"source": 1, "target": 2}]}': '"target" must be the id',
    '{"nodes": [{"id": 1, "mid": 2}, {"id": 3, "mid": 4}], "links": [{"source": 1, "target": 3}, '
    '{"source": 3, "target": 1}]}': "The links form a cycle",
}


def count(page: Browser, selector: str) -> int:
    return int(page.run(f"{CY} return cy.$(arguments[0]).length", selector))


def place(page: Browser, selector: str) -> tuple[float, float]:
    """Where the first element stands in the window."""
    x, y = page.run(
        f"{CY} const box = cy.container().getBoundingClientRect(); "
        "const p = cy.$(arguments[0])[0].renderedPosition(); return [box.x + p.x, box.y + p.y]",
        selector,
    )
    return x, y


def suggested(page: Browser) -> list[str]:
    """The ranked services, when no question is under way."""
    busy = "return document.getElementById('answer').getAttribute('aria-busy') === 'false'"
    page.wait(lambda: page.run(busy), "the service has answered")
    script = "return [...document.querySelectorAll('.suggestion')].map((item) => item.dataset.service)"
    return list(page.run(script))


def load_example(page: Browser, number: int = 1) -> list[str]:
    page.wait(lambda: page.run("return document.querySelectorAll('#starts button').length"), "examples")
    page.click(f"#starts button:nth-child({number})")
    page.wait(lambda: count(page, "node.ghost"), "ghosts stand there")
    return suggested(page)


def drawn(page: Browser) -> dict[str, list[dict[str, str]]]:
    """What the page exports."""
    page.click("#export")
    text = page.run("return document.getElementById('json-text').value")
    page.click("#json-close")
    return dict(json.loads(text))


def paste(page: Browser, text: str) -> None:
    page.click("#open")
    page.run("document.getElementById('json-text').value = arguments[0]", text)
    page.click("#json-load")


def both_ends(page: Browser) -> bool:
    """Whether suggestions stand there for two nodes."""
    return bool(page.run("return document.querySelectorAll('li.end').length === 2"))


def test_an_example_shows_ghosts_that_are_what_the_service_answers(page: Browser, site: str) -> None:
    services = load_example(page)
    composition = drawn(page)
    end = composition["nodes"][-1]["id"]
    request = {"composition": composition, "at": end, "k": 8}
    answer = httpx2.post(f"{site}predict", json=request).json()
    assert services == [p["service"] for p in answer["predictions"]]
    assert count(page, "node.ghost") == count(page, "edge.ghost") == min(8, len(services))
    assert "%" in page.run(f"{CY} return cy.$('#g\\\\:0').data('label')")
    assert answer["strategy"] in page.text("#why")
    assert "training composition" in page.text("#made")


def test_a_click_on_a_ghost_accepts_it_and_undo_takes_it_back(page: Browser) -> None:
    services = load_example(page)
    before = drawn(page)
    x, y = place(page, "#g\\:1")
    page.drag((x, y))
    page.wait(lambda: len(drawn(page)["nodes"]) == len(before["nodes"]) + 1, "the ghost is a node")
    after = drawn(page)
    assert after["nodes"][-1]["key"] == services[1]
    assert after["links"][-1] == {
        "source": before["nodes"][-1]["id"],
        "target": after["nodes"][-1]["id"],
    }
    page.press("Control", "z")
    assert drawn(page) == before
    assert suggested(page) == services
    page.press("Control", "Shift", "Z")
    assert drawn(page) == after


def test_the_keyboard_alone_chooses_accepts_dismisses_and_deletes(page: Browser) -> None:
    services = load_example(page)
    before = drawn(page)
    page.press("Down")
    page.press("Enter")
    suggested(page)
    assert drawn(page)["nodes"][-1]["key"] == services[1]
    page.press("Escape")
    assert count(page, "node.ghost") == 0
    page.press("Delete")
    assert drawn(page) == before
    page.press("Right")
    page.wait(lambda: count(page, "node.ghost"), "the first node's ghosts stand there")


def test_a_composition_is_drawn_by_search_and_by_dragging(page: Browser) -> None:
    page.click("#add")
    page.type("#search", "table_")
    page.press("Enter")
    page.wait(lambda: count(page, "node.real") == 1, "the table is drawn")
    for number, key in enumerate(("something new", "something else"), start=2):
        page.press("a")
        page.type("#search", key)
        page.press("Enter")
        page.wait(lambda number=number: count(page, "node.real") == number, f"{key} is drawn")
        page.press("Left")
    nodes = drawn(page)["nodes"]
    assert [node["kind"] for node in nodes] == ["table", "service", "service"]
    page.drag(place(page, f"#r\\:{nodes[1]['id']}"))
    handle, target = place(page, ".handle"), place(page, f"#r\\:{nodes[2]['id']}")
    page.drag(handle, (handle[0] + 5, handle[1] + 5), target)
    link = {"source": nodes[1]["id"], "target": nodes[2]["id"]}
    page.wait(lambda: link in drawn(page)["links"], "they are connected")
    page.click("#connect")
    page.drag(place(page, f"#r\\:{nodes[1]['id']}"))
    assert "cycle" in page.text("#hint")
    suggested(page)
    assert "something new" in page.text("#why")


def test_another_recommender_and_mask_answer_otherwise(page: Browser) -> None:
    load_example(page)
    for model in MODELS:
        page.click(f"#model option[value={model}]")
        suggested(page)
        assert page.text("#answer-sub") == f"by {model}"
    page.click("#mask option[value=none]")
    suggested(page)
    assert "none, lets" in page.text("#why")


def test_all_recommenders_stand_side_by_side_and_a_click_accepts(page: Browser) -> None:
    load_example(page)
    nodes = len(drawn(page)["nodes"])
    page.press("Escape")
    page.click("#compare")
    names = (
        "return [...document.querySelectorAll('#compare-table tbody th')].map((th) => th.textContent)"
    )
    page.wait(lambda: page.run(names), "they stand there")
    assert sorted(page.run(names)) == sorted(MODELS)
    service = page.text("#compare-table tbody td button .name")
    page.click("#compare-table tbody td button")
    assert drawn(page)["nodes"][nodes]["key"] == service


def test_all_open_ends_are_extended_at_once(page: Browser) -> None:
    load_example(page)
    branching = {
        "nodes": [{"id": "1"}, {"id": "a", "mid": 308}, {"id": "b", "mid": 309}],
        "links": [{"source": "1", "target": "a"}, {"source": "1", "target": "b"}],
    }
    page.click("#all-ends")
    paste(page, json.dumps(branching))
    page.wait(lambda: both_ends(page), "two ends")
    ends = page.run(f"{CY} return cy.edges('.ghost').map((edge) => edge.source().id())")
    assert set(ends) == {"r:a", "r:b"}
    assert drawn(page) == branching


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_composition_is_refused_in_words(page: Browser, text: str) -> None:
    paste(page, text)
    assert BAD[text] in page.text("#json-problem")
    page.press("Escape")
    assert count(page, "node.real") == 0


def test_a_file_of_200_nodes_with_unknown_keys_is_read_and_extended(
    page: Browser, tmp_path: Path
) -> None:
    nodes = [{"id": i, "key": f"strange_{i}", "text": "kept"} for i in range(200)]
    links = [{"source": (i - 1) // 2, "target": i} for i in range(1, 200)]
    document = {"owner": "somebody", "nodes": nodes, "links": links}
    path = tmp_path / "large.json"
    path.write_text(json.dumps(document))
    page.click("#open")
    page.type("#json-file", str(path))
    page.wait(lambda: count(page, "node.real") == 200, "all are drawn")
    page.press("Right")
    assert suggested(page)
    assert "popularity" in page.text("#why")
    expected = [{"source": str(k["source"]), "target": str(k["target"])} for k in links]
    assert drawn(page) == {**document, "links": expected}


def test_what_the_service_refuses_is_told(page: Browser) -> None:
    load_example(page)
    page.click("#mask option[value=catalogue]")
    page.wait(lambda: page.text("#problem-text"), "the page tells")
    assert "catalogue" in page.text("#problem-text")
    page.click("#mask option[value=soft]")
    assert suggested(page)
    assert page.run("return document.getElementById('problem').hidden")


def test_behind_a_prefix_and_a_key_it_works_and_asks_nobody_else(
    chromium: Browser, gateway: str
) -> None:
    page = opened(chromium, gateway)
    page.wait(lambda: "X-API-Key" in page.text("#problem-text"), "the key is asked for")
    assert all("401" in line for line in page.log())
    page.type("#key", KEY)
    page.press("Enter")
    load_example(page)
    page.press("Enter")
    assert suggested(page)
    asked = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(asked) > 8
    assert all(name.startswith(gateway) for name in asked), f"outside {PREFIX}: {asked}"
    # Where no feedback is kept, the browser says that it was not found; nothing else is wrong.
    assert not [line for line in page.log() if "/feedback" not in line]


def test_what_is_accepted_is_kept_as_feedback(
    chromium: Browser, published: Store, tmp_path: Path
) -> None:
    def decisions() -> list[dict[str, Any]]:
        texts = [file.read_text() for file in sorted(tmp_path.glob("*.jsonl"))]
        return [json.loads(line) for line in "".join(texts).splitlines()]

    branching = {
        "nodes": [{"id": "1"}, {"id": "a", "mid": 301}, {"id": "b", "mid": 303}],
        "links": [{"source": "1", "target": "a"}, {"source": "1", "target": "b"}],
    }
    for site in served(published, DAGREC_FEEDBACK=str(tmp_path)):
        page = opened(chromium, site)
        second = load_example(page)[1]
        page.press("Down")
        page.press("Enter")
        page.wait(lambda: len(decisions()) == 1, "one decision is on disk")
        page.click("#all-ends")
        paste(page, json.dumps(branching))
        page.wait(partial(both_ends, page), "two ends")
        page.click(".suggestion")
        page.wait(lambda: len(decisions()) == 2, "another decision is on disk")
        assert not page.log()
    one, other = decisions()
    assert (one["action"], one["service"], one["rank"]) == ("taken", second, 2)
    assert (other["action"], other["at"], other["rank"]) == ("taken", "a", 1)
