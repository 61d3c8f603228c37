from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dagrec.data.compositions import Composition
from dagrec.graph.upstream import Upstream
from dagrec.models.dag.directed_dagnn import DirectedDAGNNConfig, DirectedDAGNNNetwork
from dagrec.models.dag.graphs import GraphInputs
from tests.data.dags import dag
from tests.models.dag.layout import (
    VOCABULARY,
    all_nodes,
    ancestors_of,
    assert_batch_equals_single,
    assert_close,
    assert_dropout_only_in_training,
    assert_gradient_without_links,
    assert_gradients_match_finite_differences,
    by_key,
    dependencies,
    global_inputs,
    inputs_of,
    keys_of,
    random_dag,
    randomise_parameters,
    upstream,
)

WIDTH = 5
SHAPES: list[dict[str, object]] = [
    {},
    {"hop_weights": "softmax"},
    {"self_loops": False},
    {"hops": 3, "teleport": 0.0},
]
DAGS = [random_dag(11, seed) for seed in range(4)]


def network(**options: object) -> DirectedDAGNNNetwork:
    config = DirectedDAGNNConfig.model_validate({"width": WIDTH, **options})
    net = DirectedDAGNNNetwork(config, len(VOCABULARY), len(VOCABULARY.services))
    randomise_parameters(net)
    return net


def propagation(inputs: GraphInputs, *, self_loops: bool) -> Tensor:
    """Return P as a matrix, computed by a loop."""
    n = len(inputs.nodes)
    links = list(zip(inputs.sources.tolist(), inputs.targets.tolist(), strict=True))
    if self_loops:
        links += [(i, i) for i in range(n)]
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for source, target in links:
        matrix[target, source] = 1 / sum(other == target for _, other in links)
    return matrix


# Propagation


@pytest.mark.parametrize("composition", DAGS, ids=lambda c: c.id)
def test_propagation_rows_sum_to_1_or_0_at_sources(composition: Composition) -> None:
    """Equal states are preserved at nodes with parents and become 0 at sources."""
    inputs = inputs_of(all_nodes(composition))
    for self_loops in (False, True):
        net = network(self_loops=self_loops, teleport=0.0, hops=1)
        rows = propagation(inputs, self_loops=self_loops).sum(dim=1)
        assert set(rows.round(decimals=9).tolist()) <= {0.0, 1.0}
        constant = torch.tensor([1.0, -2, 3, 0.5, 7])
        last = net.transform[3]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(constant)
        assert_close(net.hop_states(inputs)[:, 1], rows[:, None].float() * constant)
        assert self_loops == bool((rows == 1).all())


@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize("teleport", [0.0, 0.1, 0.6])
def test_hops_match_appnp(self_loops: bool, teleport: float) -> None:
    """h^K = sum_{i < K} a (1 - a)^i P^i h^0 + (1 - a)^K P^K h^0."""
    net = network(self_loops=self_loops, teleport=teleport, hops=4).double()
    inputs = inputs_of(all_nodes(DAGS[0]))
    p, hops = propagation(inputs, self_loops=self_loops), net.hop_states(inputs)
    for k in range(5):
        powers = [torch.matrix_power(p, i) @ hops[:, 0] for i in range(k + 1)]
        expected = (1 - teleport) ** k * powers[k]
        for i in range(k):
            expected = expected + teleport * (1 - teleport) ** i * powers[i]
        assert_close(hops[:, k], expected, 1e-12)


@pytest.mark.parametrize("composition", DAGS, ids=lambda c: c.id)
def test_hops_beyond_longest_path_equal_limit(composition: Composition) -> None:
    a = 0.2
    inputs = inputs_of(all_nodes(composition))
    needed = int(inputs.levels.max()) + 1
    net = network(self_loops=False, teleport=a, hops=needed + 3).double()
    hops = net.hop_states(inputs)
    p = propagation(inputs, self_loops=False)
    limit = a * torch.linalg.solve(torch.eye(len(p), dtype=p.dtype) - (1 - a) * p, hops[:, 0])
    assert_close(hops[:, needed], limit, 1e-12)
    for node, level in enumerate(inputs.levels.tolist()):
        for k in range(level + 1, needed + 4):
            assert torch.equal(hops[node, k], hops[node, level + 1])
    assert not torch.allclose(hops[:, needed - 2], limit)


def test_unlimited_hops_follow_deepest_dag() -> None:
    shallow, deep = upstream(dag("a b", "a>b"), "b"), upstream(DAGS[0], "k")
    net = network()
    assert net.hop_states(inputs_of(shallow)).shape[1] == 3
    assert net.hop_states(inputs_of(shallow, deep)).shape[1] == deep.levels[-1] + 2


@pytest.mark.parametrize("hop_weights", ["sigmoid", "softmax"])
def test_teleport_1_disables_propagation(hop_weights: str) -> None:
    net, inputs = network(teleport=1.0, hop_weights=hop_weights), inputs_of(all_nodes(DAGS[0]))
    hops = net.hop_states(inputs)
    assert torch.equal(hops, hops[:, :1].expand_as(hops))
    out = (net.hop_weights(hops, inputs)[:, :, None] * hops).sum(dim=1)
    total_weight = net.hop_weights(hops, inputs).sum(dim=1, keepdim=True)
    assert_close(out, total_weight * hops[:, 0])
    if hop_weights == "softmax":
        assert_close(out, hops[:, 0])


# Weights of hops


@pytest.mark.parametrize("hops", [None, 6])
def test_softmax_weights_sum_to_1_and_sigmoids_do_not(hops: int | None) -> None:
    inputs = inputs_of(all_nodes(DAGS[1]))
    net = network(hop_weights="softmax", hops=hops)
    weights = net.hop_weights(net.hop_states(inputs), inputs)
    assert_close(weights.sum(dim=1), torch.ones(len(inputs.nodes)))
    net = network(hop_weights="sigmoid", hops=hops)
    states = net.hop_states(inputs)
    sums = net.hop_weights(states, inputs).sum(dim=1)
    assert (sums > 0).all()
    assert (sums < (inputs.levels + 2 if hops is None else hops + 1)).all()
    assert sums.std() > 0.01
    with torch.no_grad():
        net.retain.bias.fill_(50.0)  # all weights are 1, which a softmax cannot do
    assert_close(net.hop_weights(states, inputs).sum(dim=1).max(), torch.tensor(states.shape[1] * 1.0))


def test_unneeded_hops_have_weight_0() -> None:
    inputs = inputs_of(all_nodes(DAGS[1]))
    for hop_weights in ("sigmoid", "softmax"):
        net = network(hop_weights=hop_weights)
        weights = net.hop_weights(net.hop_states(inputs), inputs)
        needed = inputs.levels[:, None] + 1 >= torch.arange(weights.shape[1])
        assert torch.equal(weights != 0, needed)


def test_scores_match_formula() -> None:
    """With w = 0 the weight of each hop is 0.5."""
    net, inputs = network(hops=2, teleport=0.0, self_loops=False), inputs_of(upstream(DAGS[0], "k"))
    with torch.no_grad():
        net.retain.weight.zero_()
        net.retain.bias.zero_()
    start = net.transform(net.embed(inputs.nodes))
    p = propagation(inputs, self_loops=False).float()
    out = 0.5 * (start + p @ start + p @ p @ start)
    assert_close(net(inputs), net.head(out[inputs.frontiers]))


# Dependencies of states


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_states_depend_only_on_node_and_ancestors(shape: dict[str, object]) -> None:
    net = network(**shape)

    def out(inputs: GraphInputs) -> Tensor:
        hops = net.hop_states(inputs)
        return (net.hop_weights(hops, inputs)[:, :, None] * hops).sum(dim=1)

    for composition in DAGS:
        ancestors = ancestors_of(composition)
        keys = dependencies(net, net.embed, inputs_of(all_nodes(composition)), out)
        assert keys == {node: {node} | ancestors[node] for node in composition.by_id}


@pytest.mark.parametrize("hops", [1, 2, 4])
def test_hops_limit_distance_of_dependencies(hops: int) -> None:
    net = network(hops=hops)
    inputs = inputs_of(all_nodes(dag("a b c d e f", "a>b b>c c>d d>e e>f")))
    keys = dependencies(net, net.embed, inputs, lambda i: net.hop_states(i)[:, -1])
    assert keys["f"] == set("abcdef"[-hops - 1 :])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_equals_single_dags(shape: dict[str, object]) -> None:
    """This includes batches in which a deeper DAG adds hops."""
    dags = [upstream(c, node) for c in DAGS for node in ("c", "h", "k")]
    assert_batch_equals_single(network(**shape), [*dags, Upstream(("z",), ((),), ("k", "nobody"))])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_do_not_depend_on_document_order(shape: dict[str, object]) -> None:
    net = network(**shape)
    one = dag("t u a b c d", "t>a u>b a>c b>c a>d c>d u>d")
    other = dag("d c b a u t", "u>d c>d a>d b>c a>c u>b t>a")
    assert_close(net(inputs_of(upstream(one, "d"))), net(inputs_of(upstream(other, "d"))))


def test_equal_parents_count_once() -> None:
    net = network(self_loops=False)
    once = inputs_of(upstream(dag("t a:x d", "t>a a>d"), "d"))
    twice = inputs_of(upstream(dag("t a:x b:x d", "t>a t>b a>d b>d"), "d"))
    assert_close(net(once), net(twice))


def test_global_graph_states_depend_only_on_ancestors() -> None:
    net, composition = network(), DAGS[0]
    inputs, ancestors = global_inputs(composition, "a", "k"), ancestors_of(composition)
    keys = dependencies(net, net.embed, inputs, lambda i: net.hop_states(i)[:, -1])
    assert all(keys[node] == {node} | ancestors[node] for node in composition.by_id)
    assert set(keys_of(inputs)) > set(composition.by_id)
    assert by_key(inputs, net.hop_states(inputs))["x"].shape == (int(inputs.levels.max()) + 2, WIDTH)


# Training


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_match_finite_differences(shape: dict[str, object]) -> None:
    assert_gradients_match_finite_differences(
        network(**shape).double(), inputs_of(upstream(DAGS[0], "k"))
    )


def test_all_parameters_have_gradient_without_links() -> None:
    for shape in SHAPES:
        assert_gradient_without_links(network(**shape))


def test_dropout_is_active_only_in_training() -> None:
    kinds = ("embedding_dropout", "hidden_dropout")
    assert_dropout_only_in_training(network, upstream(DAGS[0], "k"), kinds)
