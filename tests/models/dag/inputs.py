"""Upstream DAGs of a few nodes, laid out for networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from dagrec.data.compositions import Node, compose
from dagrec.data.examples import Context, context_at
from dagrec.data.vocabulary import FIRST, Vocabulary
from dagrec.graph.upstream import Upstream, Upstreams
from dagrec.models.dag.attention import PairAttention
from dagrec.models.dag.graphs import GraphInputs, UpstreamUnits
from tests.data.dags import links_of

LETTERS = Vocabulary(tuple("abcdefgh"), ("t", "u"))
CHAIN = "a>b b>c c>d"
DIAMOND = "t>a t>b a>c b>c c>d"
SKIP = "a>b b>c a>c c>d t>d"


def context(links: str, at: str) -> Context:
    """The context at a node of the composition with these links, or of this node alone.

    ``a`` is a node with the key "a", and so is ``a1``.
    """
    ids = dict.fromkeys(node for link in links_of(links) for node in link) or {at: None}
    nodes = [Node(id_, id_[0], "table" if id_[0] in LETTERS.others else "service") for id_ in ids]
    return context_at(compose("drawn", nodes, links_of(links))[0], at)


def inputs_of(*contexts: Context) -> GraphInputs:
    dags = Upstreams.of([Upstream.of(context) for context in contexts], LETTERS)
    return UpstreamUnits(dags).take(np.arange(len(contexts)))[0]


def at(links: str, node: str) -> GraphInputs:
    """The one DAG upstream of a node."""
    return inputs_of(context(links, node))


def id_of(key: str) -> int:
    return LETTERS.ids[key]


def place(inputs: GraphInputs, key: str) -> int:
    """Where the only node with a key stands."""
    (found,) = (inputs.nodes == id_of(key)).nonzero().flatten().tolist()
    return int(found)


def keys_that_reach(states: Tensor, embedding: nn.Embedding) -> set[str]:
    """Keys of the nodes whose embedding the states depend on: those with a gradient that is not 0."""
    weights = torch.linspace(1, 2, states.numel()).view(states.shape)
    (gradient,) = torch.autograd.grad((states * weights).sum(), [embedding.weight], retain_graph=True)
    names = (*LETTERS.services, *LETTERS.others)
    rows = gradient.abs().sum(dim=1).nonzero().flatten().tolist()
    return {names[row - FIRST] for row in rows}


def stirred(network: nn.Module) -> None:
    """Replace every parameter that starts at 0, so that what it does can be seen."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)


def torch_attention(ours: PairAttention) -> nn.MultiheadAttention:
    """torch's own attention with the same weights."""
    width = ours.query.in_features
    theirs = nn.MultiheadAttention(width, ours.heads, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs.eval()


def own_generator() -> Iterator[None]:
    """Nobody else's random numbers depend on what is drawn here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    return True
