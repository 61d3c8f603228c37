"""Requirements of every recommender with a network.

In another project six graph recommenders had identical scores, because their propagation was computed
without gradient. Here each batch must give a gradient to every parameter.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dagrec.data.examples import ExampleOptions, extract
from dagrec.models.network import NetworkRecommender
from dagrec.models.registry import MODELS, recommender_class
from dagrec.training.batches import Batches
from dagrec.training.data import TrainingData
from dagrec.training.distributed import Processes
from dagrec.training.network import Network
from dagrec.training.objective import Objective
from dagrec.training.runtime import Epoch
from dagrec.training.sampling import Sampler
from dagrec.training.seed import seeded
from dagrec.types import Scores
from tests.contract.recommenders import WORLD, fitted, make
from tests.training.learners import on_cpu

LINKS = TrainingData.of(extract(WORLD.compositions, ExampleOptions(form="links"))[0])
"""Examples whose frontiers have children."""
NETWORKS = [name for name in MODELS if recommender_class(name).traits.gradient_trained]
UNTRAINED: dict[str, dict[str, str]] = {
    "dag_gnn": {
        "network.layers.2.from_children.weight": "in an upstream DAG the frontier has no child, and "
        "the last layer of other nodes is not used; with graph='global' it is"
    },
}
"""Recommender -> parameters without gradient from batches of upstream DAGs -> reason."""
CPU = torch.device("cpu")


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make_learner(name: str, **options: object) -> NetworkRecommender:
    model = make(name)
    assert isinstance(model, NetworkRecommender)
    return type(model)(model.config.model_copy(update=options))


def make_objective(learner: NetworkRecommender) -> Objective:
    learner._network, learner._graph = None, LINKS.graph
    with seeded(0, CPU):
        network = learner.build(LINKS.vocabulary, LINKS)
    popularity = torch.from_numpy(LINKS.graph.popularity)
    return Objective(network, learner.config, Sampler.of(popularity, 0.75))


def test_every_batch_trains_every_parameter(name: str) -> None:
    """No gradient is missing, and no batch uses the autograd graph of an earlier one."""
    learner = make_learner(name, batch_size=10_000)
    objective = make_objective(learner)
    batches = Batches.of(learner, LINKS)
    optimiser = torch.optim.SGD(objective.parameters(), lr=0.05)
    with seeded(0, CPU):
        objective.train()
        for number in range(3):
            before = {n: p.detach().clone() for n, p in objective.named_parameters()}
            for batch in batches.epoch(number, 0, Processes()):
                total, examples = objective(batch)
                optimiser.zero_grad(set_to_none=True)
                (total / examples).backward()
                optimiser.step()
            without = [n for n, p in objective.named_parameters() if p.grad is None or not p.grad.any()]
            # A parameter that is multiplied by another one with value 0 has a gradient from the second
            # batch on.
            without = [n for n in without if n not in UNTRAINED.get(name, {})]
            assert not without or number == 0, f"batch {number + 1}: no gradient at {without}"
            changed = [n for n, p in objective.named_parameters() if not torch.equal(p, before[n])]
            assert changed


def test_scores_of_a_batch_equal_scores_of_single_units(name: str) -> None:
    learner = make_learner(name)
    network: Network = make_objective(learner).network.eval()
    contexts = LINKS.grouped(learner.key).contexts
    units = learner.units(learner.read(contexts, LINKS.vocabulary), training=True)
    all_units = np.arange(len(units.sizes))
    with torch.no_grad():
        inputs, context_rows = units.take(all_units)
        batched = network(inputs).numpy()[np.argsort(context_rows)]
        single = np.empty_like(batched)
        for unit in all_units:
            inputs, context_rows = units.take(np.array([unit]))
            single[context_rows] = network(inputs).numpy()
    assert sorted(units.take(all_units)[1].tolist()) == list(range(len(contexts)))
    np.testing.assert_allclose(single, batched, rtol=1e-4, atol=1e-5)


def test_scores_of_columns_equal_those_of_all_services(name: str) -> None:
    learner = make_learner(name)
    network = make_objective(learner).network.eval()
    units = Batches.of(learner, LINKS).units
    columns = torch.tensor([3, 0, 3])
    with torch.no_grad():
        states = network.states(units.take(np.arange(len(units.sizes)))[0])
        all_scores, some_scores = network.scores(states), network.scores(states, columns)
    torch.testing.assert_close(some_scores, all_scores[:, columns])


@pytest.mark.parametrize("loss", ["bpr-max", "sampled-softmax"])
def test_sampled_losses_decrease_in_training(name: str, loss: str) -> None:
    options = {"loss": loss, "negatives": None, "learning_rate": 0.003, "epochs": 20}
    model = make_learner(name, **options).fit(WORLD.data)
    losses = [epoch.loss for epoch in model.history]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


class StoppedError(Exception):
    """Interrupts a training."""


def test_resumed_training_equals_uninterrupted_training(name: str, tmp_path: Path) -> None:
    def stop(_name: str, epoch: Epoch, _epochs: int) -> None:
        if epoch.epoch == 2:
            raise StoppedError

    expected = make_learner(name).fit(WORLD.data)
    # The checkpoint of an epoch is written after its progress call, so that of epoch 1 exists.
    checkpoints: dict[str, Any] = {"checkpoints": tmp_path, "checkpoint_seconds": 0}
    with pytest.raises(StoppedError), on_cpu(progress=stop, **checkpoints):
        make_learner(name).fit(WORLD.data)
    with on_cpu(**checkpoints):
        resumed = make_learner(name).fit(WORLD.data)
    assert resumed.history == expected.history
    for key, value in expected.state().items():
        np.testing.assert_array_equal(resumed.state()[key], value, err_msg=key)


@cache
def scores(name: str) -> Scores:
    return fitted(name).score(WORLD.data.contexts)


def test_no_two_recommenders_have_equal_scores() -> None:
    equal = [
        (a, b) for i, a in enumerate(MODELS) for b in list(MODELS)[:i]
        if np.allclose(scores(a), scores(b), atol=1e-6)
    ]  # fmt: skip
    assert not equal
