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
from dagrec.models.factorisation.ials import IALS, INIT, IALSConfig, item_step, user_step
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


def held(rows: Interactions, row: int) -> list[int]:
    return rows.items[rows.rows.starts[row] : rows.rows.starts[row + 1]].tolist()


def loss(users: Floats, items: Floats, rows: Interactions, config: IALSConfig) -> float:
    """L(W, H), a term at a time."""
    total = 0.0
    counts = np.zeros(rows.size)
    occurring = np.unique(rows.items)
    for u, n in enumerate(rows.weights):
        own = held(rows, u)
        counts[own] += n
        row = sum((users[u] @ items[i] - 1) ** 2 for i in own)
        row += config.alpha0 * sum((users[u] @ items[i]) ** 2 for i in occurring)
        size = len(own) + config.alpha0 * len(occurring)
        total += n * (row + config.l2 * size**config.nu * (users[u] ** 2).sum())
    for i in occurring:
        size = counts[i] + config.alpha0 * rows.weights.sum()
        total += config.l2 * size**config.nu * (items[i] ** 2).sum()
    return total


def start(config: IALSConfig, rows: Interactions = ROWS, seed: int = 0) -> Floats:
    width = config.width
    return np.random.default_rng(seed).normal(0, INIT / width**0.5, (len(rows), width))


@pytest.fixture(params=CONFIGS, ids=lambda config: f"nu={config.nu:g}")
def config(request: pytest.FixtureRequest) -> IALSConfig:
    found = request.param
    assert isinstance(found, IALSConfig)
    return found


@pytest.fixture
def items(config: IALSConfig) -> Floats:
    """Of a fitted recommender."""
    return IALS(config).fit(DATA).state()["items"].astype(np.float64)


# The two steps


def test_no_half_step_increases_the_loss(config: IALSConfig) -> None:
    users = start(config)
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
def test_each_step_ends_where_the_gradient_is_zero(config: IALSConfig, side: str) -> None:
    """By central differences of the loss, which is quadratic in each side: they are exact."""
    users = start(config) * 10
    items = item_step(users, ROWS, config)
    if side == "users":
        users = user_step(items, ROWS.rows, ROWS.items, config)
    moved = users if side == "users" else items
    for row in (0, 5) if side == "users" else (OCCURRING[0], OCCURRING[-1]):
        for column in range(config.width):
            ends = []
            for step in (0.5, -0.5):
                moved[row, column] += step
                ends.append(loss(users, items, ROWS, config))
                moved[row, column] -= step
            assert ends[0] - ends[1] == pytest.approx(0, abs=1e-8 * ends[0])
            assert ends[0] + ends[1] > 2 * loss(users, items, ROWS, config)


def test_rows_in_another_order_give_their_vectors_in_that_order(config: IALSConfig) -> None:
    order = np.random.default_rng(1).permutation(len(ROWS))
    places, _ = ROWS.rows.take(order)
    turned = Interactions(
        Ragged.of(ROWS.rows.lengths[order]), ROWS.items[places], ROWS.weights[order], ROWS.size
    )
    users = start(config)
    items = item_step(users, ROWS, config)
    np.testing.assert_allclose(item_step(users[order], turned, config), items, atol=1e-12)
    np.testing.assert_allclose(
        user_step(items, turned.rows, turned.items, config),
        user_step(items, ROWS.rows, ROWS.items, config)[order],
        atol=1e-12,
    )


def test_n_equal_rows_are_one_row_of_weight_n(config: IALSConfig) -> None:
    assert ROWS.weights.max() > 1
    copies = np.repeat(np.arange(len(ROWS)), ROWS.weights.astype(int))
    places, _ = ROWS.rows.take(copies)
    apart = Interactions(
        Ragged.of(ROWS.rows.lengths[copies]), ROWS.items[places], np.ones(len(copies)), ROWS.size
    )
    users = start(config)
    items = item_step(users, ROWS, config)
    np.testing.assert_allclose(item_step(users[copies], apart, config), items, atol=1e-12)
    np.testing.assert_allclose(
        user_step(items, apart.rows, apart.items, config),
        user_step(items, ROWS.rows, ROWS.items, config)[copies],
        atol=1e-12,
    )


@pytest.mark.parametrize("at_once", [1, 7])
def test_stretches_of_rows_are_solved_alike(
    config: IALSConfig, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = start(config)
    whole = item_step(users, ROWS, config)
    monkeypatch.setattr(ials, "ROWS_PER_PASS", at_once)
    np.testing.assert_allclose(item_step(users, ROWS, config), whole, atol=1e-14)


# The whole


def test_training_is_alternation_from_the_seed(config: IALSConfig) -> None:
    """Vector by vector, straight from the formula, against the items that were learned."""
    rows, x = ROWS, ROWS.matrix().toarray()
    counts = rows.weights @ x
    users, items = start(config, seed=3), np.zeros((rows.size, config.width))
    eye, a = np.eye(config.width), config.alpha0
    for epoch in range(5):
        if epoch:
            for u in range(len(rows)):
                own = items[x[u] > 0]
                l2 = config.l2 * (len(own) + a * len(OCCURRING)) ** config.nu
                users[u] = np.linalg.inv(own.T @ own + a * items.T @ items + l2 * eye) @ own.sum(axis=0)
        for i in OCCURRING:
            n = rows.weights * x[:, i]
            l2 = config.l2 * (counts[i] + a * rows.weights.sum()) ** config.nu
            left = users.T @ ((n + a * rows.weights)[:, None] * users) + l2 * eye
            items[i] = np.linalg.inv(left) @ (n @ users)
    model = IALS(config.model_copy(update={"epochs": 5}), seed=3).fit(DATA)
    np.testing.assert_allclose(model.state()["items"], items, atol=1e-7)


def test_the_vector_of_an_unseen_set_is_the_ridge_regression_on_its_items(
    config: IALSConfig, items: Floats
) -> None:
    """Of 1 at what it holds, and with alpha0 of 0 at everything; l2 as of a row of its size."""
    path = ("table_l", "extract", "nobody", "hub")
    ids = DATA.vocabulary.ids
    own = [ids["table_l"], ids["extract"], ids["hub"], len(DATA.vocabulary) + ids["hub"]]
    assert sorted(own) not in [held(ROWS, u) for u in range(len(ROWS))]
    l2 = config.l2 * (len(own) + config.alpha0 * len(OCCURRING)) ** config.nu
    oracle = Ridge(alpha=l2, fit_intercept=False).fit(
        np.concatenate([items[own], items]),
        np.repeat([1.0, 0.0], [len(own), len(items)]),
        sample_weight=np.repeat([1.0, config.alpha0], [len(own), len(items)]),
    )
    found = IALS(config).fit(DATA).score(DATA.vocabulary.encode([Context(path)]))[0]
    expected = items[FIRST_SERVICE : FIRST_SERVICE + len(DATA.vocabulary.services)] @ oracle.coef_
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_items_that_never_occur_have_no_vector(items: Floats) -> None:
    never = np.setdiff1d(np.arange(ROWS.size), OCCURRING)
    assert len(never) > 4
    np.testing.assert_array_equal(items[never], 0)
    assert items[OCCURRING].any(axis=1).all()


def test_without_a_weight_on_what_is_not_held_only_what_is_held_counts() -> None:
    """It is fitted, and nothing keeps the rest from being predicted too."""
    data, config = chain().data, IALSConfig(width=4, alpha0=0.0, l2=1e-6)
    rows = Interactions.of_examples(data, config)
    items = IALS(config).fit(data).state()["items"].astype(np.float64)
    predicted = user_step(items, rows.rows, rows.items, config) @ items.T
    np.testing.assert_allclose(predicted[rows.matrix().toarray() > 0], 1, atol=1e-3)
    assert np.abs(predicted[rows.matrix().toarray() == 0]).max() > 0.3


def test_a_large_penalty_leaves_nothing() -> None:
    np.testing.assert_allclose(IALS(IALSConfig(l2=1e3)).fit(DATA).score(DATA.contexts), 0, atol=1e-12)


def test_with_room_for_all_the_matrix_is_rebuilt() -> None:
    data = chain().data
    config = IALSConfig(width=8, alpha0=0.1, l2=1e-6, epochs=60)
    rows = Interactions.of_examples(data, config)
    items = IALS(config).fit(data).state()["items"].astype(np.float64)
    users = user_step(items, rows.rows, rows.items, config)
    # On its own, a held item pulls with 1 + alpha0, of which 1 is toward 1.
    np.testing.assert_allclose(users @ items.T, rows.matrix().toarray() / 1.1, atol=5e-3)


def test_seeds_differ_in_their_start_alone() -> None:
    """With room for all there is one best product, whatever the vectors are."""
    data, config = chain().data, IALSConfig(width=8, epochs=200)
    one, other = (IALS(config, seed=seed).fit(data) for seed in (0, 1))
    assert not np.allclose(one.state()["items"], other.state()["items"], atol=0.01)
    np.testing.assert_allclose(one.score(data.contexts), other.score(data.contexts), atol=1e-4)


def test_more_of_the_same_data_has_the_same_solution() -> None:
    """With nu = 1 every term grows with the number of rows."""
    config = IALSConfig(width=4)
    twice = TrainingData.of([*DATA.examples, *DATA.examples])
    one, other = (IALS(config).fit(data).state()["items"] for data in (DATA, twice))
    np.testing.assert_allclose(one, other, atol=1e-7)
    unscaled = IALSConfig(width=4, nu=0.0)
    one, other = (IALS(unscaled).fit(data).state()["items"] for data in (DATA, twice))
    assert np.abs(one - other).max() > 1e-4


def test_torch_stays_away() -> None:
    command = (
        "import sys; from dagrec.models.registry import create; "
        "[create(name) for name in ('ials', 'ease', 'ridge', 'itemknn')]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


@pytest.mark.parametrize("alpha0", [0.0, 1e6])
@pytest.mark.parametrize("l2", [1e-6, 1e6])
@pytest.mark.parametrize("nu", [0.0, 2.0])
def test_the_widest_options_stay_finite(alpha0: float, l2: float, nu: float) -> None:
    config = IALSConfig(width=40, alpha0=alpha0, l2=l2, nu=nu, epochs=3)
    assert np.isfinite(IALS(config).fit(DATA).score(DATA.contexts)).all()
