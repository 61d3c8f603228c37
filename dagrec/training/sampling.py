"""Negatives: services drawn by a power of their popularity, and how often each draw is expected.

A sum over services is estimated from draws as sum_j f(j) / n_j, where n_j is how often j is expected
among them: for every way of drawing here, that is right on average. Probabilities are in float64, since
float32 loses the rare services of a large catalogue, and there may be more than the 2^24 categories at
which ``torch.multinomial`` ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

MOST_ROUNDS = 100
"""How often draws that hit an excluded service are repeated. With half of the mass excluded, a draw in
2^100 is left over; with 99 %, a third of them."""


class Draw(NamedTuple):
    """K services against each of P rows.

    columns: [P, K] int64; valid: [P, K], False for those that do not count; log_expected: [P, K]
    float32, logarithm of how often the service is expected in the row, 0 where not valid.
    """

    columns: Tensor
    valid: Tensor
    log_expected: Tensor


class Excluded(NamedTuple):
    """Pairs (row, column) that are not valid in a draw, in any order: [X] and [X] int64."""

    rows: Tensor
    columns: Tensor


class Source(Protocol):
    """Independent draws of one column, each with its probability."""

    def draw(self, size: int, generator: torch.Generator | None) -> Tensor:
        """[size] columns."""
        ...


@dataclass(frozen=True)
class InverseCdf:
    """A search for a uniform number in the running sum of the probabilities: O(log C) a draw.

    cumulative: [C] float64, not decreasing, 1 at the end.
    """

    cumulative: Tensor

    @classmethod
    def of(cls, weights: Tensor, device: torch.device) -> InverseCdf:
        """Of weights [C] float64, not negative."""
        # On the CPU a running sum never decreases; on a GPU it may, by the order of its additions.
        cumulative = torch.cumsum(weights.cpu(), dim=0)
        return cls((cumulative / cumulative[-1]).to(device))

    def draw(self, size: int, generator: torch.Generator | None) -> Tensor:
        """[size] columns."""
        device = self.cumulative.device
        uniform = torch.rand(size, dtype=torch.float64, generator=generator, device=device)
        # right=True: a column of weight 0 has the same cumulative value as the one before it, and
        # is passed over.
        return torch.searchsorted(self.cumulative, uniform, right=True)


@dataclass(frozen=True)
class Alias:
    """Walker's table: a uniform column i, or its alias in a share 1 - keep_i of the cases: O(1) a draw.

        q_i = (keep_i + sum_{j: alias_j = i} (1 - keep_j)) / C

    keep: [C] float64 in 0..1; alias: [C] int64.
    """

    keep: Tensor
    alias: Tensor

    @classmethod
    def of(cls, weights: Tensor, device: torch.device) -> Alias:
        """The table of weights [C] float64, not negative, without a loop over them.

        Columns above the average fill up those below it, both in order (the sweep of Hübschle-Schneider
        and Sanders 2019, here by two running sums). G_i is what the light columns before i lack
        together, S_j what the heavy ones up to j have too much. Light i is filled by the first heavy j
        with S_j > G_i. Heavy j is used up at the first i with G_i >= S_j: it keeps 1 + S_j - G_i, not
        above 1 any more, and the next heavy one fills it.
        """
        keep = weights.cpu() * (len(weights) / weights.sum().item())
        alias = torch.arange(len(weights))
        heavy = torch.nonzero(keep > 1).squeeze(1)
        light = torch.nonzero(keep < 1).squeeze(1)
        if len(heavy):
            excess = torch.cumsum(keep[heavy] - 1, dim=0)
            lack = torch.cat([excess.new_zeros(1), torch.cumsum(1 - keep[light], dim=0)])
            filler = torch.searchsorted(excess, lack[:-1], right=True)
            alias[light] = heavy[filler.clamp(max=len(heavy) - 1)]
            alias[heavy[:-1]] = heavy[1:]
            used_up = torch.searchsorted(lack, excess).clamp(max=len(light))
            keep[heavy] = (1 + excess - lack[used_up]).clamp(0, 1)
            keep[heavy[-1]] = 1  # the sums are equal in the end, but for rounding
        return cls(keep.to(device), alias.to(device))

    def draw(self, size: int, generator: torch.Generator | None) -> Tensor:
        """[size] columns."""
        device = self.keep.device
        column = torch.randint(len(self.keep), (size,), generator=generator, device=device)
        uniform = torch.rand(size, dtype=torch.float64, generator=generator, device=device)
        return torch.where(uniform < self.keep[column], column, self.alias[column])


@dataclass(frozen=True)
class Sampler:
    """Draws columns j with probability q_j proportional to count_j ** alpha, of those with a count.

    alpha 0 is uniform, 1 is popularity. Draws take a generator on the device of the sampler, or torch's
    current one, and the same state gives the same draw.

    probabilities: [C] float64, the q_j; popularity: [C] float64, the shares p_j of the counts
    themselves; source: what draws with replacement; replacement: whether a column can be drawn twice
    for one row.
    """

    probabilities: Tensor
    popularity: Tensor
    source: Source
    replacement: bool

    @classmethod
    def of(
        cls,
        counts: Tensor,
        alpha: float,
        *,
        method: Literal["inverse-cdf", "alias"] = "inverse-cdf",
        replacement: bool = True,
    ) -> Sampler:
        """counts: [C], not negative, at least one above 0; the sampler is on their device."""
        popularity = counts.double() / counts.sum(dtype=torch.float64)
        if not popularity.isfinite().all():
            raise ValueError("one of the counts must be above 0, found none")
        weights = torch.where(counts > 0, counts.double() ** alpha, 0)
        kind = Alias if method == "alias" else InverseCdf
        source = kind.of(weights, counts.device)
        return cls(weights / weights.sum(), popularity, source, replacement)

    def draw(
        self, rows: int, size: int, excluded: Excluded, *, generator: torch.Generator | None = None
    ) -> Draw:
        """[rows, size] columns, every row its own.

        With replacement each is of probability q_j / (1 - q of the excluded), and expected k times as
        often, k being the number of valid ones in the row. A draw that hits an excluded column is
        repeated, up to :data:`MOST_ROUNDS` times, and not valid when that was not enough.

        Without, the row has the first ``size`` arrivals of a race in which column j takes a time of
        Exp(q_j), as in Gumbel top-k (Kool et al. 2019). Given the time t of the next arrival, j is
        among them with probability 1 - exp(-q_j t), its expected number (priority sampling, Duffield
        et al. 2007). Where no more than ``size`` columns can be drawn, all are, and t is infinite.
        """
        if self.replacement:
            return self._draw_repeatedly(rows, size, excluded, generator)
        times = self._race(rows, generator)  # [rows, C]
        times[excluded.rows, excluded.columns] = torch.inf
        columns, valid, log_expected = self._first(times, size)
        return _draw(columns, valid, log_expected)

    def draw_shared(
        self,
        rows: int,
        size: int,
        excluded: Excluded,
        *,
        batch: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Draw:
        """``size`` columns for all rows together, not valid in the rows that exclude them.

        batch: [rows], the target of each row, or None. The targets then stand in front of the draws,
        [rows, rows + size], and are negatives of the other rows: in its own row a target is not valid,
        there for certain and not by chance. The other rows - 1 are taken as draws by popularity, so
        that a column is expected (rows - 1) p_j + size q_j times, from wherever it came (the balance
        heuristic of Veach and Guibas 1995). Needs replacement.
        """
        if batch is None and not self.replacement:
            columns, valid, log_expected = self._first(self._race(1, generator), size)
        else:
            columns = self.source.draw(size, generator)
            expected = size * self.probabilities[columns]
            if batch is not None:
                if not self.replacement or len(batch) != rows:
                    raise ValueError(
                        "the targets of a batch are drawn with replacement, one a row: found "
                        f"replacement {self.replacement} and {len(batch)} targets for {rows} rows"
                    )
                columns = torch.cat([batch, columns])
                expected = (rows - 1) * self.popularity[columns] + size * self.probabilities[columns]
            columns, valid, log_expected = columns[None], expected[None] > 0, expected[None].log()
        valid = valid & ~_barred(columns[0], rows, excluded)
        columns = columns.expand(rows, -1)
        if batch is not None:
            valid[:, :rows].fill_diagonal_(False)
        return _draw(columns, valid, log_expected.expand(rows, -1))

    def _draw_repeatedly(
        self, rows: int, size: int, excluded: Excluded, generator: torch.Generator | None
    ) -> Draw:
        width, device = len(self.probabilities), self.probabilities.device
        codes = self._codes(excluded)
        row, mass = codes // width, self.probabilities[codes % width]
        left = 1 - mass.new_zeros(rows).index_add(0, row, mass)
        # Counted, since a difference of masses need not be 0 where nothing is left.
        gone = torch.bincount(row[mass > 0], minlength=rows)
        some = gone < (self.probabilities > 0).sum()

        row = torch.arange(rows, device=device).repeat_interleave(size)
        columns = self.source.draw(rows * size, generator)
        valid = some[row]
        again = torch.nonzero(_contains(codes, row * width + columns) & valid).squeeze(1)
        for _ in range(MOST_ROUNDS):
            if not len(again):
                break
            columns[again] = self.source.draw(len(again), generator)
            again = again[_contains(codes, row[again] * width + columns[again])]
        valid[again] = False

        columns, valid = columns.view(rows, size), valid.view(rows, size)
        scale = valid.sum(dim=1) / left.clamp(min=torch.finfo(left.dtype).tiny)
        return _draw(columns, valid, (scale[:, None] * self.probabilities[columns]).log())

    def _race(self, rows: int, generator: torch.Generator | None) -> Tensor:
        """[rows, C] times of arrival; infinite for a column that cannot be drawn."""
        times = self.probabilities.new_empty(rows, len(self.probabilities))
        times.exponential_(generator=generator)
        return times.clamp_(min=torch.finfo(times.dtype).tiny).div_(self.probabilities)

    def _first(self, times: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first ``size`` arrivals: columns, whether there is one, log of its probability."""
        found = min(size + 1, times.shape[1])
        times, columns = times.topk(found, largest=False)
        times = functional.pad(times, (0, size + 1 - found), value=torch.inf)
        columns = functional.pad(columns, (0, size + 1 - found))[:, :size]
        log_expected = torch.log(-torch.expm1(-self.probabilities[columns] * times[:, size:]))
        return columns, times[:, :size].isfinite(), log_expected

    def _codes(self, excluded: Excluded) -> Tensor:
        """One number for each excluded pair, in order and without repetitions."""
        codes: Tensor = torch.unique(excluded.rows * len(self.probabilities) + excluded.columns)
        return codes


def _contains(codes: Tensor, wanted: Tensor) -> Tensor:
    """Which of these numbers, of any shape, are among the sorted codes."""
    if not len(codes):
        return torch.zeros_like(wanted, dtype=torch.bool)
    place = torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)
    return torch.eq(codes[place], wanted)


def _barred(columns: Tensor, rows: int, excluded: Excluded) -> Tensor:
    """[rows, K] whether each of the columns [K] is excluded in each row."""
    distinct, inverse = torch.unique(columns, return_inverse=True)
    barred = torch.zeros(rows, len(distinct), dtype=torch.bool, device=columns.device)
    if len(distinct):
        place = torch.searchsorted(distinct, excluded.columns.contiguous()).clamp(max=len(distinct) - 1)
        drawn = distinct[place] == excluded.columns
        barred[excluded.rows[drawn], place[drawn]] = True
    return barred[:, inverse]


def _draw(columns: Tensor, valid: Tensor, log_expected: Tensor) -> Draw:
    return Draw(columns, valid, log_expected.masked_fill(~valid, 0).float())
