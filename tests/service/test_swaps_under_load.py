"""Eight clients ask without a pause while bundles come, good and bad: nothing but the version that an
answer names may tell them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import count, cycle, islice
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
import pytest

from dagrec.config import load_config
from dagrec.data.formats import read
from dagrec.jobs.train import train
from dagrec.recommend.answers import Answer, Answers, Prediction
from dagrec.recommend.predictor import Predictor
from dagrec.recommend.request import make_request
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store
from tests.recommend.asking import ENDS, all_of, chain
from tests.service.bad_bundles import SPOILED
from tests.service.conftest import DATA, Server
from tests.service.test_swap import Start, wait_for

Json = Any
CLIENTS = 8
MODELS = ("markov", "gru4rec", "dagset", "vsknn")
PATH = {"path": ["table_1001002", "service_301"]}
QUESTIONS: tuple[Json, ...] = (
    *({**PATH, "model": model} for model in MODELS),
    *({**chain(301, 303, at="n1"), "model": model} for model in MODELS),
    {**PATH, "models": "all", "mask": "soft"},
    {"composition": ENDS, "models": "all", "k": 3},
    {**PATH, "explain": True, "deny": ["service_303"]},
    {"path": ["nobody", "knows"]},
)
BATCH = {"requests": list(QUESTIONS)}


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Bundles of the two halves of the data: hardly an answer is the same."""
    folder = tmp_path_factory.mktemp("halves")
    documents = json.loads(DATA.read_bytes())
    config = load_config(models=MODELS, overrides=["gru4rec.epochs=1", "dagset.epochs=1"])
    found = []
    for i in range(2):
        file, store = folder / f"{i}.json", Store(folder / str(i))
        file.write_text(json.dumps(documents[i::2]))
        train(read(file), store, config, measure=0)
        found.append(store.load())
    return found


def publish_bad(bundle: Bundle, store: Store, spoil: Callable[[Path], None]) -> str:
    """Make a spoiled bundle the live one, which no publisher of ours would do."""
    other = Store(store.root.with_name("other"))
    version = other.publish(bundle)
    spoil(other.bundles / version)
    shutil.move(other.bundles / version, store.bundles / version)
    store.pointer.write_text(version)
    return version


Asked = list[tuple[int, Json]]
"""Number of a question (that of the batch is the last), and what was answered."""


def ask(url: str, first: int, stop: Event) -> Asked:
    """Ask one question after another, the batch among them, until told to stop."""
    found: Asked = []
    with httpx2.Client(base_url=url) as client:
        for number in islice(cycle(range(len(QUESTIONS) + 1)), first, None):
            if stop.is_set():
                return found
            if number < len(QUESTIONS):
                answer = client.post("/predict", json=QUESTIONS[number])
            else:
                answer = client.post("/predict/batch", json=BATCH)
            assert answer.status_code == 200, answer.text
            found.append((number, answer.json()))
    raise AssertionError("unreachable")


@contextmanager
def asking(server: Server) -> Iterator[Asked]:
    """Clients that ask while the block runs; what they were answered stands in the list behind it."""
    found: Asked = []
    stop = Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(ask, server.url, first, stop) for first in range(CLIENTS)]
        try:
            yield found
        finally:
            stop.set()
        for client in clients:
            found += client.result()


def versions(answer: Json) -> set[str]:
    """All versions that an answer names."""
    if isinstance(answer, list):
        return {version for part in answer for version in versions(part)}
    return {answer["version"]} if "version" in answer else versions(answer["answers"])


def ranking(answer: Answer | Answers) -> list[list[Prediction]]:
    return [part.predictions for part in all_of(answer)]


def check_equal(found: Json, expected: Json) -> None:
    """The same but for the time that it took, and the last bits of what was scored in other company."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for name in set(expected) - {"took_ms"}:
            check_equal(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check_equal(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5)
    else:
        assert found == expected


def check_answers(answers: Asked, store: Store) -> Counter[str]:
    """Each is, whole, what the library says with the version that it names. Answers a version."""

    @cache
    def library(version: str) -> list[Json]:
        predictor = Predictor(store.load(version))
        requests = [make_request(question) for question in QUESTIONS]
        alone = [predictor.answer(request).model_dump(mode="json") for request in requests]
        return [*alone, {"answers": alone, "took_ms": 0.0}]

    counts: Counter[str] = Counter()
    for number, answer in answers:
        (version,) = versions(answer)
        check_equal(answer, library(version)[number])
        counts[version] += 1
    return counts


def check_swaps(
    store: Store, start_server: Start, halves: Sequence[Bundle], swaps: int, bad: int
) -> None:
    """So many swaps, spread among them so many bad bundles, under load."""
    good = [store.publish(halves[0])]
    server = start_server(store.root, DAGREC_WATCH="0.05")
    server.wait_until_ready()
    spoiled = dict(zip(count(1, swaps // bad), SPOILED[:bad], strict=False))
    with asking(server) as answers:
        for number in range(1, swaps + 1):
            if number in spoiled:
                refused = publish_bad(halves[number % 2], store, spoiled[number])
                found = wait_for(server.url, refused)
                assert (found["version"], found["refused"]["version"]) == (good[-1], refused)
            good.append(store.publish(halves[number % 2]))
            assert wait_for(server.url, good[-1])["refused"] is None
    metrics = httpx2.get(f"{server.url}/metrics").text
    log = server.stop()
    counts = check_answers(answers, store)
    assert set(counts) == set(good), "a version was never asked, or a bad one answered"
    assert f"dagrec_bundle_swaps_total {swaps}.0" in metrics
    assert f"dagrec_bundle_refusals_total {bad}.0" in metrics
    assert log.count("was refused") == bad
    print(f"{sum(counts.values())} answers, from {min(counts.values())} a version")


def test_answers_of_two_bundles_differ(halves: Sequence[Bundle]) -> None:
    """Or else the tests below would tell nothing."""
    for question in QUESTIONS:
        one, other = (Predictor(bundle).answer(make_request(question)) for bundle in halves)
        assert ranking(one) != ranking(other)


def test_no_request_fails_and_no_answer_is_of_two_bundles(
    tmp_path: Path, start_server: Start, halves: Sequence[Bundle]
) -> None:
    check_swaps(Store(tmp_path / "store"), start_server, halves, swaps=3, bad=1)


@pytest.mark.slow
def test_twenty_swaps_and_three_bad_bundles(
    tmp_path: Path, start_server: Start, halves: Sequence[Bundle]
) -> None:
    check_swaps(Store(tmp_path / "store"), start_server, halves, swaps=20, bad=3)
