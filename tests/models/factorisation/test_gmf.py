from __future__ import annotations

import numpy as np
import pytest
import torch

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.factorisation.bprmf import BPRMFConfig, BPRMFNetwork
from dagrec.models.factorisation.gmf import GMF, GMFConfig, GMFNetwork
from dagrec.models.registry import create
from dagrec.training.batches import Batches
from dagrec.training.data import TrainingData
from dagrec.training.distributed import Processes
from dagrec.training.objective import Objective
from dagrec.training.sampling import Draw, Sampler
from tests.models.factorisation.sets import (
    NODES,
    PATHS,
    SERVICES,
    fill_bias,
    inputs,
    parameters_of,
)
from tests.worlds import branching, everything

WORLD = everything()


def network(**options: object) -> GMFNetwork:
    net = GMFNetwork(GMFConfig.model_validate({"width": 5, **options}), NODES, SERVICES).eval()
    fill_bias(net.last.bias)
    with torch.no_grad():
        net.weights.normal_()
    return net


# Scores


@pytest.mark.parametrize("last", [True, False])
def test_scores_follow_formula(last: bool) -> None:
    """h . (p_x o q_y) + < L_f, T_y > + b_y"""
    net = network(last=last)
    w = parameters_of(net)
    expected = np.array(
        [
            [
                sum(
                    w["weights"][d] * w["embed.weight"][path, d].mean() * w["items"][y, d]
                    for d in range(5)
                )
                + (w["last.embed.weight"][path[-1]] @ w["last.weight"][y] if last else 0)
                + w["last.bias"][y]
                for y in range(SERVICES)
            ]
            for path in PATHS
        ]
    )
    np.testing.assert_allclose(net(inputs()).detach(), expected, rtol=1e-5, atol=1e-6)


def test_initial_network_equals_bprmf_with_two_tables() -> None:
    net = GMFNetwork(GMFConfig(width=5), NODES, SERVICES).eval()
    bprmf = BPRMFNetwork(BPRMFConfig(width=5, tied=False), NODES, SERVICES).eval()
    state = net.state_dict()
    assert torch.equal(state.pop("weights"), torch.ones(5))
    bprmf.load_state_dict(state)
    assert torch.equal(net(inputs()), bprmf(inputs()))


def test_zero_weight_removes_a_coordinate() -> None:
    net = network(last=False)
    with torch.no_grad():
        net.weights.zero_()
        net.weights[3] = -2
    product = net(inputs()) - net.last.bias
    assert torch.linalg.matrix_rank(product, rtol=1e-4) == 1


def test_contexts_and_services_have_separate_tables() -> None:
    net = network(last=False)
    with torch.no_grad():
        net.embed.weight[FIRST_SERVICE:] = 0
    assert torch.equal(net(inputs()), net.last.bias.expand(len(PATHS), -1))
    assert net.service_vectors().any()


# Negatives


def draws(options: dict[str, object], epochs: int) -> list[list[tuple[int, int, list[int]]]]:
    """Return (hash of the context, target, negatives) of each pair in each epoch."""
    learner = create("gmf", {"epochs": epochs, **options})
    assert isinstance(learner, GMF)
    learner._graph = WORLD.data.graph
    batches = Batches.of(learner, WORLD.data)
    sampler = Sampler.of(torch.from_numpy(WORLD.data.graph.popularity), learner.config.sample_alpha)
    net = learner.build(WORLD.data.vocabulary, WORLD.data)
    objective = Objective(net, learner.config, sampler)
    by_epoch = []
    for number in range(epochs):
        pairs = []
        for batch in batches.epoch(number, 0, Processes()):
            draw: Draw = objective._draw(batch.columns, learner.config.negatives)
            assert draw.valid.all()
            contexts = batch.inputs
            sets = [contexts.nodes[contexts.rows == row].tolist() for row in batch.rows.tolist()]
            last = contexts.last[batch.rows].tolist()
            hashes = [hash((*set_, f)) for set_, f in zip(sets, last, strict=True)]
            pairs += list(zip(hashes, batch.columns.tolist(), draw.columns.tolist(), strict=True))
        by_epoch.append(pairs)
    return by_epoch


def test_each_target_has_four_negatives_without_itself() -> None:
    (pairs,) = draws({}, 1)
    targets: dict[int, set[int]] = {}
    for context, target, _ in pairs:
        targets.setdefault(context, set()).add(target)
    assert max(map(len, targets.values())) > 1
    assert len(pairs) == sum(map(len, targets.values()))
    for _, target, negatives in pairs:
        assert len(negatives) == 4
        assert target not in negatives


def test_negatives_differ_between_epochs() -> None:
    first, second = ({(x, y): n for x, y, n in pairs} for pairs in draws({}, 2))
    assert first.keys() == second.keys()
    assert sum(first[pair] != second[pair] for pair in first) > 0.9 * len(first)


def test_negatives_are_uniform_over_other_services() -> None:
    """Chi-square statistic of 2,000 draws for one pair."""
    services = len(WORLD.data.vocabulary.services)
    (((_, target, negatives), *_),) = draws({"negatives": 2000}, 1)
    counts = np.bincount(negatives, minlength=services)
    others = np.setdiff1d(np.flatnonzero(WORLD.data.graph.popularity), [target])
    assert counts.sum() == counts[others].sum() == 2000
    expected = 2000 / len(others)
    squares = (counts[others] - expected) ** 2 / expected
    assert squares.sum() < len(others) + 5 * np.sqrt(2 * len(others))


# Training


def test_optimal_scores_are_log_odds_minus_log_negatives() -> None:
    """With two services, each is every negative of the other: s -> log(p / (n (1 - p)))."""
    data = TrainingData.of(branching().examples)
    p = np.array([0.75, 0.25])
    assert data.vocabulary.services == ("often", "rarely")
    options = {
        "dropout": 0,
        "l2": 0,
        "epochs": 400,
        "min_steps": 0,
        "learning_rate": 0.05,
    }
    for n in (1, 4):
        model = create("gmf", {**options, "negatives": n, "width": 2}).fit(data)
        scores = model.score(data.vocabulary.encode([Context(("table_b",))]))[0]
        np.testing.assert_allclose(scores, np.log(p / (n * p[::-1])), atol=0.01)


def test_defaults_are_those_of_the_paper() -> None:
    config = GMFConfig()
    assert (config.loss, config.negatives, config.sampling) == ("bce", 4, "rows")
    assert config.sample_alpha == 0
