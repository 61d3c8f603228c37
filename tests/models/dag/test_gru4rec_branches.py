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
    assert_close,
    context,
    index_of,
    inputs_at,
    inputs_of,
    keys_with_gradient,
    randomise_zero_parameters,
)

JOINS = ["mean", "max", "attention"]
SIZES = {"embedding": 6, "hidden": 5, "layers": 2}
SHAPES = [{}, {"layers": 1}, {"layers": 3}, {"tied": True}, {"tied": True, "hidden": 6}]


def network(**options: object) -> BranchesNetwork:
    config = BranchesConfig(**{**SIZES, **options})
    net = BranchesNetwork(config, len(LETTERS), len(LETTERS.services)).eval()
    randomise_zero_parameters(net)
    return net


def last_states(net: BranchesNetwork, inputs: GraphInputs) -> Tensor:
    """Return the states [N, H] of the last layer."""
    x = net.embed(inputs.nodes)
    for layer in range(len(net.cells)):
        x = net._layer(layer, x, inputs)
    return x


# Equivalence with GRU4Rec


def gru4rec(net: BranchesNetwork, **options: object) -> GRUNetwork:
    """Return GRU4Rec with the same weights."""
    plain = GRUNetwork(GRU4RecConfig(**{**SIZES, **options}), len(LETTERS), len(LETTERS.services))
    state = {}
    for name, tensor in net.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "cells":
            layer, kind = rest.split(".")
            name = f"gru.{kind}_l{layer}"
        if part not in ("readout", "queries"):
            state[name] = tensor
    plain.load_state_dict(state)
    return plain.eval()


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_on_chains_match_gru4rec(join: str, shape: dict[str, object]) -> None:
    net = network(join=join, **shape)
    plain = gru4rec(net, **shape)
    paths = [Context(tuple(path)) for path in ("a", "tab", "abcdefgh", "uabbba")]
    forest = PathForest.of(LETTERS.encode(paths), shared=False)
    inputs, context_rows = forest.take(np.arange(len(paths)))
    assert_close(net(inputs_of(*paths))[context_rows], plain(inputs), 1e-6)


# Joining


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("count", [2, 3])
def test_equal_parents_count_once(join: str, count: int) -> None:
    net = network(join=join)
    one = inputs_at("t>a a>b", "b")
    several = " ".join(f"t{i}>a{i} a{i}>b" for i in range(count))
    assert_close(net(inputs_at(several, "b")), net(one), 1e-6)
    side_by_side = " ".join(f"t>a{i} a{i}>b" for i in range(count))
    assert_close(net(inputs_at(side_by_side, "b")), net(one), 1e-6)


def reference_scores(net: BranchesNetwork, inputs: GraphInputs) -> Floats:
    """Return the scores of one DAG, computed node by node."""
    w = {name: array.double().numpy() for name, array in net.state_dict().items()}
    links = list(zip(inputs.sources.tolist(), inputs.targets.tolist(), strict=True))
    x = [w["embed.weight"][node] for node in inputs.nodes.tolist()]
    for layer in range(len(net.cells)):
        states: list[Floats] = []
        for v, node_x in enumerate(x):
            parents = [states[a] for a, b in links if b == v]
            hidden = np.zeros(net.hidden)
            if parents and net.join == "mean":
                hidden = np.mean(parents, axis=0)
            elif parents and net.join == "max":
                hidden = np.max(parents, axis=0)
            elif parents:
                query = w[f"queries.{layer}.weight"] @ node_x + w[f"queries.{layer}.bias"]
                shares = np.exp([query @ parent / net.hidden**0.5 for parent in parents])
                hidden = shares / shares.sum() @ np.array(parents)
            w_x, w_h, b_x, b_h = (
                w[f"cells.{layer}.{kind}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            (r_x, z_x, n_x), (r_h, z_h, n_h) = (
                np.split(part, 3) for part in (w_x @ node_x + b_x, w_h @ hidden + b_h)
            )
            r, z = 1 / (1 + np.exp(-(r_x + r_h))), 1 / (1 + np.exp(-(z_x + z_h)))
            states.append((1 - z) * np.tanh(n_x + r * n_h) + z * hidden)
        x = states
    (f,) = inputs.frontiers.tolist()
    children = sum(w["readout.embed_children.weight"][child] for child in inputs.children.tolist())
    return np.asarray(w["head.weight"] @ (x[f] + children) + w["head.bias"])


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize(("links", "node"), [(DIAMOND, "d"), (SKIP, "d"), (DIAMOND, "t"), (CHAIN, "c")])
def test_scores_match_reference(join: str, links: str, node: str) -> None:
    net, inputs = network(join=join), inputs_at(links, node)
    np.testing.assert_allclose(
        net(inputs)[0].detach(), reference_scores(net, inputs), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("join", ["mean", "attention"])
def test_frontier_state_depends_on_every_branch(join: str) -> None:
    net, inputs = network(join=join), inputs_at("t>a a>d u>b b>d c>d", "d")
    assert keys_with_gradient(net.states(inputs), net.embed) == set("tuabcd")


@pytest.mark.parametrize("join", JOINS)
def test_states_depend_only_on_node_and_ancestors(join: str) -> None:
    net, inputs = network(join=join), inputs_at("t>a t>b a>c b>c u>c", "c")
    h = last_states(net, inputs)
    for key, keys in {"t": "t", "a": "ta", "b": "tb"}.items():
        assert keys_with_gradient(h[index_of(inputs, key)], net.embed) == set(keys)


def test_scores_do_not_depend_on_order_of_branches() -> None:
    for join in JOINS:
        net = network(join=join)
        assert_close(net(inputs_at("a>d b>d c>d", "d")), net(inputs_at("c>d a>d b>d", "d")), 1e-6)


def test_joins_have_different_scores() -> None:
    inputs = inputs_at(DIAMOND, "d")
    mean, largest, attention = (network(join=join) for join in JOINS)
    largest.load_state_dict(mean.state_dict())
    attention.load_state_dict(mean.state_dict(), strict=False)
    scores = [net(inputs) for net in (mean, largest, attention)]
    assert all(not torch.allclose(scores[i], scores[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


# Dropout


def test_recurrent_state_has_no_dropout() -> None:
    """Dropout only scales or removes components of the frontier's state."""
    net, inputs = network(layers=1, embedding_dropout=0.0, hidden_dropout=0.5), inputs_at(DIAMOND, "d")
    expected = net.states(inputs)
    net.train()
    dropped = torch.cat([net.states(inputs) for _ in range(20)])
    children = net.readout.embed_children(inputs.children).sum(dim=0)
    nonzero = dropped != children
    assert nonzero.any()
    assert not nonzero.all()
    assert_close(dropped[nonzero], (2 * (expected - children) + children).expand_as(dropped)[nonzero])


@pytest.mark.parametrize("kind", ["embedding_dropout", "hidden_dropout"])
def test_dropout_is_active_only_in_training(kind: str) -> None:
    no_dropout = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
    net, inputs = network(**(no_dropout | {kind: 0.5})), inputs_at(DIAMOND, "d")
    assert torch.equal(net(inputs), net(inputs))
    net.train()
    assert not torch.equal(net(inputs), net(inputs))


# Children and batches


def test_children_initially_have_no_effect_and_then_add_embeddings() -> None:
    config = BranchesConfig(**SIZES)
    net = BranchesNetwork(config, len(LETTERS), len(LETTERS.services)).eval()
    without_child, with_child = inputs_at("t>a", "a"), inputs_at("t>a a>b", "a")
    assert torch.equal(net(without_child), net(with_child))
    randomise_zero_parameters(net)
    children = net.readout.embed_children.weight[with_child.children].sum(dim=0)
    assert_close(net.states(with_child), net.states(without_child) + children)


def test_batch_equals_single_dags() -> None:
    for join in JOINS:
        net = network(join=join)
        contexts = [context(DIAMOND, "d"), context("", "a"), context(SKIP, "d"), context(CHAIN, "b")]
        single = torch.cat([net(inputs_of(item)) for item in contexts])
        assert_close(net(inputs_of(*contexts)), single, 1e-6)
