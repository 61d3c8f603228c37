"""Helpers for tests of networks that read padded rows of node ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dagrec.data.examples import Context, Example
from dagrec.data.vocabulary import FIRST_SERVICE, PADDING, Contexts
from dagrec.models.sequence.paths import PathRows, RowInputs
from dagrec.training.data import TrainingData
from dagrec.training.network import Network

NODES, SERVICES = 12, 7
Path = Sequence[int]


def random_paths(count: int, length: int) -> list[Path]:
    generator = torch.Generator().manual_seed(1)
    paths: list[Path] = torch.randint(
        FIRST_SERVICE, NODES, (count, length), generator=generator
    ).tolist()
    return paths


def mixed_paths() -> list[Path]:
    """Return paths of 3, 1, 5 and 2 nodes."""
    return [path[:n] for path, n in zip(random_paths(4, 5), (3, 1, 5, 2), strict=True)]


def encode(paths: Sequence[Path], padding: int = 0) -> Contexts:
    """Return the paths as contexts with ``padding`` more columns than needed."""
    width = max(map(len, paths)) + padding
    nodes = np.array([[*path, *[PADDING] * (width - len(path))] for path in paths], dtype=np.int64)
    lengths = np.array([len(path) for path in paths], dtype=np.int64)
    return Contexts(nodes, lengths, tuple(Context(tuple(map(str, path))) for path in paths))


def rows(paths: Sequence[Path], *, padding: int = 0) -> RowInputs:
    """Return inputs with one row and one context per path."""
    contexts = encode(paths, padding)
    lengths = torch.from_numpy(contexts.lengths)
    return RowInputs(torch.from_numpy(contexts.nodes), lengths, torch.arange(len(paths)), lengths - 1)


def scores(net: Network, paths: Sequence[Path], *, shared: bool = False) -> Tensor:
    """Return the scores [B, C] of the paths; ``shared``: prefixes of other paths share their row."""
    units = PathRows.of(encode(paths), shared=shared)
    inputs, context_rows = units.take(np.arange(len(units.sizes)))
    order = torch.from_numpy(np.argsort(context_rows, kind="stable"))
    result: Tensor = net(inputs)[order]
    return result


def assert_close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_scores_depend_on_every_node(net: Network, *, length: int = 3) -> None:
    """Check that paths which differ in one node, at any position, have different scores."""
    for position in range(length):
        before, after = [FIRST_SERVICE] * position, [FIRST_SERVICE] * (length - 1 - position)
        result = scores(net, [[*before, node, *after] for node in range(FIRST_SERVICE, NODES)])
        distances = torch.cdist(result, result) + torch.eye(len(result))
        assert distances.min() > 1e-4, f"position {position}"


def eight_examples() -> TrainingData:
    """Return eight paths of one or two nodes, each with a different target."""
    paths = [(f"a{i}",) for i in range(4)] + [(f"a{i}", f"b{i}") for i in range(4)]
    return TrainingData.of([Example(Context(p), f"y{i}", "n", i) for i, p in enumerate(paths)])
