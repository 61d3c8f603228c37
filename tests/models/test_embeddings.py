"""What networks hand out as vectors is what they score with."""

from __future__ import annotations

import numpy as np
import pytest

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST
from dagrec.models.base import Recommender
from dagrec.models.registry import create
from dagrec.types import Floats, Scores
from tests.worlds import everything

DATA = everything().data
WORDS = DATA.vocabulary


def fit(name: str, **options: object) -> Recommender:
    return create(name, {"epochs": 3, **options}).fit(DATA)


def alone(model: Recommender) -> Scores:
    """Scores after each known node and nothing else."""
    return model.score(WORDS.encode([Context((key,)) for key in (*WORDS.services, *WORDS.others)]))


def check_scores_are_products(nodes: Floats, services: Floats, bias: Floats, scores: Scores) -> None:
    np.testing.assert_allclose(nodes @ services.T + bias, scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_products_of_factors_are_the_scores(tied: bool) -> None:
    model = fit("bprmf", tied=tied, last=False, width=8)
    found = model.embeddings()
    bias = model.state()["last.bias"].astype(np.float64)
    check_scores_are_products(found["nodes"], found["services"], bias, alone(model))
    assert np.array_equal(found["nodes"][: len(WORDS.services)], found["services"]) is tied


def test_a_service_of_a_graph_is_scored_with_its_propagated_vector() -> None:
    """After the paper: the mean of E, A E, A A E; written out with a dense A."""
    model = fit("lightgcn", layers=2, width=8)
    found, state = model.embeddings(), model.state()
    users, items, weights = (state[f"graph.{name}"] for name in ("users", "items", "weights"))
    nodes, rows = len(WORDS), len(WORDS) + len(weights)
    links = np.zeros((rows, rows))
    links[nodes + users, items] = links[items, nodes + users] = 1
    # A merged user counts as many: its row is scaled by the root of their number.
    scales = np.concatenate([np.ones(nodes), np.sqrt(weights)])
    links *= scales[:, None] * scales
    items_degree = np.bincount(items, weights[users], nodes)
    degrees = np.concatenate([items_degree, np.bincount(users)]).clip(min=1)
    a = links / np.sqrt(degrees[:, None] * degrees)
    embed = state["embed.weight"].astype(np.float64)
    first = np.zeros((rows, 8))
    first[:nodes] = embed
    for user, weight in enumerate(weights):
        first[nodes + user] = embed[items[users == user]].mean(axis=0) * np.sqrt(weight)
    expected = (first + a @ first + a @ (a @ first)) / 3
    np.testing.assert_allclose(found["nodes"], expected[FIRST:nodes], rtol=1e-4, atol=1e-6)
    assert np.array_equal(found["nodes"][: len(WORDS.services)], found["services"])


def test_weights_of_a_head_are_those_of_the_state() -> None:
    model = fit("gru4rec", hidden=8, embedding=4)
    found, state = model.embeddings(), model.state()
    assert np.array_equal(found["services"], state["head.weight"])
    assert np.array_equal(found["nodes"], state["embed.weight"][FIRST:])


def test_tied_services_are_scored_with_their_embeddings() -> None:
    found = fit("gru4rec", hidden=4, embedding=4, tied=True).embeddings()
    assert np.array_equal(found["services"], found["nodes"][: len(WORDS.services)])


def test_two_tables_stand_side_by_side() -> None:
    model = fit("fpmc", width=4)
    state = model.state()
    expected = np.concatenate([state["user.weight"], state["last.weight"]], axis=1)[FIRST:]
    assert np.array_equal(model.embeddings()["nodes"], expected)


def test_what_learns_no_vectors_has_none() -> None:
    assert create("markov").fit(DATA).embeddings() == {}
