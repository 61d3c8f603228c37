"""Random hostile compositions and requests, as sent by attackers or by clients with errors.

A composition is either costly (a star, chain or comb, 2^60 paths, cycles, the maximum size) or small
and valid. It may be mutated at random: values of another type, other ids, keys that are special in
other languages, and parts that are moved, copied or removed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any

from dagrec.recommend.request import MAX_NODES
from tests.contract.samples import places, value_at

Json = Any
SERVICES = range(300, 312)
"""Mids, most of which occur in the bundled compositions."""
LARGE_SHARE = 0.03
"""Share of compositions of the maximum size."""

ATOMS: tuple[Json, ...] = (
    *(None, True, False, 0, 1, -1, -(2**63), 2**64, 10**400, 1.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "n1", "0", "null", "NaN", "é", "日本語", "\u202e\u200d", "🧬", "\U0010ffff"),
    *("\ud800", "a\udfffb", "\x00", "\r\n\t\x1b[31m", "\x7f", "../../etc/passwd", "{}", "%s%n"),
    *("__proto__", "constructor", "toString", "__class__", "service_301", "x" * 999, "x" * 1001),
    *("2020-01-01", "9999-12-31T23:59:59+14:00", "0000-00-00", "1e400", "-1e13", "2020-W01"),
    *([], {}, [[]], {"": None}, [None] * 50, {"__proto__": {"nodes": []}}, {"composition": {}}),
)
NAMES = (
    *("composition", "nodes", "links", "id", "mid", "key", "kind", "text", "owner", "time"),
    *("start_time", "source", "target", "__proto__", "constructor", "", "\ud800", "é", "x" * 2000),
)
FIELDS: dict[str, tuple[Json, ...]] = {
    "at": ("n0", "n1", 0, -1, "nowhere", True, 10**30, "\ud800"),
    "k": (1, 1000, 0, 1001, -5, 2.0, 2.5, "3", 10**400, True, float("nan")),
    "model": ("markov", "gru4rec", "unknown", "", "../markov", "__class__", 0),
    "models": ("all", ["markov"], ["markov"] * 100, ["markov"] * 101, [], "every", ["markov", None]),
    "mask": ("observed", "soft", "none", "catalogue", "hard", ""),
    "time": (0, -1e12, 1e13, "2024-02-30", "2024-01-01T00:00:00Z", float("inf"), "", True),
    "allow": (["service_301"], [], ["nothing"], ["service_301"] * 10_001, "service_301", [None]),
    "deny": ([f"service_{mid}" for mid in SERVICES], [""], [1], {"service_301": 1}),
    "no_repeats": (True, "yes", 1, None),
    "diversity": (0, 1, 0.5, -1e-9, 1.1, float("nan"), "0.5"),
    "novelty": (0, 10, 10.1, float("inf"), -1),
    "explain": (True, False, "true", 1, None),
    "surprise": (None, 1),
}
"""Valid and invalid values of each field of a request."""


def composition(random: Random) -> Json:
    """Return a hostile composition as parsed JSON."""
    if random.random() < LARGE_SHARE:
        return native(*large(random), random)
    document = native(*shape(random, random.randint(1, 30)), random)
    if random.random() < 0.2:
        document = {"composition": document}
    return mutate(document, random) if random.random() < 0.5 else document


def request(random: Random) -> Json:
    """Return a hostile request: a path or a composition, options and a history, possibly mutated."""
    fields: dict[str, Json] = {}
    if random.random() < 0.3:
        length = random.choice([0, 1, 3, 30, 10_000, 10_001] if random.random() < 0.2 else [1, 2, 3])
        fields["path"] = [f"service_{random.choice(SERVICES)}" for _ in range(length)]
    else:
        fields["composition"] = composition(random)
    for name in random.sample(sorted(FIELDS), random.choice([0, 0, 0, 1, 3])):
        fields[name] = random.choice(FIELDS[name])
    if random.random() < 0.3:
        fields["history"] = [history_item(random) for _ in range(random.choice([0, 1, 3, 1001]))]
    return mutate(fields, random) if random.random() < 0.2 else fields


def body(random: Random, document: Json) -> bytes:
    """Return the document as bytes, which are sometimes damaged: not JSON, or different JSON."""
    data = json.dumps(document, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    chance = random.random()
    if chance < 0.93:
        return data
    cut = random.randrange(len(data) + 1)
    return random.choice(
        [
            data[:cut],
            data[:cut] + bytes(random.randrange(256) for _ in range(3)) + data[cut:],
            b"\xef\xbb\xbf" + data,
            b"[" * random.choice([10, 1000, 100_000]) + data,
            data + data,
            b'{"a":' * random.choice([10, 1000, 100_000]) + b"1",
            data.replace(b'"nodes"', b'"nodes":[],"nodes"'),
            data.decode("utf-8", "replace").encode("utf-16"),
            data.replace(b"301", b"9" * 5000),
        ]
    )


def history_item(random: Random) -> Json:
    item: dict[str, Json] = {}
    if random.random() < 0.7:
        item["path"] = [f"service_{random.choice(SERVICES)}" for _ in range(random.randint(0, 5))]
    else:
        item["composition"] = native(*shape(random, random.randint(1, 6)), random)
    if random.random() < 0.5:
        item["time"] = random.choice([*FIELDS["time"], random.randrange(10**9)])
    return item


Links = Sequence[tuple[int, int]]


def shape(random: Random, size: int) -> tuple[int, Links]:
    """Return the number of nodes and the links of a random shape of about ``size`` nodes."""
    build = random.choice(SHAPES)
    return build(random, max(size, 2))


def large(random: Random) -> tuple[int, Links]:
    """Return a random shape with the maximum number of nodes, or one more."""
    return shape(random, MAX_NODES + random.choice([0, 0, 0, 1]))


def chain(_: Random, size: int) -> tuple[int, Links]:
    return size, list(pairwise(range(size)))


def star(random: Random, size: int) -> tuple[int, Links]:
    """Links from one node to all others, or from all others to one."""
    links = [(0, i) for i in range(1, size)]
    return size, links if random.random() < 0.5 else [(b, a) for a, b in links]


def comb(_: Random, size: int) -> tuple[int, Links]:
    """A path with one more node linked from each of its nodes."""
    half = size // 2
    return 2 * half, [*pairwise(range(half)), *((i, half + i) for i in range(half))]


def broom(random: Random, size: int, ends: int | None = None) -> tuple[int, Links]:
    """A path whose last node is linked to several open ends."""
    ends = min(ends or random.choice([1, 10, 100, 101]), size - 1)
    handle = size - ends
    return size, [*pairwise(range(handle)), *((handle - 1, handle + i) for i in range(ends))]


def layers(random: Random, size: int, width: int | None = None) -> tuple[int, Links]:
    """Layers that are completely linked from each to the next: width^depth paths."""
    width = width or random.choice([2, 3, 5])
    depth = max(size // width, 1)
    return width * depth, [
        (at * width + a, (at + 1) * width + b)
        for at in range(depth - 1)
        for a in range(width)
        for b in range(width)
    ]


def diamonds(_: Random, size: int) -> tuple[int, Links]:
    """A chain of diamonds: 2^(size / 3) paths, and 2^60 with 180 nodes."""
    count = max(size // 3, 60)
    return 3 * count + 1, [
        link
        for i in range(0, 3 * count, 3)
        for link in ((i, i + 1), (i, i + 2), (i + 1, i + 3), (i + 2, i + 3))
    ]


def isolated(_: Random, size: int) -> tuple[int, Links]:
    return size, ()


def random_links(random: Random, size: int) -> tuple[int, Links]:
    """Random links, with cycles, self-links and repeated links."""
    return size, [(random.randrange(size), random.randrange(size)) for _ in range(size)]


def ring(_: Random, size: int) -> tuple[int, Links]:
    return size, [*pairwise(range(size)), (size - 1, 0)]


SHAPES: tuple[Callable[[Random, int], tuple[int, Links]], ...] = (
    chain,
    star,
    comb,
    broom,
    layers,
    diamonds,
    isolated,
    random_links,
    ring,
)


def native(count: int, links: Links, random: Random, *, string_ids: bool | None = None) -> Json:
    """Return native JSON with ``count`` nodes, the first a table; ids are strings or integers."""
    string_ids = random.random() < 0.5 if string_ids is None else string_ids

    def name(number: int) -> Json:
        return f"n{number}" if string_ids else number

    nodes: list[Json] = [{"id": name(i), "mid": SERVICES[i % len(SERVICES)]} for i in range(count)]
    del nodes[0]["mid"]
    return {"nodes": nodes, "links": [{"source": name(a), "target": name(b)} for a, b in links]}


def mutate(document: Json, random: Random) -> Json:
    """Return a copy of the document with random edits."""
    document = copy.deepcopy(document)
    for _ in range(random.choice([1, 1, 2, 5])):
        all_places = list(places(document))
        if not all_places:
            break
        *path, last = random.choice(all_places)
        target = value_at(document, tuple(path))
        match random.choice(["replace", "replace", "remove", "copy", "add", "repeat", "nest"]):
            case "replace":
                target[last] = copy.deepcopy(random.choice(ATOMS))
            case "remove":
                del target[last]
            case "copy":
                target[last] = copy.deepcopy(value_at(document, random.choice(all_places)))
            case "repeat" if isinstance(target, list):
                target += copy.deepcopy(target[: random.randint(1, 200)])
            case "nest":
                target[last] = nest(target[last], random)
            case _ if isinstance(target, dict):
                target[random.choice(NAMES)] = copy.deepcopy(random.choice(ATOMS))
            case _:
                target.append(copy.deepcopy(random.choice(ATOMS)))
    return document


def nest(value: Json, random: Random) -> Json:
    for _ in range(random.choice([1, 3, 200])):
        value = [value] if random.random() < 0.5 else {random.choice(NAMES): value}
    return value
