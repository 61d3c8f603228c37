"""Paths of node ids for networks that read padded rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from dagrec.data.examples import Context, Example
from dagrec.data.vocabulary import FIRST, PADDING, Contexts
from dagrec.models.sequence.paths import PathRows, RowInputs
from dagrec.training.data import TrainingData
from dagrec.training.network import Network

NODES, SERVICES = 12, 7
Path = Sequence[int]


@pytest.fixture
def own_generator() -> Iterator[None]:
    """What a test draws from torch's generator is its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def paths(count: int, length: int) -> list[Path]:
    generator = torch.Generator().manual_seed(1)
    found: list[Path] = torch.randint(FIRST, NODES, (count, length), generator=generator).tolist()
    return found


def encoded(of: Sequence[Path], padding: int = 0) -> Contexts:
    width = max(map(len, of)) + padding
    nodes = np.array([[*path, *[PADDING] * (width - len(path))] for path in of], dtype=np.int64)
    lengths = np.array([len(path) for path in of], dtype=np.int64)
    return Contexts(nodes, lengths, tuple(Context(tuple(map(str, path))) for path in of))


def rows(of: Sequence[Path], *, padding: int = 0) -> RowInputs:
    """One row a path, which answers the whole path."""
    contexts = encoded(of, padding)
    lengths = torch.from_numpy(contexts.lengths)
    return RowInputs(torch.from_numpy(contexts.nodes), lengths, torch.arange(len(of)), lengths - 1)


def scores(net: Network, of: Sequence[Path], *, shared: bool = False) -> Tensor:
    """[B, C] of these paths, in their order; ``shared``: beginnings of others have no row."""
    units = PathRows.of(encoded(of), shared=shared)
    inputs, answered = units.take(np.arange(len(units.sizes)))
    back = torch.from_numpy(np.argsort(answered, kind="stable"))
    found: Tensor = net(inputs)[back]
    return found


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    return True


def differ(net: Network, *, places: int = 3) -> bool:
    """Whether paths that differ in one node, the oldest included, differ in score."""
    for place in range(places):
        of = [[FIRST] * place + [node] + [FIRST] * (places - 1 - place) for node in range(FIRST, NODES)]
        found = scores(net, of)
        distances = torch.cdist(found, found) + torch.eye(len(found))
        assert distances.min() > 1e-4, f"node {place}"
    return True


def eight() -> TrainingData:
    """Eight paths of one or two nodes, each with a service of its own."""
    paths = [(f"a{i}",) for i in range(4)] + [(f"a{i}", f"b{i}") for i in range(4)]
    return TrainingData.of([Example(Context(p), f"y{i}", "n", i) for i, p in enumerate(paths)])
