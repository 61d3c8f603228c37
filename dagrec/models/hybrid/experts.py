"""Experts that score services by their texts and by counts instead of by learned embeddings.

An expert returns log-probabilities of all services for R contexts, given their states h [R, H] and last
nodes [R].
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

from dagrec.data.vocabulary import FIRST_SERVICE, Vocabulary
from dagrec.errors import DataError
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.text import normalise_rows
from dagrec.types import Floats

MAX_SHARPNESS = 20.0
"""Upper bound of k."""
INITIAL_SHARPNESS = 1.0
"""Initial k."""
EXCLUDED = -1e4
"""A finite score whose share in a softmax is 0."""


class TextExpert(nn.Module):
    """Log-probabilities of services from their text vectors t.

        log p(y) = log_softmax_y(k(h) cos(W_q [h; t_f], W_t t_y)),    k(h) = 20 sigmoid(w . h + c)

    In: states h [R, H] and last nodes f [R]. Out: [R, C].
    """

    rows: Tensor

    def __init__(self, rows: Floats, width: int, services: int) -> None:
        """rows: [V, D] text vectors, 0 for nodes without text; the others are scaled to length 1."""
        super().__init__()
        self.services = services
        self.register_buffer("rows", torch.from_numpy(normalise_rows(rows).astype(np.float32)))
        self.scale = rows.shape[1] ** 0.5
        self.query = nn.Linear(width + rows.shape[1], width, bias=False)
        self.project = nn.Linear(rows.shape[1], width, bias=False)
        nn.init.orthogonal_(self.project.weight)
        self.sharpness_logit = nn.Linear(width, 1)
        nn.init.zeros_(self.sharpness_logit.weight)
        nn.init.constant_(self.sharpness_logit.bias, -math.log(MAX_SHARPNESS / INITIAL_SHARPNESS - 1))

    def forward(self, h: Tensor, last: Tensor, candidates: Tensor | None = None) -> Tensor:
        """Return log-probabilities; candidates: [C], True for the competing services (default: all)."""
        # The text vector is scaled to about the length of h, which is the output of a layer norm.
        inputs = torch.cat([h, self.rows[last] * self.scale], dim=1)
        query = normalize(self.query(inputs), dim=1)
        scores = self.sharpness(h) * (query @ self.vectors().T)
        if candidates is not None:
            scores = scores.masked_fill(~candidates, EXCLUDED)
        return log_softmax(scores.float(), dim=1)

    def vectors(self) -> Tensor:
        """Return the projected text vectors of the services [C, d], of length 1."""
        rows = self.rows[FIRST_SERVICE : FIRST_SERVICE + self.services]
        return normalize(self.project(rows), dim=1)

    def sharpness(self, h: Tensor) -> Tensor:
        """Return k [R, 1]."""
        return MAX_SHARPNESS * logsigmoid(self.sharpness_logit(h)).exp()


class GraphExpert(nn.Module):
    """Log-probabilities of services from counts of what followed the last node; nothing is learned.

        p(y) = (1 - u_f) N(f, y) / N(f) + u_f pi(y)

    In: last nodes f [R]. Out: log p [R, C]. ``dagrec.models.hybrid.ur4rec`` defines the terms.
    In training every count is reduced by one and the remaining probability goes to pi, because one of
    the counted links is that of the example itself. Otherwise the gate would trust counts more than it
    should for new examples.
    """

    starts: Tensor
    columns: Tensor
    shares: Tensor
    unseen: Tensor
    popularity: Tensor

    def __init__(self, graph: ServiceGraph) -> None:
        super().__init__()
        nodes, observed = len(graph.vocabulary), graph.observed
        sources = np.repeat(np.arange(nodes), observed.degrees)
        shares = []
        totals = graph.frontier_counts[sources]
        for excluded in (0, 1):  # in evaluation, in training
            relative = (observed.counts - excluded) / np.maximum(totals - excluded, 1)
            shares.append((1 - graph.unseen_mass[sources]) * relative)
        unseen = [1 - np.bincount(sources, share, nodes) for share in shares]
        popularity = (graph.popularity + 1) / (graph.popularity + 1).sum()
        for name, ids in {"starts": observed.starts, "columns": observed.services}.items():
            self.register_buffer(name, torch.from_numpy(ids.copy()), persistent=False)
        for name, array in {"shares": shares, "unseen": unseen, "popularity": popularity}.items():
            values = torch.from_numpy(np.array(array, dtype=np.float32))
            self.register_buffer(name, values, persistent=False)

    def forward(self, last: Tensor) -> Tensor:
        mode = int(self.training)
        first = self.starts[last]
        sizes = self.starts[last + 1] - first
        rows = torch.repeat_interleave(torch.arange(len(last), device=last.device), sizes)
        links = torch.arange(len(rows), device=last.device) - (sizes.cumsum(0) - sizes - first)[rows]
        p = self.unseen[mode][last][:, None] * self.popularity
        p[rows, self.columns[links]] += self.shares[mode][links]
        return p.log()


def read_vectors(file: Path, vocabulary: Vocabulary) -> Floats:
    """Return the vectors [V, d] of a safetensors file that maps keys to vectors [d].

    The vectors are scaled to length 1; nodes that are not in the file have vector 0. Raises
    :class:`DataError` for another kind of file, or if it has no node of the vocabulary.
    """
    try:
        vectors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{file}: text vectors must be a safetensors file with a vector for each key, found "
            f"{error}; write it with safetensors.numpy.save_file({{key: vector}}, file)",
            rule="vectors",
        ) from None
    known = {key: vector for key, vector in vectors.items() if key in vocabulary.ids}
    shapes = {vector.shape for vector in known.values()}
    same_length = len(shapes) == 1 and len(next(iter(shapes))) == 1
    if not same_length or not all(np.isfinite(vector).all() for vector in known.values()):
        raise DataError(
            f"{file}: nodes of the training data must have finite vectors of one length, found "
            f"{len(known)} of {len(vocabulary) - FIRST_SERVICE} nodes, with shapes {sorted(shapes)}",
            rule="vectors",
        )
    rows = np.zeros((len(vocabulary), *next(iter(shapes))))
    for key, vector in known.items():
        rows[vocabulary.ids[key]] = vector
    return normalise_rows(rows)
