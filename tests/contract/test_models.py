"""What every recommender must do. The registry says which there are: adding one needs no line here.

A recommender that may break a rule stands in ``EXCEPTIONS`` with the reason, and must break it.
"""

from __future__ import annotations

import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dagrec.data.compositions import Composition, Node, compose
from dagrec.data.examples import Context, context_at, extract
from dagrec.data.vocabulary import Contexts
from dagrec.errors import ConfigError, DataError, NotFittedError
from dagrec.models.base import Recommender
from dagrec.models.registry import MODELS, create, recommender_class
from dagrec.training.data import TrainingData
from dagrec.types import Scores
from tests.checks import says
from tests.contract.recommenders import (
    EMPTY,
    KNOWN,
    NOBODY,
    SMALL,
    WORLD,
    asked,
    close,
    fitted,
    new,
    options,
)
from tests.worlds import World, chain, checkerboard, everything

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(recommender, test) -> why the rule does not hold for it."""


def prior(data: TrainingData) -> Scores:
    """log((N(y) + 1) / (N + C)), by a plain loop."""
    services = data.vocabulary.services
    counts = [sum(e.target == y for e in data.examples) for y in services]
    total = len(data.examples) + len(services)
    return np.log([(count + 1) / total for count in counts]).astype(np.float32)


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    """Each registered recommender, and its known exception to the rule that is tested."""
    key = (request.param, request.function.__name__)
    if key in EXCEPTIONS:
        request.applymarker(
            pytest.mark.xfail(raises=AssertionError, reason=EXCEPTIONS[key], strict=True)
        )
    return str(request.param)


@pytest.fixture(params=[name for name in MODELS if recommender_class(name).traits.order_aware])
def ordered(request: pytest.FixtureRequest) -> str:
    """Each recommender that says it knows the order of a path."""
    return str(request.param)


def test_exceptions_are_of_recommenders_and_tests_that_exist() -> None:
    tests = {name for name in globals() if name.startswith("test_")}
    assert all(model in MODELS and test in tests for model, test in EXCEPTIONS)
    assert set(SMALL) <= set(MODELS)


# What it is


def test_its_name_is_its_key_and_its_file(name: str) -> None:
    class_ = recommender_class(name)
    file = sys.modules[class_.__module__].__file__
    assert class_.name == name
    assert file is not None
    assert Path(file).stem == name


def test_it_says_where_it_comes_from(name: str) -> None:
    class_ = recommender_class(name)
    assert class_.paper.strip()
    assert sys.modules[class_.__module__].__doc__


def test_every_option_has_a_description(name: str) -> None:
    fields = recommender_class(name).Config.model_fields
    assert [field for field, about in fields.items() if not about.description] == []


def test_an_unknown_option_is_refused_by_name(name: str) -> None:
    for make in (create, lambda name, options: recommender_class(name)(**options)):
        with pytest.raises(ConfigError) as error:
            make(name, {"no_such_option": 1})
        assert says(error, name, "no_such_option", "found 1")


def test_options_may_be_keywords(name: str) -> None:
    chosen = options(name, epochs=3)
    model = recommender_class(name)(**chosen, seed=2)
    assert model.config == new(name).config
    assert model.seed == 2


# Scores


def test_scores_are_finite_float32_of_every_service(name: str) -> None:
    contexts = asked()
    scores = fitted(name).score(contexts)
    assert scores.dtype == np.float32
    assert scores.shape == (len(contexts), len(WORLD.data.vocabulary.services))
    assert np.isfinite(scores).all()


def test_no_contexts_have_no_scores(name: str) -> None:
    scores = fitted(name).score(WORLD.data.vocabulary.encode([]))
    assert scores.dtype == np.float32
    assert scores.shape == (0, len(WORLD.data.vocabulary.services))


def test_a_batch_equals_its_rows_one_by_one(name: str) -> None:
    contexts, model = asked(), fitted(name)
    single = [model.score(contexts.take(np.array([row]))) for row in range(len(contexts))]
    assert close(model.score(contexts), np.concatenate(single))


def test_row_order_does_not_matter(name: str) -> None:
    contexts, model = asked(), fitted(name)
    order = np.random.default_rng(0).permutation(len(contexts))
    assert close(model.score(contexts.take(order)), model.score(contexts)[order])


def test_more_padding_does_not_matter(name: str) -> None:
    contexts, model = asked(), fitted(name)
    wider = Contexts(np.pad(contexts.nodes, ((0, 0), (0, 7))), contexts.lengths, contexts.origins)
    assert close(model.score(wider), model.score(contexts))


def test_score_changes_neither_the_recommender_nor_the_contexts(name: str) -> None:
    contexts, model = asked(), fitted(name)
    before = pickle.dumps((model, contexts.nodes, contexts.lengths))
    model.score(contexts)
    assert pickle.dumps((model, contexts.nodes, contexts.lengths)) == before


def test_only_unknown_nodes_get_the_prior(name: str) -> None:
    encoded = WORLD.data.vocabulary.encode([NOBODY])
    assert close(fitted(name).score(encoded), prior(WORLD.data)[None])


def test_an_empty_context_gets_the_prior(name: str) -> None:
    encoded = WORLD.data.vocabulary.encode([EMPTY])
    assert encoded.lengths.tolist() == [0]
    assert close(fitted(name).score(encoded), prior(WORLD.data)[None])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_unknown_node_in_a_path_leaves_scores_finite(name: str, place: int) -> None:
    path = ["table_a", "extract"]
    path.insert(place, "nobody")
    scores = fitted(name).score(WORLD.data.vocabulary.encode([Context(tuple(path))]))
    assert np.isfinite(scores).all()


def test_other_branches_of_a_request_are_no_error(name: str) -> None:
    unfinished, _ = compose(
        "request",
        [Node("1", "table_a", "table"), Node("2", "extract"), Node("3", "new"), Node("4", "split")],
        [("1", "2"), ("1", "3"), ("2", "4")],
    )
    contexts = [context_at(unfinished, node) for node in ("1", "2", "3", "4")]
    assert np.isfinite(fitted(name).score(WORLD.data.vocabulary.encode(contexts))).all()


def test_embeddings_are_finite_vectors_of_nodes_and_services(name: str) -> None:
    model, vocabulary = new(name).restore(fitted(name).state(), *KNOWN), WORLD.data.vocabulary
    before = model.score(asked())
    found = model.embeddings()
    rows = {"nodes": len(vocabulary.services) + len(vocabulary.others)}
    rows |= {"services": len(vocabulary.services)}
    for part, vectors in found.items():
        assert vectors.dtype == np.float64
        assert (vectors.ndim, len(vectors)) == (2, rows[part])
        assert np.isfinite(vectors).all()
    again = fitted(name).embeddings()
    assert all(np.array_equal(again[part], vectors) for part, vectors in found.items())
    for vectors in found.values():
        vectors[:] = 0  # what is handed out is the caller's
    assert np.array_equal(model.score(asked()), before)


# Learning


def test_the_same_seed_gives_the_same_scores(name: str) -> None:
    assert np.array_equal(new(name).fit(WORLD.data).score(asked()), fitted(name).score(asked()))


def test_global_generators_stay_untouched(name: str) -> None:
    def states() -> tuple[object, ...]:
        return random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()

    before = states()
    new(name).fit(WORLD.data).score(asked())
    assert states() == before


def test_global_generators_change_nothing(name: str) -> None:
    state = torch.get_rng_state()
    try:
        torch.manual_seed(12345)
        random.seed(12345)
        scores = new(name).fit(WORLD.data).score(asked())
    finally:
        torch.set_rng_state(state)
    assert np.array_equal(scores, fitted(name).score(asked()))


def test_a_second_fit_starts_from_scratch(name: str) -> None:
    model = new(name)
    model.fit(chain().data)
    model.fit(WORLD.data)
    assert np.array_equal(model.score(asked()), fitted(name).score(asked()))
    assert model.history == fitted(name).history


def test_fit_leaves_its_data_as_they_were(name: str) -> None:
    data = everything().data
    contexts, graph = data.contexts, data.graph.state()
    arrays = [contexts.nodes, contexts.lengths, data.rows, data.targets, *data.pairs, *graph.values()]
    before = [array.copy() for array in arrays]
    new(name).fit(data)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))
    assert data.examples == WORLD.data.examples
    assert data.vocabulary == WORLD.data.vocabulary
    assert data.contexts.origins == WORLD.data.contexts.origins


def test_an_unfitted_recommender_says_so(name: str, tmp_path: Path) -> None:
    uses = [
        lambda: new(name).score(asked()),
        lambda: new(name).state(),
        lambda: new(name).parameters(),
        lambda: new(name).embeddings(),
        lambda: new(name).save(tmp_path, WORLD.data.vocabulary),
    ]
    for use in uses:
        with pytest.raises(NotFittedError) as error:
            use()
        assert says(error, name, "fit(data)")


def test_data_without_examples_are_refused(name: str) -> None:
    empty = TrainingData(
        (),
        WORLD.data.vocabulary,
        WORLD.data.graph,
        WORLD.data.vocabulary.encode([]),
        np.zeros(0, dtype=np.int64),
        np.zeros(0, dtype=np.int64),
    )
    with pytest.raises(DataError) as error:
        new(name).fit(empty)
    assert says(error, name, "at least one example", "found none")
    assert error.value.rule == "no-examples"


def best(model: Recommender, world: World) -> dict[tuple[str, ...], str]:
    """The first service for each path that has one certain answer."""
    contexts = [context for context in world.contexts if context.path in world.certain]
    scores = model.score(world.data.vocabulary.encode(contexts))
    services = world.data.vocabulary.services
    return {c.path: services[int(row.argmax())] for c, row in zip(contexts, scores, strict=True)}


def test_a_chain_is_learned(ordered: str) -> None:
    world = chain()
    assert best(new(ordered, epochs=60).fit(world.data), world) == world.certain


def test_colours_of_the_checkerboard_are_told_apart(ordered: str) -> None:
    world = checkerboard()
    model = new(ordered, epochs=60).fit(world.data)
    scores = model.score(world.data.vocabulary.encode(world.contexts))
    for context, row in zip(world.contexts, scores, strict=True):
        first = world.data.vocabulary.services[int(row.argmax())]
        assert first.split("_")[0] == context.path[0].removeprefix("table_")


def without_networks(name: str) -> Recommender:
    """A new one. Its base, where it has one, is no network: those draw weights for node after node."""
    base = {"base": "markov", "base_options": {}}
    has_base = base.keys() <= recommender_class(name).Config.model_fields.keys()
    return create(name, options(name, epochs=3) | (base if has_base else {}))


@pytest.mark.parametrize(
    "name", [name for name in MODELS if not recommender_class(name).traits.gradient_trained]
)
def test_renaming_nodes_permutes_the_scores(name: str) -> None:
    data = WORLD.data
    keys = [*data.vocabulary.services, *data.vocabulary.others]
    names = {key: f"{len(keys) - i:03d}" for i, key in enumerate(keys)}
    renamed = TrainingData.of(extract([rename(c, names) for c in WORLD.compositions])[0])
    columns = [renamed.vocabulary.columns[names[key]] for key in data.vocabulary.services]
    contexts = renamed.vocabulary.encode(renamed.contexts.origins)
    scores = without_networks(name).fit(renamed).score(contexts)
    assert columns != sorted(columns)
    assert close(scores[:, columns], without_networks(name).fit(data).score(data.contexts))


def rename(composition: Composition, names: dict[str, str]) -> Composition:
    nodes = [Node(n.id, names[n.key], n.kind, n.text, n.time) for n in composition.nodes]
    return compose(
        composition.id,
        nodes,
        composition.links,
        owner=composition.owner,
        time=composition.time,
    )[0]
