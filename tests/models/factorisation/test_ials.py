from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.factorisation import ials
from dagrec.models.factorisation.ials import (
    IALS,
    INITIAL_STD,
    IALSConfig,
    item_step,
    user_step,
)
from dagrec.models.interactions import Interactions
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ragged
from tests.worlds import chain, everything

DATA = everything().data
ROWS = Interactions.of_examples(DATA, IALSConfig())
OCCURRING = np.unique(ROWS.items)
CONFIGS = [
    IALSConfig(width=6),
    IALSConfig(width=6, alpha0=1.0, l2=0.2, nu=0.5),
    IALSConfig(width=3, alpha0=0.0, l2=0.05, nu=0.0),
]


def items_of(rows: Interactions, row: int) -> list[int]:
    return rows.items[rows.rows.starts[row] : rows.rows.starts[row + 1]].tolist()


def loss(users: Floats, items: Floats, rows: Interactions, config: IALSConfig) -> float:
    """Return L(W, H), computed term by term."""
    total = 0.0
    counts = np.zeros(rows.size)
    occurring = np.unique(rows.items)
    for u, n in enumerate(rows.weights):
        columns = items_of(rows, u)
        counts[columns] += n
        row = sum((users[u] @ items[i] - 1) ** 2 for i in columns)
        row += config.alpha0 * sum((users[u] @ items[i]) ** 2 for i in occurring)
        size = len(columns) + config.alpha0 * len(occurring)
        total += n * (row + config.l2 * size**config.nu * (users[u] ** 2).sum())
    for i in occurring:
        size = counts[i] + config.alpha0 * rows.weights.sum()
        total += config.l2 * size**config.nu * (items[i] ** 2).sum()
    return total


def initial_users(config: IALSConfig, rows: Interactions = ROWS, seed: int = 0) -> Floats:
    width = config.width
    return np.random.default_rng(seed).normal(0, INITIAL_STD / width**0.5, (len(rows), width))


@pytest.fixture(params=CONFIGS, ids=lambda config: f"nu={config.nu:g}")
def config(request: pytest.FixtureRequest) -> IALSConfig:
    assert isinstance(request.param, IALSConfig)
    return request.param


@pytest.fixture
def items(config: IALSConfig) -> Floats:
    """The item vectors of a fitted recommender."""
    return IALS(config).fit(DATA).state()["items"].astype(np.float64)


# Alternating steps


def test_steps_never_increase_the_loss(config: IALSConfig) -> None:
    users = initial_users(config)
    items = item_step(users, ROWS, config)
    losses = [loss(users, items, ROWS, config)]
    for _ in range(4):
        users = user_step(items, ROWS.rows, ROWS.items, config)
        losses.append(loss(users, items, ROWS, config))
        items = item_step(users, ROWS, config)
        losses.append(loss(users, items, ROWS, config))
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(losses))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("side", ["users", "items"])
def test_gradient_is_zero_after_each_step(config: IALSConfig, side: str) -> None:
    """The loss is quadratic in each side, so central differences are exact."""
    users = initial_users(config) * 10
    items = item_step(users, ROWS, config)
    if side == "users":
        users = user_step(items, ROWS.rows, ROWS.items, config)
    vectors = users if side == "users" else items
    for row in (0, 5) if side == "users" else (OCCURRING[0], OCCURRING[-1]):
        for column in range(config.width):
            shifted = []
            for shift in (0.5, -0.5):
                vectors[row, column] += shift
                shifted.append(loss(users, items, ROWS, config))
                vectors[row, column] -= shift
            assert shifted[0] - shifted[1] == pytest.approx(0, abs=1e-8 * shifted[0])
            assert shifted[0] + shifted[1] > 2 * loss(users, items, ROWS, config)


def test_row_order_does_not_matter(config: IALSConfig) -> None:
    order = np.random.default_rng(1).permutation(len(ROWS))
    positions, _ = ROWS.rows.take(order)
    permuted = Interactions(
        Ragged.of(ROWS.rows.lengths[order]), ROWS.items[positions], ROWS.weights[order], ROWS.size
    )
    users = initial_users(config)
    items = item_step(users, ROWS, config)
    np.testing.assert_allclose(item_step(users[order], permuted, config), items, atol=1e-12)
    np.testing.assert_allclose(
        user_step(items, permuted.rows, permuted.items, config),
        user_step(items, ROWS.rows, ROWS.items, config)[order],
        atol=1e-12,
    )


def test_merged_rows_equal_separate_rows(config: IALSConfig) -> None:
    assert ROWS.weights.max() > 1
    copies = np.repeat(np.arange(len(ROWS)), ROWS.weights.astype(int))
    positions, _ = ROWS.rows.take(copies)
    separate = Interactions(
        Ragged.of(ROWS.rows.lengths[copies]), ROWS.items[positions], np.ones(len(copies)), ROWS.size
    )
    users = initial_users(config)
    items = item_step(users, ROWS, config)
    np.testing.assert_allclose(item_step(users[copies], separate, config), items, atol=1e-12)
    np.testing.assert_allclose(
        user_step(items, separate.rows, separate.items, config),
        user_step(items, ROWS.rows, ROWS.items, config)[copies],
        atol=1e-12,
    )


@pytest.mark.parametrize("rows", [1, 7])
def test_solution_does_not_depend_on_pass_size(
    config: IALSConfig, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = initial_users(config)
    expected = item_step(users, ROWS, config)
    monkeypatch.setattr(ials, "ROWS_PER_PASS", rows)
    np.testing.assert_allclose(item_step(users, ROWS, config), expected, atol=1e-14)


# Fitting and scoring


def test_fit_equals_plain_alternation(config: IALSConfig) -> None:
    """The reference solves for one vector at a time, by the formula."""
    rows, x = ROWS, ROWS.matrix().toarray()
    counts = rows.weights @ x
    users, items = initial_users(config, seed=3), np.zeros((rows.size, config.width))
    eye, a = np.eye(config.width), config.alpha0
    for epoch in range(5):
        if epoch:
            for u in range(len(rows)):
                h = items[x[u] > 0]
                l2 = config.l2 * (len(h) + a * len(OCCURRING)) ** config.nu
                users[u] = np.linalg.inv(h.T @ h + a * items.T @ items + l2 * eye) @ h.sum(axis=0)
        for i in OCCURRING:
            n = rows.weights * x[:, i]
            l2 = config.l2 * (counts[i] + a * rows.weights.sum()) ** config.nu
            left = users.T @ ((n + a * rows.weights)[:, None] * users) + l2 * eye
            items[i] = np.linalg.inv(left) @ (n @ users)
    model = IALS(config.model_copy(update={"epochs": 5}), seed=3).fit(DATA)
    np.testing.assert_allclose(model.state()["items"], items, atol=1e-7)


def test_vector_of_new_set_is_ridge_regression_on_its_items(config: IALSConfig, items: Floats) -> None:
    """Targets are 1 for the items of the set, and 0 with weight alpha0 for all items."""
    path = ("table_l", "extract", "unknown", "hub")
    ids = DATA.vocabulary.ids
    columns = [ids["table_l"], ids["extract"], ids["hub"], len(DATA.vocabulary) + ids["hub"]]
    assert sorted(columns) not in [items_of(ROWS, u) for u in range(len(ROWS))]
    l2 = config.l2 * (len(columns) + config.alpha0 * len(OCCURRING)) ** config.nu
    reference = Ridge(alpha=l2, fit_intercept=False).fit(
        np.concatenate([items[columns], items]),
        np.repeat([1.0, 0.0], [len(columns), len(items)]),
        sample_weight=np.repeat([1.0, config.alpha0], [len(columns), len(items)]),
    )
    scores = IALS(config).fit(DATA).score(DATA.vocabulary.encode([Context(path)]))[0]
    services = items[FIRST_SERVICE : FIRST_SERVICE + len(DATA.vocabulary.services)]
    np.testing.assert_allclose(scores, services @ reference.coef_, rtol=1e-4, atol=1e-6)


def test_vectors_of_unused_items_are_zero(items: Floats) -> None:
    unused = np.setdiff1d(np.arange(ROWS.size), OCCURRING)
    assert len(unused) > 4
    np.testing.assert_array_equal(items[unused], 0)
    assert items[OCCURRING].any(axis=1).all()


def test_zero_alpha0_fits_only_observed_entries() -> None:
    data, config = chain().data, IALSConfig(width=4, alpha0=0.0, l2=1e-6)
    rows = Interactions.of_examples(data, config)
    items = IALS(config).fit(data).state()["items"].astype(np.float64)
    predicted = user_step(items, rows.rows, rows.items, config) @ items.T
    np.testing.assert_allclose(predicted[rows.matrix().toarray() > 0], 1, atol=1e-3)
    assert np.abs(predicted[rows.matrix().toarray() == 0]).max() > 0.3


def test_large_penalty_gives_zero_scores() -> None:
    np.testing.assert_allclose(IALS(IALSConfig(l2=1e3)).fit(DATA).score(DATA.contexts), 0, atol=1e-12)


def test_full_rank_reconstructs_the_matrix() -> None:
    data = chain().data
    config = IALSConfig(width=8, alpha0=0.1, l2=1e-6, epochs=60)
    rows = Interactions.of_examples(data, config)
    items = IALS(config).fit(data).state()["items"].astype(np.float64)
    users = user_step(items, rows.rows, rows.items, config)
    # An observed entry minimises (p - 1)^2 + alpha0 p^2, so p = 1 / (1 + alpha0).
    np.testing.assert_allclose(users @ items.T, rows.matrix().toarray() / 1.1, atol=5e-3)


def test_scores_at_full_rank_do_not_depend_on_seed() -> None:
    """The optimal product is unique, but the vectors are not."""
    data, config = chain().data, IALSConfig(width=8, epochs=200)
    first, second = (IALS(config, seed=seed).fit(data) for seed in (0, 1))
    assert not np.allclose(first.state()["items"], second.state()["items"], atol=0.01)
    np.testing.assert_allclose(first.score(data.contexts), second.score(data.contexts), atol=1e-4)


def test_doubled_data_have_the_same_solution() -> None:
    """With nu = 1 every term of the loss is proportional to the number of rows."""
    config = IALSConfig(width=4)
    twice = TrainingData.of([*DATA.examples, *DATA.examples])
    items, doubled = (IALS(config).fit(data).state()["items"] for data in (DATA, twice))
    np.testing.assert_allclose(items, doubled, atol=1e-7)
    unscaled = IALSConfig(width=4, nu=0.0)
    items, doubled = (IALS(unscaled).fit(data).state()["items"] for data in (DATA, twice))
    assert np.abs(items - doubled).max() > 1e-4


def test_linear_recommenders_and_ials_do_not_import_torch() -> None:
    command = (
        "import sys; from dagrec.models.registry import create; "
        "[create(name) for name in ('ials', 'ease', 'ridge', 'itemknn')]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


@pytest.mark.parametrize("alpha0", [0.0, 1e6])
@pytest.mark.parametrize("l2", [1e-6, 1e6])
@pytest.mark.parametrize("nu", [0.0, 2.0])
def test_scores_are_finite_for_extreme_options(alpha0: float, l2: float, nu: float) -> None:
    config = IALSConfig(width=40, alpha0=alpha0, l2=l2, nu=nu, epochs=3)
    assert np.isfinite(IALS(config).fit(DATA).score(DATA.contexts)).all()
