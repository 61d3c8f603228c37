"""The protocol that hides services from training and tests on them."""

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


def known(example: Example) -> set[str]:
    """All that is known at the moment of an example: path, upstream of the frontier, its children."""
    source = example.context.composition
    assert source is not None
    around = (*example.context.upstream(), *example.context.children)
    return {*example.context.path, *(source.by_id[id_].key for id_ in around)}


@pytest.mark.parametrize("share", SHARES)
def test_training_knows_nothing_of_hidden_services_and_only_they_are_tested(
    share: float, examples: tuple[Example, ...]
) -> None:
    split = split_cold_services(examples, share, rng(3))
    services = {e.target for e in examples}
    hidden = set(split.services)
    assert hidden < services
    assert len(hidden) == min(ceil(len(services) * share), len(services) - 1)
    for example in split.train:
        assert not hidden & {*known(example), example.target}
    for example in split.test:
        assert example.target in hidden
        assert not hidden & known(example)
    # Nothing else is left out.
    clear = [e for e in examples if not hidden & known(e)]
    assert len(split.train) + len(split.test) == len(clear)


def test_seeds_hide_different_services(examples: tuple[Example, ...]) -> None:
    found = [split_cold_services(examples, 0.3, rng(seed)) for seed in range(5)]
    assert len({tuple(split.services) for split in found}) == 5
    assert len({split.fingerprint for split in found}) == 5


def hiding(examples: Sequence[Example], *wanted: str, share: float) -> Split:
    """The split of a seed that hides just these services."""
    for seed in range(200):
        split = split_cold_services(examples, share, rng(seed))
        if set(split.services) == set(wanted):
            return split
    raise AssertionError(f"no seed hides {wanted}")


def test_what_is_seen_beside_the_path_counts_as_known() -> None:
    """Upstream of c is the hidden b, though not on each path; and b is a child that a has already."""
    whole = dag("t a b c d", "t>a a>b a>c b>c c>d")
    split = hiding(extract([whole])[0], "b", share=0.25)
    assert [(e.context.path, e.target) for e in split.train] == [
        (("t",), "a"),
        (("t",), "a"),
        (("t", "a"), "c"),
    ]
    assert [(e.context.path, e.target) for e in split.test] == [(("t", "a"), "b")]
    links = extract([whole], ExampleOptions(form="links"))[0]
    split = hiding(links, "b", share=0.25)
    assert [(e.context.path[-1], e.target) for e in split.train] == [("t", "a")]
    assert [(e.context.path[-1], e.target) for e in split.test] == [("a", "b")]


def test_hidden_services_stay_candidates_with_the_texts_of_their_nodes() -> None:
    def said(id_: str, text: str | None) -> Composition:
        plain = dag("t a b", "t>a t>b", id=id_)
        nodes = [replace(n, text=text if n.key == "a" else "other") for n in plain.nodes]
        return compose(id_, nodes, plain.links)[0]

    compositions = [said(str(i), text) for i, text in enumerate(["x", None, "y", "y", "x", "y", None])]
    split = hiding(extract(compositions)[0], "a", share=0.5)
    assert dict(split.services) == {"a": "y"}
    assert dict(hiding(pairs_of("a", "b"), "a", share=0.5).services) == {"a": ""}
    data = TrainingData.of(split.train, services=split.services)
    assert data.vocabulary.services == ("a", "b")
    assert not data.graph.popularity[data.vocabulary.columns["a"]]


def test_parts_that_nothing_is_left_for_are_refused() -> None:
    through = extract([dag("t a b", "t>a a>b")])[0]
    after_itself = extract([dag("x:b y:b t z:c", "x>y t>z")])[0]
    # These seeds hide a, and b.
    for examples, seed, part in [(through, 1, "trains"), (after_itself, 1, "tests")]:
        with pytest.raises(DataError) as error:
            split_cold_services(examples, 0.5, rng(seed))
        assert error.value.rule == "too-few"
        assert says(error, "hides 1 of 2 services", f"found none that {part}", "--test-share")


def test_one_service_is_too_few_to_hide() -> None:
    with pytest.raises(DataError) as error:
        split_cold_services(pairs_of("a", "a"), 0.3, rng())
    assert error.value.rule == "too-few"
    assert says(error, "at least two services", "found 1", "use more data")


def test_candidates_beside_the_parts_tell_splits_apart() -> None:
    one, two = pairs_of("a", "b")
    splits = [
        Split((one,), (two,), services=s) for s in ({}, {"b": ""}, {"b": "x"}, {"b": "", "c": ""})
    ]
    assert len({split.fingerprint for split in splits}) == 4
