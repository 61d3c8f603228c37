"""Tests of the embeddings that recommenders return."""

from __future__ import annotations

import numpy as np
import pytest

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.base import Recommender
from dagrec.models.registry import create
from dagrec.types import Floats, Scores
from tests.worlds import everything

DATA = everything().data
VOCABULARY = DATA.vocabulary


def fit(name: str, **options: object) -> Recommender:
    return create(name, {"epochs": 3, "min_steps": 0, **options}).fit(DATA)


def single_node_scores(model: Recommender) -> Scores:
    """Scores of contexts that consist of one known node each."""
    return model.score(
        VOCABULARY.encode([Context((key,)) for key in (*VOCABULARY.services, *VOCABULARY.others)])
    )


def check_scores_are_products(nodes: Floats, services: Floats, bias: Floats, scores: Scores) -> None:
    np.testing.assert_allclose(nodes @ services.T + bias, scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_bprmf_scores_equal_products_of_embeddings(tied: bool) -> None:
    model = fit("bprmf", tied=tied, last=False, width=8)
    embeddings = model.embeddings()
    bias = model.state()["last.bias"].astype(np.float64)
    check_scores_are_products(
        embeddings["nodes"], embeddings["services"], bias, single_node_scores(model)
    )
    assert (
        np.array_equal(embeddings["nodes"][: len(VOCABULARY.services)], embeddings["services"]) is tied
    )


def test_lightgcn_embeddings_are_propagated_vectors() -> None:
    """The paper's formula, the mean of E, A E and A A E, with a dense A."""
    model = fit("lightgcn", layers=2, width=8)
    embeddings, state = model.embeddings(), model.state()
    users, items, weights = (state[f"graph.{name}"] for name in ("users", "items", "weights"))
    nodes, rows = len(VOCABULARY), len(VOCABULARY) + len(weights)
    links = np.zeros((rows, rows))
    links[nodes + users, items] = links[items, nodes + users] = 1
    # The row of merged users is scaled by the square root of their number.
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
    np.testing.assert_allclose(embeddings["nodes"], expected[FIRST_SERVICE:nodes], rtol=1e-4, atol=1e-6)
    assert np.array_equal(embeddings["nodes"][: len(VOCABULARY.services)], embeddings["services"])


def test_embeddings_equal_stored_weights() -> None:
    model = fit("gru4rec", hidden=8, embedding=4)
    embeddings, state = model.embeddings(), model.state()
    assert np.array_equal(embeddings["services"], state["head.weight"])
    assert np.array_equal(embeddings["nodes"], state["embed.weight"][FIRST_SERVICE:])


def test_tied_output_embeddings_equal_node_embeddings() -> None:
    embeddings = fit("gru4rec", hidden=4, embedding=4, tied=True).embeddings()
    assert np.array_equal(embeddings["services"], embeddings["nodes"][: len(VOCABULARY.services)])


def test_embeddings_concatenate_several_tables() -> None:
    model = fit("fpmc", width=4)
    state = model.state()
    expected = np.concatenate([state["user.weight"], state["last.weight"]], axis=1)[FIRST_SERVICE:]
    assert np.array_equal(model.embeddings()["nodes"], expected)


def test_recommender_without_vectors_has_no_embeddings() -> None:
    assert create("markov").fit(DATA).embeddings() == {}
