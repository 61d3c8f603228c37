"""What every recommender of this family must do with DAGs, beyond the contract of all recommenders."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from dagrec.data.examples import Context, context_at
from dagrec.models.base import Recommender
from dagrec.models.registry import MODELS, create, family
from dagrec.types import Scores
from tests.data.dags import dag, relabelled
from tests.worlds import everything, memory

NAMES = [name for name in MODELS if family(name) == "dag"]
WORLD = everything()
WIDE = dag(
    "t:table_d s:split l:left r:right e:extract c:clean j:join m:merge",
    "t>s s>l s>r t>e e>c l>m r>m c>m j>m",
)
"""Keys of the world in a DAG that it does not hold."""


@cache
def fitted(name: str, graph: str = "upstream") -> Recommender:
    options = {"epochs": 2, "graph": graph}
    return create(name, options).fit(WORLD.data)


def scores(model: Recommender, *contexts: Context) -> Scores:
    return model.score(WORLD.data.vocabulary.encode(contexts))


def close(a: Scores, b: Scores) -> bool:
    return np.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graph", ["upstream", "global"])
@pytest.mark.parametrize("name", NAMES)
def test_ids_and_document_order_change_nothing(name: str, graph: str) -> None:
    """Also that of branches of which none reaches another."""
    model, rng = fitted(name, graph), np.random.default_rng(0)
    before = scores(model, *(context_at(WIDE, node) for node in "slremjc"))
    for _ in range(4):
        nodes, links = (rng.permutation(len(part)).tolist() for part in (WIDE.nodes, WIDE.links))
        other = relabelled(WIDE, nodes, links, "x")
        assert close(scores(model, *(context_at(other, "x" + node) for node in "slremjc")), before)


@pytest.mark.parametrize("name", NAMES)
def test_other_dags_of_the_batch_change_nothing(name: str) -> None:
    model = fitted(name)
    contexts = [context_at(WIDE, node) for node in "tslrecjm"] + [Context(("split",)), *WORLD.contexts]
    together = scores(model, *contexts)
    assert close(together, np.concatenate([scores(model, context) for context in contexts]))
    assert close(together, scores(model, *contexts[::-1])[::-1])


@pytest.mark.parametrize("name", NAMES)
def test_the_global_graph_makes_scores_a_function_of_the_last_node(name: str) -> None:
    """And of what this feeds already; the upstream DAG makes them one of everything upstream."""
    asked = [
        context_at(WIDE, "m"),
        context_at(dag("l:left m:merge", "l>m"), "m"),
        Context(("merge",)),
        Context(("table_a", "extract", "merge")),
    ]
    from_one = scores(fitted(name, "global"), *asked)
    assert close(from_one, np.tile(from_one[:1], (len(asked), 1)))
    from_dags = scores(fitted(name), *asked)
    assert not any(close(from_dags[i], from_dags[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("name", NAMES)
def test_a_far_source_reaches_the_answer(name: str) -> None:
    """Two links back, past every path but one."""
    near, far = (
        dag(f"s:{source} e:extract o:clean l:left m:merge", "s>e e>m o>m l>m")
        for source in ("table_a", "table_b")
    )
    assert not close(*(scores(fitted(name), context_at(one, "m")) for one in (near, far)))


@pytest.mark.parametrize("name", NAMES)
def test_a_dag_of_unknown_nodes_but_one_has_finite_scores(name: str) -> None:
    strange = dag("a:nobody b:noone s:split c:nothing", "a>b b>c a>s s>c")
    for graph in ("upstream", "global"):
        found = scores(fitted(name, graph), *(context_at(strange, node) for node in "abcs"))
        assert np.isfinite(found).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_as_long_as_contexts_get_has_finite_scores(name: str) -> None:
    path = ("extract", "clean", "join") * 60
    assert np.isfinite(scores(fitted(name), Context(path))).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_reaches_behind_the_last_node(name: str) -> None:
    world = memory()
    options = {"epochs": 150, "learning_rate": 0.005}
    model = create(name, options).fit(world.data)
    found = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
    answers = [world.data.vocabulary.services[column] for column in found]
    assert answers == [world.certain[context.path] for context in world.contexts]
