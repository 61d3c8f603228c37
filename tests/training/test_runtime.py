from __future__ import annotations

import pytest

from dagrec.training.runtime import Runtime, current_runtime, use_runtime


def test_current_runtime_is_innermost() -> None:
    before, outer, inner = current_runtime(), Runtime("cpu"), Runtime("cpu", threads=2)
    with use_runtime(outer) as runtime:
        assert runtime is current_runtime() is outer
        with use_runtime(inner):
            assert current_runtime() is inner
        assert current_runtime() is outer
    assert current_runtime() is before


def test_runtime_is_restored_after_error() -> None:
    before = current_runtime()
    with pytest.raises(KeyError), use_runtime(Runtime("cpu")):
        raise KeyError
    assert current_runtime() is before


def test_runtimes_do_not_share_finished_trainings() -> None:
    assert Runtime().finished is not Runtime().finished
