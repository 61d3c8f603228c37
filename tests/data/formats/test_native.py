"""The reader of native JSON: keys, kinds, owners and times."""

from __future__ import annotations

from typing import Any

import pytest

from dagrec.data.compositions import Composition
from dagrec.data.formats import ReadOptions, read_composition


def node_of(item: dict[str, Any], **options: Any) -> tuple[str, str]:
    composition = read_composition({"nodes": [item], "links": []}, ReadOptions(**options))
    return composition.nodes[0].key, composition.nodes[0].kind


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"id": "1002132"}, ("table_1002132", "table")),
        ({"id": 1002132}, ("table_1002132", "table")),
        ({"id": 3985, "mid": 308}, ("service_308", "service")),
        ({"id": 3985, "mid": "308"}, ("service_308", "service")),
        ({"id": 1, "mid": 0}, ("service_0", "service")),
        ({"id": 1, "mid": None, "kind": None, "key": None}, ("table_1", "table")),
        ({"id": 1, "kind": "service"}, ("service_1", "service")),
        ({"id": 1, "mid": 5, "kind": "table"}, ("table_5", "table")),
        ({"id": 1, "mid": 5, "kind": "raster"}, ("raster_5", "raster")),
        ({"id": 1, "key": "cut"}, ("cut", "service")),
        ({"id": 1, "mid": 5, "key": "cut"}, ("cut", "service")),
        ({"id": 1, "key": "roads", "kind": "table"}, ("roads", "table")),
    ],
)
def test_key_and_kind_are_derived_from_mid_unless_given(
    item: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert node_of(item) == expected


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"id": "n1", "mid": "1002132"}, ("table_1002132", "table")),
        ({"id": "n1", "mid": 1002132}, ("table_1002132", "table")),
        ({"id": "n1", "mid": "308"}, ("service_308", "service")),
        ({"id": "n1", "mid": "1002132", "kind": "service"}, ("service_1002132", "service")),
        ({"id": "n1", "mid": "1002132", "key": "cut"}, ("cut", "service")),
    ],
)
def test_table_mid_matches_mids_of_tables(item: dict[str, Any], expected: tuple[str, str]) -> None:
    assert node_of(item, table_mid=r"^\d{7}$") == expected


def test_table_mid_rejects_invalid_regular_expression() -> None:
    with pytest.raises(ValueError, match="not a regular expression: missing"):
        ReadOptions(table_mid="(")


def composition_of(inner: dict[str, Any], **outer: Any) -> Composition:
    inner = {"nodes": [{"id": 1, "mid": 1}, {"id": 2, "mid": 2}], "links": []} | inner
    return read_composition({"composition": inner, **outer})


def test_inner_object_takes_precedence() -> None:
    composition = composition_of({"id": "in", "owner": "ann", "time": 1}, id="out", owner="bob", time=2)
    assert (composition.id, composition.owner, composition.time) == ("in", "ann", 1.0)
    composition = composition_of({"id": None}, id="out", owner="bob", time=2)
    assert (composition.id, composition.owner, composition.time) == ("out", "bob", 2.0)
    assert composition_of({}).id == "request"


def nodes(*items: dict[str, Any]) -> dict[str, Any]:
    return {"nodes": [{"id": i, "mid": i} | item for i, item in enumerate(items)]}


@pytest.mark.parametrize(
    ("items", "owner"),
    [
        ([{"owner": "ann"}, {"owner": "ann"}], "ann"),
        ([{"owner": "ann"}, {}], "ann"),
        ([{"owner": 5}, {"owner": "5"}], "5"),
        ([{"owner": "ann"}, {"owner": "bob"}], None),
        ([{}, {}], None),
    ],
)
def test_composition_gets_common_owner_of_nodes(items: list[dict[str, Any]], owner: str | None) -> None:
    assert composition_of(nodes(*items)).owner == owner


def test_composition_gets_time_of_last_service() -> None:
    composition = composition_of(
        nodes(
            {"start_time": 5},
            {"start_time": 7, "time": None},
            {"time": 6},
            {"kind": "table", "time": 9},
        )
    )
    assert composition.time == 7.0
    assert [node.time for node in composition.nodes] == [5.0, 7.0, 6.0, 9.0]
    assert composition_of({}).time is None


def test_time_takes_precedence_over_start_time() -> None:
    assert composition_of(nodes({"time": 3, "start_time": 5})).nodes[0].time == 3.0
