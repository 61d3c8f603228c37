"""What training shows of a step: counted here a second time, composition by composition."""

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
of_chains_and_a_path = given(
    chains=st.lists(keys, min_size=1, max_size=8), asked=st.lists(st.sampled_from("abcdx"), max_size=6)
)


def shared_end(a: Sequence[str], b: Sequence[str]) -> int:
    same = 0
    while same < min(len(a), len(b)) and a[-1 - same] == b[-1 - same]:
        same += 1
    return same


@of_chains_and_a_path
def test_steps_are_those_after_the_longest_end_of_the_path(
    chains: list[list[str]], asked: list[str]
) -> None:
    evidence, vocabulary, examples = evidence_of(*chains)
    path = [vocabulary.ids.get(key, UNKNOWN) for key in asked]
    found = evidence.steps(path, range(len(vocabulary.services)))
    for service, step in zip(vocabulary.services, found, strict=True):
        ends = [(shared_end(asked, e.context.path), e) for e in examples if e.target == service]
        longest = max((end for end, _ in ends), default=0)
        made = {e.composition for end, e in ends if end == longest} if longest else set()
        assert (step.nodes, step.compositions) == (longest, len(made))
        assert step.ids == tuple(f"c{number}" for number in sorted(made)[:3])


@of_chains_and_a_path
def test_the_nearest_contexts_end_alike_then_share_the_most_nodes(
    chains: list[list[str]], asked: list[str]
) -> None:
    evidence, vocabulary, examples = evidence_of(*chains)
    words = ("", "", *vocabulary.services, *vocabulary.others)
    path = [vocabulary.ids.get(key, UNKNOWN) for key in asked]
    found = evidence.nearest(path, 1000)
    known = set(asked) & set(vocabulary.ids)
    distinct = {e.context.path for e in examples}

    def jaccard(context: Sequence[str]) -> float:
        return len(set(context) & known) / len(set(context) | known)

    def worth(context: Sequence[str]) -> tuple[int, float]:
        return shared_end(asked, context), jaccard(context)

    paths = [tuple(words[node] for node in near.path) for near in found]
    assert set(paths) == {context for context in distinct if jaccard(context) > 0}
    assert [worth(p) for p in paths] == sorted(map(worth, paths), reverse=True)
    for context, near in zip(paths, found, strict=True):
        own = [e for e in examples if e.context.path == context]
        assert near.similarity == pytest.approx(jaccard(context))
        assert near.compositions == len({e.composition for e in own})
        expected = {
            service: len({e.composition for e in own if e.target == service})
            for service in {e.target for e in own}
        }
        assert {vocabulary.services[c]: n for c, n in near.following} == expected
        assert [n for _, n in near.following] == sorted(expected.values(), reverse=True)


def test_ends_are_compared_up_to_a_bound() -> None:
    long = ["a", "b"] * MAX_SUFFIX_LENGTH
    evidence, vocabulary, _ = evidence_of([*long, "c"])
    (step,) = evidence.steps([vocabulary.ids[key] for key in long], [vocabulary.columns["c"]])
    assert (step.nodes, step.compositions) == (MAX_SUFFIX_LENGTH, 1)


def test_what_is_stored_comes_back() -> None:
    evidence, vocabulary, _ = evidence_of("ab", "abc", "bca")
    back = Evidence.restore(evidence.state(), vocabulary)
    assert back.ids == evidence.ids
    assert all((back.state()[name] == array).all() for name, array in evidence.state().items())


def test_compositions_are_seen_by_their_content() -> None:
    evidence, _, _ = evidence_of("ab", "abc")
    assert set(evidence.seen.tolist()) == {
        composition_hash(chain(f"c{i}", k)) for i, k in enumerate(["ab", "abc"])
    }
    assert composition_hash(chain("c0", "abd")) not in evidence.seen
    assert composition_hash(chain("of another file", "ab")) in evidence.seen


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
def test_arrays_that_do_not_belong_together_are_refused(name: str, value: np.ndarray | None) -> None:
    evidence, vocabulary, _ = evidence_of("ab")
    state = dict(evidence.state())
    del state[name]
    if value is not None:
        state[name] = value
    with pytest.raises(StoreError, match="evidence: its paths and steps must be of its vocabulary"):
        Evidence.restore(state, vocabulary)
