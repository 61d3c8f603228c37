"""The page in headless Chromium, driven by clicks and key strokes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dagrec.store.store import Store
from tests.playground.conftest import KEY, MODELS, PREFIX, open_page, serve
from tests.playground.webdriver import Browser
from tests.service.conftest import HTTP

CY = "const cy = document.getElementById('graph')._cyreg.cy;"
INVALID = {
    "{": "This is not JSON",
    '{"nodes": []}': 'A composition needs "links", an array; found nothing.',
    '{"nodes": [], "links": []}': "at least one node",
    '{"nodes": [{"id": 1}, {"id": "1"}], "links": []}': 'must be unique, found "1" twice.',
    '{"nodes": [{"id": 1}], "links": [{"source": 1, "target": 2}]}': '"target" must be the id',
    '{"nodes": [{"id": 1, "mid": 2}, {"id": 3, "mid": 4}], "links": [{"source": 1, "target": 3}, '
    '{"source": 3, "target": 1}]}': "The links form a cycle",
}


def count(page: Browser, selector: str) -> int:
    return int(page.run(f"{CY} return cy.$(arguments[0]).length", selector))


def position(page: Browser, selector: str) -> tuple[float, float]:
    """Return the position of the first matching element in the window."""
    x, y = page.run(
        f"{CY} const box = cy.container().getBoundingClientRect(); "
        "const p = cy.$(arguments[0])[0].renderedPosition(); return [box.x + p.x, box.y + p.y]",
        selector,
    )
    return x, y


def suggestions(page: Browser) -> list[str]:
    """Return the ranked services, once no request is in progress."""
    busy = "return document.getElementById('answer').getAttribute('aria-busy') === 'false'"
    page.wait(lambda: page.run(busy), "the service has answered")
    script = "return [...document.querySelectorAll('.suggestion')].map((item) => item.dataset.service)"
    return list(page.run(script))


def load_example(page: Browser, number: int = 1) -> list[str]:
    page.wait(lambda: page.run("return document.querySelectorAll('#starts button').length"), "examples")
    page.click(f"#starts button:nth-child({number})")
    page.wait(lambda: count(page, "node.ghost"), "ghosts are drawn")
    return suggestions(page)


def exported(page: Browser) -> dict[str, list[dict[str, str]]]:
    """Return the exported composition."""
    page.click("#export")
    text = page.run("return document.getElementById('json-text').value")
    page.click("#json-close")
    return dict(json.loads(text))


def paste(page: Browser, text: str) -> None:
    page.click("#open")
    page.run("document.getElementById('json-text').value = arguments[0]", text)
    page.click("#json-load")


def has_two_ends(page: Browser) -> bool:
    """Return whether there are suggestions for two nodes."""
    return bool(page.run("return document.querySelectorAll('li.end').length === 2"))


def test_example_shows_answer_of_service_as_ghosts(page: Browser, site: str) -> None:
    services = load_example(page)
    composition = exported(page)
    end = composition["nodes"][-1]["id"]
    request = {"composition": composition, "at": end, "k": 8}
    answer = HTTP.post(f"{site}predict", json=request).json()
    assert services == [p["service"] for p in answer["predictions"]]
    assert count(page, "node.ghost") == count(page, "edge.ghost") == min(8, len(services))
    assert "%" in page.run(f"{CY} return cy.$('#g\\\\:0').data('label')")
    assert answer["strategy"] in page.text("#why")
    assert "training composition" in page.text("#evidence")


def test_click_on_ghost_accepts_it_and_undo_removes_it(page: Browser) -> None:
    services = load_example(page)
    before = exported(page)
    x, y = position(page, "#g\\:1")
    page.drag((x, y))
    page.wait(
        lambda: len(exported(page)["nodes"]) == len(before["nodes"]) + 1, "the ghost became a node"
    )
    after = exported(page)
    assert after["nodes"][-1]["key"] == services[1]
    assert after["links"][-1] == {
        "source": before["nodes"][-1]["id"],
        "target": after["nodes"][-1]["id"],
    }
    page.press("Control", "z")
    assert exported(page) == before
    assert suggestions(page) == services
    page.press("Control", "Shift", "Z")
    assert exported(page) == after


def test_keyboard_chooses_accepts_dismisses_and_deletes(page: Browser) -> None:
    services = load_example(page)
    before = exported(page)
    page.press("Down")
    page.press("Enter")
    suggestions(page)
    assert exported(page)["nodes"][-1]["key"] == services[1]
    page.press("Escape")
    assert count(page, "node.ghost") == 0
    page.press("Delete")
    assert exported(page) == before
    page.press("Right")
    page.wait(lambda: count(page, "node.ghost"), "the ghosts of the first node are drawn")


def test_composition_is_drawn_by_search_and_dragging(page: Browser) -> None:
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
    nodes = exported(page)["nodes"]
    assert [node["kind"] for node in nodes] == ["table", "service", "service"]
    page.drag(position(page, f"#r\\:{nodes[1]['id']}"))
    handle, target = position(page, ".handle"), position(page, f"#r\\:{nodes[2]['id']}")
    page.drag(handle, (handle[0] + 5, handle[1] + 5), target)
    link = {"source": nodes[1]["id"], "target": nodes[2]["id"]}
    page.wait(lambda: link in exported(page)["links"], "the nodes are connected")
    page.click("#connect")
    page.drag(position(page, f"#r\\:{nodes[1]['id']}"))
    assert "cycle" in page.text("#hint")
    suggestions(page)
    assert "something new" in page.text("#why")


def test_recommender_and_mask_can_be_changed(page: Browser) -> None:
    load_example(page)
    for model in MODELS:
        page.click(f"#model option[value={model}]")
        suggestions(page)
        assert page.text("#answer-sub") == f"by {model}"
    page.click("#mask option[value=none]")
    suggestions(page)
    assert "none, allows" in page.text("#why")


def test_comparison_lists_all_recommenders_and_click_accepts(page: Browser) -> None:
    load_example(page)
    nodes = len(exported(page)["nodes"])
    page.press("Escape")
    page.click("#compare")
    names = (
        "return [...document.querySelectorAll('#compare-table tbody th')].map((th) => th.textContent)"
    )
    page.wait(lambda: page.run(names), "the table is shown")
    assert sorted(page.run(names)) == sorted(MODELS)
    service = page.text("#compare-table tbody td button .name")
    page.click("#compare-table tbody td button")
    assert exported(page)["nodes"][nodes]["key"] == service


def test_all_open_ends_have_suggestions(page: Browser) -> None:
    load_example(page)
    branching = {
        "nodes": [{"id": "1"}, {"id": "a", "mid": 308}, {"id": "b", "mid": 309}],
        "links": [{"source": "1", "target": "a"}, {"source": "1", "target": "b"}],
    }
    page.click("#all-ends")
    paste(page, json.dumps(branching))
    page.wait(lambda: has_two_ends(page), "two ends")
    ends = page.run(f"{CY} return cy.edges('.ghost').map((edge) => edge.source().id())")
    assert set(ends) == {"r:a", "r:b"}
    assert exported(page) == branching


@pytest.mark.parametrize("text", INVALID)
def test_invalid_composition_is_rejected_with_message(page: Browser, text: str) -> None:
    paste(page, text)
    assert INVALID[text] in page.text("#json-problem")
    page.press("Escape")
    assert count(page, "node.real") == 0


def test_file_of_200_unknown_nodes_is_loaded_and_extended(page: Browser, tmp_path: Path) -> None:
    nodes = [{"id": i, "key": f"strange_{i}", "text": "kept"} for i in range(200)]
    links = [{"source": (i - 1) // 2, "target": i} for i in range(1, 200)]
    document = {"owner": "ann", "nodes": nodes, "links": links}
    path = tmp_path / "large.json"
    path.write_text(json.dumps(document))
    page.click("#open")
    page.type("#json-file", str(path))
    page.wait(lambda: count(page, "node.real") == 200, "all nodes are drawn")
    page.press("Right")
    assert suggestions(page)
    assert "popularity" in page.text("#why")
    expected = [{"source": str(k["source"]), "target": str(k["target"])} for k in links]
    assert exported(page) == {**document, "links": expected}


def test_error_of_service_is_shown(page: Browser) -> None:
    load_example(page)
    page.click("#mask option[value=catalogue]")
    page.wait(lambda: page.text("#problem-text"), "the error is shown")
    assert "catalogue" in page.text("#problem-text")
    page.click("#mask option[value=soft]")
    assert suggestions(page)
    assert page.run("return document.getElementById('problem').hidden")


def test_page_works_behind_prefix_with_api_key(chromium: Browser, gateway: str) -> None:
    page = open_page(chromium, gateway)
    page.wait(lambda: "X-API-Key" in page.text("#problem-text"), "the key is requested")
    assert all("401" in line for line in page.log())
    page.type("#key", KEY)
    page.press("Enter")
    load_example(page)
    page.press("Enter")
    assert suggestions(page)
    urls = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(urls) > 8
    assert all(url.startswith(gateway) for url in urls), f"outside {PREFIX}: {urls}"
    # Feedback is off here, and the browser logs the 404 of its endpoint.
    assert not [line for line in page.log() if "/feedback" not in line]


def test_accepted_suggestion_is_sent_as_feedback(
    chromium: Browser, published: Store, tmp_path: Path
) -> None:
    def decisions() -> list[dict[str, Any]]:
        texts = [file.read_text() for file in sorted(tmp_path.glob("*.jsonl"))]
        return [json.loads(line) for line in "".join(texts).splitlines()]

    branching = {
        "nodes": [{"id": "1"}, {"id": "a", "mid": 301}, {"id": "b", "mid": 303}],
        "links": [{"source": "1", "target": "a"}, {"source": "1", "target": "b"}],
    }
    for site in serve(published, DAGREC_FEEDBACK=str(tmp_path)):
        page = open_page(chromium, site)
        second = load_example(page)[1]
        page.press("Down")
        page.press("Enter")
        page.wait(lambda: len(decisions()) == 1, "the first decision is written")
        page.click("#all-ends")
        paste(page, json.dumps(branching))
        page.wait(partial(has_two_ends, page), "two ends")
        page.click(".suggestion")
        page.wait(lambda: len(decisions()) == 2, "the second decision is written")
        assert not page.log()
    first, last = decisions()
    assert (first["action"], first["service"], first["rank"]) == ("taken", second, 2)
    assert (last["action"], last["at"], last["rank"]) == ("taken", "a", 1)


def test_workflow_of_other_tool_is_opened_and_its_cycle_is_reported(page: Browser) -> None:
    def to(name: str) -> dict[str, object]:
        return {"main": [[{"node": name, "type": "main", "index": 0}]]}

    workflow = {
        "nodes": [
            {"name": "Start", "type": "n8n-nodes-base.start"},
            {"name": "Loop", "type": "n8n-nodes-base.splitInBatches"},
            {"name": "Ask", "type": "n8n-nodes-base.httpRequest"},
        ],
        "connections": {"Start": to("Loop"), "Loop": to("Ask"), "Ask": to("Loop")},
    }
    paste(page, json.dumps(workflow))
    page.wait(lambda: "n8n" in page.text("#hint"), "the workflow is loaded")
    assert "links that closed a cycle: 1" in page.text("#hint")
    composition = exported(page)
    assert [node["key"] for node in composition["nodes"]] == [
        "n8n-nodes-base.start",
        "n8n-nodes-base.splitInBatches",
        "n8n-nodes-base.httpRequest",
    ]
    assert len(composition["links"]) == 2
