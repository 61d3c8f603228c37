"""Training and test parts. Each protocol is one function; one seed gives one split."""

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
    """Two disjoint parts of the examples, and a hash that tells this split from others."""

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    ordered: bool = False
    """Whether the test part comes after the training part, one example after the other: what of it is
    over is then known to those that follow."""
    services: Mapping[str, str] = field(default_factory=dict)
    """Candidates beyond those of the training part, and their texts."""

    @property
    def fingerprint(self) -> str:
        total = hashlib.sha256()
        for part in (self.train, self.test):
            for e in part:
                total.update(repr((e.composition, e.node, e.context.path, e.target)).encode())
            total.update(b"|")
        total.update(repr(sorted(self.services.items())).encode() if self.services else b"")
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
    kept, cut = in_time_order(examples, share)
    return Split(kept[:cut], kept[cut:], ordered=True)


def split_leave_one_out(examples: Sequence[Example], _share: float, _rng: random.Random) -> Split:
    """Each owner's last moment is tested; everything else trains. Owners with one moment train only.

    What others did later is training data too: this says how well an owner is continued, not how well
    the future is foreseen. There is one such split: share and seed change nothing.
    """
    kept, _ = in_time_order(examples, 0.5)
    moments: dict[str, list[float]] = defaultdict(list)
    for example in kept:
        if example.context.owner is not None:
            moments[example.context.owner].append(moment(example))
    last = {owner: max(times) for owner, times in moments.items() if max(times) > min(times)}
    if not last:
        raise DataError(
            "the leave-one-out protocol needs owners with examples at two moments, found none; "
            "use another protocol",
            rule="too-few",
        )
    test = {
        i for i, e in enumerate(kept) if e.context.owner in last and moment(e) == last[e.context.owner]
    }
    return _split(kept, test)


def split_cold_services(examples: Sequence[Example], share: float, rng: random.Random) -> Split:
    """A random share of the services is new: hidden from training, and all that is tested.

    Training has the examples that know nothing of a hidden service: neither as the target, nor on the
    path, upstream of it, or among the children that the frontier has. Tested is where a hidden service
    followed what is known in full; what knows a hidden service beside the target is left out. Hidden
    services are candidates, with the texts that their nodes have. A mask of observed successors lets
    none of them through.
    """
    services = sorted({example.target for example in examples})
    hidden = frozenset(rng.sample(services, _test_size(len(services), share, "services")))
    clear = [e for e in examples if not hidden & _keys_known(e, hidden)]
    train = tuple(e for e in clear if e.target not in hidden)
    test = tuple(e for e in clear if e.target in hidden)
    if not train or not test:
        part = "trains" if not train else "tests"
        raise DataError(
            f"the cold-services protocol hides {len(hidden)} of {len(services)} services, and needs "
            f"examples in which none of them is known, found none that {part}; change --test-share or "
            "the seed, or use another protocol",
            rule="too-few",
        )
    texts = node_texts(examples)
    return Split(train, test, services={key: texts.get(key, "") for key in sorted(hidden)})


def _keys_known(example: Example, hidden: frozenset[str]) -> set[str]:
    """Keys that a context shows: of the path, of what is upstream of it, and of the children there."""
    context = example.context
    source = context.composition
    if source is None or not hidden & source.service_keys:
        return set(context.path)
    return {*context.path, *(source.by_id[id_].key for id_ in (*context.upstream(), *context.children))}


def prequential_splits(examples: Sequence[Example], share: float, every: int) -> list[Split]:
    """The newest ``share`` of the examples in blocks, each tested on by what all older ones teach.

    Blocks have ``every`` examples at least; those of one moment stay together, so that none of them
    teaches another. This is the prequential protocol (Dawid 1984): test, then learn.
    """
    kept, cut = in_time_order(examples, share)
    cuts = [cut]
    for i in range(cut + 1, len(kept)):
        if i - cuts[-1] >= every and moment(kept[i]) > moment(kept[i - 1]):
            cuts.append(i)
    ends = [*cuts[1:], len(kept)]
    return [
        Split(kept[:begin], kept[begin:end], ordered=True)
        for begin, end in zip(cuts, ends, strict=True)
    ]


def in_time_order(examples: Sequence[Example], share: float) -> tuple[tuple[Example, ...], int]:
    """The examples by time, each call once for a context; and where the last ``share`` begins.

    A moment is never divided. Raises :class:`DataError` where a time is missing, or all are the same.
    """
    once: dict[object, Example] = {}
    for i, example in enumerate(examples):
        if example.context.time is None:
            raise DataError(
                f"composition {example.composition + 1}: a protocol in the order of time needs a time "
                f"for each composition or target, found none at node {example.node!r}; add start_time "
                "(or time), or use another protocol",
                rule="no-time",
            )
        key = (example.event, example.context.path) if example.event else i
        once.setdefault(key, example)
    kept = tuple(sorted(once.values(), key=moment))
    cut = len(kept) - _test_size(len(kept), share)
    while cut > 0 and moment(kept[cut - 1]) == moment(kept[cut]):
        cut -= 1
    if cut == 0:  # the first moment alone is more than what is to train: it is all that trains
        later = (i for i, e in enumerate(kept) if moment(e) > moment(kept[0]))
        cut = next(later, 0)
    if cut == 0:
        raise DataError(
            "a protocol in the order of time needs examples before the test part, found them all at "
            "one moment; use another protocol",
            rule="too-few",
        )
    return kept, cut


PROTOCOLS: dict[str, Protocol] = {
    "pairs": split_pairs,
    "compositions": split_compositions,
    "temporal": split_temporal,
    "leave-one-out": split_leave_one_out,
    "cold-services": split_cold_services,
}


def hold_out(examples: Sequence[Example], share: float, rng: random.Random) -> Split:
    """A validation part of training data: whole compositions, drawn at random."""
    compositions = sorted({example.composition for example in examples})
    chosen = set(rng.sample(compositions, _test_size(len(compositions), share)))
    return _split(examples, {i for i, e in enumerate(examples) if e.composition in chosen})


def moment(example: Example) -> float:
    """The time of an example that has one."""
    assert example.context.time is not None
    return example.context.time


def _split(examples: Sequence[Example], test: set[int]) -> Split:
    return Split(
        tuple(e for i, e in enumerate(examples) if i not in test),
        tuple(e for i, e in enumerate(examples) if i in test),
    )


def _test_size(n: int, share: float, what: str = "examples") -> int:
    """``share`` of n, rounded up as in the published protocol; at least 1 and at most n - 1."""
    if n < 2:
        raise DataError(f"a split needs at least two {what}, found {n}; use more data", rule="too-few")
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
