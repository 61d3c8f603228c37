from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from dagrec.data.vocabulary import Vocabulary
from dagrec.models.text import key_texts, projected, terms, text_features, tf_idf
from dagrec.training.data import TrainingData
from tests.worlds import everything

TEXTS = ["read table", "plot table table", "plotting of a map", "cluster points", "read points"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n8n-nodes-base.httpRequest", ["n", "8", "n", "nodes", "base", "http", "request"]),
        ("HTTPRequest2", ["http", "request", "2"]),
        ("service_308", ["service", "308"]),
        ("Überblick über Straßen", ["überblick", "über", "straßen"]),
        ("карта 地図", ["карта", "地図"]),
        ("--//..", []),
    ],
)
def test_words_end_where_case_or_kind_changes(text: str, words: list[str]) -> None:
    assert [term for term in terms(text) if not term.startswith("#")] == words


def test_words_share_parts() -> None:
    assert set(terms("plot")) & set(terms("plotting")) == {"#<pl", "#plo", "#lot"}


def test_it_is_that_of_scikit_learn() -> None:
    oracle = TfidfVectorizer(analyzer=lambda text: list(terms(text)), sublinear_tf=True)
    expected = oracle.fit_transform(TEXTS).toarray()
    np.testing.assert_allclose(tf_idf(TEXTS) @ tf_idf(TEXTS).T, expected @ expected.T, atol=1e-12)


def test_a_projection_on_all_directions_keeps_every_product() -> None:
    rows = tf_idf(TEXTS)
    found = projected(rows, 100)
    assert found.shape == (5, 5)
    np.testing.assert_allclose(found @ found.T, rows @ rows.T, atol=1e-12)


def test_a_projection_keeps_the_largest_directions() -> None:
    rows = np.array([[3.0, 0, 0], [0, 2, 0], [0, 0, 1]])
    np.testing.assert_allclose(projected(rows, 2), [[1, 0], [0, 1], [0, 0]], atol=1e-12)


@given(st.lists(st.text(max_size=30), max_size=8), st.integers(1, 5))
def test_rows_have_length_1_or_0(texts: list[str], dimensions: int) -> None:
    found = projected(tf_idf(texts), dimensions)
    assert found.shape[0] == len(texts)
    assert found.shape[1] <= dimensions
    lengths = np.linalg.norm(found, axis=1)
    assert ((np.abs(lengths - 1) < 1e-9) | (lengths < 1e-9)).all()


def test_features_stand_at_the_node_ids() -> None:
    vocabulary = Vocabulary(("plot", "read"), ("table",))
    found = text_features(vocabulary, {"plot": "draws a table"}, 8)
    assert found.shape == (5, 3)
    assert not found[:2].any()
    same = found @ found.T
    assert same[2, 4] > same[3, 4] + 0.1  # plot draws a table


def test_texts_are_those_of_training_nodes() -> None:
    data = everything().data
    texts = key_texts(data)
    assert texts["table_a"] == "table a"
    assert set(texts) <= {node.key for c in everything().compositions for node in c.nodes}


def test_declared_texts_stand_where_no_node_has_one() -> None:
    data = TrainingData.of(everything().examples, services={"new": "brand new", "extract": "not this"})
    texts = key_texts(data)
    assert texts["new"] == "brand new"
    assert texts["extract"] == "extract"
