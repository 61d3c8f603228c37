"""Training and test parts. Each protocol is one function; one seed gives one split."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagrec.data.examples import Example
from dagrec.errors import DataError


@dataclass(frozen=True)
class Split:
    """Two disjoint parts of the examples, and a hash that tells this split from others."""

    train: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def fingerprint(self) -> str:
        total = hashlib.sha256()
        for part in (self.train, self.test):
            for e in part:
                total.update(repr((e.composition, e.node, e.context.path, e.target)).encode())
            total.update(b"|")
        return total.hexdigest()


Protocol = Callable[[Sequence[Example], float, random.Random], Split]


def split_pairs(examples: Sequence[Example], share: float, rng: random.Random) -> Split:
    """A random share of the pairs, stratified by target: the published protocol.

    Targets with a single pair form one stratum together. Pairs of one composition can be on both
    sides, and so can equal pairs of different compositions.
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
    """A random share of the compositions; identical ones (by signature) stay on one side."""
    groups: dict[str, set[int]] = defaultdict(set)
    signatures: dict[int, str] = {}
    for example in examples:
        if example.composition not in signatures:
            source = example.context.composition
            signatures[example.composition] = source.signature if source else str(example.composition)
        groups[signatures[example.composition]].add(example.composition)
    if len(groups) < 2:
        raise DataError(
            f"the compositions protocol needs two different compositions, found {len(groups)}; "
            "use --protocol pairs, or more data",
            rule="too-few",
        )
    wanted = _test_size(len(signatures), share)
    test: set[int] = set()
    order = sorted(groups)
    rng.shuffle(order)
    for signature in order[:-1]:  # at least one group is left to train on
        group = groups[signature]
        # The group that crosses the wanted size is taken when that comes nearer to it.
        if test and 2 * (wanted - len(test)) <= len(group):
            break
        test |= group
    return _split(examples, {i for i, e in enumerate(examples) if e.composition in test})


def split_temporal(examples: Sequence[Example], share: float, _rng: random.Random) -> Split:
    """Examples before a moment train, those from it on test; about ``share`` of them test.

    A service call that several compositions share is one event, and counts once for each context it
    was made in. There is one such split: the seed changes nothing.
    """
    once: dict[object, Example] = {}
    for i, example in enumerate(examples):
        if example.context.time is None:
            raise DataError(
                f"composition {example.composition + 1}: the temporal protocol needs a time for "
                f"each composition or target, found none at node {example.node!r}; add start_time "
                "(or time), or use another protocol",
                rule="no-time",
            )
        key = (example.event, example.context.path) if example.event else i
        once.setdefault(key, example)
    kept = sorted(once.values(), key=_time)
    cut = _time(kept[len(kept) - _test_size(len(kept), share)])
    split = Split(tuple(e for e in kept if _time(e) < cut), tuple(e for e in kept if _time(e) >= cut))
    if not split.train:
        raise DataError(
            "the temporal protocol needs examples at two moments at least, found one moment; "
            "use another protocol",
            rule="too-few",
        )
    return split


PROTOCOLS: dict[str, Protocol] = {
    "pairs": split_pairs,
    "compositions": split_compositions,
    "temporal": split_temporal,
}


def hold_out(examples: Sequence[Example], share: float, rng: random.Random) -> Split:
    """A validation part of training data: whole compositions, drawn at random."""
    compositions = sorted({example.composition for example in examples})
    chosen = set(rng.sample(compositions, _test_size(len(compositions), share)))
    return _split(examples, {i for i, e in enumerate(examples) if e.composition in chosen})


def _time(example: Example) -> float:
    assert example.context.time is not None
    return example.context.time


def _split(examples: Sequence[Example], test: set[int]) -> Split:
    return Split(
        tuple(e for i, e in enumerate(examples) if i not in test),
        tuple(e for i, e in enumerate(examples) if i in test),
    )


def _test_size(n: int, share: float) -> int:
    """``share`` of n, rounded up as in the published protocol; at least 1 and at most n - 1."""
    if n < 2:
        raise DataError(
            f"a split needs at least two examples, found {n}; use more data", rule="too-few"
        )
    return min(max(-int(-n * share // 1), 1), n - 1)


def _proportional(sizes: Sequence[int], total: int, rng: random.Random) -> list[int]:
    """``total`` divided in proportion to ``sizes``; what rounding leaves goes by largest remainder.

    Equal remainders are ordered at random, so that no target is always rounded down.
    """
    exact = [total * size / sum(sizes) for size in sizes]
    shares = [int(x) for x in exact]
    order = sorted(range(len(sizes)), key=lambda i: (shares[i] - exact[i], rng.random()))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares
