from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import MissingPackageError
from dagrec.models import text
from dagrec.models.text import key_texts, project, terms, text_features, tf_idf
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
def test_terms_split_words_at_case_changes_and_digits(text: str, words: list[str]) -> None:
    assert [term for term in terms(text) if not term.startswith("#")] == words


def test_terms_of_similar_words_share_parts() -> None:
    assert set(terms("plot")) & set(terms("plotting")) == {"#<pl", "#plo", "#lot"}


def test_tf_idf_equals_manual_calculation() -> None:
    """Each word has one part with the same weight; b occurs in two of the three texts, a in one."""
    a, b = (1 + math.log(2)) * (1 + math.log(4 / 2)), 1 + math.log(4 / 3)
    length = math.sqrt(2 * a**2 + 2 * b**2)
    expected = np.array([[b / length] * 2 + [a / length] * 2, [math.sqrt(0.5)] * 2 + [0] * 2, [0] * 4])
    assert list(terms("A")) == ["a", "#<a>"]
    np.testing.assert_allclose(tf_idf(["a b a", "b", "-"]), expected)


def test_tf_idf_keeps_terms_with_highest_document_frequency(monkeypatch: pytest.MonkeyPatch) -> None:
    """a has the most occurrences, but in one text only; ties are broken alphabetically."""
    monkeypatch.setattr(text, "MAX_TERMS", 3)
    rows = tf_idf(["a a a a a", "b c", "b"])
    np.testing.assert_allclose(rows[1:], np.array([[1, 1, 0], [1, 1, 0]]) / math.sqrt(2))
    np.testing.assert_allclose(rows[0], [0, 0, 1])


def test_tf_idf_without_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(MissingPackageError, match=r"TF-IDF of texts needs .*dagrec\[train\]"):
        tf_idf(TEXTS)


def test_projection_on_all_directions_preserves_inner_products() -> None:
    rows = tf_idf(TEXTS)
    projected = project(rows, 100)
    assert projected.shape == (5, 5)
    np.testing.assert_allclose(projected @ projected.T, rows @ rows.T, atol=1e-12)


def test_projection_uses_largest_directions() -> None:
    rows = np.array([[3.0, 0, 0], [0, 2, 0], [0, 0, 1]])
    np.testing.assert_allclose(project(rows, 2), [[1, 0], [0, 1], [0, 0]], atol=1e-12)


@given(st.lists(st.text(max_size=30), max_size=8), st.integers(1, 5))
def test_projected_rows_have_length_1_or_0(texts: list[str], dimensions: int) -> None:
    rows = project(tf_idf(texts), dimensions)
    assert rows.shape[0] == len(texts)
    assert rows.shape[1] <= dimensions
    lengths = np.linalg.norm(rows, axis=1)
    assert ((np.abs(lengths - 1) < 1e-9) | (lengths < 1e-9)).all()


def test_text_features_are_indexed_by_node_id() -> None:
    vocabulary = Vocabulary(("plot", "read"), ("table",))
    features = text_features(vocabulary, {"plot": "draws a table"}, 8)
    assert features.shape == (5, 3)
    assert not features[:2].any()
    cosine = features @ features.T
    assert cosine[2, 4] > cosine[3, 4] + 0.1  # the text of plot mentions a table


def test_key_texts_are_texts_of_training_nodes() -> None:
    data = everything().data
    texts = key_texts(data)
    assert texts["table_a"] == "table a"
    assert set(texts) <= {node.key for c in everything().compositions for node in c.nodes}


def test_key_texts_use_declared_text_only_without_node_text() -> None:
    data = TrainingData.of(everything().examples, services={"new": "brand new", "extract": "not this"})
    texts = key_texts(data)
    assert texts["new"] == "brand new"
    assert texts["extract"] == "extract"
