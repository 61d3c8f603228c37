from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from dagrec.data.examples import Context, Example
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.interactions import Interactions
from dagrec.models.linear.itemknn import ItemKNN, ItemKNNConfig
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.worlds import everything

DATA = everything().data
SERVICES = len(DATA.vocabulary.services)
COLUMNS = slice(FIRST_SERVICE, FIRST_SERVICE + SERVICES)
ALL = 10**6


def similarities(data: TrainingData = DATA, **options: object) -> Floats:
    model = ItemKNN(ItemKNNConfig.model_validate({"neighbours": ALL, **options})).fit(data)
    return model.state()["weights"].astype(np.float64)


def example_rows(last: bool = True) -> Floats:
    """Return the training matrix [N, I] with one row per example."""
    rows = Interactions.of_examples(DATA, ItemKNNConfig(last=last))
    return np.repeat(rows.matrix().toarray(), rows.weights.astype(int), axis=0)


def without_self(matrix: Floats, last: bool = True) -> Floats:
    """Set the similarity of a service to itself, and of its mark to it, to 0."""
    for column in range(SERVICES):
        matrix[column + FIRST_SERVICE, column] = 0
        if last:
            matrix[len(DATA.vocabulary) + column + FIRST_SERVICE, column] = 0
    return matrix


def data_of(*pairs: tuple[str, str]) -> TrainingData:
    """Return data of examples, given as pairs (letters of the path, target)."""
    return TrainingData.of(
        [Example(Context(tuple(path)), target, str(i), i) for i, (path, target) in enumerate(pairs)]
    )


@pytest.mark.parametrize("last", [True, False])
def test_similarity_without_shrinkage_is_cosine(last: bool) -> None:
    expected = without_self(cosine_similarity(example_rows(last).T)[:, COLUMNS], last)
    np.testing.assert_allclose(similarities(last=last, shrinkage=0, alpha=0.5), expected, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shrinkage", [0.5, 20.0])
def test_similarities_follow_formula(alpha: float, shrinkage: float) -> None:
    x = example_rows()
    expected = np.zeros((x.shape[1], SERVICES))
    for i in range(x.shape[1]):
        for column in range(SERVICES):
            j = column + FIRST_SERVICE
            n, n_i, n_j = (x[:, i] * x[:, j]).sum(), x[:, i].sum(), x[:, j].sum()
            expected[i, column] = n / ((n_i + shrinkage) ** alpha * (n_j + shrinkage) ** (1 - alpha))
    actual = similarities(alpha=alpha, shrinkage=shrinkage)
    np.testing.assert_allclose(actual, without_self(expected), atol=1e-12)


def test_similarities_equal_manual_calculation() -> None:
    """a is in 3 examples; X is in 2 of them and in no other example."""
    data = data_of(("a", "X"), ("ab", "X"), ("a", "Y"))
    ids, columns = data.vocabulary.ids, data.vocabulary.columns
    unmarked = similarities(data, shrinkage=1, alpha=0.5, last=False)
    assert unmarked[ids["a"], columns["X"]] == pytest.approx(2 / (4 * 3) ** 0.5)
    assert unmarked[ids["b"], columns["X"]] == pytest.approx(1 / (2 * 3) ** 0.5)
    assert unmarked[ids["b"], columns["Y"]] == 0
    of_marks = similarities(data, shrinkage=1, alpha=0.5)[len(data.vocabulary) :]
    assert of_marks[ids["a"], columns["X"]] == pytest.approx(1 / (3 * 3) ** 0.5)


def test_alpha_1_gives_share_of_examples_with_item() -> None:
    x = example_rows()
    n = x.sum(axis=0)
    shares = np.divide(x.T @ x, n[:, None], out=np.zeros((len(n),) * 2), where=n[:, None] > 0)
    np.testing.assert_allclose(similarities(shrinkage=0, alpha=1), without_self(shares[:, COLUMNS]))


def test_similarities_are_symmetric_only_for_alpha_half() -> None:
    half, one = (similarities(alpha=alpha)[COLUMNS] for alpha in (0.5, 1.0))
    np.testing.assert_allclose(half, half.T)
    assert not np.allclose(one, one.T)


def test_similarities_with_large_shrinkage_are_proportional_to_pair_counts() -> None:
    x = example_rows()
    scaled = similarities(shrinkage=1e12, alpha=0.5) * 1e12
    np.testing.assert_allclose(scaled, without_self((x.T @ x)[:, COLUMNS]), atol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.0, 1e300])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_similarities_of_unused_items_are_zero(alpha: float, shrinkage: float) -> None:
    matrix = similarities(shrinkage=shrinkage, alpha=alpha)
    assert np.isfinite(matrix).all()
    np.testing.assert_array_equal(matrix[~example_rows().any(axis=0)], 0)


def test_only_nearest_neighbours_are_kept() -> None:
    """Three examples have X after a, two have Y, one has Z."""
    pairs = [("a", "X")] * 3 + [("a", "Y")] * 2 + [("a", "Z")]
    data = data_of(*pairs)
    a, columns = data.vocabulary.ids["a"], data.vocabulary.columns
    for neighbours, expected in [(1, "X"), (2, "XY"), (3, "XYZ")]:
        row = similarities(data, neighbours=neighbours, alpha=1, shrinkage=0)[a]
        for key, share in [("X", 3 / 6), ("Y", 2 / 6), ("Z", 1 / 6)]:
            assert row[columns[key]] == pytest.approx(share if key in expected else 0)


def test_tied_services_share_last_place() -> None:
    data = data_of(*[("a", "X")] * 2, ("a", "Y"), ("a", "Z"))
    a, columns = data.vocabulary.ids["a"], data.vocabulary.columns
    row = similarities(data, neighbours=2, alpha=1, shrinkage=0)[a]
    assert row[columns["X"]] == pytest.approx(2 / 4)
    assert row[columns["Y"]] == row[columns["Z"]] == pytest.approx(1 / 4 / 2)


@pytest.mark.parametrize("last", [True, False])
def test_scores_are_sums_of_similarities(last: bool) -> None:
    model = ItemKNN(ItemKNNConfig(last=last)).fit(DATA)
    matrix = similarities(last=last)
    ids, path = DATA.vocabulary.ids, ("table_l", "hub", "extract", "hub")
    expected = sum(matrix[ids[key]] for key in set(path))
    if last:
        expected = expected + matrix[len(DATA.vocabulary) + ids["hub"]]
    scores = model.score(DATA.vocabulary.encode([Context(path)]))[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-7)
