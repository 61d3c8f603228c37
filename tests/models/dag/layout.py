"""Network inputs of small DAGs, and checks that several DAG networks share.

Unless stated otherwise, all nodes of a DAG have different keys, so a dependency on a node is a
dependency on its row of the embedding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dagrec.data.compositions import Composition, Link, Node, compose
from dagrec.data.examples import Context, context_at
from dagrec.data.vocabulary import Vocabulary
from dagrec.graph.upstream import Upstream, Upstreams
from dagrec.models.dag.attention import GraphAttentionNetwork
from dagrec.models.dag.graphs import GlobalUnits, GraphInputs, UpstreamUnits
from tests.data.dags import dag

KEYS = "abcdefghijklmnopqrstuvwx"
VOCABULARY = Vocabulary(tuple(KEYS), ("table",))


def upstream(composition: Composition, at: str) -> Upstream:
    """Return the DAG upstream of a node, without the node's children."""
    return Upstream.of(Context(context_at(composition, at).path, composition, at))


def all_nodes(composition: Composition) -> Upstream:
    """Return all nodes of a composition, including those that do not reach the last one."""
    index_of = {node: i for i, node in enumerate(composition.order)}
    return Upstream(
        tuple(composition.by_id[node].key for node in composition.order),
        tuple(tuple(index_of[p] for p in composition.parents[node]) for node in composition.order),
        (),
    )


def inputs_of(*dags: Upstream) -> GraphInputs:
    """Return the DAGs as one batch; the last node of each is its frontier."""
    units = UpstreamUnits(Upstreams.of(dags, VOCABULARY))
    return units.take(np.arange(len(dags)))[0]


def global_inputs(composition: Composition, *last_keys: str) -> GraphInputs:
    """Return inputs whose global graph is a composition, for contexts with these last nodes.

    Like the real graph, it has every node id of the vocabulary.
    """
    rest = [Node(f"id {key}", key) for key in ("", *KEYS, "table") if key not in composition.by_id]
    graph, _ = compose("all", [*composition.nodes, *rest], composition.links)
    units = GlobalUnits(
        Upstreams.of([all_nodes(graph)], VOCABULARY),
        Upstreams.of([Upstream.of(Context((key,))) for key in last_keys], VOCABULARY),
    )
    return units.take(np.arange(len(last_keys)))[0]


def keys_of(inputs: GraphInputs) -> list[str]:
    """Return the key of each node in the order of the inputs."""
    key_of = ("", "", *VOCABULARY.services, *VOCABULARY.others)
    return [key_of[node] for node in inputs.nodes.tolist()]


def random_dag(size: int, seed: int, share: float = 0.3) -> Composition:
    """Return nodes a, b, ... with a link from each to each later one with probability ``share``.

    Nodes and links are in random order.
    """
    rng = random.Random(seed)
    names = list(KEYS[:size])
    links: list[Link] = [
        (a, b) for i, a in enumerate(names) for b in names[i + 1 :] if rng.random() < share
    ]
    rng.shuffle(links)
    rng.shuffle(names)
    return compose(f"random-{seed}", [Node(name, name) for name in names], links)[0]


def ancestors_of(composition: Composition) -> dict[str, set[str]]:
    return {node: set(composition.ancestors(node)) for node in composition.by_id}


def dependencies(
    net: nn.Module,
    embedding: nn.Embedding,
    inputs: GraphInputs,
    states: Callable[[GraphInputs], Tensor],
) -> dict[str, set[str]]:
    """Return the key of each node -> the keys whose embeddings its state depends on."""
    keys, result = keys_of(inputs), {}
    generator = torch.Generator().manual_seed(7)
    for i, key in enumerate(keys):
        net.zero_grad()
        h = states(inputs)
        (h[i] * torch.randn(h[i].shape, generator=generator)).sum().backward()
        assert embedding.weight.grad is not None
        has_gradient = embedding.weight.grad.ne(0).any(dim=1)
        nodes = inputs.nodes.tolist()
        result[key] = {key for key, node in zip(keys, nodes, strict=True) if has_gradient[node]}
    return result


def states_of(net: GraphAttentionNetwork) -> Callable[[GraphInputs], Tensor]:
    """Return the function from inputs to the states of all nodes."""
    return lambda inputs: net.attend(inputs)[0]


def by_key(inputs: GraphInputs, states: Tensor) -> dict[str, Tensor]:
    """Return the state of each node by its key."""
    return dict(zip(keys_of(inputs), states, strict=True))


def assert_close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def randomise_parameters(net: nn.Module, seed: int = 5) -> nn.Module:
    """Draw all parameters, so that none is 0; return the network in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return net.eval()


def assert_batch_equals_single(
    score: Callable[[GraphInputs], Tensor], dags: Sequence[Upstream]
) -> None:
    """Check that the scores of a DAG depend neither on the rest of the batch nor on its order."""
    batch = score(inputs_of(*dags))
    single = torch.cat([score(inputs_of(one)) for one in dags])
    reversed_batch = score(inputs_of(*dags[::-1])).flip(0)
    assert_close(batch, single)
    assert_close(reversed_batch, single)


def reversed_dag(composition: Composition) -> Composition:
    """Return the composition with the direction of all links reversed."""
    return dag(" ".join(composition.order), " ".join(f"{b}>{a}" for a, b in composition.links))


def assert_gradients_match_finite_differences(net: nn.Module, inputs: GraphInputs) -> None:
    """Check the gradient of every parameter; ``net`` has double precision."""
    names, values = zip(*net.named_parameters(), strict=True)

    def score(*weights: Tensor) -> Tensor:
        parameters = dict(zip(names, weights, strict=True))
        result: Tensor = torch.func.functional_call(net, parameters, (inputs,))
        return result

    assert torch.autograd.gradcheck(score, values, fast_mode=True)


def assert_gradient_without_links(net: nn.Module) -> None:
    """Check that all parameters have a gradient for a batch without links, as training requires."""
    net(inputs_of(Upstream(("a",), ((),), ()))).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def assert_dropout_only_in_training(
    network: Callable[..., nn.Module], dag: Upstream, kinds: Sequence[str]
) -> None:
    """Check that each kind of dropout changes scores in training and not in evaluation."""
    inputs = inputs_of(*[dag] * 20)
    for kind in kinds:
        net = network(**{**dict.fromkeys(kinds, 0.0), kind: 0.5}).train()
        assert (net(inputs) != net(inputs)).any()
        net.eval()
        assert torch.equal(net(inputs), net(inputs))
