"""Tests that all DAG recommenders must pass, in addition to the contract of all recommenders."""

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
"""A DAG of known keys that is not in the training data."""


@cache
def fitted(name: str, graph: str = "upstream") -> Recommender:
    options = {"epochs": 2, "min_steps": 0, "graph": graph}
    return create(name, options).fit(WORLD.data)


def scores(model: Recommender, *contexts: Context) -> Scores:
    return model.score(WORLD.data.vocabulary.encode(contexts))


def close(a: Scores, b: Scores) -> bool:
    return np.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graph", ["upstream", "global"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_ids_and_document_order(name: str, graph: str) -> None:
    """This includes the order of independent branches."""
    model, rng = fitted(name, graph), np.random.default_rng(0)
    before = scores(model, *(context_at(WIDE, node) for node in "slremjc"))
    for _ in range(4):
        nodes, links = (rng.permutation(len(part)).tolist() for part in (WIDE.nodes, WIDE.links))
        other = relabelled(WIDE, nodes, links, "x")
        assert close(scores(model, *(context_at(other, "x" + node) for node in "slremjc")), before)


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_batch(name: str) -> None:
    model = fitted(name)
    contexts = [context_at(WIDE, node) for node in "tslrecjm"] + [Context(("split",)), *WORLD.contexts]
    batch = scores(model, *contexts)
    assert close(batch, np.concatenate([scores(model, context) for context in contexts]))
    assert close(batch, scores(model, *contexts[::-1])[::-1])


@pytest.mark.parametrize("name", NAMES)
def test_scores_with_global_graph_depend_only_on_last_node(name: str) -> None:
    """With the upstream DAG, they depend on all upstream nodes."""
    contexts = [
        context_at(WIDE, "m"),
        context_at(dag("l:left m:merge", "l>m"), "m"),
        Context(("merge",)),
        Context(("table_a", "extract", "merge")),
    ]
    global_scores = scores(fitted(name, "global"), *contexts)
    assert close(global_scores, np.tile(global_scores[:1], (len(contexts), 1)))
    upstream_scores = scores(fitted(name), *contexts)
    assert not any(close(upstream_scores[i], upstream_scores[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("name", NAMES)
def test_scores_depend_on_distant_source(name: str) -> None:
    """The source is two links away and on only one of the paths."""
    near, far = (
        dag(f"s:{source} e:extract o:clean l:left m:merge", "s>e e>m o>m l>m")
        for source in ("table_a", "table_b")
    )
    assert not close(*(scores(fitted(name), context_at(one, "m")) for one in (near, far)))


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_mostly_unknown_nodes_are_finite(name: str) -> None:
    mostly_unknown = dag("a:nobody b:noone s:split c:nothing", "a>b b>c a>s s>c")
    for graph in ("upstream", "global"):
        result = scores(fitted(name, graph), *(context_at(mostly_unknown, node) for node in "abcs"))
        assert np.isfinite(result).all()


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_long_chain_are_finite(name: str) -> None:
    path = ("extract", "clean", "join") * 60
    assert np.isfinite(scores(fitted(name), Context(path))).all()


@pytest.mark.parametrize("name", NAMES)
def test_fit_learns_dependency_beyond_last_node(name: str) -> None:
    world = memory()
    options = {"epochs": 150, "learning_rate": 0.005}
    model = create(name, options).fit(world.data)
    columns = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
    predicted = [world.data.vocabulary.services[column] for column in columns]
    assert predicted == [world.certain[context.path] for context in world.contexts]
