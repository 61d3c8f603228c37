from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context
from dagrec.data.vocabulary import FIRST
from dagrec.models.registry import create
from dagrec.models.sequence.bert4rec import MASK, BERT4Rec, BERT4RecConfig, BERTNetwork
from tests.models.sequence.rows import (
    NODES,
    SERVICES,
    close,
    differ,
    eight,
    own_generator,
    paths,
    rows,
    scores,
)
from tests.worlds import everything, memory

__all__ = ["own_generator"]
pytestmark = pytest.mark.usefixtures("own_generator")

SHAPES = [{}, {"positions": "absolute"}, {"tied": False, "layers": 1}]
TABLE = FIRST + SERVICES
"""The first node that is no service."""


def network(**options: object) -> BERTNetwork:
    """A small network whose every parameter has been moved from its start, in evaluation mode."""
    config = BERT4RecConfig.model_validate({"width": 8, **options})
    net = BERTNetwork(config, NODES, SERVICES).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        net.embed.weight[0] = 0
    return net


# The mask at the end


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_contexts_of_one_node_differ(shape: dict[str, object]) -> None:
    """A program that made room for the mask by dropping the oldest node saw them all alike."""
    assert differ(network(**shape), places=1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_node_counts_the_oldest_too(shape: dict[str, object]) -> None:
    assert differ(network(**shape), places=4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_oldest_node_of_the_longest_context_counts(shape: dict[str, object]) -> None:
    net = network(**shape).double()
    rest = [FIRST + i % 7 for i in range(MAX_CONTEXT_LENGTH - 1)]
    a, b = scores(net, [[3, *rest], [4, *rest]])
    assert (a - b).abs().max() > 1e-9


def test_the_answer_is_read_at_the_mask_behind_the_last_node() -> None:
    net, of = network(), [[3, 4], [5, 6, 7]]
    found, _ = net.attend(rows(of))
    assert found.shape[1] == 4
    expected = net.head(net.project(torch.stack([found[0, 2], found[1, 3]])))
    assert close(net(rows(of)), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mixed_lengths_and_padding_change_nothing(shape: dict[str, object]) -> None:
    net, of = network(**shape), [path[:n] for path, n in zip(paths(4, 5), (3, 1, 5, 2), strict=True)]
    alone = torch.cat([scores(net, [path]) for path in of])
    assert close(scores(net, of), alone)
    for padding in (1, 20):
        assert close(net(rows(of, padding=padding)), alone)


def test_order_counts() -> None:
    for shape in SHAPES:
        a, b = scores(network(**shape), [[3, 4, 5], [4, 3, 5]])
        assert (a - b).abs().max() > 1e-3


def test_the_mask_is_neither_a_node_nor_a_candidate() -> None:
    net = network(tied=True)
    assert net.embed.weight.shape == (NODES, 8)
    assert net.head.weights().shape == (SERVICES, 8)
    assert net.head.weights().data_ptr() == net.embed.weight[FIRST:].data_ptr()
    before = net.head.weights().clone(), scores(net, [[3, 4]])
    with torch.no_grad():
        net.mask += 1
    assert torch.equal(net.head.weights(), before[0])
    assert not torch.equal(scores(net, [[3, 4]]), before[1])


def test_places_are_counted_from_the_mask() -> None:
    """Three nodes and the mask never use the vector of a fourth place back."""
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


# Both sides


def at_hidden(net: BERTNetwork, path: Sequence[int], place: int) -> Tensor:
    """The state of a masked node within a path."""
    inputs = rows([path])
    hidden = torch.zeros_like(inputs.nodes, dtype=torch.bool)
    hidden[0, place] = True
    found, _ = net.attend(inputs, hidden)
    return found[0, place]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_masked_node_is_told_by_both_sides_and_not_by_itself(shape: dict[str, object]) -> None:
    net, path = network(**shape), [3, 4, 5, 6, 7]
    before = at_hidden(net, path, 2)
    for place in range(5):
        after = at_hidden(net, [*path[:place], 8, *path[place + 1 :]], 2)
        assert torch.equal(after, before) is (place == 2)


def test_attention_looks_both_ways_and_at_the_mask() -> None:
    net = network()
    _, weights = net.attend(rows([[3, 4], [5, 6, 7]]))
    for layer in weights:
        assert close(layer[0, :, :3].sum(dim=-1), torch.ones(2, 3))
        assert (layer[0, :, :3, :3] > 0).all()
        assert not layer[0, :, :3, 3:].any()


# The cloze


def hide(monkeypatch: pytest.MonkeyPatch, which: Tensor) -> None:
    """Let the draw hide exactly these places, where they may be hidden."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: 1.0 - which.float())


def cloze(net: BERTNetwork, of: Sequence[Sequence[int]]) -> Tensor | None:
    inputs = rows(of)
    nobody = torch.zeros(0, dtype=torch.int64)
    return net.penalty(inputs, net.states(inputs), nobody, nobody)


def test_only_masked_places_have_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(cloze=0.5, dropout=0.0).train()
    of = [[3, 4, 5], [6, 7, 8]]
    which = torch.tensor([[True, False, True], [False, True, False]])
    hide(monkeypatch, which)
    found, _ = net.attend(rows(of), which)
    logs = torch.log_softmax(net.head(net.project(found[:, :3])), dim=2)
    picked = [logs[0, 0, 3 - FIRST], logs[0, 2, 5 - FIRST], logs[1, 1, 7 - FIRST]]
    expected = -0.5 * torch.stack(picked).mean()
    value = cloze(net, of)
    assert value is not None
    assert close(value, expected)


def test_the_mask_at_the_end_is_there_in_the_cloze(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(cloze=1.0, dropout=0.0, layers=1).train()
    hide(monkeypatch, torch.tensor([[True, False]]))
    seen = []
    attend = net.attend
    monkeypatch.setattr(net, "attend", lambda *args: seen.append(attend(*args)) or seen[-1])
    cloze(net, [[3, 4]])
    (_, (weights,)) = seen[-1]
    assert weights.shape[-1] == 3
    assert (weights > 0).all()


def test_what_is_no_service_and_what_stands_alone_is_never_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = network().train()
    hide(monkeypatch, torch.ones(2, 2, dtype=torch.bool))
    assert cloze(net, [[3], [4]]) is None
    assert cloze(net, [[TABLE, TABLE + 1], [4]]) is None
    assert cloze(net, [[TABLE, 3], [4]]) is not None


def test_there_is_no_cloze_outside_training_or_without_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, torch.ones(1, 2, dtype=torch.bool))
    assert cloze(network(), [[3, 4]]) is None
    assert cloze(network(cloze=0.0).train(), [[3, 4]]) is None


def test_about_the_share_is_masked() -> None:
    net = network(mask_share=0.3, cloze=1.0).train()
    counted: list[int] = []
    attend = net.attend

    def spy(inputs: object, hidden: Tensor | None = None) -> object:
        counted.append(0 if hidden is None else int(hidden.sum()))
        return attend(inputs, hidden)  # type: ignore[arg-type]

    net.attend = spy  # type: ignore[method-assign, assignment]
    for _ in range(20):
        cloze(net, [[3, 4, 5, 6, 7]] * 20)
    assert sum(counted) / (20 * 20 * 5) == pytest.approx(0.3, rel=0.1)


# Learning


@pytest.mark.parametrize("tied", [True, False])
def test_the_first_loss_is_about_that_of_a_uniform_guess(tied: bool) -> None:
    net = BERTNetwork(BERT4RecConfig(tied=tied), 260, 200).eval()
    nodes = torch.randint(FIRST, 260, (300, 4)).tolist()
    loss = nn.functional.cross_entropy(scores(net, nodes), torch.randint(0, 200, (300,)))
    assert math.log(200) - 0.1 < loss.item() < math.log(200) + 0.7


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_eight_examples_are_learned_by_heart(weight: float) -> None:
    data = eight()
    options = {"epochs": 100, "width": 32, "dropout": 0.0, "learning_rate": 0.01, "cloze": weight}
    model = create("bert4rec", options).fit(data)
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()
    assert weight or model.history[-1].loss < 0.05


def test_the_memory_reaches_behind_the_last_node() -> None:
    world = memory()
    model = create("bert4rec", {"epochs": 60, "width": 16, "learning_rate": 0.01})
    model.fit(world.data)
    found = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
    answers = [world.data.vocabulary.services[column] for column in found]
    assert answers == [world.certain[context.path] for context in world.contexts]


def test_attention_names_the_mask() -> None:
    model = create("bert4rec", {"epochs": 1, "width": 16, "layers": 3}).fit(everything().data)
    assert isinstance(model, BERT4Rec)
    found = model.attention(Context(("table_a", "extract")))
    assert found.nodes == ("table_a", "extract", MASK)
    assert found.weights.shape == (3, 2, 3, 3)
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, rtol=1e-6)


def test_every_context_has_a_row_of_its_own() -> None:
    data = everything().data
    units = BERT4Rec().units(data.contexts, training=True)
    assert len(units.sizes) == len(data.contexts)
