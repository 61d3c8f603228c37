from __future__ import annotations

import pytest
import torch
from torch import nn

from dagrec.data.examples import Context
from dagrec.models.registry import create
from dagrec.models.sequence.attention import CausalTransformer
from dagrec.models.sequence.gpt import GPT, INITIAL_STD
from dagrec.models.sequence.sasrec import SASRec
from tests.models.sequence.rows import eight_examples
from tests.worlds import everything


def test_defaults_are_deeper_than_sasrec() -> None:
    gpt, sasrec = GPT.Config(), SASRec.Config()
    assert gpt.layers > sasrec.layers
    assert gpt.heads > sasrec.heads
    assert (gpt.expansion, gpt.activation, gpt.positions) == (4, "gelu", "absolute")
    assert set(GPT.Config.model_fields) == set(SASRec.Config.model_fields)


def test_initial_weights_follow_gpt2() -> None:
    data = everything().data
    net = GPT(GPT.Config(width=64, layers=8)).build(data.vocabulary, data)
    for block in net.blocks.blocks:
        weights = {name: p for name, p in block.named_parameters() if name.endswith(".weight")}
        for name in ("project.weight", "feed.0.weight"):
            assert weights[name].std().item() == pytest.approx(INITIAL_STD, rel=0.1)
        for name in ("out.weight", "feed.3.weight"):
            assert weights[name].std().item() == pytest.approx(INITIAL_STD / 4, rel=0.1)
        for module in block.modules():
            if isinstance(module, nn.Linear):
                assert not module.bias.any()


def test_initial_states_are_close_to_inputs_at_any_depth() -> None:
    data = everything().data
    model = GPT(GPT.Config(layers=12, dropout=0.0))
    net = model.build(data.vocabulary, data)
    assert isinstance(net, CausalTransformer)
    inputs, _ = model.units(data.contexts, training=False).take(torch.arange(5).numpy())
    states, _ = net.attend(inputs)
    embedded = nn.functional.layer_norm(net.embed(inputs.nodes) * net.scale, (64,))
    real = inputs.nodes > 0
    similarity = nn.functional.cosine_similarity(states[real], embedded[real])
    assert similarity.min() > 0.9


def test_fit_memorises_eight_examples() -> None:
    data = eight_examples()
    options = {"epochs": 100, "width": 32, "dropout": 0.0, "learning_rate": 0.01}
    model = create("gpt", options).fit(data)
    assert model.history[-1].loss < 0.05
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


def test_attention_has_every_layer_and_head() -> None:
    model = create("gpt", {"epochs": 1, "width": 16}).fit(everything().data)
    assert isinstance(model, GPT)
    attention = model.attention(Context(("table_a", "extract")))
    assert attention.weights.shape == (model.config.layers, model.config.heads, 2, 2)
