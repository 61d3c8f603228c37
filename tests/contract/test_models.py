"""What every recommender must do. The registry says which there are: adding one needs no line here.

A recommender that may break a rule stands in ``EXCEPTIONS`` with the reason, and must break it.
"""

from __future__ import annotations

import itertools
import json
import pickle
import random
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dagrec.data.compositions import Composition, Node, compose
from dagrec.data.examples import Context, context_at, extract
from dagrec.data.vocabulary import Contexts
from dagrec.errors import ConfigError, DataError, NotFittedError, StoreError
from dagrec.models.base import Recommender
from dagrec.models.registry import MODELS, create, recommender_class
from dagrec.models.training_data import TrainingData
from dagrec.training.loop import NetworkTrainer
from dagrec.types import Options, Scores
from tests.checks import says
from tests.worlds import World, chain, checkerboard, everything

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(recommender, test) -> why the rule does not hold for it."""

SMALL: dict[str, dict[str, Any]] = {
    "auto": {"candidates": ("markov", "vsknn"), "folds": 2},
    "ensemble": {"base_options": {"epochs": 40, "learning_rate": 0.02}, "seeds": 2},
    "blend": {"members": {"markov": {}, "stan": {}}, "folds": 2},
    # Norms behind the sums, as published, need small steps.
    "dagformer": {"learning_rate": 0.005},
    "deepdag": {"learning_rate": 0.005},
    "pagt": {"base_options": {"epochs": 40, "learning_rate": 0.02}, "folds": 2},
}
"""Recommender -> options that make it quick to train, where the general ones are not enough."""

TRAINER = NetworkTrainer(device="cpu")
WORLD = everything()
KNOWN = WORLD.data.vocabulary, WORLD.data.graph
NOBODY = Context(("nobody", "knows"))
EMPTY = Context(())


def options(name: str, epochs: int) -> dict[str, Any]:
    """Options with which a recommender learns a tiny world in a moment."""
    if recommender_class(name).traits.gradient_trained:
        quick = {"epochs": epochs, "least_steps": 0, "learning_rate": 0.02}
        return quick | SMALL.get(name, {})
    return SMALL.get(name, {})


def new(name: str, *, seed: int = 0, epochs: int = 3) -> Recommender:
    return create(name, options(name, epochs), seed=seed)


@cache
def fitted(name: str) -> Recommender:
    """A recommender that knows all worlds a little; for tests that only ask it."""
    return new(name).fit(WORLD.data, TRAINER)


def asked() -> Contexts:
    """Contexts of all lengths: with and without a composition, known, half known and empty."""
    origins = WORLD.data.contexts.origins
    half_known = [Context((*c.path[:-1], "nobody", c.path[-1])) for c in origins[::3]]
    return WORLD.data.vocabulary.encode([*origins, NOBODY, *WORLD.contexts, EMPTY, *half_known])


def close(a: Scores, b: Scores) -> bool:
    """Equal but for the order in which a batch is summed up."""
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return True


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
    with pytest.raises(ConfigError) as error:
        create(name, {"no_such_option": 1})
    assert says(error, name, "no_such_option", "found 1")


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
    assert np.array_equal(
        new(name).fit(WORLD.data, TRAINER).score(asked()), fitted(name).score(asked())
    )


def test_global_generators_stay_untouched(name: str) -> None:
    def states() -> tuple[object, ...]:
        return random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()

    before = states()
    new(name).fit(WORLD.data, TRAINER).score(asked())
    assert states() == before


def test_global_generators_change_nothing(name: str) -> None:
    state = torch.get_rng_state()
    try:
        torch.manual_seed(12345)
        random.seed(12345)
        scores = new(name).fit(WORLD.data, TRAINER).score(asked())
    finally:
        torch.set_rng_state(state)
    assert np.array_equal(scores, fitted(name).score(asked()))


def test_a_second_fit_starts_from_scratch(name: str) -> None:
    model = new(name)
    model.fit(chain().data, TRAINER)
    model.fit(WORLD.data, TRAINER)
    assert np.array_equal(model.score(asked()), fitted(name).score(asked()))
    assert model.history == fitted(name).history


def test_fit_leaves_its_data_as_they_were(name: str) -> None:
    data = everything().data
    contexts, graph = data.contexts, data.graph.state()
    arrays = [contexts.nodes, contexts.lengths, data.rows, data.targets, *data.pairs, *graph.values()]
    before = [array.copy() for array in arrays]
    new(name).fit(data, TRAINER)
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
        new(name).fit(empty, TRAINER)
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
    assert best(new(ordered, epochs=60).fit(world.data, TRAINER), world) == world.certain


def test_colours_of_the_checkerboard_are_told_apart(ordered: str) -> None:
    world = checkerboard()
    model = new(ordered, epochs=60).fit(world.data, TRAINER)
    scores = model.score(world.data.vocabulary.encode(world.contexts))
    for context, row in zip(world.contexts, scores, strict=True):
        first = world.data.vocabulary.services[int(row.argmax())]
        assert first.split("_")[0] == context.path[0].removeprefix("table_")


@pytest.mark.parametrize("name", [name for name in MODELS if not new(name).needs_trainer])
def test_renaming_nodes_permutes_the_scores(name: str) -> None:
    data = WORLD.data
    keys = [*data.vocabulary.services, *data.vocabulary.others]
    names = {key: f"{len(keys) - i:03d}" for i, key in enumerate(keys)}
    renamed = TrainingData.of(extract([rename(c, names) for c in WORLD.compositions])[0])
    columns = [renamed.vocabulary.columns[names[key]] for key in data.vocabulary.services]
    scores = new(name).fit(renamed).score(renamed.vocabulary.encode(renamed.contexts.origins))
    assert columns != sorted(columns)
    assert close(scores[:, columns], new(name).fit(data).score(data.contexts))


def rename(composition: Composition, names: dict[str, str]) -> Composition:
    nodes = [Node(n.id, names[n.key], n.kind, n.text, n.time) for n in composition.nodes]
    return compose(
        composition.id,
        nodes,
        composition.links,
        owner=composition.owner,
        time=composition.time,
    )[0]


# Saving


def other_values(default: object) -> Iterator[object]:
    """Values that an option may take in place of its default, the quick ones first."""
    if isinstance(default, Options):
        yield from off_default(type(default))
    elif isinstance(default, bool):
        yield not default
    elif isinstance(default, str):
        # The last is a file of text vectors.
        vectors = Path(__file__).parents[1] / "models" / "hybrid" / "vectors.safetensors"
        yield from ("a", "b", "popularity", str(vectors))
    elif isinstance(default, float):
        yield from (default / 2, 0.25, 0.5, default * 2)
    elif isinstance(default, tuple):
        yield default[:1]
    elif isinstance(default, dict):
        yield from ([dict([*default.items()][:1])] if default else [{"mu": 3.0}, {"read": "upstream"}])
    else:
        yield from (2, 3, 1, True, 0.5)


def fits(class_: type[Options], values: Mapping[str, object]) -> bool:
    """Whether a configuration may have all of these values, and has another in each of their fields."""
    defaults = class_()
    try:
        config = class_.model_validate(values)
    except ValidationError:
        return False
    return all(getattr(config, field) != getattr(defaults, field) for field in values)


def off_default(class_: type[Options]) -> list[Options]:
    """Configurations such that every field is off its default in one of them: some exclude others."""
    choices = {
        field: (*getattr(about.annotation, "__args__", ()), *other_values(about.get_default()))
        for field, about in class_.model_fields.items()
    }
    left, found = list(choices), []
    while left:
        values: dict[str, object] = {}
        for field in left:
            # Some options need another one, which may have to change again for them.
            trials = itertools.chain(
                (values | {field: value} for value in choices[field]),
                (
                    values | {other: another, field: value}
                    for other in choices
                    for another in choices[other]
                    for value in choices[field]
                ),
            )
            values = next((trial for trial in trials if fits(class_, trial)), values)
        assert left[0] in values, f"{class_.__name__}.{left[0]}: teach other_values a value for it"
        left = [field for field in left if field not in values]
        found.append(class_.model_validate(values))
    return found


def test_save_and_load_give_the_same_scores_with_every_option_off_its_default(
    name: str, tmp_path: Path
) -> None:
    class_ = recommender_class(name)
    configs, defaults = off_default(class_.Config), class_.Config()
    for field in class_.Config.model_fields:
        assert any(getattr(config, field) != getattr(defaults, field) for config in configs)
    for config in configs:
        model = class_(config, seed=4).fit(WORLD.data, TRAINER)
        model.save(tmp_path, WORLD.data.vocabulary)
        about = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
        loaded = recommender_class(about["recommender"]).load(
            tmp_path, about, WORLD.data.vocabulary, WORLD.data.graph
        )
        assert type(loaded) is class_
        assert loaded.config == config
        assert loaded.seed == 4
        assert loaded.history == model.history
        assert loaded.parameters() == model.parameters()
        assert np.array_equal(loaded.score(asked()), model.score(asked()))


def test_a_saved_recommender_is_plain_numbers_and_json(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path, WORLD.data.vocabulary)
    files = {path.name for path in tmp_path.rglob("*")}
    assert files == {"model.json", "tensors.safetensors"}
    assert json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))["recommender"] == name
    assert {array.dtype.kind for array in fitted(name).state().values()} <= set("biuf")


def test_a_restored_recommender_can_be_fitted_again(name: str) -> None:
    vocabulary, graph = WORLD.data.vocabulary, WORLD.data.graph
    model = new(name).restore(fitted(name).state(), vocabulary, graph)
    assert np.array_equal(model.score(asked()), fitted(name).score(asked()))
    assert np.array_equal(model.fit(WORLD.data, TRAINER).score(asked()), fitted(name).score(asked()))


def test_a_damaged_state_is_refused(name: str) -> None:
    state = fitted(name).state()
    for key, array in state.items():
        rest = {other: value for other, value in state.items() if other != key}
        damaged = [rest, rest | {key: array[:-1]}, rest | {key: np.concatenate([array, array[-1:]])}]
        for broken in damaged:
            with pytest.raises(StoreError) as error:
                new(name).restore(broken, WORLD.data.vocabulary, WORLD.data.graph)
            assert says(error, name, "train it again")


def test_the_state_of_another_vocabulary_is_refused(name: str) -> None:
    small = chain().data
    with pytest.raises(StoreError) as error:
        new(name).restore(fitted(name).state(), small.vocabulary, small.graph)
    assert says(error, name, "train it again")


def test_parameters_are_counted(name: str) -> None:
    expected = sum(int(np.prod(array.shape)) for array in fitted(name).state().values())
    assert fitted(name).parameters() == expected > 0
