"""Who may follow whom, and how often it was seen: built from training examples and nothing else."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dagrec.data.compositions import Node, compose
from dagrec.data.examples import Example
from dagrec.data.formats.documents import need_id, need_list, need_object, parse_json, read_text
from dagrec.data.vocabulary import FIRST, UNKNOWN, Vocabulary
from dagrec.errors import DataError, StoreError
from dagrec.graph.upstream import Upstream, Upstreams
from dagrec.types import Floats, Ids

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True)
class Successors:
    """A sparse matrix of node ids by service columns, in compressed rows.

    starts: [V + 1]; services: [links] columns, ascending within a row; counts: [links], how often.
    """

    starts: Ids
    services: Ids
    counts: Floats

    @classmethod
    def of(cls, nodes: int, counts: Mapping[tuple[int, int], float]) -> Successors:
        """From (node id, service column) -> count."""
        links = sorted(counts)
        starts = np.zeros(nodes + 1, dtype=np.int64)
        for node, _ in links:
            starts[node + 1] += 1
        return cls(
            np.cumsum(starts),
            np.array([service for _, service in links], dtype=np.int64),
            np.array([counts[link] for link in links], dtype=np.float64),
        )

    def row(self, node: int) -> tuple[Ids, Floats]:
        """Columns and counts of what followed a node."""
        part = slice(self.starts[node], self.starts[node + 1])
        return self.services[part], self.counts[part]

    @cached_property
    def degrees(self) -> Ids:
        """[V] number of different successors of each node."""
        return np.diff(self.starts)

    def state(self) -> dict[str, NDArray[np.generic]]:
        return {"starts": self.starts, "services": self.services, "counts": self.counts}

    def check(self, nodes: int, services: int) -> Successors:
        """Itself, if it fits a vocabulary; raises :class:`StoreError` otherwise."""
        fits = (
            self.starts.shape == (nodes + 1,)
            and self.services.shape == self.counts.shape == (int(self.starts[-1]),)
            and self.starts[0] == 0
            and bool((self.degrees >= 0).all())
            and bool(((self.services >= 0) & (self.services < services)).all())
            and bool((np.isfinite(self.counts) & (self.counts > 0)).all())
        )
        if not fits:
            raise StoreError(
                f"graph: it must have {nodes} nodes and {services} services like its vocabulary, "
                "found other shapes or values; publish the bundle again"
            )
        return self


@dataclass(frozen=True)
class ServiceGraph:
    """Links seen in training with their counts, and those a user declared.

    ``observed`` counts, for each node, the training examples in which each service came next;
    ``declared`` holds the catalogue's links (count 1 each), or is None.
    """

    vocabulary: Vocabulary
    observed: Successors
    declared: Successors | None = None
    unknown_links: int = field(default=0, compare=False)
    """Declared links that name a node or a service which the vocabulary does not know."""

    @classmethod
    def of(
        cls,
        examples: Iterable[Example],
        vocabulary: Vocabulary,
        catalogue: Iterable[tuple[str, str]] | None = None,
    ) -> ServiceGraph:
        """The graph of training examples, and the catalogue's (source key, service key) links."""
        counts: Counter[tuple[int, int]] = Counter()
        for example in examples:
            last = example.context.path[-1]
            counts[vocabulary.ids[last], vocabulary.columns[example.target]] += 1
        declared, unknown_links = None, 0
        if catalogue is not None:
            links: dict[tuple[int, int], float] = {}
            for source, target in catalogue:
                if source in vocabulary.ids and target in vocabulary.columns:
                    links[vocabulary.ids[source], vocabulary.columns[target]] = 1.0
                else:
                    unknown_links += 1
            declared = Successors.of(len(vocabulary), links)
        return cls(vocabulary, Successors.of(len(vocabulary), counts), declared, unknown_links)

    @cached_property
    def popularity(self) -> Floats:
        """[C] how often each service was a target in training."""
        services = len(self.vocabulary.services)
        counts = np.bincount(self.observed.services, self.observed.counts, services)
        return counts.astype(np.float64)

    @cached_property
    def continued(self) -> Floats:
        """[V] how many training examples continue from each node."""
        counts = np.bincount(self._sources, self.observed.counts, len(self.vocabulary))
        return counts.astype(np.float64)

    @cached_property
    def unseen_mass(self) -> Floats:
        """[V] estimated probability that the next successor of a node is one never seen after it.

        Good-Turing: the share of a node's observations that were the only one of their kind. A node
        with few observations borrows from all of them: (n1 + m) / (n + 1), where n1 of its n
        observations are single and m is that share over the whole graph.
        """
        single = self.observed.counts == 1
        owner = self._sources
        ones = np.bincount(owner, weights=single, minlength=len(self.vocabulary))
        seen = self.continued
        overall = (ones.sum() + 1) / (seen.sum() + 2)
        return np.asarray((ones + overall) / (seen + 1), dtype=np.float64)

    @cached_property
    def dag(self) -> Upstreams:
        """The observed links as one DAG over all node ids but padding.

        Links that close a cycle are dropped: the back edges of a depth-first search, as in the readers.
        """
        words = ("", *self.vocabulary.services, *self.vocabulary.others)
        nodes = [Node(str(i), key) for i, key in enumerate(words, start=UNKNOWN)]
        links = [
            (str(node), str(service + FIRST))
            for node, service in zip(self._sources, self.observed.services, strict=True)
        ]
        composition, _ = compose("graph", nodes, links, on_cycle="break")
        place = {node: i for i, node in enumerate(composition.order)}
        dag = Upstream(
            tuple(composition.by_id[node].key for node in composition.order),
            tuple(tuple(place[p] for p in composition.parents[node]) for node in composition.order),
            (),
        )
        return Upstreams.of([dag], self.vocabulary)

    def support(self, node: int) -> Floats:
        """[C] how often each service followed a node in training; zeros for an unknown node."""
        counts = np.zeros(len(self.vocabulary.services))
        if node > UNKNOWN:
            services, seen = self.observed.row(node)
            counts[services] = seen
        return counts

    def similarities(self, column: int) -> Floats:
        """[C] cosine of how often each service and service ``column`` followed each node in training.

        0 for services that followed none.
        """
        observed = self.observed
        of_node = np.zeros(len(self.vocabulary))
        own = observed.services == column
        of_node[self._sources[own]] = observed.counts[own]
        products = observed.counts * of_node[self._sources]
        shared = np.bincount(observed.services, products, len(self._norms))
        norms = self._norms * self._norms[column]
        found: Floats = np.divide(shared, norms, out=np.zeros(len(norms)), where=norms > 0)
        return found

    @cached_property
    def _sources(self) -> Ids:
        """[links] node that each observed link starts from."""
        return np.repeat(np.arange(len(self.vocabulary)), self.observed.degrees)

    @cached_property
    def _norms(self) -> Floats:
        """[C] root of the summed squares of the counts into each service."""
        observed = self.observed
        squares = np.bincount(observed.services, observed.counts**2, len(self.vocabulary.services))
        norms: Floats = np.sqrt(squares)
        return norms

    @cached_property
    def fingerprint(self) -> str:
        total = hashlib.sha256(self.vocabulary.fingerprint.encode())
        for name, array in sorted(self.state().items()):
            total.update(name.encode() + array.tobytes())
        return total.hexdigest()

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All arrays, named as they are stored."""
        parts = {"observed": self.observed, "declared": self.declared}
        return {
            f"{name}.{field_}": array
            for name, part in parts.items()
            if part is not None
            for field_, array in part.state().items()
        }

    @classmethod
    def restore(cls, state: Mapping[str, NDArray[np.generic]], vocabulary: Vocabulary) -> ServiceGraph:
        """The graph whose :meth:`state` this is. Raises :class:`StoreError` if it does not fit."""

        def part(name: str) -> Successors:
            try:
                starts, services, counts = (
                    state[f"{name}.{field_}"] for field_ in ("starts", "services", "counts")
                )
            except KeyError as error:
                raise StoreError(f"graph: needs the array {error}, found none; publish again") from None
            return Successors(
                starts.astype(np.int64), services.astype(np.int64), counts.astype(np.float64)
            ).check(len(vocabulary), len(vocabulary.services))

        declared = part("declared") if "declared.starts" in state else None
        return cls(vocabulary, part("observed"), declared)

    def to_networkx(self) -> networkx.DiGraph:
        """The observed links between keys as a networkx graph, with their counts."""
        import networkx

        graph = networkx.DiGraph()
        keys = ("", "", *self.vocabulary.services, *self.vocabulary.others)
        graph.add_nodes_from(self.vocabulary.services, kind="service")
        graph.add_nodes_from(self.vocabulary.others, kind="other")
        for node in range(len(keys)):
            for service, count in zip(*self.observed.row(node), strict=True):
                graph.add_edge(keys[node], self.vocabulary.services[service], count=float(count))
        return graph


def read_catalogue(path: Path, max_mb: int = 64) -> list[tuple[str, str]]:
    """Declared links from a JSON array of ``[source key, service key]`` pairs."""
    try:
        links = []
        for i, item in enumerate(need_list(parse_json(read_text(path, max_mb)), "a catalogue"), 1):
            pair = need_list(item, f"link {i}")
            if len(pair) != 2:
                raise DataError(
                    f"link {i}: must be [source key, service key], found {len(pair)} items",
                    rule="wrong-type",
                )
            links.append(
                (need_id(pair[0], f"link {i}: source"), need_id(pair[1], f"link {i}: service"))
            )
    except DataError as error:
        raise error.at(str(path)) from None
    return links


def read_services(path: Path, max_mb: int = 64) -> dict[str, str]:
    """Services that exist, used or not, from a JSON object of service key -> text."""
    try:
        texts = need_object(parse_json(read_text(path, max_mb)), "services")
        for key, text in texts.items():
            need_id(key, "services: a key")
            if not isinstance(text, str):
                raise DataError(
                    f"services: the text of {key!r} must be a string, found {type(text).__name__}",
                    rule="wrong-type",
                )
    except DataError as error:
        raise error.at(str(path)) from None
    return {key: str(text) for key, text in texts.items()}
