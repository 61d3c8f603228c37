"""Which training compositions made which step: what an answer can be explained with.

Built from training examples and nothing else, and read by no recommender.
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
"""Nodes at the end of a path by which contexts are compared, at most."""

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Step:
    """How often a service followed the longest end of a path after which training shows it.

    nodes: of that end, 0 where the service never followed the last node; compositions: how many made
    the step, and the ids of the first of them.
    """

    nodes: int
    compositions: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Nearest:
    """A context of training, and what followed it.

    path: node ids; similarity: Jaccard index of its nodes and those asked about; compositions: how many
    have it; following: (service column, compositions), the most frequent first.
    """

    path: tuple[int, ...]
    similarity: float
    compositions: int
    following: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """U distinct paths of training, the S distinct steps that were made after them, and by whom.

    ids: of the D compositions that have an example, in their order; hashes: [D], of their content;
    paths: node ids of path u at path_starts[u]; step s leads from path step_paths[s] to service column
    step_services[s], and numbers of the compositions that made it are at step_starts[s]. Steps stand in
    the order of their paths.
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
        number: dict[int, int] = {}
        sources: list[tuple[str, int]] = []
        made: dict[tuple[int, ...], dict[int, dict[int, None]]] = defaultdict(dict)
        for example in examples:
            if example.composition not in number:
                number[example.composition] = len(number)
                source = example.context.composition
                about = (str(example.composition), 0)
                sources.append(about if source is None else (source.id, composition_hash(source)))
            path = tuple(vocabulary.ids[key] for key in example.context.path)
            steps = made[path].setdefault(vocabulary.columns[example.target], {})
            steps[number[example.composition]] = None
        paths = sorted(made)
        steps_of = [sorted(made[path].items()) for path in paths]
        flat = [(u, column, list(by)) for u, steps in enumerate(steps_of) for column, by in steps]
        return cls(
            tuple(id_ for id_, _ in sources),
            np.array([hash_ for _, hash_ in sources], dtype=np.uint64),
            Ragged.of([len(path) for path in paths]).starts,
            np.array([node for path in paths for node in path], dtype=np.int64),
            np.array([u for u, _, _ in flat], dtype=np.int64),
            np.array([column for _, column, _ in flat], dtype=np.int64),
            Ragged.of([len(by) for _, _, by in flat]).starts,
            np.array([number for _, _, by in flat for number in by], dtype=np.int64),
        )

    @cached_property
    def seen(self) -> Hashes:
        """Hashes of all training compositions, ascending."""
        return np.sort(self.hashes)

    def steps(self, path: Sequence[int], columns: Sequence[int], ids: int = 3) -> list[Step]:
        """For each service column: after how much of the path's end it came, and where."""
        shared = self._shared_ends(path)
        related = np.flatnonzero(shared[self.step_paths] > 0)
        services = self.step_services[related]
        lengths = shared[self.step_paths[related]]
        found = []
        for column in columns:
            own = services == column
            nodes = int(lengths[own].max(initial=0))
            by = self._by(related[own & (lengths == nodes)]) if nodes else np.empty(0, np.int64)
            found.append(Step(nodes, len(by), tuple(self.ids[int(i)] for i in by[:ids])))
        return found

    def nearest(self, path: Sequence[int], count: int = 3) -> list[Nearest]:
        """The training contexts most like a path: those that end like it for longest, and of these the
        ones that share most of its nodes. Contexts without a common node are left out."""
        asked = np.unique([node for node in path if node > UNKNOWN])
        owner, nodes = self._distinct
        common = np.bincount(owner[np.isin(nodes, asked)], minlength=len(self._sizes))
        similarity = common / np.maximum(self._sizes + len(asked) - common, 1)
        # lexsort is stable and its last key decides first.
        order = np.lexsort((-similarity, -self._shared_ends(path)))
        found = []
        for u in order[similarity[order] > 0][:count]:
            steps = range(*np.searchsorted(self.step_paths, [u, u + 1]))
            counts = {int(self.step_services[s]): len(self._by(np.array([s]))) for s in steps}
            following = tuple(sorted(counts.items(), key=lambda item: -item[1]))
            whole = tuple(self.paths[self.path_starts[u] : self.path_starts[u + 1]].tolist())
            total = len(self._by(np.arange(steps.start, steps.stop)))
            found.append(Nearest(whole, float(similarity[u]), total, following))
        return found

    def _by(self, steps: Ids) -> Ids:
        """Numbers of the compositions that made any of these steps, ascending."""
        found: Ids = np.unique(self.compositions[Ragged(self.step_starts).take(steps)[0]])
        return found

    def _shared_ends(self, path: Sequence[int]) -> Ids:
        """[U] how many nodes at its end each path shares with this one, up to ``MAX_SUFFIX_LENGTH``."""
        tail = np.full(MAX_SUFFIX_LENGTH, UNKNOWN, dtype=np.int64)
        newest = np.array(path[::-1][:MAX_SUFFIX_LENGTH], dtype=np.int64)
        tail[: len(newest)] = newest
        same: Mask = (self._tails == tail) & (tail > UNKNOWN)
        shared: Ids = np.cumprod(same, axis=1).sum(axis=1)
        return shared

    @cached_property
    def _tails(self) -> Ids:
        """[U, MAX_SUFFIX_LENGTH] the newest nodes of each path, the newest first."""
        places = self.path_starts[1:, None] - 1 - np.arange(MAX_SUFFIX_LENGTH)
        outside = places < self.path_starts[:-1, None]
        tails: Ids = np.where(outside, PADDING, self.paths[np.maximum(places, 0)])
        return tails

    @cached_property
    def _distinct(self) -> tuple[Ids, Ids]:
        """Each path with each of its nodes, once: numbers of paths, and nodes."""
        owner = np.repeat(np.arange(len(self.path_starts) - 1), np.diff(self.path_starts))
        pairs = np.unique(np.stack([owner, self.paths]), axis=1)
        return pairs[0], pairs[1]

    @cached_property
    def _sizes(self) -> Ids:
        """[U] distinct nodes of each path."""
        return np.bincount(self._distinct[0], minlength=len(self.path_starts) - 1)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All arrays, named as they are stored; ids as UTF-8."""
        encoded = [id_.encode() for id_ in self.ids]
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return arrays | {
            "ids": np.frombuffer(b"".join(encoded), dtype=np.uint8),
            "id_starts": Ragged.of([len(id_) for id_ in encoded]).starts,
        }

    @classmethod
    def restore(cls, state: Mapping[str, NDArray[np.generic]], vocabulary: Vocabulary) -> Evidence:
        """The evidence whose :meth:`state` this is. Raises :class:`StoreError` if it does not fit."""
        try:
            text, starts = state["ids"].tobytes(), state["id_starts"].astype(np.int64)
            ids = tuple(text[a:b].decode() for a, b in pairwise(starts))
            hashes = state["hashes"].astype(np.uint64)
            arrays = {name: state[name].astype(np.int64) for name in ARRAYS if name != "hashes"}
            found = cls(ids, hashes, **arrays)
            whole = found._fits(vocabulary)
        except (KeyError, ValueError, IndexError):
            whole = False
        if not whole:
            raise StoreError(
                "evidence: its paths and steps must be of its vocabulary and its compositions, found "
                "others; publish the bundle again"
            )
        return found

    def _fits(self, vocabulary: Vocabulary) -> bool:
        paths, steps = len(self.path_starts) - 1, len(self.step_paths)
        return (
            len(self.ids) == len(self.hashes)
            and _divides(self.path_starts, len(self.paths))
            and _divides(self.step_starts, len(self.compositions))
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
    """A number of 64 bits that two compositions share when everything in them is the same.

    Their own ids do not enter: a reader makes them up from file and place where there are none.
    """
    return int(fingerprint([replace(composition, id="")])[:16], 16)


def _divides(starts: Ids, total: int) -> bool:
    return bool(starts[0] == 0 and starts[-1] == total and (np.diff(starts) >= 0).all())


def _within(values: Ids, low: int, high: int) -> bool:
    return bool(((values >= low) & (values < high)).all())
