from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dagrec.errors import NumericalError
from dagrec.models.factorisation.gmf import GMF
from dagrec.models.factorisation.mlp import MLP
from dagrec.models.factorisation.neumf import NeuMF, NeuMFConfig, NeuMFNetwork
from dagrec.models.registry import create
from dagrec.training.runtime import Epoch, Runtime, use_runtime
from tests.checks import says
from tests.models.factorisation.sets import (
    NODES,
    SERVICES,
    fill_bias,
    inputs,
)
from tests.worlds import everything

WORLD = everything()
QUICK: dict[str, Any] = {"epochs": 4, "min_steps": 0, "width": 8, "learning_rate": 0.02}
PRETRAINED = {**QUICK, "pretrain": True}


def network(**options: object) -> NeuMFNetwork:
    net = NeuMFNetwork(NeuMFConfig.model_validate({"width": 8, **options}), NODES, SERVICES).eval()
    fill_bias(net.gmf.last.bias)
    return net


class RecordingNeuMF(NeuMF):
    """Records the branches that it pretrains."""

    recorded: tuple[GMF, MLP] | None = None

    def branches(self) -> tuple[GMF, MLP]:
        self.recorded = super().branches()
        return self.recorded


class UntrainedNeuMF(RecordingNeuMF):
    """Pretrains the branches, but does not change the weights afterwards: its steps are too small."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "learning_rate": 1e-30}, seed=3)

    def branches(self) -> tuple[GMF, MLP]:
        config = self.config.model_copy(update={"learning_rate": QUICK["learning_rate"]})
        self.recorded = NeuMF(config, seed=self.seed).branches()
        return self.recorded


@pytest.mark.parametrize("last", [True, False])
def test_scores_are_sums_of_both_branches(last: bool) -> None:
    net = network(last=last)
    expected = net.gmf(inputs()) + net.mlp(inputs())
    torch.testing.assert_close(net(inputs()), expected)
    columns = torch.tensor([5, 0])
    states = net.states(inputs())
    torch.testing.assert_close(net.scores(states, columns), expected[:, columns])


def test_branches_share_no_parameters() -> None:
    net = network()
    pointers = [parameter.data_ptr() for parameter in net.parameters()]
    assert len(set(pointers)) == len(pointers)
    before = net.mlp(inputs())
    with torch.no_grad():
        for parameter in net.gmf.parameters():
            parameter.add_(1)
    assert torch.equal(net.mlp(inputs()), before)


def test_branch_with_zero_output_does_not_contribute() -> None:
    net = network(last=False)
    with torch.no_grad():
        net.mlp.out.weight.zero_()
    torch.testing.assert_close(net(inputs()), net.gmf(inputs()))
    net = network(last=False)
    with torch.no_grad():
        net.gmf.weights.zero_()
        net.gmf.last.bias.zero_()
    torch.testing.assert_close(net(inputs()), net.mlp(inputs()))


def test_penalty_is_sum_of_both_branches() -> None:
    net, batch = network(l2=0.1), inputs()
    rows, columns = torch.tensor([0, 3]), torch.tensor([1, 6])
    states = net.states(batch)
    gmf = net.gmf.penalty(batch, states, rows, columns)
    mlp = net.mlp.penalty(batch, states, rows, columns)
    penalty = net.penalty(batch, states, rows, columns)
    assert gmf is not None
    assert mlp is not None
    assert penalty is not None
    torch.testing.assert_close(penalty, gmf + mlp)
    assert network(l2=0.0).penalty(batch, states, rows, columns) is None


def test_embeddings_concatenate_both_branches() -> None:
    """Those of GMF are h o P_v and q_y, whose product is the first term of its scores."""
    net = network(last=False)
    embeddings = net.embeddings()
    assert embeddings["nodes"].shape == (NODES, 16)
    assert embeddings["services"].shape == (SERVICES, 16)
    product = embeddings["nodes"][:, :8] @ embeddings["services"][:, :8].T
    single_nodes = inputs([[node] for node in range(NODES)])
    torch.testing.assert_close(product + net.gmf.last.bias, net.gmf(single_nodes))
    first = torch.relu(embeddings["nodes"][:, None, 8:] + embeddings["services"][:, 8:])
    torch.testing.assert_close(net.mlp.output(first) + net.mlp.last.bias, net.mlp(single_nodes))


# Pretraining


@pytest.mark.parametrize("last", [True, False])
def test_initial_score_with_pretraining_is_mean_of_branches(last: bool) -> None:
    model = UntrainedNeuMF(**PRETRAINED, last=last).fit(WORLD.data)
    assert model.recorded is not None
    gmf, mlp = (branch.score(WORLD.data.contexts) for branch in model.recorded)
    assert np.abs(gmf - mlp).max() > 0.1
    np.testing.assert_allclose(model.score(WORLD.data.contexts), (gmf + mlp) / 2, rtol=1e-6, atol=1e-6)


def test_load_pretrained_halves_scores_exactly() -> None:
    pretrained, net = network(), network()
    net.load_pretrained(pretrained.gmf.state_dict(), pretrained.mlp.state_dict())
    assert torch.equal(2 * net.gmf(inputs()), pretrained.gmf(inputs()))
    assert torch.equal(2 * net.mlp(inputs()), pretrained.mlp(inputs()))
    assert torch.equal(2 * net(inputs()), pretrained.gmf(inputs()) + pretrained.mlp(inputs()))


def test_pretrained_branches_equal_separate_recommenders() -> None:
    model = RecordingNeuMF(**PRETRAINED, seed=3).fit(WORLD.data)
    assert model.recorded is not None
    for name, branch in zip(("gmf", "mlp"), model.recorded, strict=True):
        separate = create(name, QUICK, seed=3).fit(WORLD.data)
        assert branch.config == separate.config
        assert np.array_equal(branch.score(WORLD.data.contexts), separate.score(WORLD.data.contexts))


def test_fit_without_pretraining_trains_no_branch() -> None:
    assert RecordingNeuMF(**QUICK).fit(WORLD.data).recorded is None


def test_pretraining_lowers_the_initial_loss() -> None:
    pretrained = create("neumf", {**PRETRAINED, "epochs": 60}).fit(WORLD.data)
    from_scratch = create("neumf", {**QUICK, "epochs": 60}).fit(WORLD.data)
    assert len(pretrained.history) == len(from_scratch.history) == 60
    assert pretrained.history[0].loss < 0.6 * from_scratch.history[0].loss
    assert pretrained.history[-1].loss < pretrained.history[0].loss


def test_second_fit_discards_the_first() -> None:
    model, data = create("neumf", PRETRAINED), WORLD.data
    first = model.fit(data).score(data.contexts)
    assert np.array_equal(model.fit(data).score(data.contexts), first)
    assert isinstance(model, NeuMF)
    assert model._pretrained is None


class StoppedError(Exception):
    """Interrupts a training."""


@pytest.mark.parametrize("interrupted", ["gmf", "mlp", "neumf"])
def test_interrupted_pretraining_is_resumed(interrupted: str, tmp_path: Path) -> None:
    expected = create("neumf", PRETRAINED).fit(WORLD.data)
    epochs: list[tuple[str, int]] = []

    def stop(name: str, epoch: Epoch, _epochs: int) -> None:
        if (name, epoch.epoch) == (interrupted, 3):
            raise StoppedError

    def record(name: str, epoch: Epoch, _epochs: int) -> None:
        epochs.append((name, epoch.epoch))

    stopping = Runtime("cpu", progress=stop, checkpoints=tmp_path, checkpoint_seconds=0)
    with use_runtime(stopping), pytest.raises(StoppedError):
        create("neumf", PRETRAINED).fit(WORLD.data)
    resuming = Runtime("cpu", progress=record, checkpoints=tmp_path, checkpoint_seconds=0)
    with use_runtime(resuming):
        resumed = create("neumf", PRETRAINED).fit(WORLD.data)
    assert epochs[0] == (interrupted, 3)
    assert resumed.history == expected.history
    assert np.array_equal(resumed.score(WORLD.data.contexts), expected.score(WORLD.data.contexts))
    assert list(tmp_path.iterdir())
    resuming.remove_checkpoints()
    assert not list(tmp_path.iterdir())


def test_failed_pretraining_keeps_the_earlier_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create("neumf", PRETRAINED).fit(WORLD.data)
    before = model.score(WORLD.data.contexts)

    def fail(*_: object) -> None:
        raise NumericalError("mlp, epoch 1: the loss must be finite, found nan; lower learning_rate")

    monkeypatch.setattr("dagrec.models.factorisation.mlp.MLPNetwork.scores", fail)
    with pytest.raises(NumericalError) as error:
        model.fit(WORLD.data)
    monkeypatch.undo()
    assert says(error, "mlp")
    assert np.array_equal(model.score(WORLD.data.contexts), before)
