from __future__ import annotations

import numpy as np
import pytest

from dagrec.errors import ConfigError
from dagrec.models.hybrid.nested import make_members, nest, unnest
from tests.checks import says


def test_make_members_uses_labels_and_options() -> None:
    members = make_members({"markov": {"order": 1}, "second": {"recommender": "markov"}}, seed=3)
    assert [member.name for member in members.values()] == ["markov", "markov"]
    assert members["markov"].config.order == 1  # type: ignore[attr-defined]
    assert {member.seed for member in members.values()} == {3}
    with pytest.raises(ConfigError) as error:
        make_members({"nobody": {}}, seed=0)
    assert says(error, "nobody")


def test_unnest_inverts_nest() -> None:
    state = {"a": np.ones(2), "b/c": np.zeros(1)}
    nested = nest("x", state) | nest("xy", {"a": np.ones(1)})
    assert set(nested) == {"x/a", "x/b/c", "xy/a"}
    assert unnest("x", nested).keys() == state.keys()
