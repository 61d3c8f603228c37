from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from dagrec.models.hybrid.pagt import VARIANCE, fit_gate
from dagrec.types import Floats, Ids


def mixtures(seed: int) -> tuple[Floats, Floats, Ids]:
    """Return data in which the preference predicts long histories and the base the others."""
    rng = np.random.default_rng(seed)
    calls = rng.integers(1, 200, 400)
    base_is_right = rng.random(400) < 1 / (1 + np.exp(-(2 - np.log1p(calls))))
    return np.where(base_is_right, 0.8, 0.1), np.where(base_is_right, 0.05, 0.7), calls


@pytest.mark.parametrize("seed", range(4))
def test_fit_gate_maximises_posterior(seed: int) -> None:
    base, preference, calls = mixtures(seed)

    def loss(theta: Floats) -> float:
        alpha = 1 / (1 + np.exp(-(theta[0] + theta[1] * np.log1p(calls))))
        likelihood = np.log(alpha * base + (1 - alpha) * preference).sum()
        return float(-likelihood + theta @ theta / (2 * VARIANCE))

    gate = fit_gate(base, preference, calls)
    best = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-8})
    assert loss(gate) == pytest.approx(best.fun, abs=1e-6)
    np.testing.assert_allclose(gate, best.x, atol=0.02)
    assert gate[0] > 0 > gate[1]


def test_fit_gate_prefers_better_component() -> None:
    calls = np.arange(1, 50)
    likely, impossible = np.full(49, 0.9), np.zeros(49)

    def alpha(theta: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-(theta[0] + theta[1] * np.log1p(calls)))))

    assert alpha(fit_gate(likely, impossible, calls)).min() > 0.95
    assert alpha(fit_gate(impossible + 1e-9, likely, calls)).max() < 0.05
    assert fit_gate(likely, likely, calls).tolist() == [0, 0]
    assert fit_gate(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)).tolist() == [0, 0]
