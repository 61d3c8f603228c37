"""Which training compositions contain which step. Answers are explained with it.

Evidence is built from training examples alone, and no recommender uses it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dagrec.data.compositions import Composition, fingerprint
from dagrec.data.examples import Example
from dagrec.data.vocabulary import PADDING, UNKNOWN, Vocabulary
from dagrec.errors import StoreError
from dagrec.types import Ids, Mask, Ragged

MAX_SUFFIX_LENGTH = 16
"""The largest number of nodes at the end of a path by which contexts are compared."""

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class StepEvidence:
    """How often a service followed the longest suffix of a path that it follows in training.

    nodes: length of that suffix, 0 if the service never followed the last node; compositions: number of
    compositions that contain the step; ids: ids of the first of these compositions.
    """

    nodes: int
    compositions: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class SimilarContext:
    """A training context that is similar to a given one, and the services that followed it.

    path: node ids; similarity: Jaccard index of the nodes of both contexts; compositions: number of
    compositions that contain the context; following: (service column, number of compositions), the most
    frequent first.
    """

    path: tuple[int, ...]
    similarity: float
    compositions: int
    following: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The U distinct training paths, the S distinct steps after them, and their compositions.

    ids: [D] ids of the compositions that have an example, in order; hashes: [D] hashes of their
    content; paths: node ids, those of path u start at path_starts[u]. Step s leads from path
    step_paths[s] to service column step_services[s]; compositions: numbers of the compositions that
    contain a step, those of step s start at step_starts[s]. Steps are in the order of their paths.
    """

    ids: tuple[str, ...]
    hashes: Hashes
    path_starts: Ids
    paths: Ids
    step_paths: Ids
    step_services: Ids
    step_starts: Ids
    compositions: Ids

    @classmethod
    def of(cls, examples: Iterable[Example], vocabulary: Vocabulary) -> Evidence:
        """The evidence of training examples."""
        numbers: dict[int, int] = {}
        ids_and_hashes: list[tuple[str, int]] = []
        # path -> service column -> numbers of the compositions, as an ordered set
        steps_after: dict[tuple[int, ...], dict[int, dict[int, None]]] = defaultdict(dict)
        for example in examples:
            if example.composition not in numbers:
                numbers[example.composition] = len(numbers)
                composition = example.context.composition
                if composition is None:
                    ids_and_hashes.append((str(example.composition), 0))
                else:
                    ids_and_hashes.append((composition.id, composition_hash(composition)))
            path = tuple(vocabulary.ids[key] for key in example.context.path)
            members = steps_after[path].setdefault(vocabulary.columns[example.target], {})
            members[numbers[example.composition]] = None
        paths = sorted(steps_after)
        steps = [
            (u, column, list(members))
            for u, path in enumerate(paths)
            for column, members in sorted(steps_after[path].items())
        ]
        return cls(
            tuple(id_ for id_, _ in ids_and_hashes),
            np.array([hash_ for _, hash_ in ids_and_hashes], dtype=np.uint64),
            Ragged.of([len(path) for path in paths]).starts,
            np.array([node for path in paths for node in path], dtype=np.int64),
            np.array([u for u, _, _ in steps], dtype=np.int64),
            np.array([column for _, column, _ in steps], dtype=np.int64),
            Ragged.of([len(members) for _, _, members in steps]).starts,
            np.array([number for _, _, members in steps for number in members], dtype=np.int64),
        )

    @cached_property
    def sorted_hashes(self) -> Hashes:
        """[D] hashes of all training compositions, ascending."""
        return np.sort(self.hashes)

    def steps(self, path: Sequence[int], columns: Sequence[int], ids: int = 3) -> list[StepEvidence]:
        """The evidence for each service column after ``path``, with up to ``ids`` composition ids."""
        suffix_lengths = self._common_suffix_lengths(path)
        related = np.flatnonzero(suffix_lengths[self.step_paths] > 0)
        services = self.step_services[related]
        lengths = suffix_lengths[self.step_paths[related]]
        result = []
        for column in columns:
            to_column = services == column
            nodes = int(lengths[to_column].max(initial=0))
            members = np.empty(0, np.int64)
            if nodes:
                members = self._compositions_of(related[to_column & (lengths == nodes)])
            first_ids = tuple(self.ids[int(i)] for i in members[:ids])
            result.append(StepEvidence(nodes, len(members), first_ids))
        return result

    def support(self, node: int, columns: Sequence[int] | Ids) -> Ids:
        """The number of compositions in which each service column followed a node."""
        services, counts = self._support
        start, end = np.searchsorted(services[0], [node, node + 1])
        found = dict(zip(services[1, start:end].tolist(), counts[start:end].tolist(), strict=True))
        return np.array([found.get(int(column), 0) for column in columns], dtype=np.int64)

    @cached_property
    def _support(self) -> tuple[Ids, Ids]:
        """[2, links] last node and service column of all steps, sorted, and [links] compositions."""
        nodes = np.append(self.paths, PADDING)
        last = np.where(np.diff(self.path_starts) > 0, nodes[self.path_starts[1:] - 1], PADDING)
        steps = np.repeat(np.arange(len(self.step_paths)), np.diff(self.step_starts))
        rows = [last[self.step_paths[steps]], self.step_services[steps], self.compositions]
        members = np.unique(np.stack(rows), axis=1)[:2]
        links, counts = np.unique(members, axis=1, return_counts=True)
        return links, counts.astype(np.int64)

    def nearest(self, path: Sequence[int], count: int = 3) -> list[SimilarContext]:
        """The ``count`` training contexts that are most similar to ``path``.

        They are sorted by the length of the suffix that they share with it, then by the Jaccard index
        of the nodes. Contexts that share no node with it are left out.
        """
        query = np.unique([node for node in path if node > UNKNOWN])
        path_numbers, nodes = self._distinct_nodes
        common = np.bincount(path_numbers[np.isin(nodes, query)], minlength=len(self._sizes))
        similarity = common / np.maximum(self._sizes + len(query) - common, 1)
        # lexsort is stable, and its last key is the primary one.
        order = np.lexsort((-similarity, -self._common_suffix_lengths(path)))
        result = []
        for u in order[similarity[order] > 0][:count]:
            steps = range(*np.searchsorted(self.step_paths, [u, u + 1]))
            counts = {
                int(self.step_services[s]): len(self._compositions_of(np.array([s]))) for s in steps
            }
            following = tuple(sorted(counts.items(), key=lambda item: -item[1]))
            context = tuple(self.paths[self.path_starts[u] : self.path_starts[u + 1]].tolist())
            total = len(self._compositions_of(np.arange(steps.start, steps.stop)))
            result.append(SimilarContext(context, float(similarity[u]), total, following))
        return result

    def _compositions_of(self, steps: Ids) -> Ids:
        """Numbers of the compositions that contain any of these steps, ascending."""
        numbers: Ids = np.unique(self.compositions[Ragged(self.step_starts).take(steps)[0]])
        return numbers

    def _common_suffix_lengths(self, path: Sequence[int]) -> Ids:
        """[U] length of the suffix that each path shares with ``path``, up to MAX_SUFFIX_LENGTH."""
        suffix = np.full(MAX_SUFFIX_LENGTH, UNKNOWN, dtype=np.int64)
        newest = np.array(path[::-1][:MAX_SUFFIX_LENGTH], dtype=np.int64)
        suffix[: len(newest)] = newest
        equal: Mask = (self._suffixes == suffix) & (suffix > UNKNOWN)
        lengths: Ids = np.cumprod(equal, axis=1).sum(axis=1)
        return lengths

    @cached_property
    def _suffixes(self) -> Ids:
        """[U, MAX_SUFFIX_LENGTH] the last nodes of each path, the last one first."""
        positions = self.path_starts[1:, None] - 1 - np.arange(MAX_SUFFIX_LENGTH)
        outside = positions < self.path_starts[:-1, None]
        suffixes: Ids = np.where(outside, PADDING, self.paths[np.maximum(positions, 0)])
        return suffixes

    @cached_property
    def _distinct_nodes(self) -> tuple[Ids, Ids]:
        """The distinct (path number, node id) pairs, as two arrays."""
        path_numbers = np.repeat(np.arange(len(self.path_starts) - 1), np.diff(self.path_starts))
        pairs = np.unique(np.stack([path_numbers, self.paths]), axis=1)
        return pairs[0], pairs[1]

    @cached_property
    def _sizes(self) -> Ids:
        """[U] number of distinct nodes of each path."""
        return np.bincount(self._distinct_nodes[0], minlength=len(self.path_starts) - 1)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All arrays under their stored names; the ids are encoded as UTF-8."""
        encoded = [id_.encode() for id_ in self.ids]
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return arrays | {
            "ids": np.frombuffer(b"".join(encoded), dtype=np.uint8),
            "id_starts": Ragged.of([len(id_) for id_ in encoded]).starts,
        }

    @classmethod
    def restore(cls, state: Mapping[str, NDArray[np.generic]], vocabulary: Vocabulary) -> Evidence:
        """Rebuild evidence from its :meth:`state`. Raises :class:`StoreError` if it is invalid."""
        try:
            text, starts = state["ids"].tobytes(), state["id_starts"].astype(np.int64)
            ids = tuple(text[a:b].decode() for a, b in pairwise(starts))
            hashes = state["hashes"].astype(np.uint64)
            arrays = {name: state[name].astype(np.int64) for name in ARRAYS if name != "hashes"}
            evidence = cls(ids, hashes, **arrays)
            valid = evidence._is_valid(vocabulary)
        except (KeyError, ValueError, IndexError):
            valid = False
        if not valid:
            raise StoreError(
                "evidence: its paths and steps must match the vocabulary and the compositions of the "
                "bundle, found others; publish the bundle again"
            )
        return evidence

    def _is_valid(self, vocabulary: Vocabulary) -> bool:
        paths, steps = len(self.path_starts) - 1, len(self.step_paths)
        return (
            len(self.ids) == len(self.hashes)
            and _are_row_starts(self.path_starts, len(self.paths))
            and _are_row_starts(self.step_starts, len(self.compositions))
            and self.step_services.shape == (steps,)
            and self.step_starts.shape == (steps + 1,)
            and bool((np.diff(self.step_paths) >= 0).all())
            and _within(self.paths, UNKNOWN + 1, len(vocabulary))
            and _within(self.step_paths, 0, paths)
            and _within(self.step_services, 0, len(vocabulary.services))
            and _within(self.compositions, 0, len(self.ids))
        )


ARRAYS = (
    "hashes",
    "path_starts",
    "paths",
    "step_paths",
    "step_services",
    "step_starts",
    "compositions",
)


def composition_hash(composition: Composition) -> int:
    """A 64-bit hash of everything in a composition but its id.

    The id is excluded because a reader derives it from file name and position if the file has none.
    """
    return int(fingerprint([replace(composition, id="")])[:16], 16)


def _are_row_starts(starts: Ids, total: int) -> bool:
    return bool(starts[0] == 0 and starts[-1] == total and (np.diff(starts) >= 0).all())


def _within(values: Ids, low: int, high: int) -> bool:
    return bool(((values >= low) & (values < high)).all())
