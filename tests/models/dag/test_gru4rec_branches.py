from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dagrec.data.examples import Context
from dagrec.models.dag.graphs import GraphInputs
from dagrec.models.dag.gru4rec_branches import BranchesConfig, BranchesNetwork
from dagrec.models.sequence.gru4rec import GRU4RecConfig, GRUNetwork
from dagrec.models.sequence.paths import PathForest
from dagrec.types import Floats
from tests.models.dag.inputs import (
    CHAIN,
    DIAMOND,
    LETTERS,
    SKIP,
    at,
    close,
    context,
    inputs_of,
    keys_that_reach,
    own_generator,
    place,
    stirred,
)

_own_generator = pytest.fixture(autouse=True)(own_generator)

JOINS = ["mean", "max", "attention"]
SIZES = {"embedding": 6, "hidden": 5, "layers": 2}
SHAPES = [{}, {"layers": 1}, {"layers": 3}, {"tied": True}, {"tied": True, "hidden": 6}]


def network(**options: object) -> BranchesNetwork:
    config = BranchesConfig(**{**SIZES, **options})
    net = BranchesNetwork(config, len(LETTERS), len(LETTERS.services)).eval()
    stirred(net)
    return net


def last_states(net: BranchesNetwork, inputs: GraphInputs) -> Tensor:
    """[N, H] of the last layer, at every node."""
    x = net.embed(inputs.nodes)
    for layer in range(len(net.cells)):
        x = net._layer(layer, x, inputs)
    return x


# On a chain it is GRU4Rec


def gru4rec(net: BranchesNetwork, **options: object) -> GRUNetwork:
    """GRU4Rec with the same weights."""
    plain = GRUNetwork(GRU4RecConfig(**{**SIZES, **options}), len(LETTERS), len(LETTERS.services))
    found = {}
    for name, tensor in net.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "cells":
            layer, kind = rest.split(".")
            name = f"gru.{kind}_l{layer}"
        if part not in ("readout", "queries"):
            found[name] = tensor
    plain.load_state_dict(found)
    return plain.eval()


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_on_chains_it_equals_gru4rec_with_the_same_weights(join: str, shape: dict[str, object]) -> None:
    net = network(join=join, **shape)
    plain = gru4rec(net, **shape)
    paths = [Context(tuple(path)) for path in ("a", "tab", "abcdefgh", "uabbba")]
    forest = PathForest.of(LETTERS.encode(paths), shared=False)
    inputs, answered = forest.take(np.arange(len(paths)))
    assert close(net(inputs_of(*paths))[answered], plain(inputs), 1e-6)


# Joining


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("count", [2, 3])
def test_equal_parents_join_like_one(join: str, count: int) -> None:
    net = network(join=join)
    one = at("t>a a>b", "b")
    many = " ".join(f"t{i}>a{i} a{i}>b" for i in range(count))
    assert close(net(at(many, "b")), net(one), 1e-6)
    side_by_side = " ".join(f"t>a{i} a{i}>b" for i in range(count))
    assert close(net(at(side_by_side, "b")), net(one), 1e-6)


def by_hand(net: BranchesNetwork, inputs: GraphInputs) -> Floats:
    """The scores of one DAG, node by node."""
    w = {name: array.double().numpy() for name, array in net.state_dict().items()}
    links = list(zip(inputs.sources.tolist(), inputs.targets.tolist(), strict=True))
    x = [w["embed.weight"][node] for node in inputs.nodes.tolist()]
    for layer in range(len(net.cells)):
        states: list[Floats] = []
        for v, own in enumerate(x):
            parents = [states[a] for a, b in links if b == v]
            before = np.zeros(net.hidden)
            if parents and net.join == "mean":
                before = np.mean(parents, axis=0)
            elif parents and net.join == "max":
                before = np.max(parents, axis=0)
            elif parents:
                query = w[f"queries.{layer}.weight"] @ own + w[f"queries.{layer}.bias"]
                shares = np.exp([query @ parent / net.hidden**0.5 for parent in parents])
                before = shares / shares.sum() @ np.array(parents)
            w_x, w_h, b_x, b_h = (
                w[f"cells.{layer}.{kind}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            (r_x, z_x, n_x), (r_h, z_h, n_h) = (
                np.split(part, 3) for part in (w_x @ own + b_x, w_h @ before + b_h)
            )
            r, z = 1 / (1 + np.exp(-(r_x + r_h))), 1 / (1 + np.exp(-(z_x + z_h)))
            states.append((1 - z) * np.tanh(n_x + r * n_h) + z * before)
        x = states
    (f,) = inputs.frontiers.tolist()
    beside = sum(w["readout.beside.weight"][child] for child in inputs.children.tolist())
    return np.asarray(w["head.weight"] @ (x[f] + beside) + w["head.bias"])


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize(("links", "node"), [(DIAMOND, "d"), (SKIP, "d"), (DIAMOND, "t"), (CHAIN, "c")])
def test_scores_follow_the_formula(join: str, links: str, node: str) -> None:
    net, inputs = network(join=join), at(links, node)
    np.testing.assert_allclose(net(inputs)[0].detach(), by_hand(net, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("join", ["mean", "attention"])
def test_every_branch_reaches_the_frontier(join: str) -> None:
    """A path to the frontier would know one of the branches alone."""
    net, inputs = network(join=join), at("t>a a>d u>b b>d c>d", "d")
    assert keys_that_reach(net.states(inputs), net.embed) == set("tuabcd")


@pytest.mark.parametrize("join", JOINS)
def test_a_state_depends_on_ancestors_alone(join: str) -> None:
    net, inputs = network(join=join), at("t>a t>b a>c b>c u>c", "c")
    h = last_states(net, inputs)
    for key, reached in {"t": "t", "a": "ta", "b": "tb"}.items():
        assert keys_that_reach(h[place(inputs, key)], net.embed) == set(reached)


def test_the_order_of_branches_does_not_matter() -> None:
    for join in JOINS:
        net = network(join=join)
        assert close(net(at("a>d b>d c>d", "d")), net(at("c>d a>d b>d", "d")), 1e-6)


def test_joins_differ() -> None:
    inputs = at(DIAMOND, "d")
    mean, largest, attention = (network(join=join) for join in JOINS)
    largest.load_state_dict(mean.state_dict())
    attention.load_state_dict(mean.state_dict(), strict=False)
    scores = [net(inputs) for net in (mean, largest, attention)]
    assert all(not torch.allclose(scores[i], scores[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


# Dropout


def test_the_state_that_is_handed_on_is_not_dropped() -> None:
    """What survives at the frontier is what stands there without dropout, only scaled."""
    net, inputs = network(layers=1, embedding_dropout=0.0, hidden_dropout=0.5), at(DIAMOND, "d")
    whole = net.states(inputs)
    net.train()
    dropped = torch.cat([net.states(inputs) for _ in range(20)])
    beside = net.readout.beside(inputs.children).sum(dim=0)
    kept = dropped != beside
    assert kept.any()
    assert not kept.all()
    assert close(dropped[kept], (2 * (whole - beside) + beside).expand_as(dropped)[kept])


@pytest.mark.parametrize("kind", ["embedding_dropout", "hidden_dropout"])
def test_each_dropout_acts_in_training_alone(kind: str) -> None:
    still = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
    net, inputs = network(**(still | {kind: 0.5})), at(DIAMOND, "d")
    assert torch.equal(net(inputs), net(inputs))
    net.train()
    assert not torch.equal(net(inputs), net(inputs))


# What else it reads


def test_children_count_once_each_and_are_silent_at_first() -> None:
    config = BranchesConfig(**SIZES)
    fresh = BranchesNetwork(config, len(LETTERS), len(LETTERS.services)).eval()
    without, with_one = at("t>a", "a"), at("t>a a>b", "a")
    assert torch.equal(fresh(without), fresh(with_one))
    stirred(fresh)
    beside = fresh.readout.beside.weight[with_one.children].sum(dim=0)
    assert close(fresh.states(with_one), fresh.states(without) + beside)


def test_a_batch_equals_each_alone() -> None:
    for join in JOINS:
        net = network(join=join)
        asked = [context(DIAMOND, "d"), context("", "a"), context(SKIP, "d"), context(CHAIN, "b")]
        alone = torch.cat([net(inputs_of(one)) for one in asked])
        assert close(net(inputs_of(*asked)), alone, 1e-6)
