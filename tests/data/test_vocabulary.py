"""Vocabularies and encoded contexts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition
from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context, Example, extract
from dagrec.data.vocabulary import FIRST_SERVICE, PADDING, UNKNOWN, Vocabulary
from tests.data.dags import dag

VOCABULARY = Vocabulary(("a", "b"), ("t",))


def test_services_come_first_and_keys_are_sorted() -> None:
    examples = extract([dag("t2 b a", "t2>b b>a"), dag("t1 c", "t1>c")])[0]
    vocabulary = Vocabulary.of(examples)
    assert vocabulary.services == ("a", "b", "c")
    assert vocabulary.others == ("t1", "t2")
    assert vocabulary.ids == {"a": 2, "b": 3, "c": 4, "t1": 5, "t2": 6}
    assert vocabulary.columns == {"a": 0, "b": 1, "c": 2}
    assert len(vocabulary) == FIRST_SERVICE + 3 + 2


def test_services_include_sources_but_not_nodes_without_examples() -> None:
    examples = extract([dag("start a alone", "start>a")])[0]
    assert Vocabulary.of(examples).services == ("a", "start")


def test_nodes_of_context_without_composition_are_others() -> None:
    example = Example(Context(("start",)), "a", "a", 0)
    assert Vocabulary.of([example]) == Vocabulary(("a",), ("start",))


def test_service_column_is_id_minus_first_service(examples: tuple[Example, ...]) -> None:
    vocabulary = Vocabulary.of(examples)
    assert {key: column + FIRST_SERVICE for key, column in vocabulary.columns.items()}.items() <= (
        vocabulary.ids.items()
    )
    assert sorted(vocabulary.ids.values()) == list(range(FIRST_SERVICE, len(vocabulary)))


def test_vocabulary_does_not_depend_on_order_of_examples(examples: tuple[Example, ...]) -> None:
    vocabulary, reversed_ = Vocabulary.of(examples), Vocabulary.of(examples[::-1])
    assert vocabulary == reversed_
    assert vocabulary.fingerprint == reversed_.fingerprint


def test_fingerprint_differs_between_vocabularies() -> None:
    others = [
        Vocabulary(("a",), ("b", "t")),
        Vocabulary(("a", "b", "t"), ()),
        Vocabulary(("a", "b"), ()),
    ]
    assert len({v.fingerprint for v in (VOCABULARY, *others)}) == 4


def test_encode_pads_right_and_maps_unknown_keys() -> None:
    contexts = [Context(("t", "a", "b")), Context(("new",)), Context(("a", "new", "b")), Context(())]
    encoded = VOCABULARY.encode(contexts)
    t, a, b = (VOCABULARY.ids[key] for key in "tab")
    expected = [[t, a, b], [UNKNOWN, 0, 0], [a, UNKNOWN, b], [0, 0, 0]]
    assert encoded.nodes.tolist() == expected
    assert encoded.nodes.dtype == encoded.lengths.dtype == np.int64
    assert encoded.lengths.tolist() == [3, 1, 3, 0]
    assert encoded.last.tolist() == [b, UNKNOWN, b, PADDING]
    assert encoded.origins == tuple(contexts)
    assert len(encoded) == 4


def test_encode_without_contexts_gives_no_rows() -> None:
    encoded = VOCABULARY.encode([])
    assert encoded.nodes.shape == (0, 1)
    assert encoded.last.shape == (0,)
    assert len(encoded.take(np.array([], dtype=np.int64))) == 0


def test_encode_keeps_newest_nodes_of_long_path() -> None:
    encoded = VOCABULARY.encode([Context(("t", *["a"] * MAX_CONTEXT_LENGTH, "b"))])
    assert encoded.nodes.shape == (1, MAX_CONTEXT_LENGTH)
    assert encoded.nodes[0, 0] == VOCABULARY.ids["a"]
    assert encoded.last[0] == VOCABULARY.ids["b"]


PATHS = st.lists(st.lists(st.sampled_from("abtx"), max_size=5), max_size=6)


@given(paths=PATHS)
def test_encoded_paths_can_be_decoded(paths: list[list[str]]) -> None:
    encoded = VOCABULARY.encode([Context(tuple(path)) for path in paths])
    names = {number: key for key, number in VOCABULARY.ids.items()} | {UNKNOWN: "x"}
    for row, length, path in zip(encoded.nodes, encoded.lengths, paths, strict=True):
        assert [names[number] for number in row[:length].tolist()] == path
        assert not row[length:].any()


@given(paths=PATHS, data=st.data())
def test_take_equals_encoding_selected_rows(paths: list[list[str]], data: st.DataObject) -> None:
    contexts = [Context(tuple(path)) for path in paths]
    rows = data.draw(st.lists(st.sampled_from(range(len(paths))), max_size=4)) if paths else []
    taken = VOCABULARY.encode(contexts).take(np.array(rows, dtype=np.int64))
    encoded = VOCABULARY.encode([contexts[row] for row in rows])
    assert taken.nodes.tolist() == encoded.nodes.tolist()
    assert taken.lengths.tolist() == encoded.lengths.tolist()
    assert taken.origins == encoded.origins


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_vocabulary_of_part_encodes_all_examples(bundled: Sequence[Composition], share: float) -> None:
    """Exactly the keys that are not in the part become unknown."""
    examples = extract(bundled)[0]
    vocabulary = Vocabulary.of(examples[: int(share * len(examples))])
    encoded = vocabulary.encode([e.context for e in examples])
    for row, example in zip(encoded.nodes, examples, strict=True):
        known = [key in vocabulary.ids for key in example.context.path]
        assert (row[: len(known)] != UNKNOWN).tolist() == known
