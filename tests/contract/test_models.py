"""Requirements of every registered recommender; a new one is tested without changes here.

A recommender that does not meet a requirement is listed in ``EXCEPTIONS`` with the reason. Its test
must then fail.
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
    EMPTY_CONTEXT,
    SPECIAL_OPTIONS,
    UNKNOWN_CONTEXT,
    VOCABULARY_AND_GRAPH,
    WORLD,
    assert_scores_close,
    fitted,
    make,
    quick_options,
    sample_contexts,
)
from tests.worlds import World, chain, checkerboard, everything

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(recommender, test) -> reason."""


def prior(data: TrainingData) -> Scores:
    """Return log((N(y) + 1) / (N + C)), computed by a plain loop."""
    services = data.vocabulary.services
    counts = [sum(e.target == y for e in data.examples) for y in services]
    total = len(data.examples) + len(services)
    return np.log([(count + 1) / total for count in counts]).astype(np.float32)


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    """Each registered recommender; tests in ``EXCEPTIONS`` are marked as expected failures."""
    key = (request.param, request.function.__name__)
    if key in EXCEPTIONS:
        request.applymarker(
            pytest.mark.xfail(raises=AssertionError, reason=EXCEPTIONS[key], strict=True)
        )
    return str(request.param)


@pytest.fixture(params=[name for name in MODELS if recommender_class(name).traits.order_aware])
def ordered(request: pytest.FixtureRequest) -> str:
    """Each recommender with the trait ``order_aware``."""
    return str(request.param)


def test_exceptions_name_existing_recommenders_and_tests() -> None:
    tests = {name for name in globals() if name.startswith("test_")}
    assert all(model in MODELS and test in tests for model, test in EXCEPTIONS)
    assert set(SPECIAL_OPTIONS) <= set(MODELS)


# Definition


def test_name_equals_registry_key_and_file_name(name: str) -> None:
    class_ = recommender_class(name)
    file = sys.modules[class_.__module__].__file__
    assert class_.name == name
    assert file is not None
    assert Path(file).stem == name


def test_recommender_has_paper_and_module_docstring(name: str) -> None:
    class_ = recommender_class(name)
    assert class_.paper.strip()
    assert sys.modules[class_.__module__].__doc__


def test_every_option_has_a_description(name: str) -> None:
    fields = recommender_class(name).Config.model_fields
    assert [field for field, info in fields.items() if not info.description] == []


def test_unknown_option_is_rejected(name: str) -> None:
    for constructor in (create, lambda name, options: recommender_class(name)(**options)):
        with pytest.raises(ConfigError) as error:
            constructor(name, {"no_such_option": 1})
        assert says(error, name, "no_such_option", "found 1")


def test_constructor_accepts_options_as_keywords(name: str) -> None:
    model = recommender_class(name)(**quick_options(name, epochs=3), seed=2)
    assert model.config == make(name).config
    assert model.seed == 2


# Scores


def test_scores_are_finite_float32_for_every_service(name: str) -> None:
    contexts = sample_contexts()
    scores = fitted(name).score(contexts)
    assert scores.dtype == np.float32
    assert scores.shape == (len(contexts), len(WORLD.data.vocabulary.services))
    assert np.isfinite(scores).all()


def test_score_of_empty_batch_is_empty(name: str) -> None:
    scores = fitted(name).score(WORLD.data.vocabulary.encode([]))
    assert scores.dtype == np.float32
    assert scores.shape == (0, len(WORLD.data.vocabulary.services))


def test_scores_do_not_depend_on_batch(name: str) -> None:
    contexts, model = sample_contexts(), fitted(name)
    single = [model.score(contexts.take(np.array([row]))) for row in range(len(contexts))]
    assert_scores_close(model.score(contexts), np.concatenate(single))


def test_scores_do_not_depend_on_row_order(name: str) -> None:
    contexts, model = sample_contexts(), fitted(name)
    order = np.random.default_rng(0).permutation(len(contexts))
    assert_scores_close(model.score(contexts.take(order)), model.score(contexts)[order])


def test_scores_do_not_depend_on_padding(name: str) -> None:
    contexts, model = sample_contexts(), fitted(name)
    wider = Contexts(np.pad(contexts.nodes, ((0, 0), (0, 7))), contexts.lengths, contexts.origins)
    assert_scores_close(model.score(wider), model.score(contexts))


def test_score_changes_neither_recommender_nor_contexts(name: str) -> None:
    contexts, model = sample_contexts(), fitted(name)
    before = pickle.dumps((model, contexts.nodes, contexts.lengths))
    model.score(contexts)
    assert pickle.dumps((model, contexts.nodes, contexts.lengths)) == before


def test_context_without_known_nodes_gets_the_prior(name: str) -> None:
    encoded = WORLD.data.vocabulary.encode([UNKNOWN_CONTEXT])
    assert_scores_close(fitted(name).score(encoded), prior(WORLD.data)[None])


def test_empty_context_gets_the_prior(name: str) -> None:
    encoded = WORLD.data.vocabulary.encode([EMPTY_CONTEXT])
    assert encoded.lengths.tolist() == [0]
    assert_scores_close(fitted(name).score(encoded), prior(WORLD.data)[None])


@pytest.mark.parametrize("position", [0, 1, 2])
def test_scores_are_finite_with_unknown_node_in_path(name: str, position: int) -> None:
    path = ["table_a", "extract"]
    path.insert(position, "unknown")
    scores = fitted(name).score(WORLD.data.vocabulary.encode([Context(tuple(path))]))
    assert np.isfinite(scores).all()


def test_scores_are_finite_for_compositions_with_branches(name: str) -> None:
    unfinished, _ = compose(
        "request",
        [Node("1", "table_a", "table"), Node("2", "extract"), Node("3", "new"), Node("4", "split")],
        [("1", "2"), ("1", "3"), ("2", "4")],
    )
    contexts = [context_at(unfinished, node) for node in ("1", "2", "3", "4")]
    assert np.isfinite(fitted(name).score(WORLD.data.vocabulary.encode(contexts))).all()


def test_embeddings_are_finite_copies_for_nodes_and_services(name: str) -> None:
    model = make(name).restore(fitted(name).state(), *VOCABULARY_AND_GRAPH)
    vocabulary = WORLD.data.vocabulary
    before = model.score(sample_contexts())
    embeddings = model.embeddings()
    rows = {"nodes": len(vocabulary.services) + len(vocabulary.others)}
    rows |= {"services": len(vocabulary.services)}
    for part, vectors in embeddings.items():
        assert vectors.dtype == np.float64
        assert (vectors.ndim, len(vectors)) == (2, rows[part])
        assert np.isfinite(vectors).all()
    again = fitted(name).embeddings()
    assert all(np.array_equal(again[part], vectors) for part, vectors in embeddings.items())
    for vectors in embeddings.values():
        vectors[:] = 0
    assert np.array_equal(model.score(sample_contexts()), before)


# Fitting


def test_fit_is_deterministic(name: str) -> None:
    scores = make(name).fit(WORLD.data).score(sample_contexts())
    assert np.array_equal(scores, fitted(name).score(sample_contexts()))


def test_fit_and_score_keep_global_random_state(name: str) -> None:
    def states() -> tuple[object, ...]:
        return random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()

    before = states()
    make(name).fit(WORLD.data).score(sample_contexts())
    assert states() == before


def test_fit_does_not_depend_on_global_random_state(name: str) -> None:
    state = torch.get_rng_state()
    try:
        torch.manual_seed(12345)
        random.seed(12345)
        scores = make(name).fit(WORLD.data).score(sample_contexts())
    finally:
        torch.set_rng_state(state)
    assert np.array_equal(scores, fitted(name).score(sample_contexts()))


def test_second_fit_discards_the_first(name: str) -> None:
    model = make(name)
    model.fit(chain().data)
    model.fit(WORLD.data)
    assert np.array_equal(model.score(sample_contexts()), fitted(name).score(sample_contexts()))
    assert model.history == fitted(name).history


def test_fit_does_not_change_its_data(name: str) -> None:
    data = everything().data
    contexts, graph = data.contexts, data.graph.state()
    arrays = [contexts.nodes, contexts.lengths, data.rows, data.targets, *data.pairs, *graph.values()]
    before = [array.copy() for array in arrays]
    make(name).fit(data)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))
    assert data.examples == WORLD.data.examples
    assert data.vocabulary == WORLD.data.vocabulary
    assert data.contexts.origins == WORLD.data.contexts.origins


def test_unfitted_recommender_raises_not_fitted_error(name: str, tmp_path: Path) -> None:
    calls = [
        lambda: make(name).score(sample_contexts()),
        lambda: make(name).state(),
        lambda: make(name).parameters(),
        lambda: make(name).embeddings(),
        lambda: make(name).save(tmp_path, WORLD.data.vocabulary),
    ]
    for call in calls:
        with pytest.raises(NotFittedError) as error:
            call()
        assert says(error, name, "fit(data)")


def test_fit_rejects_data_without_examples(name: str) -> None:
    empty = TrainingData(
        (),
        WORLD.data.vocabulary,
        WORLD.data.graph,
        WORLD.data.vocabulary.encode([]),
        np.zeros(0, dtype=np.int64),
        np.zeros(0, dtype=np.int64),
    )
    with pytest.raises(DataError) as error:
        make(name).fit(empty)
    assert says(error, name, "at least one example", "found none")
    assert error.value.rule == "no-examples"


def best(model: Recommender, world: World) -> dict[tuple[str, ...], str]:
    """Return the highest-ranked service for each path of ``world.certain``."""
    contexts = [context for context in world.contexts if context.path in world.certain]
    scores = model.score(world.data.vocabulary.encode(contexts))
    services = world.data.vocabulary.services
    return {c.path: services[int(row.argmax())] for c, row in zip(contexts, scores, strict=True)}


def enough_epochs(name: str) -> int:
    """The number of epochs in which a network learns a small world, about twice what it needs."""
    return 60 if name == "pinsage" else 30


def test_order_aware_recommender_learns_a_chain(ordered: str) -> None:
    world = chain()
    assert best(make(ordered, epochs=enough_epochs(ordered)).fit(world.data), world) == world.certain


def test_order_aware_recommender_learns_colours_of_checkerboard(ordered: str) -> None:
    world = checkerboard()
    model = make(ordered, epochs=enough_epochs(ordered)).fit(world.data)
    scores = model.score(world.data.vocabulary.encode(world.contexts))
    for context, row in zip(world.contexts, scores, strict=True):
        service = world.data.vocabulary.services[int(row.argmax())]
        assert service.split("_")[0] == context.path[0].removeprefix("table_")


def make_with_markov_base(name: str) -> Recommender:
    """Return an unfitted recommender; the base of a hybrid is markov instead of a network.

    Networks draw initial weights node by node, so they depend on the order of names.
    """
    base = {"base": "markov", "base_options": {}}
    has_base = base.keys() <= recommender_class(name).Config.model_fields.keys()
    return create(name, quick_options(name, epochs=3) | (base if has_base else {}))


@pytest.mark.parametrize(
    "name", [name for name in MODELS if not recommender_class(name).traits.gradient_trained]
)
def test_renamed_nodes_permute_the_scores(name: str) -> None:
    data = WORLD.data
    keys = [*data.vocabulary.services, *data.vocabulary.others]
    new_keys = {key: f"{len(keys) - i:03d}" for i, key in enumerate(keys)}
    renamed = TrainingData.of(extract([rename(c, new_keys) for c in WORLD.compositions])[0])
    columns = [renamed.vocabulary.columns[new_keys[key]] for key in data.vocabulary.services]
    contexts = renamed.vocabulary.encode(renamed.contexts.origins)
    scores = make_with_markov_base(name).fit(renamed).score(contexts)
    assert columns != sorted(columns)
    expected = make_with_markov_base(name).fit(data).score(data.contexts)
    assert_scores_close(scores[:, columns], expected)


def rename(composition: Composition, new_keys: dict[str, str]) -> Composition:
    nodes = [Node(n.id, new_keys[n.key], n.kind, n.text, n.time) for n in composition.nodes]
    return compose(
        composition.id,
        nodes,
        composition.links,
        owner=composition.owner,
        time=composition.time,
    )[0]
