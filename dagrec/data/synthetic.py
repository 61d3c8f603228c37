"""Synthetic compositions from a generative model, for which the best possible accuracy is known.

They resemble those of the geoportal: tables feed chains of services, several tables can feed one
service, paths are short, popularity is skewed, and owners work in sessions over years. The model:

- each composition has a theme; every theme has its own tables, so the first node of a path determines
  the theme;
- a chain starts with one or two main tables of the theme, which feed its first service, and is
  continued with probability ``longer``; a side table of the theme can feed a later service;
- the distribution of the next service depends on the theme and the last service only:

      P(y | theme, last) = (1 - d) popularity(y) + d [y = favourite(theme, last)]

  where d is the predictability

The distribution of the next service after a path is therefore known in closed form, and the expected
accuracy of a recommender cannot exceed that of always predicting the most probable service.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from dagrec.data.examples import Example
from dagrec.types import Floats, Options

MAX_CHAIN_LENGTH = 5
START = datetime(2020, 1, 6, 8, tzinfo=UTC)
START_OF_CHAIN = -1
"""The last service of a chain that has no service yet."""
FIRST_MID = 301
MAIN, SIDE = "1", "2"
"""The first digit of a table's id. The next three digits are its theme, the last three its number."""


class WorldOptions(Options):
    """Parameters of the model that compositions are drawn from."""

    compositions: int = Field(900, ge=2, description="number of compositions to draw")
    predictability: float = Field(
        0.55, ge=0, le=1, description="0: the next service is drawn by popularity; 1: it is certain"
    )
    services: int = Field(16, ge=2)
    themes: int = Field(6, ge=1, le=999)
    tables: int = Field(4, ge=1, le=999, description="main tables per theme, and side tables per theme")
    owners: int = Field(6, ge=1)
    skew: float = Field(1.1, ge=0, description="the popularity of rank r is proportional to r ** -skew")
    longer: float = Field(0.35, ge=0, le=1, description="probability that a chain is continued")
    joined: float = Field(0.2, ge=0, le=1, description="probability that a service has another table")
    seed: int = Field(7)


@dataclass(frozen=True)
class World:
    """The generative model of synthetic compositions. It is determined by its options."""

    options: WorldOptions

    @cached_property
    def popularity(self) -> Floats:
        """[services] probability of each service, a power law of its rank."""
        raw = np.arange(1, self.options.services + 1) ** -self.options.skew
        return np.asarray(raw / raw.sum())

    @cached_property
    def favourite(self) -> dict[tuple[int, int], int]:
        """(theme, last service or START_OF_CHAIN) -> the most likely next service."""
        rng = np.random.default_rng([self.options.seed, 1])
        lasts = range(START_OF_CHAIN, self.options.services)
        return {
            (theme, last): int(rng.choice(self.options.services, p=self.popularity))
            for theme in range(self.options.themes)
            for last in lasts
        }

    def follows(self, theme: int, last: int) -> Floats:
        """[services] P(y | theme, last)."""
        p = (1 - self.options.predictability) * self.popularity
        p[self.favourite[theme, last]] += self.options.predictability
        return p

    @cached_property
    def joins(self) -> Floats:
        """[themes, services] P(y | theme, the path is a side table that feeds y).

        A side table can feed every service of a chain but the first. The result is the average over
        positions of the distribution of the service at each position, weighted by the probability that
        the chain is that long.
        """
        result = np.zeros((self.options.themes, self.options.services))
        for theme in range(self.options.themes):
            transition = np.stack([self.follows(theme, last) for last in range(self.options.services)])
            at_position = self.follows(theme, START_OF_CHAIN)
            for position in range(1, MAX_CHAIN_LENGTH):
                at_position = at_position @ transition
                result[theme] += self.options.longer**position * at_position
        return np.asarray(result / np.maximum(result.sum(axis=1, keepdims=True), 1e-300))

    def distribution(self, path: Sequence[str]) -> Floats:
        """[services] true probability of each service after a path of keys."""
        table = path[0].removeprefix("table_")
        theme = int(table[1:4])
        if len(path) > 1:
            return self.follows(theme, int(path[-1].removeprefix("service_")) - FIRST_MID)
        return self.follows(theme, START_OF_CHAIN) if table[0] == MAIN else self.joins[theme]

    def best_accuracy(self, examples: Sequence[Example]) -> float:
        """The expected accuracy of the optimal predictor on the contexts of these examples."""
        best = {e.context.path: 0.0 for e in examples}
        for path in best:
            best[path] = float(self.distribution(path).max())
        return sum(best[e.context.path] for e in examples) / len(examples)

    def draw(self) -> list[dict[str, Any]]:
        """Draw the compositions, as native JSON."""
        rng = np.random.default_rng([self.options.seed, 2])
        theme_shares = rng.dirichlet(np.full(self.options.themes, 0.7), size=self.options.owners)
        activity = np.arange(1, self.options.owners + 1) ** -1.0
        activity /= activity.sum()
        now = START
        node_id = 1000
        compositions: list[dict[str, Any]] = []
        while len(compositions) < self.options.compositions:
            owner = int(rng.choice(self.options.owners, p=activity))
            theme = int(rng.choice(self.options.themes, p=theme_shares[owner]))
            missing = self.options.compositions - len(compositions)
            for _ in range(min(1 + rng.geometric(0.3), missing)):
                composition, node_id, now = self._compose(rng, theme, owner, node_id, now)
                compositions.append(composition)
            now += timedelta(hours=float(rng.exponential(30)))
        return compositions

    def _compose(
        self, rng: np.random.Generator, theme: int, owner: int, node_id: int, now: datetime
    ) -> tuple[dict[str, Any], int, datetime]:
        """Draw one composition. Returns it with the last node id and the time of its completion."""
        tables: dict[str, None] = {}
        services: list[dict[str, Any]] = []
        links: list[dict[str, Any]] = []
        last = START_OF_CHAIN
        while not services or (len(services) < MAX_CHAIN_LENGTH and rng.random() < self.options.longer):
            sources: list[Any] = [services[-1]["id"]] if services else []
            new_tables = self._tables(rng, theme, MAIN if not services else SIDE)
            tables.update(dict.fromkeys(new_tables))
            last = int(rng.choice(self.options.services, p=self.follows(theme, last)))
            node_id += 1
            now += timedelta(seconds=float(rng.exponential(90)) + 1)
            service = {
                "id": node_id,
                "mid": FIRST_MID + last,
                "owner": f"owner-{owner + 1}",
                "start_time": now.isoformat(timespec="seconds"),
            }
            services.append(service)
            links += [{"source": source, "target": node_id} for source in (*sources, *new_tables)]
        now += timedelta(minutes=float(rng.exponential(20)))
        nodes = [*({"id": table} for table in tables), *services]
        return {"nodes": nodes, "links": links}, node_id, now

    def _tables(self, rng: np.random.Generator, theme: int, kind: str) -> list[str]:
        """Draw one or two main tables, or at most one side table."""
        count = int(kind == MAIN) + int(rng.random() < self.options.joined)
        chosen = rng.choice(self.options.tables, min(count, self.options.tables), replace=False)
        return [f"{kind}{theme:03d}{i:03d}" for i in chosen]


def dump(compositions: Sequence[dict[str, Any]]) -> str:
    """Serialise compositions as a JSON array with one composition per line."""
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in compositions)
    return f"[\n{lines}\n]\n"
