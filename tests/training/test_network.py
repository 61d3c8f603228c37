from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from dagrec.data.vocabulary import FIRST_SERVICE, PADDING, UNKNOWN
from dagrec.training.network import Head, NodeEmbedding


def test_padding_embedding_is_always_zero() -> None:
    embed = NodeEmbedding(6, 3)
    embed(torch.tensor([PADDING, 2])).sum().backward()
    assert not embed.weight[PADDING].any()
    assert embed.weight.grad is not None
    assert not embed.weight.grad[PADDING].any()
    embed.set_unknown_to_mean()
    assert not embed.weight[PADDING].any()


def test_set_unknown_to_mean() -> None:
    embed = NodeEmbedding(6, 3)
    before = embed.weight.detach().clone()
    embed.set_unknown_to_mean()
    torch.testing.assert_close(embed.weight[UNKNOWN].detach(), before[FIRST_SERVICE:].mean(dim=0))
    assert torch.equal(embed.weight[FIRST_SERVICE:], before[FIRST_SERVICE:])


def test_head_is_linear_layer() -> None:
    head, states = Head(4, 7), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.linear(states, head.weights(), head.bias)
    assert torch.equal(head(states), expected)
    columns = torch.tensor([6, 0, 0])
    torch.testing.assert_close(head(states, columns), expected[:, columns])
    assert head(states, columns).shape == (5, 3)


class TiedNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = NodeEmbedding(9, 4)
        self.head = Head(4, 5, self.embed)


def test_tied_head_uses_embedding_and_is_stored_once() -> None:
    net = TiedNetwork()
    assert torch.equal(net.head.weights(), net.embed.weight[FIRST_SERVICE : FIRST_SERVICE + 5])
    assert net.state_dict().keys() == {"embed.weight", "head.bias"}
    assert [name for name, _ in net.named_parameters()] == ["embed.weight", "head.bias"]


@pytest.mark.parametrize("method", ["copy", "pickle"])
def test_copied_head_is_tied_to_copied_embedding(method: str) -> None:
    net = TiedNetwork()
    other = copy.deepcopy(net) if method == "copy" else pickle.loads(pickle.dumps(net))
    with torch.no_grad():
        other.embed.weight += 1
    assert torch.equal(other.head.weights(), other.embed.weight[FIRST_SERVICE : FIRST_SERVICE + 5])
    assert torch.equal(net.head.weights(), net.embed.weight[FIRST_SERVICE : FIRST_SERVICE + 5])
