"""Tests of the transformer blocks and of the causal transformers that are built from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrec.data.examples import MAX_CONTEXT_LENGTH
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import ConfigError
from dagrec.models.registry import create
from dagrec.models.sequence.attention import Blocks, CausalTransformer, TransformerOptions
from dagrec.models.sequence.gpt import GPTConfig
from dagrec.types import Floats
from tests.models.sequence.rows import (
    NODES,
    SERVICES,
    assert_close,
    assert_scores_depend_on_every_node,
    mixed_paths,
    random_paths,
    rows,
    scores,
)

SHAPES = [
    {"layers": 1},
    {"layers": 3, "heads": 4, "expansion": 3},
    {"positions": "absolute"},
    {"tied": False, "activation": "gelu"},
    {"config": "gpt"},
]


def network(**options: object) -> CausalTransformer:
    """Return a small network with perturbed parameters in evaluation mode."""
    config_class = GPTConfig if options.pop("config", None) == "gpt" else TransformerOptions
    config = config_class.model_validate({"width": 8, **options})
    net = CausalTransformer(config, NODES, SERVICES).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        net.embed.weight[0] = 0
    return net


# The block


def reference_states(blocks: Blocks, x: Floats, *, causal: bool) -> Floats:
    """Return the states of one row [L, D], computed position by position and head by head."""
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
        head_width = q.shape[1] // heads
        attended = np.zeros_like(q)
        for i in range(len(x)):
            for head in range(heads):
                columns = slice(head * head_width, (head + 1) * head_width)
                keys = range(i + 1) if causal else range(len(x))
                s = [q[i, columns] @ k[j, columns] / math.sqrt(head_width) for j in keys]
                if f"{name}.distance" in weights:
                    s = [
                        a + weights[f"{name}.distance"][head, i - j - block.min_distance]
                        for a, j in zip(s, keys, strict=True)
                    ]
                e = np.exp(s)
                attended[i, columns] = sum(
                    a * v[j, columns] for a, j in zip(e / e.sum(), keys, strict=True)
                )
        x = x + linear(attended, f"{name}.out")
        inner = np.maximum(linear(norm(x, f"{name}.norm_feed"), f"{name}.feed.0"), 0)
        x = x + linear(inner, f"{name}.feed.3")
    return norm(x, "norm")


@pytest.mark.parametrize("positions", ["absolute", "distance"])
@pytest.mark.parametrize("causal", [True, False])
def test_blocks_match_reference(causal: bool, positions: str) -> None:
    options = TransformerOptions.model_validate(
        {"width": 6, "heads": 3, "layers": 2, "expansion": 2, "positions": positions}
    )
    blocks = Blocks(options, 9, causal=causal).eval()
    with torch.no_grad():
        for parameter in blocks.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        x = torch.randn(2, 5, 6)
        states, _ = blocks(x, torch.tensor([[True] * 5, [True] * 3 + [False] * 2]))
    for row, length in ((0, 5), (1, 3)):
        expected = reference_states(blocks, x[row, :length].double().numpy(), causal=causal)
        np.testing.assert_allclose(states[row, :length], expected, rtol=1e-4, atol=1e-5)
    assert not states[1, 3:].any()


def test_large_distance_bias_selects_node_at_that_distance() -> None:
    blocks = Blocks(TransformerOptions(width=4, heads=1, layers=1), 9, causal=True).eval()
    (block,) = blocks.blocks
    with torch.no_grad():
        block.get_parameter("distance")[0, 1] = 50.0
        _, (weights,) = blocks(torch.randn(1, 4, 4), torch.ones(1, 4, dtype=torch.bool))
    expected = torch.zeros(4, 4)
    expected[0, 0] = expected[1, 0] = expected[2, 1] = expected[3, 2] = 1
    assert_close(weights[0, 0], expected)


def test_width_must_be_multiple_of_heads() -> None:
    with pytest.raises(ConfigError, match="multiple of heads, found 10 and 4"):
        create("sasrec", {"width": 10, "heads": 4})


# Attention weights


def attention(net: CausalTransformer, paths: list[list[int]], padding: int = 0) -> Tensor:
    """Return the attention weights [layers, B, H, L, L]."""
    _, weights = net.attend(rows(paths, padding=padding))
    return torch.stack(weights)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_causal_weights_sum_to_1_and_exclude_later_nodes(shape: dict[str, object]) -> None:
    weights = attention(network(**shape), random_paths(4, 6))  # type: ignore[arg-type]
    assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert not weights.triu(1).any()
    assert (weights.tril() > 0).sum() == weights[..., 0, 0].numel() * 21


def test_single_node_has_weight_1() -> None:
    assert (attention(network(), [[3], [5]]) == 1).all()


def test_padding_has_weight_0() -> None:
    net = network()
    weights = attention(net, [[3, 4], [5, 6, 7]], padding=2)
    assert not weights[:, 0, :, :2, 2:].any()
    assert not weights[:, 1, :, :3, 3:].any()
    assert_close(weights[:, 0, :, :2, :2], attention(net, [[3, 4]])[:, 0])


# Causality and padding


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_states_do_not_depend_on_later_nodes(shape: dict[str, object]) -> None:
    net, paths = network(**shape), [list(path) for path in random_paths(5, 6)]
    before, _ = net.attend(rows(paths))
    for position in range(6):
        changed = [
            [
                *p[:position],
                FIRST_SERVICE if p[position] > FIRST_SERVICE else FIRST_SERVICE + 1,
                *p[position + 1 :],
            ]
            for p in paths
        ]
        after, _ = net.attend(rows(changed))
        assert torch.equal(after[:, :position], before[:, :position])
        assert (after[:, position:] != before[:, position:]).any(dim=2).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_do_not_depend_on_padding(shape: dict[str, object]) -> None:
    net, paths = network(**shape), mixed_paths()
    for padding in (1, 20):
        assert_close(net(rows(paths, padding=padding)), net(rows(paths)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shared_rows_score_prefixes_as_separate_rows(shape: dict[str, object]) -> None:
    net = network(**shape)
    paths = [path[:n] for path in random_paths(5, 6) for n in range(1, 7)]
    shared = scores(net, paths, shared=True)
    assert_close(shared, torch.cat([scores(net, [path]) for path in paths]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_depend_on_every_node(shape: dict[str, object]) -> None:
    assert_scores_depend_on_every_node(network(**shape))


def test_scores_depend_on_order() -> None:
    for shape in SHAPES:
        a, b = scores(network(**shape), [[3, 4, 5], [4, 3, 5]])
        assert (a - b).abs().max() > 1e-3


def test_longest_context_has_finite_scores() -> None:
    path = [FIRST_SERVICE + i % 7 for i in range(MAX_CONTEXT_LENGTH)]
    for shape in SHAPES:
        assert torch.isfinite(scores(network(**shape), [path])).all()


# Initial weights and scores


def test_tied_weights_share_storage() -> None:
    net = network()
    assert net.head.weights().data_ptr() == net.embed.weight[FIRST_SERVICE:].data_ptr()
    assert "head.weight" not in net.state_dict()
    untied = network(tied=False)
    assert untied.head.weights() is untied.state_dict(keep_vars=True)["head.weight"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("config_class", [TransformerOptions, GPTConfig])
def test_initial_loss_is_close_to_uniform(config_class: type[TransformerOptions], tied: bool) -> None:
    """Scores with unit variance add about 0.5 to log C."""
    net = CausalTransformer(config_class(tied=tied), 260, 200).eval()
    nodes = torch.randint(FIRST_SERVICE + 200, 260, (300, 4)).tolist()
    loss = nn.functional.cross_entropy(scores(net, nodes), torch.randint(0, 200, (300,)))
    assert math.log(200) - 0.1 < loss.item() < math.log(200) + 0.7


def test_tied_weights_initially_predict_the_last_service() -> None:
    """The state is close to the input embedding; smaller initial weights would learn more slowly."""
    net = CausalTransformer(TransformerOptions(), 260, 200).eval()
    paths = [[column + FIRST_SERVICE] for column in range(50)]
    assert scores(net, paths).argmax(dim=1).tolist() == list(range(50))


def test_dropout_is_active_only_in_training() -> None:
    net = network(dropout=0.5)
    paths = random_paths(9, 3)
    assert torch.equal(scores(net, paths), scores(net, paths))
    net.train()
    assert not torch.equal(scores(net, paths), scores(net, paths))
    without_dropout = network(dropout=0.0).train()
    assert torch.equal(scores(without_dropout, paths), scores(without_dropout, paths))
