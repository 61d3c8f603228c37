"""The service graph: which services followed which nodes, how often, and which links are declared."""

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
from dagrec.data.formats.documents import (
    parse_json,
    require_id,
    require_list,
    require_object,
)
from dagrec.data.formats.sources import read_text
from dagrec.data.vocabulary import FIRST_SERVICE, UNKNOWN, Vocabulary
from dagrec.errors import DataError, StoreError
from dagrec.graph.upstream import Upstream, Upstreams
from dagrec.types import Floats, Ids

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True)
class Successors:
    """A sparse matrix of node ids by service columns, in compressed sparse row format.

    starts: [V + 1] row starts; services: [links] columns, ascending within a row; counts: [links].
    """

    starts: Ids
    services: Ids
    counts: Floats

    @classmethod
    def of(cls, nodes: int, counts: Mapping[tuple[int, int], float]) -> Successors:
        """The matrix with ``nodes`` rows of (node id, service column) -> count."""
        links = sorted(counts)
        sources, services = np.array(links, dtype=np.int64).reshape(-1, 2).T.copy()
        return cls(
            np.searchsorted(sources, np.arange(nodes + 1)),
            services,
            np.array([counts[link] for link in links], dtype=np.float64),
        )

    def row(self, node: int) -> tuple[Ids, Floats]:
        """Columns and counts of the services that followed a node."""
        part = slice(self.starts[node], self.starts[node + 1])
        return self.services[part], self.counts[part]

    @cached_property
    def degrees(self) -> Ids:
        """[V] number of distinct successors of each node."""
        return np.diff(self.starts)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All arrays, by name."""
        return {"starts": self.starts, "services": self.services, "counts": self.counts}

    def check(self, nodes: int, services: int) -> Successors:
        """Return ``self`` if it matches a vocabulary of this size, else raise :class:`StoreError`."""
        valid = (
            self.starts.shape == (nodes + 1,)
            and self.services.shape == self.counts.shape == (int(self.starts[-1]),)
            and self.starts[0] == 0
            and bool((self.degrees >= 0).all())
            and bool(((self.services >= 0) & (self.services < services)).all())
            and bool((np.isfinite(self.counts) & (self.counts > 0)).all())
        )
        if not valid:
            raise StoreError(
                f"graph: it must have {nodes} nodes and {services} services like its vocabulary, "
                "found other shapes or values; publish the bundle again"
            )
        return self


@dataclass(frozen=True)
class ServiceGraph:
    """The links observed in training with their counts, and the links declared in a catalogue.

    ``observed`` counts, for each node and service, the training examples in which the service followed
    the node. ``declared`` has the links of the catalogue, with count 1 each, or is None.
    """

    vocabulary: Vocabulary
    observed: Successors
    declared: Successors | None = None
    unknown_links: int = field(default=0, compare=False)
    """Number of declared links with a node or a service that is not in the vocabulary."""

    @classmethod
    def of(
        cls,
        examples: Iterable[Example],
        vocabulary: Vocabulary,
        catalogue: Iterable[tuple[str, str]] | None = None,
    ) -> ServiceGraph:
        """The graph of training examples and of the (source key, service key) links of a catalogue."""
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
        """[C] number of training examples with each service as the target."""
        services = len(self.vocabulary.services)
        counts = np.bincount(self.observed.services, self.observed.counts, services)
        return counts.astype(np.float64)

    @cached_property
    def frontier_counts(self) -> Floats:
        """[V] number of training examples with each node as the frontier."""
        counts = np.bincount(self._sources, self.observed.counts, len(self.vocabulary))
        return counts.astype(np.float64)

    @cached_property
    def unseen_mass(self) -> Floats:
        """[V] estimated probability that the next successor of a node never followed it in training.

        A Good-Turing estimate: the share of singletons among the observations of a node, smoothed
        towards that of the whole graph, (n1 + m) / (n + 1). n is the number of observations of the
        node, n1 the number of its links that were observed once, and m the share of such links in all
        observations.
        """
        is_singleton = self.observed.counts == 1
        singletons = np.bincount(self._sources, weights=is_singleton, minlength=len(self.vocabulary))
        observations = self.frontier_counts
        overall = (singletons.sum() + 1) / (observations.sum() + 2)
        return np.asarray((singletons + overall) / (observations + 1), dtype=np.float64)

    @cached_property
    def dag(self) -> Upstreams:
        """The observed links as one DAG over all node ids except padding.

        Links that close a cycle are dropped: the back edges of a depth-first search, as in the readers.
        """
        keys = ("", *self.vocabulary.services, *self.vocabulary.others)
        nodes = [Node(str(i), key) for i, key in enumerate(keys, start=UNKNOWN)]
        links = [
            (str(node), str(service + FIRST_SERVICE))
            for node, service in zip(self._sources, self.observed.services, strict=True)
        ]
        composition, _ = compose("graph", nodes, links, on_cycle="break")
        position = {node: i for i, node in enumerate(composition.order)}
        dag = Upstream(
            tuple(composition.by_id[node].key for node in composition.order),
            tuple(tuple(position[p] for p in composition.parents[node]) for node in composition.order),
            (),
        )
        return Upstreams.of([dag], self.vocabulary)

    def support(self, node: int) -> Floats:
        """[C] number of times that each service followed a node in training; 0 for an unknown node."""
        result = np.zeros(len(self.vocabulary.services))
        if node > UNKNOWN:
            services, counts = self.observed.row(node)
            result[services] = counts
        return result

    def similarities(self, column: int) -> Floats:
        """[C] cosine similarity of each service to service ``column``.

        A service is represented by the number of times that it followed each node in training. The
        similarity of a service that never followed a node is 0.
        """
        observed = self.observed
        query = np.zeros(len(self.vocabulary))
        links_to_column = observed.services == column
        query[self._sources[links_to_column]] = observed.counts[links_to_column]
        products = observed.counts * query[self._sources]
        dot_products = np.bincount(observed.services, products, len(self._norms))
        norms = self._norms * self._norms[column]
        cosines: Floats = np.divide(dot_products, norms, out=np.zeros(len(norms)), where=norms > 0)
        return cosines

    @cached_property
    def _sources(self) -> Ids:
        """[links] source node of each observed link."""
        return np.repeat(np.arange(len(self.vocabulary)), self.observed.degrees)

    @cached_property
    def _norms(self) -> Floats:
        """[C] Euclidean norm of the counts of the links to each service."""
        observed = self.observed
        squares = np.bincount(observed.services, observed.counts**2, len(self.vocabulary.services))
        norms: Floats = np.sqrt(squares)
        return norms

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 over the vocabulary and all links."""
        digest = hashlib.sha256(self.vocabulary.fingerprint.encode())
        for name, array in sorted(self.state().items()):
            digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All arrays under their stored names."""
        parts = {"observed": self.observed, "declared": self.declared}
        return {
            f"{name}.{field_}": array
            for name, part in parts.items()
            if part is not None
            for field_, array in part.state().items()
        }

    @classmethod
    def restore(cls, state: Mapping[str, NDArray[np.generic]], vocabulary: Vocabulary) -> ServiceGraph:
        """Rebuild a graph from its :meth:`state`. Raises :class:`StoreError` if it is invalid."""

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
        """The observed links and their counts as a networkx graph of keys."""
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
    """Read declared links from a JSON array of ``[source key, service key]`` pairs."""
    try:
        links = []
        for i, item in enumerate(require_list(parse_json(read_text(path, max_mb)), "a catalogue"), 1):
            pair = require_list(item, f"link {i}")
            if len(pair) != 2:
                raise DataError(
                    f"link {i}: must be [source key, service key], found {len(pair)} items",
                    rule="wrong-type",
                )
            links.append(
                (require_id(pair[0], f"link {i}: source"), require_id(pair[1], f"link {i}: service"))
            )
    except DataError as error:
        raise error.at(str(path)) from None
    return links


def read_services(path: Path, max_mb: int = 64) -> dict[str, str]:
    """Read services that exist, whether used or not, from a JSON object of service key -> text."""
    try:
        texts = require_object(parse_json(read_text(path, max_mb)), "services")
        for key, text in texts.items():
            require_id(key, "services: a key")
            if not isinstance(text, str):
                raise DataError(
                    f"services: the text of {key!r} must be a string, found {type(text).__name__}",
                    rule="wrong-type",
                )
    except DataError as error:
        raise error.at(str(path)) from None
    return {key: str(text) for key, text in texts.items()}
