"""Bundle swaps while eight clients send requests: each answer must be that of the version it names."""

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

import pytest

from dagrec.data.formats import read
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.output.files import replace_file
from dagrec.recommend.answers import Answer, Answers, Prediction
from dagrec.recommend.predictor import Predictor
from dagrec.recommend.request import make_request
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store
from tests.recommend.requests import TWO_OPEN_ENDS, answers_of, chain
from tests.service.bad_bundles import DAMAGES
from tests.service.conftest import DATA, HTTP, Server
from tests.service.test_swap import Start, wait_for

Json = Any
CLIENTS = 8
MODELS = ("markov", "gru4rec", "dagset", "vsknn")
QUICK = [f"{name}.{option}" for name in ("gru4rec", "dagset") for option in ("epochs=1", "min_steps=0")]
PATH = {"path": ["table_1001002", "service_301"]}
REQUESTS: tuple[Json, ...] = (
    *({**PATH, "model": model} for model in MODELS),
    *({**chain(301, 303, at="n1"), "model": model} for model in MODELS),
    {**PATH, "models": "all", "mask": "soft"},
    {"composition": TWO_OPEN_ENDS, "models": "all", "k": 3},
    {**PATH, "explain": True, "deny": ["service_303"]},
    {"path": ["unknown", "nodes"]},
)
BATCH = {"requests": list(REQUESTS)}


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Bundles trained on two halves of the data, so that most answers differ."""
    folder = tmp_path_factory.mktemp("halves")
    documents = json.loads(DATA.read_bytes())
    config = load_config(models=MODELS, overrides=QUICK)
    bundles = []
    for i in range(2):
        file, store = folder / f"{i}.json", Store(folder / str(i))
        file.write_text(json.dumps(documents[i::2]))
        train(read(file), store, config, measure=0)
        bundles.append(store.load())
    return bundles


def publish_damaged(bundle: Bundle, store: Store, damage: Callable[[Path], None]) -> str:
    """Make a damaged bundle live, past the checks of the store."""
    other = Store(store.root.with_name("other"))
    version = other.publish(bundle)
    damage(other.bundles / version)
    shutil.move(other.bundles / version, store.bundles / version)
    replace_file(store.pointer, version)
    return version


Responses = list[tuple[int, Json]]
"""Pairs of a request's index (the batch comes last) and the body of the response."""


def send_requests(server: Server, first: int, stop: Event) -> Responses:
    """Send the requests and the batch in turn, from number ``first`` on, until ``stop`` is set."""
    responses: Responses = []
    with server.client() as client:
        for number in islice(cycle(range(len(REQUESTS) + 1)), first, None):
            if stop.is_set():
                return responses
            if number < len(REQUESTS):
                response = client.post("/predict", json=REQUESTS[number])
            else:
                response = client.post("/predict/batch", json=BATCH)
            assert response.status_code == 200, response.text
            responses.append((number, response.json()))
    raise AssertionError("unreachable")


@contextmanager
def load(server: Server) -> Iterator[Responses]:
    """Send requests while the block runs. The list holds the responses after the block."""
    responses: Responses = []
    stop = Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(send_requests, server, first, stop) for first in range(CLIENTS)]
        try:
            yield responses
        finally:
            stop.set()
        for client in clients:
            responses += client.result()


def versions(answer: Json) -> set[str]:
    """Return all versions in a response."""
    if isinstance(answer, list):
        return {version for part in answer for version in versions(part)}
    return {answer["version"]} if "version" in answer else versions(answer["answers"])


def ranking(answer: Answer | Answers) -> list[list[Prediction]]:
    return [part.predictions for part in answers_of(answer)]


def check_equal(actual: Json, expected: Json) -> None:
    """Check that answers are equal, except for their times and rounding differences between batches."""
    if isinstance(expected, dict):
        assert set(actual) == set(expected)
        for name in set(expected) - {"took_ms"}:
            check_equal(actual[name], expected[name])
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for part, expected_part in zip(actual, expected, strict=True):
            check_equal(part, expected_part)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=1e-5)
    else:
        assert actual == expected


def check_responses(responses: Responses, store: Store) -> Counter[str]:
    """Check each response against the library's, and return the number of responses of each version."""

    @cache
    def expected(version: str) -> list[Json]:
        predictor = Predictor(store.load(version))
        requests = [make_request(fields) for fields in REQUESTS]
        answers = [predictor.answer(request).model_dump(mode="json") for request in requests]
        return [*answers, {"answers": answers, "took_ms": 0.0}]

    counts: Counter[str] = Counter()
    for number, response in responses:
        (version,) = versions(response)
        check_equal(response, expected(version)[number])
        counts[version] += 1
    return counts


def check_swaps(
    store: Store, start_server: Start, halves: Sequence[Bundle], swaps: int, damaged: int
) -> None:
    """Check a number of swaps under load, with a number of damaged bundles spread among them."""
    good = [store.publish(halves[0])]
    server = start_server(store.root, DAGREC_WATCH="0.05")
    server.wait_until_ready()
    damages = dict(zip(count(1, swaps // damaged), DAMAGES[:damaged], strict=False))
    with load(server) as responses:
        for number in range(1, swaps + 1):
            if number in damages:
                refused = publish_damaged(halves[number % 2], store, damages[number])
                health = wait_for(server.url, refused)
                assert (health["version"], health["refused"]["version"]) == (good[-1], refused)
            good.append(store.publish(halves[number % 2]))
            assert wait_for(server.url, good[-1])["refused"] is None
    metrics = HTTP.get(f"{server.url}/metrics").text
    log = server.stop()
    counts = check_responses(responses, store)
    assert set(counts) == set(good), "a version never answered, or a damaged one did"
    assert f"dagrec_bundle_swaps_total {swaps}.0" in metrics
    assert f"dagrec_bundle_refusals_total {damaged}.0" in metrics
    assert log.count("was refused") == damaged
    print(f"{sum(counts.values())} responses, at least {min(counts.values())} per version")


def test_answers_of_halves_differ(halves: Sequence[Bundle]) -> None:
    """The tests below rely on this."""
    for fields in REQUESTS:
        first, second = (Predictor(bundle).answer(make_request(fields)) for bundle in halves)
        assert ranking(first) != ranking(second)


def test_answers_match_their_version_during_swaps(
    tmp_path: Path, start_server: Start, halves: Sequence[Bundle]
) -> None:
    check_swaps(Store(tmp_path / "store"), start_server, halves, swaps=3, damaged=1)


@pytest.mark.slow
def test_answers_match_their_version_during_twenty_swaps(
    tmp_path: Path, start_server: Start, halves: Sequence[Bundle]
) -> None:
    check_swaps(Store(tmp_path / "store"), start_server, halves, swaps=20, damaged=3)
