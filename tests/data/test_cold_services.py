"""The cold-services protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import pytest

from dagrec.data.compositions import Composition, compose
from dagrec.data.examples import Example, ExampleOptions, extract
from dagrec.data.splits import (
    Split,
    split_cold_services,
)
from dagrec.errors import DataError
from dagrec.training.data import TrainingData
from tests.checks import says
from tests.data.dags import dag
from tests.data.parts import SHARES, pairs_of, rng


def context_keys(example: Example) -> set[str]:
    """The keys on the path, upstream of the frontier, and of its children."""
    composition = example.context.composition
    assert composition is not None
    ids = (*example.context.upstream(), *example.context.children)
    return {*example.context.path, *(composition.by_id[id_].key for id_ in ids)}


@pytest.mark.parametrize("share", SHARES)
def test_hidden_services_are_only_in_test_targets(share: float, examples: tuple[Example, ...]) -> None:
    split = split_cold_services(examples, share, rng(3))
    services = {e.target for e in examples}
    hidden = set(split.services)
    assert hidden < services
    assert len(hidden) == min(ceil(len(services) * share), len(services) - 1)
    for example in split.train:
        assert not hidden & {*context_keys(example), example.target}
    for example in split.test:
        assert example.target in hidden
        assert not hidden & context_keys(example)
    # All other examples are used.
    visible = [e for e in examples if not hidden & context_keys(e)]
    assert len(split.train) + len(split.test) == len(visible)


def test_seeds_hide_different_services(examples: tuple[Example, ...]) -> None:
    splits = [split_cold_services(examples, 0.3, rng(seed)) for seed in range(5)]
    assert len({tuple(split.services) for split in splits}) == 5
    assert len({split.fingerprint for split in splits}) == 5


def hiding(examples: Sequence[Example], *services: str, share: float) -> Split:
    """A split that hides exactly these services."""
    for seed in range(200):
        split = split_cold_services(examples, share, rng(seed))
        if set(split.services) == set(services):
            return split
    raise AssertionError(f"no seed hides {services}")


def test_examples_with_hidden_service_upstream_or_among_children_are_left_out() -> None:
    """The hidden b is upstream of c, though not on each path, and is a child of a."""
    composition = dag("t a b c d", "t>a a>b a>c b>c c>d")
    split = hiding(extract([composition])[0], "b", share=0.25)
    assert [(e.context.path, e.target) for e in split.train] == [
        (("t",), "a"),
        (("t",), "a"),
        (("t", "a"), "c"),
    ]
    assert [(e.context.path, e.target) for e in split.test] == [(("t", "a"), "b")]
    links = extract([composition], ExampleOptions(form="links"))[0]
    split = hiding(links, "b", share=0.25)
    assert [(e.context.path[-1], e.target) for e in split.train] == [("t", "a")]
    assert [(e.context.path[-1], e.target) for e in split.test] == [("a", "b")]


def test_hidden_services_can_be_predicted_and_keep_their_texts() -> None:
    def with_text(id_: str, text: str | None) -> Composition:
        plain = dag("t a b", "t>a t>b", id=id_)
        nodes = [replace(n, text=text if n.key == "a" else "other") for n in plain.nodes]
        return compose(id_, nodes, plain.links)[0]

    texts = ["x", None, "y", "y", "x", "y", None]
    compositions = [with_text(str(i), text) for i, text in enumerate(texts)]
    split = hiding(extract(compositions)[0], "a", share=0.5)
    assert dict(split.services) == {"a": "y"}
    assert dict(hiding(pairs_of("a", "b"), "a", share=0.5).services) == {"a": ""}
    data = TrainingData.of(split.train, services=split.services)
    assert data.vocabulary.services == ("a", "b")
    assert not data.graph.popularity[data.vocabulary.columns["a"]]


def test_cold_services_split_rejects_empty_parts() -> None:
    through = extract([dag("t a b", "t>a a>b")])[0]
    after_itself = extract([dag("x:b y:b t z:c", "x>y t>z")])[0]
    # Seed 1 hides a in the first case and b in the second.
    for examples, seed, part in [(through, 1, "training"), (after_itself, 1, "test")]:
        with pytest.raises(DataError) as error:
            split_cold_services(examples, 0.5, rng(seed))
        assert error.value.rule == "too-few"
        assert says(error, "hides 1 of 2 services", f"found none for the {part} part", "--test-share")


def test_cold_services_split_requires_two_services() -> None:
    with pytest.raises(DataError) as error:
        split_cold_services(pairs_of("a", "a"), 0.3, rng())
    assert error.value.rule == "too-few"
    assert says(error, "at least two services", "found 1", "use more data")


def test_fingerprint_depends_on_additional_services() -> None:
    one, two = pairs_of("a", "b")
    splits = [
        Split((one,), (two,), services=s) for s in ({}, {"b": ""}, {"b": "x"}, {"b": "", "c": ""})
    ]
    assert len({split.fingerprint for split in splits}) == 4
