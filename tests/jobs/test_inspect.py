from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from dagrec.data.examples import ExampleOptions
from dagrec.data.formats import ReadOptions, read
from dagrec.jobs.inspect import inspect


def chain(*mids: int, owner: str | None = None, time: int | None = None) -> dict[str, Any]:
    """A chain of a table and services."""
    nodes: list[dict[str, Any]] = [{"id": "t"}, *({"id": f"{i}", "mid": m} for i, m in enumerate(mids))]
    links = [{"source": a["id"], "target": b["id"]} for a, b in pairwise(nodes)]
    return {"nodes": nodes, "links": links, "owner": owner, "time": time}


def diamonds(count: int) -> dict[str, Any]:
    """A chain of ``count`` diamonds: 2 ** count paths, each with 2 * count links."""
    nodes: list[dict[str, Any]] = [{"id": "end-1", "mid": 1}]
    links = []
    for i in range(count):
        nodes += [{"id": f"{name}{i}", "mid": 1} for name in ("left", "right", "end")]
        for side in ("left", "right"):
            links.append({"source": f"end{i - 1}", "target": f"{side}{i}"})
            links.append({"source": f"{side}{i}", "target": f"end{i}"})
    return {"nodes": nodes, "links": links}


def inspect_documents(folder: Path, *documents: Any, **options: Any) -> dict[str, Any]:
    file = folder / "data.json"
    file.write_text(json.dumps(list(documents)))
    read_options = {
        name: options.pop(name) for name in list(options) if name in ReadOptions.model_fields
    }
    return inspect(read(file, ReadOptions(**read_options)), ExampleOptions(**options))


def test_counts_of_chains(tmp_path: Path) -> None:
    result = inspect_documents(tmp_path, chain(1, 2, 3), chain(2, 1))
    expected = {
        "compositions": 2,
        "paths": 2,
        "pairs": 3 + 2,
        "targets": 3,
        "nodes": 4 + 3,
        "distinct_nodes": 4,
        "services": 3,
        "links": 3 + 2,
        "distinct_links": 5,  # t-1, 1-2, 2-3, t-2, 2-1
        "form": "paths",
        "examples": 5,
        "vocabulary": 4 + 2,  # with padding and unknown
        "duplicates": 0,
        "distinct_contexts": 1 + 2 + 1,  # t; t 1, t 1 2; t 2
        "distinct_pairs": 5,
        "nodes_of_largest_composition": 4,
    }
    assert {name: result[name] for name in expected} == expected


def test_paths_are_counted_exactly_and_sampled(tmp_path: Path) -> None:
    n = 60
    result = inspect_documents(tmp_path, diamonds(n), max_paths=10)
    assert result["paths"] == 2**n
    assert result["pairs"] == 2**n * 2 * n
    assert result["paths_taken"] == 10
    assert result["sampled_compositions"] == 1
    assert result["examples"] == 10 * 2 * n


def test_service_without_parents_is_not_a_target(tmp_path: Path) -> None:
    result = inspect_documents(tmp_path, diamonds(1) | {"links": []}, chain(7))
    assert (result["services"], result["targets"], result["pairs"]) == (2, 1, 1)
    assert result["most_frequent_targets"] == {"service_7": 1}


def test_cycles_are_counted_if_broken_or_skipped(tmp_path: Path) -> None:
    cycle = chain(1, 2)
    cycle["links"].append({"source": "1", "target": "0"})
    broken = inspect_documents(tmp_path, cycle, chain(3), on_cycle="break")
    assert (broken["compositions"], broken["cycles"], broken["links_dropped_for_cycles"]) == (2, 1, 1)
    skipped = inspect_documents(tmp_path, cycle, chain(3), on_cycle="skip")
    assert (skipped["compositions"], skipped["cycles"], skipped["skipped"]) == (1, 1, 1)
    assert skipped["skipped_by_rule"] == {"cycle": 1}
    assert "closes a cycle" in skipped["problems"][0]


def test_duplicates_have_same_keys_and_links(tmp_path: Path) -> None:
    other_ids = json.loads(json.dumps(chain(1, 2)).replace('"0"', '"first"'))
    assert inspect_documents(tmp_path, chain(1, 2), other_ids, chain(2, 1))["duplicates"] == 1


def test_owners_and_times(tmp_path: Path) -> None:
    documents = [
        chain(1, owner="a", time=5),
        chain(1, owner="b", time=9),
        chain(1, owner="a"),
        chain(1),
    ]
    result = inspect_documents(tmp_path, *documents)
    assert (result["owners"], result["first_time"], result["last_time"]) == (2, 5.0, 9.0)
    result = inspect_documents(tmp_path, chain(1))
    assert (result["owners"], result["first_time"], result["last_time"]) == (0, None, None)


def test_folder_is_counted_by_file_and_format(tmp_path: Path) -> None:
    for name in ("b.json", "a.json"):
        (tmp_path / name).write_text(json.dumps(chain(1)))
    (tmp_path / "notes.txt").write_text("ignored")
    workflow = {"nodes": [{"name": "x", "type": "t.x"}, {"name": "y", "type": "t.y"}]}
    workflow |= {"connections": {"x": {"main": [[{"node": "y"}]]}}}
    (tmp_path / "c.json").write_text(json.dumps(workflow))
    counts: list[int] = []
    result = inspect(read(tmp_path, advance=counts.append), ExampleOptions())
    assert (result["files"], result["ignored_files"]) == (3, 1)
    assert result["formats"] == {"native": 2, "n8n": 1}
    assert sum(counts) == result["compositions"] == 3


def test_fingerprint_depends_on_data(tmp_path: Path) -> None:
    first = inspect_documents(tmp_path, chain(1, 2))
    assert inspect_documents(tmp_path, chain(1, 2))["fingerprint"] == first["fingerprint"]
    assert inspect_documents(tmp_path, chain(1, 3))["fingerprint"] != first["fingerprint"]


def test_result_is_json(tmp_path: Path) -> None:
    result = inspect_documents(tmp_path, chain(1, owner="a", time=1))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
