from __future__ import annotations

import pytest
import torch
from torch import nn

from dagrec.data.examples import Context
from dagrec.models.registry import create
from dagrec.models.sequence.attention import CausalTransformer
from dagrec.models.sequence.gpt import DEVIATION, GPT
from dagrec.models.sequence.sasrec import SASRec
from tests.models.sequence.rows import eight, own_generator
from tests.worlds import everything

__all__ = ["own_generator"]


def test_its_defaults_are_those_of_a_deeper_decoder() -> None:
    gpt, sasrec = GPT.Config(), SASRec.Config()
    assert gpt.layers > sasrec.layers
    assert gpt.heads > sasrec.heads
    assert (gpt.expansion, gpt.activation, gpt.positions) == (4, "gelu", "absolute")
    assert set(GPT.Config.model_fields) == set(SASRec.Config.model_fields)


@pytest.mark.usefixtures("own_generator")
def test_blocks_start_as_those_of_gpt2() -> None:
    data = everything().data
    net = GPT(GPT.Config(width=64, layers=8)).build(data.vocabulary, data)
    for block in net.blocks.blocks:
        weights = {name: p for name, p in block.named_parameters() if name.endswith(".weight")}
        for name in ("project.weight", "feed.0.weight"):
            assert weights[name].std().item() == pytest.approx(DEVIATION, rel=0.1)
        for name in ("out.weight", "feed.3.weight"):
            assert weights[name].std().item() == pytest.approx(DEVIATION / 4, rel=0.1)
        for module in block.modules():
            if isinstance(module, nn.Linear):
                assert not module.bias.any()


@pytest.mark.usefixtures("own_generator")
def test_depth_leaves_the_first_states_about_as_they_enter() -> None:
    data = everything().data
    model = GPT(GPT.Config(layers=12, dropout=0.0))
    net = model.build(data.vocabulary, data)
    assert isinstance(net, CausalTransformer)
    inputs, _ = model.units(data.contexts, training=False).take(torch.arange(5).numpy())
    found, _ = net.attend(inputs)
    entered = nn.functional.layer_norm(net.embed(inputs.nodes) * net.scale, (64,))
    real = inputs.nodes > 0
    same = nn.functional.cosine_similarity(found[real], entered[real])
    assert same.min() > 0.9


def test_eight_examples_are_learned_by_heart() -> None:
    data = eight()
    options = {"epochs": 100, "width": 32, "dropout": 0.0, "learning_rate": 0.01}
    model = create("gpt", options).fit(data)
    assert model.history[-1].loss < 0.05
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


def test_attention_of_every_layer_and_head() -> None:
    model = create("gpt", {"epochs": 1, "width": 16}).fit(everything().data)
    assert isinstance(model, GPT)
    found = model.attention(Context(("table_a", "extract")))
    assert found.weights.shape == (model.config.layers, model.config.heads, 2, 2)
