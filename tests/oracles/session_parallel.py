"""GRU4Rec as trained in the papers: session-parallel mini-batches, in-batch and sampled negatives.

Implemented from Hidasi et al. 2016 (arXiv 1511.06939, section 3.1.1) and Hidasi and Karatzoglou 2018
(arXiv 1706.03847, section 3). B sessions advance by one event per step. The state is carried over
without gradient, and is reset to zero if a new session replaces one that has ended. The candidates are
the next items of the batch and ``samples`` items drawn by popularity to the power alpha, shared by all
rows. The loss is cross-entropy; the optimiser is Adagrad, with sparse updates of the embedding. Only
``test_speed.py`` uses this module, as its reference.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dagrec.types import Ids


class SessionParallelGRU(nn.Module):
    """One GRU layer whose output weights are also the input embedding (constrained embedding)."""

    def __init__(self, items: int, width: int, *, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        bound = (6 / (items + width)) ** 0.5
        self.items = nn.Embedding(items, width, sparse=True)
        self.bias = nn.Embedding(items, 1, sparse=True)
        nn.init.uniform_(self.items.weight, -bound, bound)
        nn.init.zeros_(self.bias.weight)
        self.cell = nn.GRUCell(width, width)

    def scores(self, state: Tensor, columns: Tensor) -> Tensor:
        """Return the scores [B, K] of the items ``columns`` [K]."""
        return state @ self.items(columns).T + self.bias(columns).T

    def states(self, paths: list[list[int]]) -> Tensor:
        """Return the state after each path [n, width]."""
        states = []
        with torch.no_grad():
            for path in paths:
                state = torch.zeros(1, self.cell.hidden_size)
                for item in path:
                    state = self.cell(self.items(torch.tensor([item])), state)
                states.append(state)
        return torch.cat(states)


class SessionParallelTrainer:
    """Trains a :class:`SessionParallelGRU` on sessions of item numbers."""

    def __init__(
        self,
        sessions: list[list[int]],
        items: int,
        *,
        width: int = 128,
        batch: int = 128,
        samples: int = 0,
        alpha: float = 0.5,
        learning_rate: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.sessions = [np.array(session) for session in sessions if len(session) > 1]
        self.batch = min(batch, len(self.sessions))
        self.samples = samples
        self.rng = np.random.default_rng(seed)
        counts = np.bincount(np.concatenate(self.sessions), minlength=items).astype(np.float64)
        self.cumulative = np.cumsum(counts**alpha * (counts > 0))
        self.network = SessionParallelGRU(items, width, seed=seed)
        self.optimiser = torch.optim.Adagrad(self.network.parameters(), lr=learning_rate)

    @property
    def events(self) -> int:
        """The number of predictions in an epoch."""
        return sum(len(session) - 1 for session in self.sessions)

    def epoch(self) -> float:
        """Train on all events once and return the mean loss."""
        order = self.rng.permutation(len(self.sessions))
        queue = iter(order[self.batch :])
        active = [self.sessions[i] for i in order[: self.batch]]
        positions = np.zeros(len(active), dtype=np.int64)
        state = torch.zeros(len(active), self.network.cell.hidden_size)
        total = 0.0
        while active:
            current = np.array([session[p] for session, p in zip(active, positions, strict=True)])
            target = np.array([session[p + 1] for session, p in zip(active, positions, strict=True)])
            loss, state = self._step(current, target, state)
            total += loss * len(active)
            positions += 1
            ended = [i for i, session in enumerate(active) if positions[i] == len(session) - 1]
            finished = []
            for i in ended:
                new = next(queue, None)
                if new is None:
                    finished.append(i)
                    continue
                active[i], positions[i] = self.sessions[new], 0
                state[i] = 0
            if finished:
                rows = np.setdiff1d(np.arange(len(active)), finished)
                active, positions, state = [active[i] for i in rows], positions[rows], state[rows]
        return total / self.events

    def _step(self, current: Ids, target: Ids, state: Tensor) -> tuple[float, Tensor]:
        columns = target
        if self.samples:
            drawn = self.rng.random(self.samples) * self.cumulative[-1]
            columns = np.append(target, np.searchsorted(self.cumulative, drawn, side="right"))
        state = self.network.cell(self.network.items(torch.from_numpy(current)), state)
        scores = self.network.scores(state, torch.from_numpy(columns))
        loss = nn.functional.cross_entropy(scores, torch.arange(len(target)))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach()), state.detach()
