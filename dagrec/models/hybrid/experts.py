"""What a hybrid knows of services beside their identity: their texts, and what was counted.

An expert gives log-probabilities of all services for a context, of which it sees the state h [R, H]
and the last node [R].
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid, normalize

from dagrec.data.vocabulary import FIRST, Vocabulary
from dagrec.errors import DataError
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.text import unit
from dagrec.types import Floats

MAX_SHARPNESS = 20.0
"""The largest k."""
INITIAL_SHARPNESS = 1.0
"""The first k: a product of length-1 vectors in 64 dimensions varies by 1 / 8, and so do the scores."""
AWAY = -1e4
"""A score without a share in any softmax, and yet finite."""


class TextExpert(nn.Module):
    """States h [R, H] and last nodes [R] -> log-probabilities of services by their texts [R, C]."""

    rows: Tensor

    def __init__(self, rows: Floats, width: int, services: int) -> None:
        """rows: [V, D], 0 for what has no text; others have length 1 from here on."""
        super().__init__()
        self.services = services
        self.register_buffer("rows", torch.from_numpy(unit(rows).astype(np.float32)))
        self.scale = rows.shape[1] ** 0.5
        self.query = nn.Linear(width + rows.shape[1], width, bias=False)
        self.project = nn.Linear(rows.shape[1], width, bias=False)
        nn.init.orthogonal_(self.project.weight)
        self.sharp = nn.Linear(width, 1)
        nn.init.zeros_(self.sharp.weight)
        nn.init.constant_(self.sharp.bias, -math.log(MAX_SHARPNESS / INITIAL_SHARPNESS - 1))

    def forward(self, h: Tensor, last: Tensor, among: Tensor | None = None) -> Tensor:
        """among: [C], True for the services that compete; all, where it is not given."""
        # As long as h is, which a layer norm has left: neither is lost beside the other.
        read = torch.cat([h, self.rows[last] * self.scale], dim=1)
        query = normalize(self.query(read), dim=1)
        scores = self.sharpness(h) * (query @ self.vectors().T)
        if among is not None:
            scores = scores.masked_fill(~among, AWAY)
        return log_softmax(scores.float(), dim=1)

    def vectors(self) -> Tensor:
        """[C, d] of length 1."""
        rows = self.rows[FIRST : FIRST + self.services]
        return normalize(self.project(rows), dim=1)

    def sharpness(self, h: Tensor) -> Tensor:
        """k: [R, 1]"""
        return MAX_SHARPNESS * logsigmoid(self.sharp(h)).exp()


class GraphExpert(nn.Module):
    """Last nodes [R] -> log-probabilities of what follows them [R, C]. Nothing of it is learned.

    In training every count is one less, and pi gets what is missing: one of the links is that of the
    example itself. A gate that saw it would trust counts that no later example is in.
    """

    starts: Tensor
    columns: Tensor
    shares: Tensor
    unseen: Tensor
    popularity: Tensor

    def __init__(self, graph: ServiceGraph) -> None:
        super().__init__()
        nodes, observed = len(graph.vocabulary), graph.observed
        owner = np.repeat(np.arange(nodes), observed.degrees)
        shares = []
        totals = graph.continued[owner]
        for own in (0, 1):  # in evaluation, in training
            left = (observed.counts - own) / np.maximum(totals - own, 1)
            shares.append((1 - graph.unseen_mass[owner]) * left)
        unseen = [1 - np.bincount(owner, own, nodes) for own in shares]
        popularity = (graph.popularity + 1) / (graph.popularity + 1).sum()
        for name, ids in {"starts": observed.starts, "columns": observed.services}.items():
            self.register_buffer(name, torch.from_numpy(ids.copy()), persistent=False)
        for name, array in {"shares": shares, "unseen": unseen, "popularity": popularity}.items():
            values = torch.from_numpy(np.array(array, dtype=np.float32))
            self.register_buffer(name, values, persistent=False)

    def forward(self, last: Tensor) -> Tensor:
        which = int(self.training)
        first = self.starts[last]
        sizes = self.starts[last + 1] - first
        rows = torch.repeat_interleave(torch.arange(len(last), device=last.device), sizes)
        place = torch.arange(len(rows), device=last.device) - (sizes.cumsum(0) - sizes - first)[rows]
        found = self.unseen[which][last][:, None] * self.popularity
        found[rows, self.columns[place]] += self.shares[which][place]
        return found.log()


def read_vectors(file: Path, vocabulary: Vocabulary) -> Floats:
    """[V, d] of length 1 from a safetensors file with a vector [d] for each key; 0 for other nodes.

    Raises :class:`DataError` for another kind of file, or one without a node of the vocabulary.
    """
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{file}: text vectors must be a safetensors file with a vector for each key, found "
            f"{error}; write it with safetensors.numpy.save_file({{key: vector}}, file)",
            rule="vectors",
        ) from None
    known = {key: vector for key, vector in found.items() if key in vocabulary.ids}
    shapes = {vector.shape for vector in known.values()}
    flat = len(shapes) == 1 and len(next(iter(shapes))) == 1
    if not flat or not all(np.isfinite(vector).all() for vector in known.values()):
        raise DataError(
            f"{file}: nodes of the training data must have finite vectors of one length, found "
            f"{len(known)} of {len(vocabulary) - FIRST} nodes, with shapes {sorted(shapes)}",
            rule="vectors",
        )
    rows = np.zeros((len(vocabulary), *next(iter(shapes))))
    for key, vector in known.items():
        rows[vocabulary.ids[key]] = vector
    return unit(rows)
