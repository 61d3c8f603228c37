from __future__ import annotations

import pytest

from dagrec.training.runtime import Runtime, current_runtime, use_runtime


def test_the_innermost_runtime_is_the_current_one() -> None:
    before, outer, inner = current_runtime(), Runtime("cpu"), Runtime("cpu", threads=2)
    with use_runtime(outer) as found:
        assert found is current_runtime() is outer
        with use_runtime(inner):
            assert current_runtime() is inner
        assert current_runtime() is outer
    assert current_runtime() is before


def test_an_error_ends_the_use_of_a_runtime() -> None:
    before = current_runtime()
    with pytest.raises(KeyError), use_runtime(Runtime("cpu")):
        raise KeyError
    assert current_runtime() is before


def test_each_runtime_has_finished_trainings_of_its_own() -> None:
    assert Runtime().finished is not Runtime().finished
