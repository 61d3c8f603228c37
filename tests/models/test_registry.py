from __future__ import annotations

import pytest

from dagrec.errors import ConfigError
from dagrec.models.base import Recommender
from dagrec.models.counting.markov import Markov, MarkovConfig
from dagrec.models.registry import MODELS, create, family, recommender_class
from tests.checks import says

FAMILIES = {"counting", "linear", "factorisation", "sequence", "dag", "bipartite", "hybrid"}


@pytest.mark.parametrize("name", MODELS)
def test_entry_is_recommender_of_known_family(name: str) -> None:
    assert issubclass(recommender_class(name), Recommender)
    assert family(name) in FAMILIES


def test_classes_are_unique() -> None:
    assert len(set(MODELS.values())) == len(MODELS)


def test_unknown_name_error_lists_all_names() -> None:
    with pytest.raises(ConfigError) as error:
        recommender_class("oracle")
    assert says(error, "'oracle'", *MODELS)


def test_misspelt_name_error_suggests_nearest_name() -> None:
    with pytest.raises(ConfigError) as error:
        recommender_class("Gru4re")
    assert says(error, "'Gru4re'", "did you mean gru4rec")


def test_missing_package_error_names_package_and_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "ghost", "no_such_package.ghost:Ghost")
    with pytest.raises(ConfigError) as error:
        recommender_class("ghost")
    assert says(error, "'ghost'", "'no_such_package'", "not installed", "dagrec[train]")


def test_create_uses_defaults_for_other_options() -> None:
    model = create("markov", {"mu": 2}, seed=5)
    assert isinstance(model, Markov)
    assert model.config == MarkovConfig(mu=2.0)
    assert model.seed == 5


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"mu": 0}, ("mu", "greater than 0", "found 0")),
        ({"mu": float("nan")}, ("mu", "finite", "found nan")),
        ({"mu": "much"}, ("mu", "number", "found 'much'")),
        ({"order": 1.5}, ("order", "integer", "found 1.5")),
        ({"order": 129}, ("order", "128", "found 129")),
        ({"ordre": 2}, ("ordre", "found 2", "did you mean order?")),
        ({"order": 0, "mu": -1}, ("order", "mu", "found 0", "found -1")),
    ],
)
def test_create_error_names_invalid_option(options: dict[str, object], parts: tuple[str]) -> None:
    with pytest.raises(ConfigError) as error:
        create("markov", options)
    assert says(error, "'markov'", *parts)


def test_configuration_is_frozen() -> None:
    model = create("markov")
    with pytest.raises(ValueError, match="frozen"):
        model.config.mu = 3.0  # type: ignore[attr-defined]
