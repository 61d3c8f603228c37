"""Evidence is compared with counts over the compositions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Node, compose
from dagrec.data.examples import Example, extract
from dagrec.data.vocabulary import UNKNOWN, Vocabulary
from dagrec.errors import StoreError
from dagrec.graph.evidence import MAX_SUFFIX_LENGTH, Evidence, composition_hash


def chain(id_: str, keys: Sequence[str]) -> Composition:
    nodes = [Node(str(i), key) for i, key in enumerate(keys)]
    return compose(id_, nodes, [(a.id, b.id) for a, b in pairwise(nodes)])[0]


def evidence_of(*chains: Sequence[str]) -> tuple[Evidence, Vocabulary, tuple[Example, ...]]:
    examples, _ = extract([chain(f"c{i}", keys) for i, keys in enumerate(chains)])
    vocabulary = Vocabulary.of(examples)
    return Evidence.of(examples, vocabulary), vocabulary, examples


keys = st.lists(st.sampled_from("abcd"), min_size=2, max_size=6)
given_chains_and_query = given(
    chains=st.lists(keys, min_size=1, max_size=8), query=st.lists(st.sampled_from("abcdx"), max_size=6)
)


def common_suffix(a: Sequence[str], b: Sequence[str]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[-1 - length] == b[-1 - length]:
        length += 1
    return length


@given_chains_and_query
def test_steps_follow_longest_common_suffix(chains: list[list[str]], query: list[str]) -> None:
    evidence, vocabulary, examples = evidence_of(*chains)
    path = [vocabulary.ids.get(key, UNKNOWN) for key in query]
    steps = evidence.steps(path, range(len(vocabulary.services)))
    for service, step in zip(vocabulary.services, steps, strict=True):
        suffixes = [(common_suffix(query, e.context.path), e) for e in examples if e.target == service]
        longest = max((length for length, _ in suffixes), default=0)
        members = {e.composition for length, e in suffixes if length == longest} if longest else set()
        assert (step.nodes, step.compositions) == (longest, len(members))
        assert step.ids == tuple(f"c{number}" for number in sorted(members)[:3])


@given_chains_and_query
def test_nearest_sorts_by_common_suffix_then_jaccard_index(
    chains: list[list[str]], query: list[str]
) -> None:
    evidence, vocabulary, examples = evidence_of(*chains)
    key_of = ("", "", *vocabulary.services, *vocabulary.others)
    path = [vocabulary.ids.get(key, UNKNOWN) for key in query]
    nearest = evidence.nearest(path, 1000)
    known = set(query) & set(vocabulary.ids)
    distinct = {e.context.path for e in examples}

    def jaccard(context: Sequence[str]) -> float:
        return len(set(context) & known) / len(set(context) | known)

    def sort_key(context: Sequence[str]) -> tuple[int, float]:
        return common_suffix(query, context), jaccard(context)

    paths = [tuple(key_of[node] for node in similar.path) for similar in nearest]
    assert set(paths) == {context for context in distinct if jaccard(context) > 0}
    assert [sort_key(p) for p in paths] == sorted(map(sort_key, paths), reverse=True)
    for context, similar in zip(paths, nearest, strict=True):
        with_context = [e for e in examples if e.context.path == context]
        assert similar.similarity == pytest.approx(jaccard(context))
        assert similar.compositions == len({e.composition for e in with_context})
        expected = {
            service: len({e.composition for e in with_context if e.target == service})
            for service in {e.target for e in with_context}
        }
        assert {vocabulary.services[c]: n for c, n in similar.following} == expected
        assert [n for _, n in similar.following] == sorted(expected.values(), reverse=True)


def test_common_suffix_is_bounded() -> None:
    long = ["a", "b"] * MAX_SUFFIX_LENGTH
    evidence, vocabulary, _ = evidence_of([*long, "c"])
    (step,) = evidence.steps([vocabulary.ids[key] for key in long], [vocabulary.columns["c"]])
    assert (step.nodes, step.compositions) == (MAX_SUFFIX_LENGTH, 1)


def test_restored_evidence_is_equal() -> None:
    evidence, vocabulary, _ = evidence_of("ab", "abc", "bca")
    restored = Evidence.restore(evidence.state(), vocabulary)
    assert restored.ids == evidence.ids
    assert all((restored.state()[name] == array).all() for name, array in evidence.state().items())


def test_composition_hash_depends_on_content_not_id() -> None:
    evidence, _, _ = evidence_of("ab", "abc")
    assert set(evidence.sorted_hashes.tolist()) == {
        composition_hash(chain(f"c{i}", k)) for i, k in enumerate(["ab", "abc"])
    }
    assert composition_hash(chain("c0", "abd")) not in evidence.sorted_hashes
    assert composition_hash(chain("of another file", "ab")) in evidence.sorted_hashes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("paths", np.array([1, 2])),
        ("paths", np.array([99, 2])),
        ("step_services", np.array([7])),
        ("step_paths", np.array([5])),
        ("path_starts", np.array([0, 3])),
        ("compositions", np.array([3])),
        ("step_starts", np.array([0, 9])),
        ("ids", np.array([255, 255], dtype=np.uint8)),
        ("hashes", None),
    ],
)
def test_restore_rejects_inconsistent_arrays(name: str, value: np.ndarray | None) -> None:
    evidence, vocabulary, _ = evidence_of("ab")
    state = dict(evidence.state())
    del state[name]
    if value is not None:
        state[name] = value
    with pytest.raises(StoreError, match="evidence: its paths and steps must match"):
        Evidence.restore(state, vocabulary)


@given_chains_and_query
def test_support_counts_compositions_by_last_node(chains: list[list[str]], query: list[str]) -> None:
    evidence, vocabulary, _ = evidence_of(*chains)
    columns = range(len(vocabulary.services))
    for key in query:
        node = vocabulary.ids.get(key, UNKNOWN)
        expected = [
            sum((key, service) in set(pairwise(keys)) for keys in chains)
            for service in vocabulary.services
        ]
        assert evidence.support(node, columns).tolist() == expected
