from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dagrec.data.vocabulary import FIRST, PADDING, UNKNOWN
from dagrec.errors import ConfigError, StoreError
from dagrec.models import network as network_module
from dagrec.models.base import Recommender
from dagrec.models.registry import create
from dagrec.training.network import Head, NodeEmbedding
from dagrec.training.runtime import Epoch
from tests.checks import says
from tests.worlds import WORLDS, chain, everything

SMALL = {"epochs": 2, "embedding": 6, "hidden": 5, "layers": 1}


@pytest.fixture(scope="module")
def fitted() -> Recommender:
    return create("gru4rec", SMALL).fit(everything().data)


# Parts of networks


def test_padding_is_zero_and_stays_zero() -> None:
    embed = NodeEmbedding(6, 3)
    embed(torch.tensor([PADDING, 2])).sum().backward()
    assert not embed.weight[PADDING].any()
    assert embed.weight.grad is not None
    assert not embed.weight.grad[PADDING].any()
    embed.settle()
    assert not embed.weight[PADDING].any()


def test_settling_puts_the_unknown_node_in_the_centre_of_all_others() -> None:
    embed = NodeEmbedding(6, 3)
    before = embed.weight.detach().clone()
    embed.settle()
    torch.testing.assert_close(embed.weight[UNKNOWN].detach(), before[FIRST:].mean(dim=0))
    assert torch.equal(embed.weight[FIRST:], before[FIRST:])


def test_a_head_is_a_linear_layer() -> None:
    head, states = Head(4, 7), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.linear(states, head.weights(), head.bias)
    assert torch.equal(head(states), expected)
    columns = torch.tensor([6, 0, 0])
    torch.testing.assert_close(head(states, columns), expected[:, columns])
    assert head(states, columns).shape == (5, 3)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = NodeEmbedding(9, 4)
        self.head = Head(4, 5, self.embed)


def test_a_tied_head_has_the_vectors_of_the_services_and_is_stored_once() -> None:
    net = Tied()
    assert torch.equal(net.head.weights(), net.embed.weight[FIRST : FIRST + 5])
    assert net.state_dict().keys() == {"embed.weight", "head.bias"}
    assert [name for name, _ in net.named_parameters()] == ["embed.weight", "head.bias"]


@pytest.mark.parametrize("way", ["copy", "pickle"])
def test_a_copy_is_tied_to_its_own_embedding(way: str) -> None:
    net = Tied()
    other = copy.deepcopy(net) if way == "copy" else pickle.loads(pickle.dumps(net))
    with torch.no_grad():
        other.embed.weight += 1
    assert torch.equal(other.head.weights(), other.embed.weight[FIRST : FIRST + 5])
    assert torch.equal(net.head.weights(), net.embed.weight[FIRST : FIRST + 5])


# Around a network


@pytest.mark.parametrize("rows", [1, 7, 25])
def test_many_contexts_are_scored_in_parts(
    fitted: Recommender, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    contexts = everything().data.contexts
    whole = fitted.score(contexts)
    monkeypatch.setattr(network_module, "PAIRS_PER_PASS", rows)
    np.testing.assert_allclose(fitted.score(contexts), whole, rtol=1e-5, atol=1e-6)


def test_restoring_leaves_random_numbers_outside_alone(fitted: Recommender) -> None:
    data = everything().data
    before = torch.get_rng_state()
    create("gru4rec", SMALL).restore(fitted.state(), data.vocabulary, data.graph)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trainer_is_needed() -> None:
    with pytest.raises(ConfigError) as error:
        create("gru4rec").fit(everything().data)
    assert says(error, "gru4rec", "trainer", "NetworkTrainer()")


def test_a_fit_without_a_trainer_changes_nothing() -> None:
    small = chain().data
    model = create("gru4rec", SMALL).fit(small)
    before = model.score(small.contexts)
    with pytest.raises(ConfigError):
        model.fit(everything().data)
    assert np.array_equal(model.score(small.contexts), before)
    assert len(model.history) == 2


def test_a_restore_that_fails_leaves_nothing_half_done() -> None:
    small, large = chain().data, everything().data
    model = create("gru4rec", SMALL).fit(small)
    state = model.state()
    del state["embed.weight"]
    with pytest.raises(StoreError):
        model.restore(state, large.vocabulary, large.graph)
    other = create("gru4rec", SMALL).fit(large)
    model.restore(other.state(), large.vocabulary, large.graph)
    assert np.array_equal(model.score(large.contexts), other.score(large.contexts))


def test_a_history_is_saved_and_loaded_as_it_is(tmp_path: Path) -> None:
    data = WORLDS["everything"].data
    model = create("gru4rec", {**SMALL, "epochs": 4, "patience": 3, "validate_every": 2})
    model.fit(data).save(tmp_path, data.vocabulary)
    about = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    loaded = type(model).load(tmp_path, about, data.vocabulary, data.graph)
    assert loaded.history == model.history
    assert [epoch.validation is None for epoch in loaded.history] == [True, False, True, False]
    assert all(isinstance(epoch, Epoch) for epoch in loaded.history)
