"""What every recommender with a network must do in training, whatever the network is.

Elsewhere six graph recommenders once scored the same because what they propagated was computed without
gradient; here each batch is asked whether it teaches every parameter.
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
from tests.contract.recommenders import WORLD, fitted, new
from tests.training.learners import on_cpu

LINKS = TrainingData.of(extract(WORLD.compositions, ExampleOptions(form="links"))[0])
"""Its frontiers have children."""
NETWORKS = [name for name in MODELS if recommender_class(name).traits.gradient_trained]
IDLE: dict[str, dict[str, str]] = {
    "dag_gnn": {
        "network.layers.2.from_children.weight": "upstream, a frontier has no child, and what the last "
        "layer says of other nodes is not read; with graph='global' it is used"
    },
}
"""Recommender -> parameters that no batch of upstream DAGs can teach, and why."""
CPU = torch.device("cpu")


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learner(name: str, **options: object) -> NetworkRecommender:
    found = new(name)
    assert isinstance(found, NetworkRecommender)
    return type(found)(found.config.model_copy(update=options))


def objective(found: NetworkRecommender) -> Objective:
    found._network, found._graph = None, LINKS.graph
    with seeded(0, CPU):
        network = found.build(LINKS.vocabulary, LINKS)
    popularity = torch.from_numpy(LINKS.graph.popularity)
    return Objective(network, found.config, Sampler.of(popularity, 0.75))


def test_every_batch_teaches_every_parameter(name: str) -> None:
    """Nothing stays at 0 from batch to batch, and no graph of an earlier batch is walked again."""
    found = learner(name, batch_size=10_000)
    loss = objective(found)
    batches = Batches.of(found, LINKS)
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.05)
    with seeded(0, CPU):
        loss.train()
        for number in range(3):
            before = {n: p.detach().clone() for n, p in loss.named_parameters()}
            for batch in batches.epoch(number, 0, Processes()):
                total, examples = loss(batch)
                optimiser.zero_grad(set_to_none=True)
                (total / examples).backward()
                optimiser.step()
            still = [n for n, p in loss.named_parameters() if p.grad is None or not p.grad.any()]
            # What starts at 0 behind another 0 learns from the second batch on.
            still = [n for n in still if n not in IDLE.get(name, {})]
            assert not still or number == 0, f"batch {number + 1}: no gradient at {still}"
            moved = [n for n, p in loss.named_parameters() if not torch.equal(p, before[n])]
            assert moved


def test_a_batch_answers_as_its_units_do_alone(name: str) -> None:
    found = learner(name)
    network: Network = objective(found).network.eval()
    contexts = LINKS.grouped(found.key).contexts
    units = found.units(found.read(contexts, LINKS.vocabulary), training=True)
    everyone = np.arange(len(units.sizes))
    with torch.no_grad():
        inputs, answered = units.take(everyone)
        together = network(inputs).numpy()[np.argsort(answered)]
        alone = np.empty_like(together)
        for unit in everyone:
            inputs, answered = units.take(np.array([unit]))
            alone[answered] = network(inputs).numpy()
    assert sorted(units.take(everyone)[1].tolist()) == list(range(len(contexts)))
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


def test_scores_of_chosen_columns_are_those_of_all(name: str) -> None:
    found = learner(name)
    network = objective(found).network.eval()
    units = Batches.of(found, LINKS).units
    columns = torch.tensor([3, 0, 3])
    with torch.no_grad():
        states = network.states(units.take(np.arange(len(units.sizes)))[0])
        every, some = network.scores(states), network.scores(states, columns)
    torch.testing.assert_close(some, every[:, columns])


@pytest.mark.parametrize("loss", ["bpr-max", "sampled-softmax"])
def test_it_learns_with_negatives_too(name: str, loss: str) -> None:
    options = {"loss": loss, "negatives": None, "learning_rate": 0.003, "epochs": 20}
    found = learner(name, **options).fit(WORLD.data)
    losses = [epoch.loss for epoch in found.history]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


class StoppedError(Exception):
    """Ends a training from its progress."""


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    name: str, tmp_path: Path
) -> None:
    def stop(_name: str, epoch: Epoch, _epochs: int) -> None:
        if epoch.epoch == 2:
            raise StoppedError

    whole = learner(name).fit(WORLD.data)
    # The checkpoint of an epoch is written after it was told: that of the first is there.
    kept: dict[str, Any] = {"checkpoints": tmp_path, "checkpoint_seconds": 0}
    with pytest.raises(StoppedError), on_cpu(progress=stop, **kept):
        learner(name).fit(WORLD.data)
    with on_cpu(**kept):
        resumed = learner(name).fit(WORLD.data)
    assert resumed.history == whole.history
    for key, value in whole.state().items():
        np.testing.assert_array_equal(resumed.state()[key], value, err_msg=key)


@cache
def answers(name: str) -> Scores:
    return fitted(name).score(WORLD.data.contexts)


def test_no_two_recommenders_answer_alike() -> None:
    alike = [
        (a, b) for i, a in enumerate(MODELS) for b in list(MODELS)[:i]
        if np.allclose(answers(a), answers(b), atol=1e-6)
    ]  # fmt: skip
    assert not alike
