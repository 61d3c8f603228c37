"""Synthetic data: the distributions, the best accuracy, and the bundled data."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import chi2

from dagrec.data.compositions import Composition
from dagrec.data.examples import Example, ExampleOptions, extract
from dagrec.data.formats import read, read_composition
from dagrec.data.synthetic import FIRST_MID, MAX_CHAIN_LENGTH, World, WorldOptions, dump

BUNDLED = Path(__file__).parents[2] / "data" / "compositions.json"
LARGE = WorldOptions(compositions=6000, seed=11)


@cache
def draw_examples(options: WorldOptions) -> tuple[Example, ...]:
    compositions = [read_composition(document) for document in World(options).draw()]
    return extract(compositions, ExampleOptions(max_paths=10**9))[0]


def service(column: int) -> str:
    return f"service_{FIRST_MID + column}"


def oracle_hits(world: World, examples: Sequence[Example]) -> dict[int, int]:
    """Composition -> number of examples whose target is the most probable service."""
    best = {path: service(int(world.distribution(path).argmax())) for path in contexts(examples)}
    hits: dict[int, int] = defaultdict(int)
    for example in examples:
        hits[example.composition] += best[example.context.path] == example.target
    return dict(hits)


def contexts(examples: Sequence[Example]) -> dict[tuple[str, ...], None]:
    return dict.fromkeys(example.context.path for example in examples)


# ---- distributions


@pytest.mark.parametrize("predictability", [0.0, 0.55, 1.0])
@pytest.mark.parametrize("skew", [0.0, 1.1])
def test_distributions_sum_to_one(predictability: float, skew: float) -> None:
    world = World(WorldOptions(predictability=predictability, skew=skew, compositions=200))
    assert world.popularity.sum() == pytest.approx(1)
    for theme in range(world.options.themes):
        for last in range(-1, world.options.services):
            p = world.follows(theme, last)
            assert p.sum() == pytest.approx(1)
            assert (p >= 0).all()
    assert world.joins.sum(axis=1) == pytest.approx(1)
    for path in contexts(draw_examples(world.options)):
        assert world.distribution(path).sum() == pytest.approx(1)


def test_popularity_is_power_law_of_rank() -> None:
    world = World(WorldOptions(services=8, skew=1.1))
    ratio = world.popularity / world.popularity[0]
    assert ratio == pytest.approx([rank**-1.1 for rank in range(1, 9)])


def test_distribution_after_side_table_is_weighted_by_position() -> None:
    """Without randomness each theme has one chain, which reaches position i with p = longer ** i."""
    world = World(WorldOptions(predictability=1.0, longer=0.4))
    for theme in range(world.options.themes):
        expected = np.zeros(world.options.services)
        last = world.favourite[theme, -1]
        for position in range(1, MAX_CHAIN_LENGTH):
            last = world.favourite[theme, last]
            expected[last] += 0.4**position
        assert world.joins[theme] == pytest.approx(expected / expected.sum())


def test_chains_of_one_service_have_no_side_tables() -> None:
    """The distribution after a side table is not used then, but is still finite."""
    world = World(WorldOptions(longer=0.0, compositions=300))
    assert np.isfinite(world.joins).all()
    assert all(e.context.path[0].startswith("table_1") for e in draw_examples(world.options))


@pytest.mark.parametrize(
    "options",
    [LARGE, WorldOptions(compositions=4000, predictability=0.9, joined=0.9, longer=0.6, seed=3)],
)
def test_drawn_services_follow_distributions(options: WorldOptions) -> None:
    """A chi-square test over all contexts, including those with side tables."""
    world = World(options)
    counts: dict[tuple[float, ...], Counter[str]] = defaultdict(Counter)
    seen: set[tuple[int, str, tuple[float, ...]]] = set()
    for example in draw_examples(options):
        p = tuple(world.distribution(example.context.path).tolist())
        # Several tables of one service have the same distribution, but the service is drawn once.
        if (example.composition, example.node, p) not in seen:
            seen.add((example.composition, example.node, p))
            counts[p][example.target] += 1
    statistic, freedom = 0.0, 0
    for p, targets in counts.items():
        expected = np.array(p) * targets.total()
        observed = np.array([targets[service(column)] for column in range(options.services)])
        # Services with an expected count below five are pooled.
        order = expected.argsort()
        small = max(int((expected[order].cumsum() < 5).sum()), int((expected < 5).sum()))
        ends = [0, *range(small + 1, len(order))]
        expected, observed = (np.add.reduceat(x[order], ends) for x in (expected, observed))
        statistic += float(((observed - expected) ** 2 / expected).sum())
        freedom += len(ends) - 1
    assert freedom > 50
    assert chi2.sf(statistic, freedom) > 0.001


# ---- best accuracy


@pytest.mark.parametrize(
    "options", [LARGE, LARGE.model_copy(update={"predictability": 0.2, "joined": 0.8})]
)
def test_oracle_reaches_best_accuracy(options: WorldOptions) -> None:
    """Within three standard errors. The examples of one composition are dependent."""
    world, examples = World(options), draw_examples(options)
    hits = oracle_hits(world, examples)
    accuracy = sum(hits.values()) / len(examples)
    expected: dict[int, float] = defaultdict(float)
    for example in examples:
        expected[example.composition] += float(world.distribution(example.context.path).max())
    deviations = np.array([count - expected[number] for number, count in hits.items()])
    error = float(np.sqrt((deviations**2).sum())) / len(examples)
    assert 0 < error < 0.01
    assert abs(accuracy - world.best_accuracy(examples)) < 3 * error


def test_best_accuracy_is_mean_of_largest_probability() -> None:
    world, examples = World(LARGE), draw_examples(LARGE)[:500]
    largest = [max(world.distribution(example.context.path)) for example in examples]
    assert world.best_accuracy(examples) == pytest.approx(sum(largest) / len(largest))


def test_oracle_is_always_right_without_randomness_and_side_tables() -> None:
    """A side table does not determine the position in the chain."""
    world = World(WorldOptions(predictability=1.0, compositions=500))
    for example in draw_examples(world.options):
        p = world.distribution(example.context.path)
        if len(example.context.path) > 1 or example.context.path[0].startswith("table_1"):
            assert p.max() == 1
            assert example.target == service(int(p.argmax()))
    alone = World(world.options.model_copy(update={"joined": 0.0}))
    assert alone.best_accuracy(draw_examples(alone.options)) == 1


def test_best_accuracy_without_predictability_is_largest_popularity() -> None:
    world = World(WorldOptions(predictability=0.0, compositions=500))
    for path in contexts(draw_examples(world.options)):
        assert world.distribution(path) == pytest.approx(world.popularity)
    assert world.best_accuracy(draw_examples(world.options)) == pytest.approx(world.popularity.max())


def test_best_accuracy_increases_with_predictability() -> None:
    accuracies = [
        World(options).best_accuracy(draw_examples(options))
        for options in (
            WorldOptions(predictability=d, compositions=500) for d in (0, 0.25, 0.5, 0.75, 1)
        )
    ]
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] - accuracies[0] > 0.4


# ---- drawn documents


def test_drawn_compositions_depend_on_seed() -> None:
    options = WorldOptions(compositions=50)
    assert World(options).draw() == World(options).draw()
    assert World(options).draw() != World(options.model_copy(update={"seed": 8})).draw()


@pytest.mark.parametrize("compositions", [2, 3, 50])
def test_number_of_drawn_compositions(compositions: int) -> None:
    assert len(World(WorldOptions(compositions=compositions)).draw()) == compositions


def test_chains_are_bounded_and_have_owners_and_increasing_times() -> None:
    options = WorldOptions(longer=1.0, joined=1.0, tables=2, compositions=100)
    last = 0.0
    for document in World(options).draw():
        composition = read_composition(document)
        assert sum(node.is_service for node in composition.nodes) == MAX_CHAIN_LENGTH
        assert composition.owner in {f"owner-{i + 1}" for i in range(options.owners)}
        times = [node.time for node in composition.nodes if node.time is not None]
        assert times == sorted(times)
        assert times[0] > last
        last = times[-1]


@pytest.mark.parametrize(
    "options",
    [{"compositions": 1}, {"predictability": 1.1}, {"services": 1}, {"unknown": 1}, {"skew": -1}],
)
def test_world_options_reject_invalid_values(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        WorldOptions.model_validate(options)


def test_dump_has_one_composition_per_line(tmp_path: Path) -> None:
    documents = World(WorldOptions(compositions=20)).draw()
    text = dump(documents)
    assert json.loads(text) == documents
    assert [json.loads(line.rstrip(",")) for line in text.splitlines()[1:-1]] == documents
    file = tmp_path / "drawn.json"
    file.write_text(text)
    assert len(read(file).compositions) == 20


# ---- bundled data


def test_bundled_file_matches_default_options() -> None:
    assert BUNDLED.read_bytes() == dump(World(WorldOptions()).draw()).encode()


def test_oracle_reaches_best_accuracy_on_bundled_data(
    bundled: Sequence[Composition],
) -> None:
    world, examples = World(WorldOptions()), extract(bundled)[0]
    hits = oracle_hits(world, examples)
    accuracy = sum(hits.values()) / len(examples)
    # a generous bound, as if each composition had one example
    assert abs(accuracy - world.best_accuracy(examples)) < 3 * 0.5 / len(bundled) ** 0.5
