from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dagrec.data.formats import read
from dagrec.errors import RequestError
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.models.registry import MODELS
from dagrec.recommend.answers import Answer
from dagrec.recommend.predictor import predict_lines
from dagrec.recommend.request import MAX_K
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store
from tests.recommend.requests import TWO_OPEN_ENDS, answers_of, ask, chain, comparable

DATA = Path(__file__).parents[2] / "data" / "compositions.json"


def known_node(bundle: Bundle) -> str:
    """The node with the most followers among those that not every service followed."""
    degrees = bundle.graph.observed.degrees
    services = len(bundle.vocabulary.services)
    best = max((d, i) for i, d in enumerate(degrees.tolist()) if d < services)[1]
    return next(key for key, id_ in bundle.vocabulary.ids.items() if id_ == best)


@pytest.mark.parametrize("model", MODELS)
def test_path_and_composition_answers_are_equal(model: str, bundle: Bundle) -> None:
    path = ["table_1001002", "service_301", "service_303"]
    by_path = ask(bundle, path=path, model=model)
    assert ask(bundle, **chain(301, 303, at="n1"), model=model) == by_path
    assert ask(bundle, **chain(301, 303), model=model) == by_path
    wrapped = {"composition": chain(301, 303)}
    assert ask(bundle, composition=wrapped["composition"], model=model) == by_path
    assert (by_path.model, by_path.version, by_path.strategy) == (model, bundle.version, "model")


@pytest.mark.parametrize("model", MODELS)
def test_nodes_not_upstream_of_frontier_are_ignored(model: str, bundle: Bundle) -> None:
    expected = ask(bundle, **chain(301, 303, at="n1"), model=model)
    request = chain(301, 303, at="n1")
    request["composition"]["nodes"] += [
        {"id": "child", "mid": 302},
        {"id": "sister", "mid": 304},
        {"id": "other table"},
        {"id": "unknown", "key": "unknown"},
    ]
    request["composition"]["links"] += [
        {"source": "n1", "target": "child"},
        {"source": "n0", "target": "sister"},
        {"source": "other table", "target": "unknown"},
        {"source": "unknown", "target": "child"},
    ]
    assert ask(bundle, **request, model=model) == expected


def test_answer_lists_unknown_nodes_and_strategy(bundle: Bundle) -> None:
    known = ask(bundle, path=["table_1001002", "service_301"])
    assert (known.strategy, known.unknown, known.terminal) == ("model", [], False)
    partly_known = ask(bundle, path=["new_1", "service_301", "new_2", "service_303"])
    assert (partly_known.strategy, partly_known.unknown) == ("back-off", ["new_1", "new_2"])
    for path in (["new_1", "new_2"], []):
        answer = ask(bundle, path=path)
        assert (answer.strategy, answer.unknown, answer.terminal) == ("popularity", path, False)


@pytest.mark.parametrize("model", ["markov", "gru4rec"])
def test_unknown_node_is_answered_by_its_nearest_known_ancestor(model: str, bundle: Bundle) -> None:
    known = ask(bundle, path=["table_1001002", "service_301"], model=model, mask="none")
    answer = ask(bundle, path=["table_1001002", "service_301", "new_1", "new_2"], model=model)
    assert (answer.strategy, answer.unknown) == ("ancestor", ["new_1", "new_2"])
    assert answer.mask_fallback
    assert answer.why is not None
    assert "nearest known ancestor" in answer.why
    assert [(p.service, p.probability) for p in answer.predictions] == [
        (p.service, p.probability) for p in known.predictions
    ]


def test_unknown_node_of_composition_is_answered_by_its_nearest_known_ancestor(bundle: Bundle) -> None:
    request = chain(301, 303, at="n9")
    request["composition"]["nodes"] += [{"id": "n8", "key": "new_1"}, {"id": "n9", "key": "new_2"}]
    request["composition"]["links"] += [
        {"source": "n0", "target": "n8"},
        {"source": "n8", "target": "n9"},
    ]
    answer = ask(bundle, **request)
    known = ask(bundle, **{**request, "at": "n0"}, mask="none")
    assert answer.strategy == "ancestor"
    assert [p.service for p in answer.predictions] == [p.service for p in known.predictions]


def test_answer_lists_unknown_upstream_nodes_outside_longest_path(bundle: Bundle) -> None:
    request = chain(301, 303, at="n1")
    request["composition"]["nodes"].append({"id": "side", "key": "unknown"})
    request["composition"]["links"].append({"source": "side", "target": "n1"})
    answer = ask(bundle, **request)
    assert (answer.strategy, answer.unknown) == ("back-off", ["unknown"])


@pytest.mark.parametrize("model", MODELS)
def test_unknown_context_gives_smoothed_frequencies(model: str, bundle: Bundle) -> None:
    """p(y) = (N(y) + 1) / (N + C) for every model and mask."""
    counts = bundle.graph.popularity + 1
    expected = dict(zip(bundle.vocabulary.services, (counts / counts.sum()).tolist(), strict=True))
    for mask in (MaskPolicy.OBSERVED, MaskPolicy.SOFT, MaskPolicy.NONE):
        answer = ask(bundle, path=["unknown"], model=model, mask=mask, k=MAX_K)
        probabilities = {p.service: p.probability for p in answer.predictions}
        assert probabilities == pytest.approx(expected, rel=1e-6)


def test_node_without_followers_is_terminal_and_mask_falls_back(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([chain(1, 2)["composition"], chain(1, 3)["composition"]]))
    store = Store(tmp_path / "store")
    train(read(data), store, load_config(models=["markov"]), measure=0)
    answer = ask(store.load(), path=["table_1001002", "service_1", "service_2"])
    assert (answer.terminal, answer.strategy, answer.unknown) == (True, "model", [])
    assert answer.candidates == len(answer.predictions) == 3
    assert not ask(store.load(), path=["service_1"]).terminal


@pytest.mark.parametrize("model", MODELS)
def test_observed_mask_allows_only_followers(model: str, bundle: Bundle) -> None:
    graph, vocabulary = bundle.graph, bundle.vocabulary
    for key, id_ in vocabulary.ids.items():
        followers = {vocabulary.services[column] for column in graph.observed.row(id_)[0]}
        answer = ask(bundle, path=[key], model=model, mask="observed", k=MAX_K)
        assert {p.service for p in answer.predictions} == (followers or set(vocabulary.services))
        assert answer.candidates == len(answer.predictions)


def test_catalogue_mask_allows_only_declared_links(bundle: Bundle) -> None:
    answer = ask(bundle, path=["service_301"], mask="catalogue", k=MAX_K)
    assert {p.service for p in answer.predictions} == {"service_302", "service_303", "service_304"}


def test_catalogue_mask_needs_declared_links(tmp_path: Path) -> None:
    store = Store(tmp_path)
    train(read(DATA), store, load_config(models=["popularity"]), measure=0)
    with pytest.raises(RequestError, match="mask 'catalogue' needs links that a user declared"):
        ask(store.load(), path=["service_301"], mask="catalogue")


@pytest.mark.parametrize("mask", list(MaskPolicy))
@pytest.mark.parametrize("model", MODELS)
def test_probabilities_descend_and_sum_to_one(model: str, mask: MaskPolicy, bundle: Bundle) -> None:
    for path in (["table_1001002"], ["table_1001002", "service_301"], ["new", "service_305"]):
        answer = ask(bundle, path=path, model=model, mask=mask, k=MAX_K)
        probabilities = [p.probability for p in answer.predictions]
        assert probabilities == sorted(probabilities, reverse=True)
        assert math.fsum(probabilities) == pytest.approx(1, abs=1e-9)
        assert [p.rank for p in answer.predictions] == list(range(1, len(probabilities) + 1))
        assert answer.mask is mask


def test_ties_keep_vocabulary_order(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([chain(mid)["composition"] for mid in (5, 3, 4)]))
    store = Store(tmp_path / "store")
    train(read(data), store, load_config(models=["markov"]), measure=0)
    answer = ask(store.load(), path=["table_1001002"])
    assert [(p.service, p.probability) for p in answer.predictions] == [
        (f"service_{mid}", pytest.approx(1 / 3)) for mid in (3, 4, 5)
    ]


def test_k_limits_predictions(bundle: Bundle) -> None:
    node = known_node(bundle)
    full = ask(bundle, path=[node], k=MAX_K)
    assert len(full.predictions) == full.candidates < len(bundle.vocabulary.services)
    for k in range(1, full.candidates + 1):
        answer = ask(bundle, path=[node], k=k)
        assert answer.predictions == full.predictions[:k]
        assert answer.candidates == full.candidates


def test_support_counts_training_examples_of_link(bundle: Bundle) -> None:
    compositions = read(DATA).compositions
    pairs = [
        (c.by_id[source].key, c.by_id[target].key)
        for c in compositions
        for source, target in c.links
        if len(c.nodes) == 2  # the one link is one example
    ]
    answer = ask(bundle, path=["table_1001002"], mask="none", k=MAX_K)
    for prediction in answer.predictions:
        assert prediction.support >= pairs.count(("table_1001002", prediction.service))
    total = bundle.graph.support(bundle.vocabulary.ids["table_1001002"]).sum()
    assert sum(p.support for p in answer.predictions) == total
    assert {p.support for p in ask(bundle, path=["new"]).predictions} == {0}


def test_model_and_mask_default_to_bundle(bundle: Bundle) -> None:
    answer = ask(bundle, path=["service_301"])
    assert answer.model == bundle.manifest.champion
    assert answer.mask is bundle.mask
    with pytest.raises(
        RequestError, match=f"model must be one of {', '.join(MODELS)}, found 'unknown'"
    ):
        ask(bundle, path=["service_301"], model="unknown")


def test_predict_lines_yields_answers_and_errors_in_order(bundle: Bundle) -> None:
    lines = [
        '{"path": ["service_301"]}\n',
        "\n",
        "not json\n",
        '{"path": ["service_302"], "k": 2, "model": "popularity"}\n',
        "[]\n",
        '{"path": 5}\n',
        '{"path": ["service_303"], "mask": NaN}\n',
        json.dumps({"composition": TWO_OPEN_ENDS}) + "\n",
        json.dumps(chain(301)),
    ]
    results = list(predict_lines(bundle, lines, {"k": 3, "model": "markov", "mask": "none"}))
    answers = {i: comparable(r) for i, r in enumerate(results) if isinstance(r, Answer)}
    errors = {i: str(r) for i, r in enumerate(results) if isinstance(r, RequestError)}
    assert answers == {
        0: ask(bundle, path=["service_301"], k=3, model="markov", mask="none"),
        2: ask(bundle, path=["service_302"], k=2, model="popularity", mask="none"),
        7: ask(bundle, **chain(301), k=3, model="markov", mask="none"),
    }
    assert [text.split(":")[0] for text in errors.values()] == [f"line {n}" for n in (3, 5, 6, 7)]
    assert "not JSON" in errors[1]
    assert "a request must be an object, found an array of 0" in errors[3]
    assert "path" in errors[4]
    assert "a number must be finite, found NaN" in errors[5]
    assert [answer.at for answer in answers_of(results[6])] == ["a", "e"]


# Filters and re-ranking


@pytest.mark.parametrize("model", ["markov", "gru4rec", "popularity"])
@pytest.mark.parametrize("path", [["table_1001002", "service_301"], ["unknown"], []])
def test_filters_apply_to_every_strategy(model: str, path: list[str], bundle: Bundle) -> None:
    plain = ask(bundle, path=path, model=model, mask="none", k=1000)
    first, second, third = (p.service for p in plain.predictions[:3])
    denied = ask(bundle, path=path, model=model, mask="none", k=1000, deny=[first, "unknown"])
    assert [p.service for p in denied.predictions] == [p.service for p in plain.predictions[1:]]
    assert denied.candidates == plain.candidates - 1
    assert sum(p.probability for p in denied.predictions) == pytest.approx(1)
    allowed = ask(bundle, path=path, model=model, mask="none", allow=[third, second, "unknown"])
    assert [p.service for p in allowed.predictions] == [second, third]
    assert ask(bundle, path=path, model=model, allow=[]).predictions == []


def test_no_repeats_removes_services_of_path_or_composition(bundle: Bundle) -> None:
    path = ["table_1001002", "service_301", "service_303"]
    answer = ask(bundle, path=path, mask="none", k=1000, no_repeats=True)
    assert {"service_301", "service_303"} & {p.service for p in answer.predictions} == set()
    branches = chain(301, 303, at="n0")
    assert "service_303" in {p.service for p in ask(bundle, **branches, k=1000).predictions}
    filtered = ask(bundle, **branches, k=1000, no_repeats=True)
    assert "service_303" not in {p.service for p in filtered.predictions}


def test_neutral_options_do_not_change_answer(bundle: Bundle) -> None:
    request: dict[str, Any] = {"path": ["table_1001002", "service_301"], "k": 1000}
    plain = ask(bundle, **request)
    neutral = {"deny": [], "no_repeats": False, "diversity": 0, "novelty": 0, "history": []}
    assert ask(bundle, **request, **neutral) == plain
    assert ask(bundle, **request, allow=list(bundle.vocabulary.services)) == plain


def test_diversity_and_novelty_reorder_without_changing_probabilities(bundle: Bundle) -> None:
    request: dict[str, Any] = {"path": ["table_1001002", "service_301"], "k": 1000, "mask": "none"}
    plain = {p.service: p.probability for p in ask(bundle, **request).predictions}
    for option in ({"diversity": 0.9}, {"novelty": 3.0}):
        reordered = [(p.service, p.probability) for p in ask(bundle, **request, **option).predictions]
        assert dict(reordered) == plain
        assert reordered != [*plain.items()]


def test_scores_are_divided_by_temperature(bundle: Bundle) -> None:
    request: dict[str, Any] = {"path": ["table_1001002", "service_301"], "k": 1000, "model": "markov"}
    markov = replace(bundle.models["markov"], temperature=2.0)
    tempered = replace(bundle, models={**bundle.models, "markov": markov})
    before = {p.service: p.probability for p in ask(bundle, **request).predictions}
    after = {p.service: p.probability for p in ask(tempered, **request).predictions}
    roots = {service: p**0.5 for service, p in before.items()}
    assert list(after) == list(before)
    for service, root in roots.items():
        assert after[service] == pytest.approx(root / sum(roots.values()), rel=1e-4)
