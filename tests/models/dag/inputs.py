"""Network inputs of small upstream DAGs, written as links between letters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dagrec.data.compositions import Node, compose
from dagrec.data.examples import Context, context_at
from dagrec.data.vocabulary import FIRST_SERVICE, Vocabulary
from dagrec.graph.upstream import Upstream, Upstreams
from dagrec.models.dag.attention import PairAttention
from dagrec.models.dag.graphs import GraphInputs, UpstreamUnits
from tests.data.dags import links_of

LETTERS = Vocabulary(tuple("abcdefgh"), ("t", "u"))
CHAIN = "a>b b>c c>d"
DIAMOND = "t>a t>b a>c b>c c>d"
SKIP = "a>b b>c a>c c>d t>d"


def context(links: str, at: str) -> Context:
    """Return the context at a node of the composition with these links, or of this node only.

    The key of a node is its first letter: ``a`` and ``a1`` both have the key "a".
    """
    ids = dict.fromkeys(node for link in links_of(links) for node in link) or {at: None}
    nodes = [Node(id_, id_[0], "table" if id_[0] in LETTERS.others else "service") for id_ in ids]
    return context_at(compose("drawn", nodes, links_of(links))[0], at)


def inputs_of(*contexts: Context) -> GraphInputs:
    """Return the upstream DAGs of the contexts as one batch."""
    dags = Upstreams.of([Upstream.of(context) for context in contexts], LETTERS)
    return UpstreamUnits(dags).take(np.arange(len(contexts)))[0]


def inputs_at(links: str, node: str) -> GraphInputs:
    """Return the DAG upstream of a node as a batch of one."""
    return inputs_of(context(links, node))


def id_of(key: str) -> int:
    return LETTERS.ids[key]


def index_of(inputs: GraphInputs, key: str) -> int:
    """Return the index of the only node with a key."""
    (index,) = (inputs.nodes == id_of(key)).nonzero().flatten().tolist()
    return int(index)


def keys_with_gradient(states: Tensor, embedding: nn.Embedding) -> set[str]:
    """Return the keys of the nodes whose embeddings the states depend on."""
    weights = torch.linspace(1, 2, states.numel()).view(states.shape)
    (gradient,) = torch.autograd.grad((states * weights).sum(), [embedding.weight], retain_graph=True)
    names = (*LETTERS.services, *LETTERS.others)
    rows = gradient.abs().sum(dim=1).nonzero().flatten().tolist()
    return {names[row - FIRST_SERVICE] for row in rows}


def randomise_zero_parameters(network: nn.Module) -> None:
    """Draw all parameters that are initialised to 0, so that they have an effect."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)


def torch_attention(attention: PairAttention) -> nn.MultiheadAttention:
    """Return torch's attention layer with the same weights."""
    width = attention.query.in_features
    reference = nn.MultiheadAttention(width, attention.heads, batch_first=True)
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    reference.out_proj.load_state_dict(attention.out.state_dict())
    return reference.eval()


def assert_close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
