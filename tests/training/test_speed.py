"""Speed and accuracy of GRU4Rec compared with the session-parallel training of the papers.

Here all positions of a path are trained in one pass, and paths share their prefixes. The papers step
through sessions in parallel. Both process all paths once per epoch, on one thread, on the n8n data.
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
from tests.oracles.session_parallel import SessionParallelTrainer
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
    """The distinct paths of each composition, as node ids minus FIRST_SERVICE."""
    ids = data.vocabulary.ids
    result = []
    for composition in compositions:
        paths, _ = draw_paths(composition, 100, random.Random(0))
        keys = dict.fromkeys(tuple(composition.by_id[node].key for node in path) for path in paths)
        result += [[ids[key] - FIRST_SERVICE for key in path if key in ids] for path in keys]
    return [path for path in result if len(path) > 1]


def epoch_seconds(data: TrainingData, **options: object) -> float:
    """The median duration of the epochs after the first one."""
    ends: list[float] = []

    def record(_name: str, _epoch: Epoch, _epochs: int) -> None:
        ends.append(time.perf_counter())

    model = create("gru4rec", {**EQUAL, "epochs": ROUNDS + 1, **options})
    with on_cpu(progress=record):
        model.fit(data)
    return statistics.median(np.diff(ends))


@pytest.mark.parametrize("samples", [0, 512, 2048])
def test_epoch_is_not_slower_than_session_parallel(
    n8n: Workflows, samples: int, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sessions(n8n.compositions, n8n.data)
    reference = SessionParallelTrainer(paths, len(n8n.data.vocabulary) - FIRST_SERVICE, samples=samples)
    reference.epoch()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        reference.epoch()
        times.append(time.perf_counter() - start)
    theirs = statistics.median(times)
    sampled = {"loss": "sampled-softmax", "negatives": samples, "sampling": "batch"}
    ours = {"full softmax": epoch_seconds(n8n.data), "same loss": epoch_seconds(n8n.data, **sampled)}
    with capsys.disabled():
        text = ", ".join(f"{k} {v:.2f} s (ratio {theirs / v:.2f})" for k, v in ours.items())
        rate = reference.events / theirs
        print(f"\n{samples} samples: session-parallel {theirs:.2f} s ({rate:,.0f} events/s); {text}")
    assert ours["full softmax"] <= theirs
    # Without samples, their batch has 128 columns, and ours those of all positions of 128 paths.
    if samples:
        assert ours["same loss"] <= theirs


def mrr_of_sessions(part: TestPart, network: SessionParallelTrainer) -> float:
    """The MRR of the session-parallel network, with the same ranking of services."""
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


def test_mrr_is_not_lower_than_session_parallel(
    n8n: Workflows, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both have recommended hyperparameters, without a search."""
    split = PROTOCOLS["compositions"](n8n.examples, 0.3, random.Random("speed"))
    part = TestPart.of_split(split, MaskPolicy.NONE)
    train = {example.composition for example in split.train}
    paths = sessions(tuple(c for i, c in enumerate(n8n.compositions) if i in train), part.data)
    theirs = {}
    for samples in (0, 512):
        reference = SessionParallelTrainer(
            paths, len(part.data.vocabulary) - FIRST_SERVICE, samples=samples
        )
        for epoch in range(1, 21):
            reference.epoch()
            if epoch in (5, 10, 20):
                theirs[f"{samples} samples, {epoch} epochs"] = mrr_of_sessions(part, reference)
    options = {**EQUAL, "epochs": 60, "patience": 5}
    ours = create("gru4rec", options).fit(part.data)
    mrr = METRICS["mrr"](part.outcome(part.fitted(ours).probabilities))
    with capsys.disabled():
        print(f"\nMRR: ours {mrr:.4f}; session-parallel {theirs}")
    assert mrr >= max(theirs.values())
