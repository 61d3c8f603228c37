"""GRU4Rec against the papers' own way of training it, on n8n, in one process and on one thread.

A path of n nodes is one pass that trains all its positions, and paths share their beginnings; the
papers step through sessions in parallel. Both see all paths once an epoch.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from dagrec.data.compositions import Composition
from dagrec.data.examples import Example, ExampleOptions, extract
from dagrec.data.formats import read
from dagrec.data.paths import draw_paths
from dagrec.data.splits import PROTOCOLS
from dagrec.data.vocabulary import FIRST_SERVICE, Contexts
from dagrec.evaluation.evaluator import TestPart
from dagrec.graph.mask import Masked, MaskPolicy, apply_mask
from dagrec.metrics.ranking import METRICS
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.training.runtime import Epoch
from tests.oracles.session_parallel import Sessions
from tests.training.learners import on_cpu

N8N = Path(__file__).resolve().parents[3] / "shared" / "data" / "n8n" / "workflows.jsonl"
EQUAL = {"embedding": 128, "hidden": 128, "layers": 1, "batch_size": 128}
ROUNDS = 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not N8N.is_file(), reason=f"{N8N} is not on this machine"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]


@dataclass(frozen=True)
class Workflows:
    compositions: tuple[Composition, ...]
    examples: tuple[Example, ...]

    @cached_property
    def data(self) -> TrainingData:
        return TrainingData.of(self.examples)


@pytest.fixture(scope="module")
def n8n() -> Workflows:
    compositions = read(N8N).compositions
    return Workflows(compositions, extract(compositions, ExampleOptions(count="once"))[0])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def sessions(compositions: tuple[Composition, ...], data: TrainingData) -> list[list[int]]:
    """The paths of each composition, equal ones once, as node ids less the two that stand for none."""
    ids = data.vocabulary.ids
    found = []
    for composition in compositions:
        paths, _ = draw_paths(composition, 100, random.Random(0))
        keys = dict.fromkeys(tuple(composition.by_id[node].key for node in path) for path in paths)
        found += [[ids[key] - FIRST_SERVICE for key in path if key in ids] for path in keys]
    return [path for path in found if len(path) > 1]


def epoch_seconds(data: TrainingData, **options: object) -> float:
    """Median seconds of the epochs after the first."""
    ends: list[float] = []

    def note(_name: str, _epoch: Epoch, _epochs: int) -> None:
        ends.append(time.perf_counter())

    model = create("gru4rec", {**EQUAL, "epochs": ROUNDS + 1, **options})
    with on_cpu(progress=note):
        model.fit(data)
    return statistics.median(np.diff(ends))


@pytest.mark.parametrize("samples", [0, 512, 2048])
def test_an_epoch_takes_no_longer_than_that_of_the_papers(
    n8n: Workflows, samples: int, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sessions(n8n.compositions, n8n.data)
    reference = Sessions(paths, len(n8n.data.vocabulary) - FIRST_SERVICE, samples=samples)
    reference.epoch()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        reference.epoch()
        times.append(time.perf_counter() - start)
    theirs = statistics.median(times)
    sampled = {"loss": "sampled-softmax", "negatives": samples, "sampling": "batch"}
    ours = {"full softmax": epoch_seconds(n8n.data), "the same": epoch_seconds(n8n.data, **sampled)}
    with capsys.disabled():
        shown = ", ".join(f"{k} {v:.2f} s (ratio {theirs / v:.2f})" for k, v in ours.items())
        rate = reference.events / theirs
        print(f"\n{samples} samples: session-parallel {theirs:.2f} s ({rate:,.0f} events/s); {shown}")
    assert ours["full softmax"] <= theirs
    # Without samples a batch of theirs has 128 columns; ours has those of all positions of 128 paths.
    if samples:
        assert ours["the same"] <= theirs


def mrr_of_sessions(part: TestPart, network: Sessions) -> float:
    """MRR of the session-parallel network, ranking the services as ours do."""
    columns = torch.arange(len(part.data.vocabulary.services))

    def probabilities(contexts: Contexts) -> Masked:
        paths = [
            [node - FIRST_SERVICE for node in row[:length] if node >= FIRST_SERVICE] or [0]
            for row, length in zip(contexts.nodes.tolist(), contexts.lengths, strict=True)
        ]
        states = network.network.states(paths)
        with torch.no_grad():
            scores = network.network.scores(states, columns).numpy()
        return apply_mask(scores, contexts.last, part.data.graph, part.mask)

    return METRICS["mrr"](part.outcome(probabilities))


def test_the_ranking_is_no_worse_than_that_of_the_papers(
    n8n: Workflows, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half an hour of search lies in neither: both have settings that their descriptions recommend."""
    split = PROTOCOLS["compositions"](n8n.examples, 0.3, random.Random("speed"))
    part = TestPart.of_split(split, MaskPolicy.NONE)
    kept = {example.composition for example in split.train}
    paths = sessions(tuple(c for i, c in enumerate(n8n.compositions) if i in kept), part.data)
    theirs = {}
    for samples in (0, 512):
        reference = Sessions(paths, len(part.data.vocabulary) - FIRST_SERVICE, samples=samples)
        for epoch in range(1, 21):
            reference.epoch()
            if epoch in (5, 10, 20):
                theirs[f"{samples} samples, {epoch} epochs"] = mrr_of_sessions(part, reference)
    options = {**EQUAL, "epochs": 60, "patience": 5}
    ours = create("gru4rec", options).fit(part.data)
    found = METRICS["mrr"](part.outcome(part.fitted(ours).probabilities))
    with capsys.disabled():
        print(f"\nMRR: ours {found:.4f}; session-parallel {theirs}")
    assert found >= max(theirs.values())
