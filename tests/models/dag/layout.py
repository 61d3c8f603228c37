"""Small DAGs laid out for networks, and what tests of these ask in common.

In them every node has a key of its own unless it says otherwise, so that what depends on a node is what
depends on its row of the embedding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from dagrec.data.compositions import Composition, Link, Node, compose
from dagrec.data.examples import Context, context_at
from dagrec.data.vocabulary import Vocabulary
from dagrec.graph.upstream import Upstream, Upstreams
from dagrec.models.dag.attention import AttendingNetwork
from dagrec.models.dag.graphs import GlobalUnits, GraphInputs, UpstreamUnits

KEYS = "abcdefghijklmnopqrstuvwx"
VOCABULARY = Vocabulary(tuple(KEYS), ("table",))


def upstream(composition: Composition, at: str) -> Upstream:
    """Of the node, without the children that it has in the composition."""
    return Upstream.of(Context(context_at(composition, at).path, composition, at))


def whole(composition: Composition) -> Upstream:
    """All nodes, whether the last of them is reached or not."""
    place = {node: i for i, node in enumerate(composition.order)}
    return Upstream(
        tuple(composition.by_id[node].key for node in composition.order),
        tuple(tuple(place[p] for p in composition.parents[node]) for node in composition.order),
        (),
    )


def inputs_of(*dags: Upstream) -> GraphInputs:
    """These DAGs in one batch, each asked at its last node."""
    units = UpstreamUnits(Upstreams.of(dags, VOCABULARY))
    return units.take(np.arange(len(dags)))[0]


def global_inputs(composition: Composition, *asked: str) -> GraphInputs:
    """A composition with one node a key as the graph of all training links, asked at these keys.

    Like the real one, it holds every id of the vocabulary.
    """
    rest = [Node(f"id {key}", key) for key in ("", *KEYS, "table") if key not in composition.by_id]
    graph, _ = compose("all", [*composition.nodes, *rest], composition.links)
    units = GlobalUnits(
        Upstreams.of([whole(graph)], VOCABULARY),
        Upstreams.of([Upstream.of(Context((key,))) for key in asked], VOCABULARY),
    )
    return units.take(np.arange(len(asked)))[0]


def keys_of(inputs: GraphInputs) -> list[str]:
    """The key of each node, in the order in which the network reads them."""
    words = ("", "", *VOCABULARY.services, *VOCABULARY.others)
    return [words[node] for node in inputs.nodes.tolist()]


def random_dag(size: int, seed: int, share: float = 0.3) -> Composition:
    """Nodes a, b, ... of which an earlier one feeds a later one with this probability, in any order."""
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


def reads(
    net: nn.Module,
    embedding: nn.Embedding,
    inputs: GraphInputs,
    states: Callable[[GraphInputs], Tensor],
) -> dict[str, set[str]]:
    """Key of each node -> keys whose embedding has an effect on its state: a gradient that is not 0."""
    keys, found = keys_of(inputs), {}
    generator = torch.Generator().manual_seed(7)
    for i, key in enumerate(keys):
        net.zero_grad()
        h = states(inputs)
        (h[i] * torch.randn(h[i].shape, generator=generator)).sum().backward()
        assert embedding.weight.grad is not None
        moved = embedding.weight.grad.ne(0).any(dim=1)
        found[key] = {key for key, node in zip(keys, inputs.nodes.tolist(), strict=True) if moved[node]}
    return found


def states_of(net: AttendingNetwork) -> Callable[[GraphInputs], Tensor]:
    """Inputs -> states of all nodes."""
    return lambda inputs: net.attend(inputs)[0]


def by_key(inputs: GraphInputs, states: Tensor) -> dict[str, Tensor]:
    return dict(zip(keys_of(inputs), states, strict=True))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    return True


def stirred(net: nn.Module, seed: int = 5) -> nn.Module:
    """The network with every parameter drawn anew, so that no first value hides anything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return net.eval()


@contextmanager
def own_generator() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def each_alone(score: Callable[[GraphInputs], Tensor], dags: Sequence[Upstream]) -> bool:
    """Whether a batch of DAGs gets what each of them gets alone, in any order and company."""
    together = score(inputs_of(*dags))
    alone = torch.cat([score(inputs_of(dag)) for dag in dags])
    backwards = score(inputs_of(*dags[::-1])).flip(0)
    return close(together, alone) and close(backwards, alone)


def assert_gradients(net: nn.Module, inputs: GraphInputs) -> None:
    """The gradient of every parameter is that of finite differences; ``net`` is in double precision."""
    names, values = zip(*net.named_parameters(), strict=True)

    def score(*weights: Tensor) -> Tensor:
        given = dict(zip(names, weights, strict=True))
        found: Tensor = torch.func.functional_call(net, given, (inputs,))
        return found

    assert torch.autograd.gradcheck(score, values, fast_mode=True)


def assert_gradient_without_links(net: nn.Module) -> None:
    """Training asks every parameter for one in every batch, also where no node has a parent."""
    net(inputs_of(Upstream(("a",), ((),), ()))).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def assert_dropout_in_training_alone(
    network: Callable[..., nn.Module], dag: Upstream, kinds: Sequence[str]
) -> None:
    """Each kind of dropout, the others being 0, moves the scores of training and no others."""
    inputs = inputs_of(*[dag] * 20)
    for kind in kinds:
        net = network(**{**dict.fromkeys(kinds, 0.0), kind: 0.5}).train()
        assert (net(inputs) != net(inputs)).any()
        net.eval()
        assert torch.equal(net(inputs), net(inputs))
