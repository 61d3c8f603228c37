from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.registry import create
from dagrec.models.sequence.bert4rec import MASK, BERT4Rec, BERT4RecConfig, BERTNetwork
from tests.models.sequence.rows import (
    NODES,
    SERVICES,
    assert_close,
    assert_scores_depend_on_every_node,
    eight_examples,
    mixed_paths,
    rows,
    scores,
)
from tests.worlds import everything, memory

SHAPES = [{}, {"positions": "absolute"}, {"tied": False, "layers": 1}]
TABLE = FIRST_SERVICE + SERVICES
"""The first node id that is not a service."""


def network(**options: object) -> BERTNetwork:
    """Return a small network with perturbed parameters in evaluation mode."""
    config = BERT4RecConfig.model_validate({"width": 8, **options})
    net = BERTNetwork(config, NODES, SERVICES).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        net.embed.weight[0] = 0
    return net


# The final mask


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_of_single_nodes_differ(shape: dict[str, object]) -> None:
    """An implementation that drops the oldest node to make room for the mask would fail this."""
    assert_scores_depend_on_every_node(network(**shape), length=1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_depend_on_every_node(shape: dict[str, object]) -> None:
    assert_scores_depend_on_every_node(network(**shape), length=4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_depend_on_oldest_node_of_longest_context(shape: dict[str, object]) -> None:
    net = network(**shape).double()
    rest = [FIRST_SERVICE + i % 7 for i in range(MAX_CONTEXT_LENGTH - 1)]
    a, b = scores(net, [[3, *rest], [4, *rest]])
    assert (a - b).abs().max() > 1e-9


def test_scores_use_state_of_final_mask() -> None:
    net, paths = network(), [[3, 4], [5, 6, 7]]
    states, _ = net.attend(rows(paths))
    assert states.shape[1] == 4
    expected = net.head(net.project(torch.stack([states[0, 2], states[1, 3]])))
    assert_close(net(rows(paths)), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_do_not_depend_on_batch_or_padding(shape: dict[str, object]) -> None:
    net, paths = network(**shape), mixed_paths()
    single = torch.cat([scores(net, [path]) for path in paths])
    assert_close(scores(net, paths), single)
    for padding in (1, 20):
        assert_close(net(rows(paths, padding=padding)), single)


def test_scores_depend_on_order() -> None:
    for shape in SHAPES:
        a, b = scores(network(**shape), [[3, 4, 5], [4, 3, 5]])
        assert (a - b).abs().max() > 1e-3


def test_mask_is_neither_node_nor_candidate() -> None:
    net = network(tied=True)
    assert net.embed.weight.shape == (NODES, 8)
    assert net.head.weights().shape == (SERVICES, 8)
    assert net.head.weights().data_ptr() == net.embed.weight[FIRST_SERVICE:].data_ptr()
    before = net.head.weights().clone(), scores(net, [[3, 4]])
    with torch.no_grad():
        net.mask += 1
    assert torch.equal(net.head.weights(), before[0])
    assert not torch.equal(scores(net, [[3, 4]]), before[1])


def test_positions_are_counted_from_the_mask() -> None:
    net = network(positions="absolute")
    assert net.position is not None
    used = []
    for path in ([3], [3, 4, 5]):
        net.zero_grad()
        scores(net, [path]).sum().backward()
        assert net.position.grad is not None
        used.append(int(net.position.grad.any(dim=1).sum()))
        assert net.position.grad[: len(path) + 1].any(dim=1).all()
    assert used == [2, 4]


# Bidirectional attention


def state_of_masked_node(net: BERTNetwork, path: Sequence[int], position: int) -> Tensor:
    """Return the state of a masked node within a path."""
    inputs = rows([path])
    hidden = torch.zeros_like(inputs.nodes, dtype=torch.bool)
    hidden[0, position] = True
    states, _ = net.attend(inputs, hidden)
    return states[0, position]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masked_state_depends_on_all_other_nodes(
    shape: dict[str, object],
) -> None:
    net, path = network(**shape), [3, 4, 5, 6, 7]
    before = state_of_masked_node(net, path, 2)
    for position in range(5):
        after = state_of_masked_node(net, [*path[:position], 8, *path[position + 1 :]], 2)
        assert torch.equal(after, before) is (position == 2)


def test_attention_is_bidirectional_and_includes_the_mask() -> None:
    net = network()
    _, weights = net.attend(rows([[3, 4], [5, 6, 7]]))
    for layer in weights:
        assert_close(layer[0, :, :3].sum(dim=-1), torch.ones(2, 3))
        assert (layer[0, :, :3, :3] > 0).all()
        assert not layer[0, :, :3, 3:].any()


# The cloze


def mask_exactly(monkeypatch: pytest.MonkeyPatch, masked: Tensor) -> None:
    """Make the random draw mask exactly these positions, if they may be masked."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: 1.0 - masked.float())


def cloze(net: BERTNetwork, paths: Sequence[Sequence[int]]) -> Tensor | None:
    inputs = rows(paths)
    no_pairs = torch.zeros(0, dtype=torch.int64)
    return net.penalty(inputs, net.states(inputs), no_pairs, no_pairs)


def test_cloze_loss_covers_only_masked_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(cloze=0.5, dropout=0.0).train()
    paths = [[3, 4, 5], [6, 7, 8]]
    masked = torch.tensor([[True, False, True], [False, True, False]])
    mask_exactly(monkeypatch, masked)
    states, _ = net.attend(rows(paths), masked)
    log_p = torch.log_softmax(net.head(net.project(states[:, :3])), dim=2)
    target_log_p = [
        log_p[0, 0, 3 - FIRST_SERVICE],
        log_p[0, 2, 5 - FIRST_SERVICE],
        log_p[1, 1, 7 - FIRST_SERVICE],
    ]
    expected = -0.5 * torch.stack(target_log_p).mean()
    value = cloze(net, paths)
    assert value is not None
    assert_close(value, expected)


def test_cloze_keeps_final_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(cloze=1.0, dropout=0.0, layers=1).train()
    mask_exactly(monkeypatch, torch.tensor([[True, False]]))
    outputs = []
    attend = net.attend
    monkeypatch.setattr(net, "attend", lambda *args: outputs.append(attend(*args)) or outputs[-1])
    cloze(net, [[3, 4]])
    (_, (weights,)) = outputs[-1]
    assert weights.shape[-1] == 3
    assert (weights > 0).all()


def test_cloze_masks_neither_other_nodes_nor_single_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = network().train()
    mask_exactly(monkeypatch, torch.ones(2, 2, dtype=torch.bool))
    assert cloze(net, [[3], [4]]) is None
    assert cloze(net, [[TABLE, TABLE + 1], [4]]) is None
    assert cloze(net, [[TABLE, 3], [4]]) is not None


def test_cloze_is_disabled_in_evaluation_and_with_weight_0(monkeypatch: pytest.MonkeyPatch) -> None:
    mask_exactly(monkeypatch, torch.ones(1, 2, dtype=torch.bool))
    assert cloze(network(), [[3, 4]]) is None
    assert cloze(network(cloze=0.0).train(), [[3, 4]]) is None


def test_cloze_masks_configured_share_of_services() -> None:
    net = network(mask_share=0.3, cloze=1.0).train()
    counts: list[int] = []
    attend = net.attend

    def spy(inputs: object, hidden: Tensor | None = None) -> object:
        counts.append(0 if hidden is None else int(hidden.sum()))
        return attend(inputs, hidden)  # type: ignore[arg-type]

    net.attend = spy  # type: ignore[method-assign, assignment]
    for _ in range(20):
        cloze(net, [[3, 4, 5, 6, 7]] * 20)
    assert sum(counts) / (20 * 20 * 5) == pytest.approx(0.3, rel=0.1)


# Learning


@pytest.mark.parametrize("tied", [True, False])
def test_initial_loss_is_close_to_uniform(tied: bool) -> None:
    net = BERTNetwork(BERT4RecConfig(tied=tied), 260, 200).eval()
    nodes = torch.randint(FIRST_SERVICE, 260, (300, 4)).tolist()
    loss = nn.functional.cross_entropy(scores(net, nodes), torch.randint(0, 200, (300,)))
    assert math.log(200) - 0.1 < loss.item() < math.log(200) + 0.7


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_fit_memorises_eight_examples(weight: float) -> None:
    data = eight_examples()
    options = {"epochs": 100, "width": 32, "dropout": 0.0, "learning_rate": 0.01, "cloze": weight}
    model = create("bert4rec", options).fit(data)
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()
    assert weight or model.history[-1].loss < 0.05


def test_fit_learns_dependency_beyond_last_node() -> None:
    world = memory()
    model = create("bert4rec", {"epochs": 60, "width": 16, "learning_rate": 0.01})
    model.fit(world.data)
    columns = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
    predicted = [world.data.vocabulary.services[column] for column in columns]
    assert predicted == [world.certain[context.path] for context in world.contexts]


def test_attention_includes_the_mask_token() -> None:
    model = create("bert4rec", {"epochs": 1, "width": 16, "layers": 3}).fit(everything().data)
    assert isinstance(model, BERT4Rec)
    attention = model.attention(Context(("table_a", "extract")))
    assert attention.nodes == ("table_a", "extract", MASK)
    assert attention.weights.shape == (3, 2, 3, 3)
    np.testing.assert_allclose(attention.weights.sum(axis=-1), 1, rtol=1e-6)


def test_training_units_are_single_contexts() -> None:
    data = everything().data
    units = BERT4Rec().units(data.contexts, training=True)
    assert len(units.sizes) == len(data.contexts)
