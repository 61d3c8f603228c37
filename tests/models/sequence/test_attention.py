"""The blocks, and what holds of every causal transformer that is built of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrec.data.examples import MAX_CONTEXT_LENGTH
from dagrec.data.vocabulary import FIRST
from dagrec.errors import ConfigError
from dagrec.models.registry import create
from dagrec.models.sequence.attention import Blocks, CausalTransformer, TransformerOptions
from dagrec.models.sequence.gpt import GPTConfig
from dagrec.types import Floats
from tests.models.sequence.rows import (
    NODES,
    SERVICES,
    close,
    differ,
    own_generator,
    paths,
    rows,
    scores,
)

__all__ = ["own_generator"]
pytestmark = pytest.mark.usefixtures("own_generator")

SHAPES = [
    {"layers": 1},
    {"layers": 3, "heads": 4, "expansion": 3},
    {"positions": "absolute"},
    {"tied": False, "activation": "gelu"},
    {"like": "gpt"},
]


def network(**options: object) -> CausalTransformer:
    """A small network whose every parameter has been moved from its start, in evaluation mode."""
    config_class = GPTConfig if options.pop("like", None) == "gpt" else TransformerOptions
    config = config_class.model_validate({"width": 8, **options})
    net = CausalTransformer(config, NODES, SERVICES).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        net.embed.weight[0] = 0
    return net


# The block


def by_hand(blocks: Blocks, x: Floats, *, causal: bool) -> Floats:
    """States of one row [L, D], place by place and head by head."""
    weights = {name: tensor.double().numpy() for name, tensor in blocks.state_dict().items()}

    def norm(x: Floats, name: str) -> Floats:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Floats, name: str) -> Floats:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    for number, block in enumerate(blocks.blocks):
        name = f"blocks.{number}"
        heads = int(block.heads)
        q, k, v = np.split(linear(norm(x, f"{name}.norm_attention"), f"{name}.project"), 3, axis=1)
        size = q.shape[1] // heads
        taken = np.zeros_like(q)
        for i in range(len(x)):
            for head in range(heads):
                own = slice(head * size, (head + 1) * size)
                seen = range(i + 1) if causal else range(len(x))
                s = [q[i, own] @ k[j, own] / math.sqrt(size) for j in seen]
                if f"{name}.distance" in weights:
                    s = [
                        a + weights[f"{name}.distance"][head, i - j - block.nearest]
                        for a, j in zip(s, seen, strict=True)
                    ]
                e = np.exp(s)
                taken[i, own] = sum(a * v[j, own] for a, j in zip(e / e.sum(), seen, strict=True))
        x = x + linear(taken, f"{name}.out")
        inner = np.maximum(linear(norm(x, f"{name}.norm_feed"), f"{name}.feed.0"), 0)
        x = x + linear(inner, f"{name}.feed.3")
    return norm(x, "norm")


@pytest.mark.parametrize("positions", ["absolute", "distance"])
@pytest.mark.parametrize("causal", [True, False])
def test_blocks_follow_the_formula(causal: bool, positions: str) -> None:
    options = TransformerOptions.model_validate(
        {"width": 6, "heads": 3, "layers": 2, "expansion": 2, "positions": positions}
    )
    blocks = Blocks(options, 9, causal=causal).eval()
    with torch.no_grad():
        for parameter in blocks.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        x = torch.randn(2, 5, 6)
        found, _ = blocks(x, torch.tensor([[True] * 5, [True] * 3 + [False] * 2]))
    for row, length in ((0, 5), (1, 3)):
        expected = by_hand(blocks, x[row, :length].double().numpy(), causal=causal)
        np.testing.assert_allclose(found[row, :length], expected, rtol=1e-4, atol=1e-5)
    assert not found[1, 3:].any()


def test_a_distance_that_pays_is_looked_at() -> None:
    blocks = Blocks(TransformerOptions(width=4, heads=1, layers=1), 9, causal=True).eval()
    (block,) = blocks.blocks
    with torch.no_grad():
        block.get_parameter("distance")[0, 1] = 50.0
        _, (weights,) = blocks(torch.randn(1, 4, 4), torch.ones(1, 4, dtype=torch.bool))
    expected = torch.zeros(4, 4)
    expected[0, 0] = expected[1, 0] = expected[2, 1] = expected[3, 2] = 1
    assert close(weights[0, 0], expected)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="multiple of heads, found 10 and 4"):
        create("sasrec", {"width": 10, "heads": 4})


# Attention weights


def attention(net: CausalTransformer, of: list[list[int]], padding: int = 0) -> Tensor:
    """[layers, B, H, L, L]"""
    _, weights = net.attend(rows(of, padding=padding))
    return torch.stack(weights)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights_sum_to_1_and_never_look_ahead(shape: dict[str, object]) -> None:
    weights = attention(network(**shape), paths(4, 6))  # type: ignore[arg-type]
    assert close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert not weights.triu(1).any()
    assert (weights.tril() > 0).sum() == weights[..., 0, 0].numel() * 21


def test_the_only_node_has_weight_1() -> None:
    assert (attention(network(), [[3], [5]]) == 1).all()


def test_padding_has_weight_0() -> None:
    net = network()
    weights = attention(net, [[3, 4], [5, 6, 7]], padding=2)
    assert not weights[:, 0, :, :2, 2:].any()
    assert not weights[:, 1, :, :3, 3:].any()
    assert close(weights[:, 0, :, :2, :2], attention(net, [[3, 4]])[:, 0])


# Causality and padding


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_later_node_leaves_earlier_states_exactly(shape: dict[str, object]) -> None:
    net, of = network(**shape), [list(path) for path in paths(5, 6)]
    before, _ = net.attend(rows(of))
    for place in range(6):
        changed = [[*p[:place], FIRST if p[place] > FIRST else FIRST + 1, *p[place + 1 :]] for p in of]
        after, _ = net.attend(rows(changed))
        assert torch.equal(after[:, :place], before[:, :place])
        assert (after[:, place:] != before[:, place:]).any(dim=2).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_more_padding_changes_nothing(shape: dict[str, object]) -> None:
    net, of = network(**shape), [path[:n] for path, n in zip(paths(4, 5), (3, 1, 5, 2), strict=True)]
    for padding in (1, 20):
        assert close(net(rows(of, padding=padding)), net(rows(of)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_beginning_in_the_row_of_a_path_is_as_the_beginning_alone(shape: dict[str, object]) -> None:
    net = network(**shape)
    of = [path[:n] for path in paths(5, 6) for n in range(1, 7)]
    together = scores(net, of, shared=True)
    assert close(together, torch.cat([scores(net, [path]) for path in of]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_node_counts(shape: dict[str, object]) -> None:
    assert differ(network(**shape))


def test_order_counts() -> None:
    for shape in SHAPES:
        a, b = scores(network(**shape), [[3, 4, 5], [4, 3, 5]])
        assert (a - b).abs().max() > 1e-3


def test_the_longest_context_can_be_read() -> None:
    path = [FIRST + i % 7 for i in range(MAX_CONTEXT_LENGTH)]
    for shape in SHAPES:
        assert torch.isfinite(scores(network(**shape), [path])).all()


# Weights and first scores


def test_tied_weights_are_one_storage() -> None:
    net = network()
    assert net.head.weights().data_ptr() == net.embed.weight[FIRST:].data_ptr()
    assert "head.weight" not in net.state_dict()
    untied = network(tied=False)
    assert untied.head.weights() is untied.state_dict(keep_vars=True)["head.weight"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("config_class", [TransformerOptions, GPTConfig])
def test_the_first_loss_is_about_that_of_a_uniform_guess(
    config_class: type[TransformerOptions], tied: bool
) -> None:
    """Scores of unit variance add a half to log C."""
    net = CausalTransformer(config_class(tied=tied), 260, 200).eval()
    nodes = torch.randint(FIRST + 200, 260, (300, 4)).tolist()
    loss = nn.functional.cross_entropy(scores(net, nodes), torch.randint(0, 200, (300,)))
    assert math.log(200) - 0.1 < loss.item() < math.log(200) + 0.7


def test_with_tied_weights_a_service_at_first_expects_itself() -> None:
    """Its state is its own embedding still; smaller first weights would hide that, and learn later."""
    net = CausalTransformer(TransformerOptions(), 260, 200).eval()
    of = [[column + FIRST] for column in range(50)]
    assert scores(net, of).argmax(dim=1).tolist() == list(range(50))


def test_dropout_acts_in_training_alone() -> None:
    net = network(dropout=0.5)
    of = paths(9, 3)
    assert torch.equal(scores(net, of), scores(net, of))
    net.train()
    assert not torch.equal(scores(net, of), scores(net, of))
    still = network(dropout=0.0).train()
    assert torch.equal(scores(still, of), scores(still, of))
