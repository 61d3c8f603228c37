"""Requirements of every trained factorisation and graph recommender.

In another project six of them had the same metrics and recommended the same fifty items in every
context, because their propagation was computed once per epoch, without gradient. Here each is trained
and evaluated, and each batch must train nodes that are not in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from dagrec.data.examples import extract
from dagrec.data.formats import read_composition
from dagrec.data.splits import Split, split_pairs
from dagrec.data.synthetic import World, WorldOptions
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.evaluation.evaluator import TestPart
from dagrec.graph.mask import MaskPolicy
from dagrec.metrics.ranking import COVERAGE_DEPTH, METRICS
from dagrec.models.bipartite.graph import BipartiteRecommender
from dagrec.models.factorisation.base import SetInputs
from dagrec.models.network import NetworkRecommender
from dagrec.models.registry import MODELS, create, family, recommender_class
from dagrec.training.batches import Batches
from dagrec.training.distributed import Processes
from dagrec.training.objective import Objective
from dagrec.training.sampling import Sampler
from dagrec.training.seed import seeded
from tests.contract.recommenders import WORLD

NAMES = [
    name
    for name in MODELS
    if family(name) in ("bipartite", "factorisation")
    and recommender_class(name).traits.gradient_trained
]
GRAPHS = [name for name in NAMES if issubclass(recommender_class(name), BipartiteRecommender)]
LARGER = WorldOptions(compositions=250, services=40, themes=4, predictability=0.8, skew=0.4, seed=3)
OPTIONS: dict[str, object] = {
    "epochs": 50,
    "min_steps": 0,
    "learning_rate": 0.02,
    "batch_size": 64,
}
CPU = torch.device("cpu")


@cache
def held_out_part(world: str) -> TestPart:
    """Return the unmasked test part of a world; that of the tiny world is its training data."""
    if world == "tiny":
        split = Split(WORLD.examples, WORLD.examples)
    else:
        compositions = [read_composition(document) for document in World(LARGER).draw()]
        split = split_pairs(extract(compositions)[0], 0.3, random.Random(0))
    return TestPart.of_split(split, MaskPolicy.NONE)


@cache
def metrics(name: str, world: str) -> dict[str, float]:
    part = held_out_part(world)
    model = create(name, OPTIONS).fit(part.data)
    outcome = part.outcome(part.fitted(model).probabilities)
    return {metric: function(outcome) for metric, function in METRICS.items()}


@pytest.mark.parametrize("world", ["tiny", "larger"])
def test_no_two_recommenders_have_equal_metrics(world: str) -> None:
    """The log-likelihood differs even if the rankings are equal."""
    values = {name: tuple(metrics(name, world).values()) for name in NAMES}
    equal = [(a, b) for i, a in enumerate(NAMES) for b in NAMES[:i] if values[a] == values[b]]
    assert not equal


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("world", ["tiny", "larger"])
def test_recommendations_differ_between_contexts(
    name: str, world: str, record_property: Callable[[str, object], None]
) -> None:
    """If all contexts had the same ten recommendations, the coverage would be ten services."""
    coverage = metrics(name, world)["coverage"]
    record_property("coverage", coverage)
    assert coverage > COVERAGE_DEPTH / len(held_out_part(world).data.vocabulary.services)


@pytest.mark.parametrize("name", NAMES)
def test_mrr_is_better_than_popularity(name: str) -> None:
    part = held_out_part("larger")
    popularity = create("popularity").fit(part.data)
    baseline = METRICS["mrr"](part.outcome(part.fitted(popularity).probabilities))
    assert metrics(name, "larger")["mrr"] > baseline + 0.1


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("world", ["tiny", "larger"])
def test_every_batch_trains_nodes_outside_of_it(name: str, world: str) -> None:
    """With l2 = 0 and one negative, other nodes have a gradient only through the graph."""
    data = held_out_part(world).data
    options = {"batch_size": 4, "l2": 0.0, "negatives": 1, "sampling": "shared", "learning_rate": 0.05}
    learner = create(name, options)
    assert isinstance(learner, NetworkRecommender)
    learner._graph = data.graph
    with seeded(0, CPU):
        network = learner.build(data.vocabulary, data)
        popularity = torch.from_numpy(data.graph.popularity)
        objective = Objective(network, learner.config, Sampler.of(popularity, 0.0)).train()
        optimiser = torch.optim.SGD(objective.parameters(), lr=0.05)
        batches = Batches.of(learner, data)
        for number, batch in enumerate(batches.epoch(0, 0, Processes())):
            if number == 0:
                network.begin_epoch(0)
            total, _ = objective(batch)
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            optimiser.step()
            assert isinstance(batch.inputs, SetInputs)
            weight = network.get_parameter("embed.weight")
            assert weight.grad is not None
            in_batch = {*batch.inputs.nodes.tolist(), *(batch.columns + FIRST_SERVICE).tolist()}
            trained = set(np.flatnonzero(weight.grad.any(dim=1).numpy()).tolist())
            assert len(trained - in_batch) > 1, f"batch {number + 1} trains no node but {in_batch}"
            if number == 12:
                break
