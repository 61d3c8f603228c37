from __future__ import annotations

import numpy as np
import pytest
import torch

from dagrec.data.compositions import Node, compose
from dagrec.data.examples import Context, ExampleOptions, extract
from dagrec.data.vocabulary import FIRST, Contexts
from dagrec.models.dag.dagset import MAX_DISTANCE, DagSet, DagSetConfig, DagSetNetwork
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Scores
from tests.worlds import everything

WORLD = everything()
SMALL = {"embedding": 8, "hidden": 16, "epochs": 3, "min_steps": 0}


@pytest.fixture(scope="module")
def model() -> DagSet:
    """It knows the world by links, where frontiers have children."""
    links, _ = extract(WORLD.compositions, ExampleOptions(form="links"))
    found = create("dagset", SMALL).fit(TrainingData.of(links))
    assert isinstance(found, DagSet)
    return found


def asked(links: list[tuple[str, str]], at: str, children: tuple[str, ...] = ()) -> Context:
    """The context at a node of the DAG of these links; a key is its own node id."""
    keys = dict.fromkeys(end for link in links for end in link) or {at: None}
    nodes = [Node(key, key, "table" if key.startswith("table") else "service") for key in keys]
    composition = compose("asked", nodes, links)[0]
    return Context((at,), composition, at, children=children)


def scores(model: DagSet, *contexts: Context) -> Scores:
    return model.score(encode(*contexts))


def encode(*contexts: Context) -> Contexts:
    return WORLD.data.vocabulary.encode(list(contexts))


KEYS = WORLD.data.vocabulary.services[:5]


def test_scores_follow_the_formula(model: DagSet) -> None:
    a, b, c, d, child = KEYS
    context = asked([(a, b), (b, d), (c, d), (d, child)], d, (child,))
    w = {name: array.astype(np.float64) for name, array in model.state().items()}
    ids = WORLD.data.vocabulary.ids

    def total(*keys: str) -> Floats:
        return np.asarray(sum((w["embed.weight"][ids[k]] for k in keys), np.zeros(8)))

    x = np.concatenate([total(d), total(b, c), total(a), total(), total(child), w["levels.weight"][2]])
    hidden = np.maximum(w["hidden.weight"] @ x + w["hidden.bias"], 0)
    expected = w["head.weight"] @ np.concatenate([hidden, total(d)]) + w["head.bias"]
    np.testing.assert_allclose(scores(model, context)[0], expected, rtol=1e-4, atol=1e-5)


def test_ancestors_at_one_distance_have_no_order(model: DagSet) -> None:
    a, b, c, d, _ = KEYS
    one = asked([(a, d), (b, d), (c, d)], d)
    other = asked([(c, d), (a, d), (b, d)], d)
    np.testing.assert_allclose(*scores(model, one, other), rtol=1e-5, atol=1e-6)


def test_the_distance_of_an_ancestor_matters(model: DagSet) -> None:
    a, b, c, d, _ = KEYS
    near, far = scores(model, asked([(a, d), (b, a)], d), asked([(b, d), (a, b)], d))
    assert not np.allclose(near, far)
    assert len(c)


def test_from_some_distance_on_it_does_not() -> None:
    """Nodes at three links and more are one set."""
    torch.manual_seed(0)
    network = DagSetNetwork(DagSetConfig(**SMALL, levels=1), 12, 6).eval()
    assert MAX_DISTANCE == 3
    assert network.hidden.in_features == (MAX_DISTANCE + 3) * 8


def test_children_matter_and_have_no_order(model: DagSet) -> None:
    a, b, c, d, _ = KEYS
    links = [(a, b), (b, c), (b, d)]
    none, one, both, turned = scores(
        model,
        asked(links, b),
        asked(links, b, (c,)),
        asked(links, b, (c, d)),
        asked([(a, b), (b, d), (b, c)], b, (d, c)),
    )
    assert not np.allclose(none, one)
    assert not np.allclose(one, both)
    np.testing.assert_allclose(both, turned, rtol=1e-5, atol=1e-6)


def test_children_say_nothing_where_training_had_none() -> None:
    a, b, c, _, _ = KEYS
    found = create("dagset", SMALL).fit(WORLD.data)
    links = [(a, b), (b, c)]
    np.testing.assert_array_equal(*scores(found, asked(links, b), asked(links, b, (c,))))


def test_what_follows_or_stands_aside_does_not_matter(model: DagSet) -> None:
    a, b, c, d, e = KEYS
    alone = asked([(a, b)], b)
    among = asked([(a, b), (b, c), (a, d), (e, c)], b)
    np.testing.assert_allclose(*scores(model, alone, among), rtol=1e-5, atol=1e-6)


def test_a_path_is_the_chain_of_its_nodes(model: DagSet) -> None:
    a, b, c, _, _ = KEYS
    chain = asked([(a, b), (b, c)], c)
    np.testing.assert_allclose(*scores(model, chain, Context((a, b, c))), rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    config = DagSetConfig(**SMALL, embedding_dropout=0.0, hidden_dropout=0.0, node_dropout=0.5)
    network = DagSetNetwork(config, len(WORLD.data.vocabulary), 6)
    like = torch.zeros(50, 8)
    nodes, rows = torch.full((50,), FIRST), torch.arange(50)
    dropped = network.train()._sums(nodes, rows, like).any(dim=1)
    assert 5 < int(dropped.sum()) < 45
    assert bool(network.eval()._sums(nodes, rows, like).any(dim=1).all())


def test_the_global_graph_makes_it_a_function_of_the_last_node() -> None:
    a, b, c, _, _ = KEYS
    found = create("dagset", {**SMALL, "graph": "global"}).fit(WORLD.data)
    one, other = found.score(encode(Context((a, c)), Context((b, c))))
    np.testing.assert_array_equal(one, other)
