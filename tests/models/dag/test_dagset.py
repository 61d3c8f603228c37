from __future__ import annotations

import numpy as np
import pytest
import torch

from dagrec.data.compositions import Node, compose
from dagrec.data.examples import Context, ExampleOptions, extract
from dagrec.data.vocabulary import FIRST_SERVICE, Contexts
from dagrec.models.dag.dagset import MAX_DISTANCE, DagSet, DagSetConfig, DagSetNetwork
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Scores
from tests.worlds import everything

WORLD = everything()
SMALL = {"embedding": 8, "hidden": 16, "epochs": 3, "min_steps": 0}


@pytest.fixture(scope="module")
def model() -> DagSet:
    """Return a recommender that is fitted on links, so that frontiers have children."""
    links, _ = extract(WORLD.compositions, ExampleOptions(form="links"))
    model = create("dagset", SMALL).fit(TrainingData.of(links))
    assert isinstance(model, DagSet)
    return model


def context_at_node(links: list[tuple[str, str]], at: str, children: tuple[str, ...] = ()) -> Context:
    """Return the context at a node of the DAG of these links; keys are node ids."""
    keys = dict.fromkeys(end for link in links for end in link) or {at: None}
    nodes = [Node(key, key, "table" if key.startswith("table") else "service") for key in keys]
    composition = compose("dag", nodes, links)[0]
    return Context((at,), composition, at, children=children)


def scores(model: DagSet, *contexts: Context) -> Scores:
    return model.score(encode(*contexts))


def encode(*contexts: Context) -> Contexts:
    return WORLD.data.vocabulary.encode(list(contexts))


KEYS = WORLD.data.vocabulary.services[:5]


def test_scores_match_formula(model: DagSet) -> None:
    a, b, c, d, child = KEYS
    context = context_at_node([(a, b), (b, d), (c, d), (d, child)], d, (child,))
    w = {name: array.astype(np.float64) for name, array in model.state().items()}
    ids = WORLD.data.vocabulary.ids

    def total(*keys: str) -> Floats:
        return np.asarray(sum((w["embed.weight"][ids[k]] for k in keys), np.zeros(8)))

    x = np.concatenate([total(d), total(b, c), total(a), total(), total(child), w["levels.weight"][2]])
    hidden = np.maximum(w["hidden.weight"] @ x + w["hidden.bias"], 0)
    expected = w["head.weight"] @ np.concatenate([hidden, total(d)]) + w["head.bias"]
    np.testing.assert_allclose(scores(model, context)[0], expected, rtol=1e-4, atol=1e-5)


def test_scores_ignore_order_within_a_distance(model: DagSet) -> None:
    a, b, c, d, _ = KEYS
    one = context_at_node([(a, d), (b, d), (c, d)], d)
    other = context_at_node([(c, d), (a, d), (b, d)], d)
    np.testing.assert_allclose(*scores(model, one, other), rtol=1e-5, atol=1e-6)


def test_scores_depend_on_distance_of_ancestors(model: DagSet) -> None:
    a, b, _, d, _ = KEYS
    near, far = scores(
        model, context_at_node([(a, d), (b, a)], d), context_at_node([(b, d), (a, b)], d)
    )
    assert not np.allclose(near, far)


def test_network_has_one_set_for_large_distances() -> None:
    """Nodes that are three or more links away form one set."""
    torch.manual_seed(0)
    network = DagSetNetwork(DagSetConfig(**SMALL, levels=1), 12, 6).eval()
    assert MAX_DISTANCE == 3
    assert network.hidden.in_features == (MAX_DISTANCE + 3) * 8


def test_scores_depend_on_children_but_not_on_their_order(model: DagSet) -> None:
    a, b, c, d, _ = KEYS
    links = [(a, b), (b, c), (b, d)]
    none, one, both, reordered = scores(
        model,
        context_at_node(links, b),
        context_at_node(links, b, (c,)),
        context_at_node(links, b, (c, d)),
        context_at_node([(a, b), (b, d), (b, c)], b, (d, c)),
    )
    assert not np.allclose(none, one)
    assert not np.allclose(one, both)
    np.testing.assert_allclose(both, reordered, rtol=1e-5, atol=1e-6)


def test_children_have_no_effect_without_children_in_training() -> None:
    a, b, c, _, _ = KEYS
    model = create("dagset", SMALL).fit(WORLD.data)
    links = [(a, b), (b, c)]
    np.testing.assert_array_equal(
        *scores(model, context_at_node(links, b), context_at_node(links, b, (c,)))
    )


def test_scores_ignore_later_and_parallel_nodes(model: DagSet) -> None:
    a, b, c, d, e = KEYS
    upstream_only = context_at_node([(a, b)], b)
    larger_dag = context_at_node([(a, b), (b, c), (a, d), (e, c)], b)
    np.testing.assert_allclose(*scores(model, upstream_only, larger_dag), rtol=1e-5, atol=1e-6)


def test_path_is_scored_as_chain(model: DagSet) -> None:
    a, b, c, _, _ = KEYS
    chain = context_at_node([(a, b), (b, c)], c)
    np.testing.assert_allclose(*scores(model, chain, Context((a, b, c))), rtol=1e-5, atol=1e-6)


def test_node_dropout_is_active_only_in_training() -> None:
    torch.manual_seed(0)
    config = DagSetConfig(**SMALL, embedding_dropout=0.0, hidden_dropout=0.0, node_dropout=0.5)
    network = DagSetNetwork(config, len(WORLD.data.vocabulary), 6)
    like = torch.zeros(50, 8)
    nodes, rows = torch.full((50,), FIRST_SERVICE), torch.arange(50)
    dropped = network.train()._sums(nodes, rows, like).any(dim=1)
    assert 5 < int(dropped.sum()) < 45
    assert bool(network.eval()._sums(nodes, rows, like).any(dim=1).all())


def test_scores_with_global_graph_depend_only_on_last_node() -> None:
    a, b, c, _, _ = KEYS
    model = create("dagset", {**SMALL, "graph": "global"}).fit(WORLD.data)
    one, other = model.score(encode(Context((a, c)), Context((b, c))))
    np.testing.assert_array_equal(one, other)
