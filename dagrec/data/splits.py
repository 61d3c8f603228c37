"""Evaluation protocols, which split examples into a training and a test part.

A split is determined by the protocol and the seed.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dagrec.data.examples import Example
from dagrec.data.texts import node_texts
from dagrec.errors import DataError


@dataclass(frozen=True)
class Split:
    """Two disjoint parts of the examples."""

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    ordered: bool = False
    """Whether all test examples are later than the training examples and in the order of time.

    If so, the history of a test example includes earlier test examples.
    """
    services: Mapping[str, str] = field(default_factory=dict)
    """Services to predict in addition to those of the training part, and their texts."""

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that identifies the split."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            for e in part:
                digest.update(repr((e.composition, e.node, e.context.path, e.target)).encode())
            digest.update(b"|")
        digest.update(repr(sorted(self.services.items())).encode() if self.services else b"")
        return digest.hexdigest()


Protocol = Callable[[Sequence[Example], float, random.Random], Split]


def split_pairs(examples: Sequence[Example], share: float, rng: random.Random) -> Split:
    """Test on a random share of the pairs, stratified by target (the published protocol).

    Targets with a single pair form one common stratum. Pairs of one composition can be in both parts,
    and so can equal pairs of different compositions.
    """
    strata: dict[str, list[int]] = defaultdict(list)
    for i, example in enumerate(examples):
        strata[example.target].append(i)
    pooled = [rows for rows in strata.values() if len(rows) > 1]
    if singles := [rows[0] for rows in strata.values() if len(rows) == 1]:
        pooled.append(singles)
    sizes = _proportional([len(rows) for rows in pooled], _test_size(len(examples), share), rng)
    test: set[int] = set()
    for rows, size in zip(pooled, sizes, strict=True):
        test.update(rng.sample(rows, size))
    return _split(examples, test)


def split_compositions(examples: Sequence[Example], share: float, rng: random.Random) -> Split:
    """Test on a random share of the compositions. Those with equal signatures are in the same part."""
    groups: dict[str, set[int]] = defaultdict(set)
    signatures: dict[int, str] = {}
    for example in examples:
        number = example.composition
        if number not in signatures:
            composition = example.context.composition
            signatures[number] = composition.signature if composition else str(number)
        groups[signatures[number]].add(number)
    if len(groups) < 2:
        raise DataError(
            f"the compositions protocol needs two different compositions, found {len(groups)}; "
            "use --protocol pairs, or more data",
            rule="too-few",
        )
    size = _test_size(len(signatures), share)
    test: set[int] = set()
    order = sorted(groups)
    rng.shuffle(order)
    for signature in order[:-1]:  # at least one group remains for training
        group = groups[signature]
        # The last group is included if the size of the test part is then closer to the desired one.
        if test and 2 * (size - len(test)) <= len(group):
            break
        test |= group
    return _split(examples, {i for i, e in enumerate(examples) if e.composition in test})


def split_temporal(examples: Sequence[Example], share: float, _rng: random.Random) -> Split:
    """Train on the examples before a point in time, and test on the others, about ``share`` of them.

    A service call that several compositions share counts once for each of its contexts. The split does
    not depend on the seed.
    """
    ordered, cut = in_time_order(examples, share)
    return Split(ordered[:cut], ordered[cut:], ordered=True)


def split_leave_one_out(examples: Sequence[Example], _share: float, _rng: random.Random) -> Split:
    """Test on the examples at the last time of each owner, and train on all others.

    Examples of an owner with a single time are in the training part. The training part includes later
    examples of other owners, so the protocol measures predictions for an owner, not for the future. The
    split does not depend on share and seed.
    """
    ordered, _ = in_time_order(examples, 0.5)
    times_of: dict[str, list[float]] = defaultdict(list)
    for example in ordered:
        if example.context.owner is not None:
            times_of[example.context.owner].append(time_of(example))
    last = {owner: max(times) for owner, times in times_of.items() if max(times) > min(times)}
    if not last:
        raise DataError(
            "the leave-one-out protocol needs owners with examples at two different times, found none; "
            "use another protocol",
            rule="too-few",
        )
    test = {
        i
        for i, e in enumerate(ordered)
        if e.context.owner in last and time_of(e) == last[e.context.owner]
    }
    return _split(ordered, test)


def split_cold_services(examples: Sequence[Example], share: float, rng: random.Random) -> Split:
    """Hide a random share of the services from training, and test on predicting them.

    Examples with a hidden service in their context (on the path, upstream of it, or among the existing
    children of the frontier) are left out. The others are test examples if their target is hidden, and
    training examples if not. Hidden services can be predicted, and have the texts of their nodes. The
    mask ``observed`` allows none of them.
    """
    services = sorted({example.target for example in examples})
    hidden = frozenset(rng.sample(services, _test_size(len(services), share, "services")))
    visible = [e for e in examples if not hidden & _context_keys(e, hidden)]
    train = tuple(e for e in visible if e.target not in hidden)
    test = tuple(e for e in visible if e.target in hidden)
    if not train or not test:
        part = "training" if not train else "test"
        raise DataError(
            f"the cold-services protocol hides {len(hidden)} of {len(services)} services, and needs "
            f"examples without any of them in the context, found none for the {part} part; change "
            "--test-share or the seed, or use another protocol",
            rule="too-few",
        )
    texts = node_texts(examples)
    return Split(train, test, services={key: texts.get(key, "") for key in sorted(hidden)})


def _context_keys(example: Example, hidden: frozenset[str]) -> set[str]:
    """The keys on the path, upstream of the frontier and among its children, as far as ``hidden``."""
    context = example.context
    composition = context.composition
    if composition is None or not hidden & composition.service_keys:
        return set(context.path)
    ids = (*context.upstream(), *context.children)
    return {*context.path, *(composition.by_id[id_].key for id_ in ids)}


def prequential_splits(examples: Sequence[Example], share: float, every: int) -> list[Split]:
    """Divide the newest ``share`` of the examples into blocks, one test part each.

    The training part of a block is all older examples. This is the prequential protocol, which tests on
    a block and then trains on it (Dawid 1984). Blocks have at least ``every`` examples, and examples
    with the same time are in the same block.
    """
    ordered, cut = in_time_order(examples, share)
    cuts = [cut]
    for i in range(cut + 1, len(ordered)):
        if i - cuts[-1] >= every and time_of(ordered[i]) > time_of(ordered[i - 1]):
            cuts.append(i)
    ends = [*cuts[1:], len(ordered)]
    return [
        Split(ordered[:begin], ordered[begin:end], ordered=True)
        for begin, end in zip(cuts, ends, strict=True)
    ]


def in_time_order(examples: Sequence[Example], share: float) -> tuple[tuple[Example, ...], int]:
    """Sort examples by time, and return the index at which the last ``share`` of them begins.

    A service call that several compositions share is kept once for each of its contexts. Examples with
    the same time are on the same side of the index. Raises :class:`DataError` if a time is missing or
    all times are equal.
    """
    distinct: dict[object, Example] = {}
    for i, example in enumerate(examples):
        if example.context.time is None:
            raise DataError(
                f"composition {example.composition + 1}: a protocol in the order of time needs a time "
                f"for each composition or target, found none at node {example.node!r}; add start_time "
                "(or time), or use another protocol",
                rule="no-time",
            )
        key = (example.event, example.context.path) if example.event else i
        distinct.setdefault(key, example)
    ordered = tuple(sorted(distinct.values(), key=time_of))
    cut = len(ordered) - _test_size(len(ordered), share)
    while cut > 0 and time_of(ordered[cut - 1]) == time_of(ordered[cut]):
        cut -= 1
    if cut == 0:  # too many examples have the first time: the training part is all of these
        later = (i for i, e in enumerate(ordered) if time_of(e) > time_of(ordered[0]))
        cut = next(later, 0)
    if cut == 0:
        raise DataError(
            "a protocol in the order of time needs examples before the test part, found the same time "
            "for all; use another protocol",
            rule="too-few",
        )
    return ordered, cut


PROTOCOLS: dict[str, Protocol] = {
    "pairs": split_pairs,
    "compositions": split_compositions,
    "temporal": split_temporal,
    "leave-one-out": split_leave_one_out,
    "cold-services": split_cold_services,
}


def hold_out(examples: Sequence[Example], share: float, rng: random.Random) -> Split:
    """Hold out a random share of the compositions as a validation part."""
    compositions = sorted({example.composition for example in examples})
    chosen = set(rng.sample(compositions, _test_size(len(compositions), share)))
    return _split(examples, {i for i, e in enumerate(examples) if e.composition in chosen})


def time_of(example: Example) -> float:
    """Return the time of an example, which must have one."""
    assert example.context.time is not None
    return example.context.time


def later_share(splits: Sequence[Split]) -> float:
    """Return the share of the test examples for which the training part has a later example.

    It is 0 if examples have no times.
    """
    later = [
        example.context.time is not None and example.context.time < last
        for split in splits
        for last in [max((e.context.time or 0.0 for e in split.train), default=0.0)]
        for example in split.test
    ]
    return sum(later) / max(len(later), 1)


def _split(examples: Sequence[Example], test: set[int]) -> Split:
    return Split(
        tuple(e for i, e in enumerate(examples) if i not in test),
        tuple(e for i, e in enumerate(examples) if i in test),
    )


def _test_size(n: int, share: float, unit: str = "examples") -> int:
    """Return ``share`` of n, rounded up as in the published protocol; at least 1 and at most n - 1."""
    if n < 2:
        raise DataError(f"a split needs at least two {unit}, found {n}; use more data", rule="too-few")
    return min(max(-int(-n * share // 1), 1), n - 1)


def _proportional(sizes: Sequence[int], total: int, rng: random.Random) -> list[int]:
    """Divide ``total`` in proportion to ``sizes`` by the largest remainder method.

    Equal remainders are ordered at random, so that no target is always rounded down.
    """
    exact = [total * size / sum(sizes) for size in sizes]
    shares = [int(x) for x in exact]
    order = sorted(range(len(sizes)), key=lambda i: (shares[i] - exact[i], rng.random()))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares
