from __future__ import annotations

import numpy as np
import pytest

from dagrec.errors import ConfigError
from dagrec.models.hybrid.nested import make_members, nest, nested
from tests.checks import says


def test_members_are_made_from_their_labels() -> None:
    made = make_members({"markov": {"order": 1}, "second": {"recommender": "markov"}}, seed=3)
    assert [member.name for member in made.values()] == ["markov", "markov"]
    assert made["markov"].config.order == 1  # type: ignore[attr-defined]
    assert {member.seed for member in made.values()} == {3}
    with pytest.raises(ConfigError) as error:
        make_members({"nobody": {}}, seed=0)
    assert says(error, "nobody")


def test_states_stand_under_their_labels() -> None:
    state = {"a": np.ones(2), "b/c": np.zeros(1)}
    both = nest("x", state) | nest("xy", {"a": np.ones(1)})
    assert set(both) == {"x/a", "x/b/c", "xy/a"}
    assert nested("x", both).keys() == state.keys()
