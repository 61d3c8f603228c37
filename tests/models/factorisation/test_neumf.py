from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dagrec.errors import NumericalError
from dagrec.models.base import Recommender
from dagrec.models.factorisation.gmf import GMF
from dagrec.models.factorisation.mlp import MLP
from dagrec.models.factorisation.neumf import NeuMF, NeuMFConfig, NeuMFNetwork
from dagrec.models.registry import create
from dagrec.training.runtime import Epoch, Runtime, use_runtime
from tests.checks import says
from tests.models.factorisation.sets import (
    NODES,
    SERVICES,
    inputs,
    set_biases,
)
from tests.worlds import everything

WORLD = everything()
QUICK: dict[str, Any] = {"epochs": 4, "min_steps": 0, "width": 8, "learning_rate": 0.02}
PRETRAINED = {**QUICK, "pretrain": True}


def network(**options: object) -> NeuMFNetwork:
    net = NeuMFNetwork(NeuMFConfig.model_validate({"width": 8, **options}), NODES, SERVICES).eval()
    set_biases(net.gmf.last.bias)
    return net


class Watched(NeuMF):
    """Keeps the parts that it starts from."""

    made: tuple[GMF, MLP] | None = None

    def parts(self) -> tuple[GMF, MLP]:
        self.made = super().parts()
        return self.made


class Unmoved(Watched):
    """Trains the parts, and leaves the whole where it starts from: its own steps are too small."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "learning_rate": 1e-30}, seed=3)

    def parts(self) -> tuple[GMF, MLP]:
        config = self.config.model_copy(update={"learning_rate": QUICK["learning_rate"]})
        self.made = NeuMF(config, seed=self.seed).parts()
        return self.made


@pytest.mark.parametrize("last", [True, False])
def test_scores_are_those_of_both_branches_together(last: bool) -> None:
    net = network(last=last)
    expected = net.gmf(inputs()) + net.mlp(inputs())
    torch.testing.assert_close(net(inputs()), expected)
    columns = torch.tensor([5, 0])
    states = net.states(inputs())
    torch.testing.assert_close(net.scores(states, columns), expected[:, columns])


def test_the_branches_share_nothing() -> None:
    net = network()
    places = [parameter.data_ptr() for parameter in net.parameters()]
    assert len(set(places)) == len(places)
    before = net.mlp(inputs())
    with torch.no_grad():
        for parameter in net.gmf.parameters():
            parameter.add_(1)
    assert torch.equal(net.mlp(inputs()), before)


def test_one_branch_without_output_leaves_the_other() -> None:
    net = network(last=False)
    with torch.no_grad():
        net.mlp.out.weight.zero_()
    torch.testing.assert_close(net(inputs()), net.gmf(inputs()))
    net = network(last=False)
    with torch.no_grad():
        net.gmf.weights.zero_()
        net.gmf.last.bias.zero_()
    torch.testing.assert_close(net(inputs()), net.mlp(inputs()))


def test_the_penalty_is_that_of_both() -> None:
    net, found = network(l2=0.1), inputs()
    rows, columns = torch.tensor([0, 3]), torch.tensor([1, 6])
    states = net.states(found)
    parts = [
        net.gmf.penalty(found, states, rows, columns),
        net.mlp.penalty(found, states, rows, columns),
    ]
    penalty = net.penalty(found, states, rows, columns)
    assert parts[0] is not None
    assert parts[1] is not None
    assert penalty is not None
    torch.testing.assert_close(penalty, parts[0] + parts[1])
    assert network(l2=0.0).penalty(found, states, rows, columns) is None


def test_vectors_of_both_branches_stand_side_by_side() -> None:
    """Of GMF: h o P_v and q_y, whose product is the first term of its scores."""
    net = network(last=False)
    found = net.embeddings()
    assert found["nodes"].shape == (NODES, 16)
    assert found["services"].shape == (SERVICES, 16)
    product = found["nodes"][:, :8] @ found["services"][:, :8].T
    alone = inputs([[node] for node in range(NODES)])
    torch.testing.assert_close(product + net.gmf.last.bias, net.gmf(alone))
    first = torch.relu(found["nodes"][:, None, 8:] + found["services"][:, 8:])
    torch.testing.assert_close(net.mlp.tower(first) + net.mlp.last.bias, net.mlp(alone))


# The pretrained start


@pytest.mark.parametrize("last", [True, False])
def test_from_trained_parts_the_first_score_is_the_mean_of_theirs(last: bool) -> None:
    model = Unmoved(**PRETRAINED, last=last).fit(WORLD.data)
    assert model.made is not None
    gmf, mlp = (part.score(WORLD.data.contexts) for part in model.made)
    assert np.abs(gmf - mlp).max() > 0.1
    np.testing.assert_allclose(model.score(WORLD.data.contexts), (gmf + mlp) / 2, rtol=1e-6, atol=1e-6)


def test_halving_is_exact() -> None:
    """Powers of 2 lose nothing: the mean is exact to the last bit of each branch."""
    parts, whole = network(), network()
    whole.start_from(parts.gmf.state_dict(), parts.mlp.state_dict())
    assert torch.equal(2 * whole.gmf(inputs()), parts.gmf(inputs()))
    assert torch.equal(2 * whole.mlp(inputs()), parts.mlp(inputs()))
    assert torch.equal(2 * whole(inputs()), parts.gmf(inputs()) + parts.mlp(inputs()))


def test_the_parts_are_those_trained_alone() -> None:
    model = Watched(**PRETRAINED, seed=3).fit(WORLD.data)
    assert model.made is not None
    for name, part in zip(("gmf", "mlp"), model.made, strict=True):
        alone = create(name, QUICK, seed=3).fit(WORLD.data)
        assert part.config == alone.config
        assert np.array_equal(part.score(WORLD.data.contexts), alone.score(WORLD.data.contexts))


def test_without_pretraining_no_part_is_trained() -> None:
    assert Watched(**QUICK).fit(WORLD.data).made is None


def test_training_goes_on_from_the_parts() -> None:
    longer = {"epochs": 60}
    pretrained = create("neumf", {**PRETRAINED, **longer}).fit(WORLD.data)
    fresh = create("neumf", {**QUICK, **longer}).fit(WORLD.data)
    assert len(pretrained.history) == len(fresh.history) == 60
    assert pretrained.history[0].loss < 0.6 * fresh.history[0].loss
    assert pretrained.history[-1].loss < pretrained.history[0].loss


def test_a_second_fit_starts_from_scratch() -> None:
    model, data = create("neumf", PRETRAINED), WORLD.data
    first = model.fit(data).score(data.contexts)
    assert np.array_equal(model.fit(data).score(data.contexts), first)
    assert isinstance(model, NeuMF)
    assert model._start is None


class StoppedError(Exception):
    """Ends a training from its progress."""


@pytest.mark.parametrize("where", ["gmf", "mlp", "neumf"])
def test_a_pretraining_that_was_interrupted_goes_on(where: str, tmp_path: Path) -> None:
    whole = create("neumf", PRETRAINED).fit(WORLD.data)
    told: list[tuple[str, int]] = []

    def stop(name: str, epoch: Epoch, _epochs: int) -> None:
        if (name, epoch.epoch) == (where, 3):
            raise StoppedError

    def tell(name: str, epoch: Epoch, _epochs: int) -> None:
        told.append((name, epoch.epoch))

    halted = Runtime("cpu", progress=stop, checkpoints=tmp_path, checkpoint_seconds=0)
    with use_runtime(halted), pytest.raises(StoppedError):
        create("neumf", PRETRAINED).fit(WORLD.data)
    again = Runtime("cpu", progress=tell, checkpoints=tmp_path, checkpoint_seconds=0)
    with use_runtime(again):
        resumed = create("neumf", PRETRAINED).fit(WORLD.data)
    assert told[0] == (where, 3)
    assert resumed.history == whole.history
    assert np.array_equal(resumed.score(WORLD.data.contexts), whole.score(WORLD.data.contexts))
    assert list(tmp_path.iterdir())
    again.remove_checkpoints()
    assert not list(tmp_path.iterdir())


def known(model: Recommender) -> bytes:
    return model.score(WORLD.data.contexts).tobytes()


def test_a_part_that_fails_leaves_what_was_learned_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create("neumf", PRETRAINED).fit(WORLD.data)
    before = known(model)

    def fail(*_: object) -> None:
        raise NumericalError("mlp, epoch 1: the loss must be finite, found nan; lower learning_rate")

    monkeypatch.setattr("dagrec.models.factorisation.mlp.MLPNetwork.scores", fail)
    with pytest.raises(NumericalError) as error:
        model.fit(WORLD.data)
    monkeypatch.undo()
    assert says(error, "mlp")
    assert known(model) == before
