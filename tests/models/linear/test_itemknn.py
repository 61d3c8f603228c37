from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from dagrec.data.examples import Context, Example
from dagrec.data.vocabulary import FIRST
from dagrec.models.interactions import Interactions
from dagrec.models.linear.itemknn import ItemKNN, ItemKNNConfig
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.worlds import everything

DATA = everything().data
SERVICES = len(DATA.vocabulary.services)
COLUMNS = slice(FIRST, FIRST + SERVICES)
ALL = 10**6


def similarities(data: TrainingData = DATA, **options: object) -> Floats:
    model = ItemKNN(ItemKNNConfig.model_validate({"neighbours": ALL, **options})).fit(data)
    return model.state()["weights"].astype(np.float64)


def examples(last: bool = True) -> Floats:
    """[N, I], one row an example, none merged."""
    found = Interactions.of_examples(DATA, ItemKNNConfig(last=last))
    return np.repeat(found.dense(), found.weights.astype(int), axis=0)


def without_own(found: Floats, last: bool = True) -> Floats:
    """With 0 from a service, and from the mark that it is the last, to itself."""
    for column in range(SERVICES):
        found[column + FIRST, column] = 0
        if last:
            found[len(DATA.vocabulary) + column + FIRST, column] = 0
    return found


def data_of(*pairs: tuple[str, str]) -> TrainingData:
    """Examples of (path as letters, target)."""
    return TrainingData.of(
        [Example(Context(tuple(path)), target, str(i), i) for i, (path, target) in enumerate(pairs)]
    )


@pytest.mark.parametrize("last", [True, False])
def test_without_shrinkage_it_is_the_cosine(last: bool) -> None:
    expected = without_own(cosine_similarity(examples(last).T)[:, COLUMNS], last)
    np.testing.assert_allclose(similarities(last=last, shrinkage=0, alpha=0.5), expected, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shrinkage", [0.5, 20.0])
def test_similarities_by_definition(alpha: float, shrinkage: float) -> None:
    x = examples()
    expected = np.zeros((x.shape[1], SERVICES))
    for i in range(x.shape[1]):
        for column in range(SERVICES):
            j = column + FIRST
            n, n_i, n_j = (x[:, i] * x[:, j]).sum(), x[:, i].sum(), x[:, j].sum()
            expected[i, column] = n / ((n_i + shrinkage) ** alpha * (n_j + shrinkage) ** (1 - alpha))
    found = similarities(alpha=alpha, shrinkage=shrinkage)
    np.testing.assert_allclose(found, without_own(expected), atol=1e-12)


def test_by_hand() -> None:
    """a is in 3 examples, X in 2 of these and in no other."""
    data = data_of(("a", "X"), ("ab", "X"), ("a", "Y"))
    ids, columns = data.vocabulary.ids, data.vocabulary.columns
    found = similarities(data, shrinkage=1, alpha=0.5, last=False)
    assert found[ids["a"], columns["X"]] == pytest.approx(2 / (4 * 3) ** 0.5)
    assert found[ids["b"], columns["X"]] == pytest.approx(1 / (2 * 3) ** 0.5)
    assert found[ids["b"], columns["Y"]] == 0
    marked = similarities(data, shrinkage=1, alpha=0.5)[len(data.vocabulary) :]
    assert marked[ids["a"], columns["X"]] == pytest.approx(1 / (3 * 3) ** 0.5)


def test_alpha_one_is_the_share_of_the_examples_of_an_item() -> None:
    x = examples()
    held = x.sum(axis=0)
    shares = np.divide(x.T @ x, held[:, None], out=np.zeros((len(held),) * 2), where=held[:, None] > 0)
    np.testing.assert_allclose(similarities(shrinkage=0, alpha=1), without_own(shares[:, COLUMNS]))


def test_half_alpha_is_symmetric_between_services_and_others_are_not() -> None:
    half, one = (similarities(alpha=alpha)[COLUMNS] for alpha in (0.5, 1.0))
    np.testing.assert_allclose(half, half.T)
    assert not np.allclose(one, one.T)


def test_endless_shrinkage_leaves_counts_of_pairs() -> None:
    x = examples()
    found = similarities(shrinkage=1e12, alpha=0.5) * 1e12
    np.testing.assert_allclose(found, without_own((x.T @ x)[:, COLUMNS]), atol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.0, 1e300])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_columns_that_never_occur_have_no_similarities(alpha: float, shrinkage: float) -> None:
    found = similarities(shrinkage=shrinkage, alpha=alpha)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[~examples().any(axis=0)], 0)


def test_only_the_nearest_are_kept() -> None:
    """After a: X three times, Y twice, Z once."""
    pairs = [("a", "X")] * 3 + [("a", "Y")] * 2 + [("a", "Z")]
    data = data_of(*pairs)
    a, columns = data.vocabulary.ids["a"], data.vocabulary.columns
    for neighbours, kept in [(1, "X"), (2, "XY"), (3, "XYZ")]:
        found = similarities(data, neighbours=neighbours, alpha=1, shrinkage=0)[a]
        for key, share in [("X", 3 / 6), ("Y", 2 / 6), ("Z", 1 / 6)]:
            assert found[columns[key]] == pytest.approx(share if key in kept else 0)


def test_those_that_tie_for_the_last_place_share_it() -> None:
    data = data_of(*[("a", "X")] * 2, ("a", "Y"), ("a", "Z"))
    a, columns = data.vocabulary.ids["a"], data.vocabulary.columns
    found = similarities(data, neighbours=2, alpha=1, shrinkage=0)[a]
    assert found[columns["X"]] == pytest.approx(2 / 4)
    assert found[columns["Y"]] == found[columns["Z"]] == pytest.approx(1 / 4 / 2)


@pytest.mark.parametrize("last", [True, False])
def test_scores_are_sums_of_similarities(last: bool) -> None:
    model = ItemKNN(ItemKNNConfig(last=last)).fit(DATA)
    found = similarities(last=last)
    ids, path = DATA.vocabulary.ids, ("table_l", "hub", "extract", "hub")
    expected = sum(found[ids[key]] for key in set(path))
    if last:
        expected = expected + found[len(DATA.vocabulary) + ids["hub"]]
    scores = model.score(DATA.vocabulary.encode([Context(path)]))[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-7)
