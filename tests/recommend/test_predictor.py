from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dagrec.config import load_config
from dagrec.data.formats import read
from dagrec.errors import RequestError
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.train import train
from dagrec.models.registry import MODELS
from dagrec.recommend.answers import Answer
from dagrec.recommend.predictor import predict_lines
from dagrec.recommend.request import MAX_K
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store
from tests.recommend.asking import ENDS, all_of, ask, chain, plain

DATA = Path(__file__).parents[2] / "data" / "compositions.json"


def known_node(bundle: Bundle) -> str:
    """The node that the most services followed, but not all."""
    degrees = bundle.graph.observed.degrees
    services = len(bundle.vocabulary.services)
    best = max((d, i) for i, d in enumerate(degrees.tolist()) if d < services)[1]
    return next(key for key, id_ in bundle.vocabulary.ids.items() if id_ == best)


@pytest.mark.parametrize("model", MODELS)
def test_path_and_composition_give_the_same_answer(model: str, bundle: Bundle) -> None:
    path = ["table_1001002", "service_301", "service_303"]
    by_path = ask(bundle, path=path, model=model)
    assert ask(bundle, **chain(301, 303, at="n1"), model=model) == by_path
    assert ask(bundle, **chain(301, 303), model=model) == by_path
    wrapped = {"composition": chain(301, 303)}
    assert ask(bundle, composition=wrapped["composition"], model=model) == by_path
    assert (by_path.model, by_path.version, by_path.strategy) == (model, bundle.version, "model")


@pytest.mark.parametrize("model", MODELS)
def test_what_does_not_feed_the_frontier_changes_nothing(model: str, bundle: Bundle) -> None:
    """Children that the frontier has already, and whole other branches."""
    alone = ask(bundle, **chain(301, 303, at="n1"), model=model)
    request = chain(301, 303, at="n1")
    request["composition"]["nodes"] += [
        {"id": "child", "mid": 302},
        {"id": "sister", "mid": 304},
        {"id": "other table"},
        {"id": "strange", "key": "never seen"},
    ]
    request["composition"]["links"] += [
        {"source": "n1", "target": "child"},
        {"source": "n0", "target": "sister"},
        {"source": "other table", "target": "strange"},
        {"source": "strange", "target": "child"},
    ]
    assert ask(bundle, **request, model=model) == alone


def test_unknown_nodes_are_named_and_the_strategy_says_what_was_done(bundle: Bundle) -> None:
    known = ask(bundle, path=["table_1001002", "service_301"])
    assert (known.strategy, known.unknown, known.terminal) == ("model", [], False)
    some = ask(bundle, path=["new_1", "service_301", "new_2", "service_303", "new_1"])
    assert (some.strategy, some.unknown) == ("back-off", ["new_1", "new_2"])
    for path in (["new_1", "new_2"], []):
        nothing = ask(bundle, path=path)
        assert (nothing.strategy, nothing.unknown, nothing.terminal) == ("popularity", path, False)


def test_an_unknown_node_upstream_of_the_frontier_is_named(bundle: Bundle) -> None:
    """It feeds the frontier, though the longest path does not pass it."""
    request = chain(301, 303, at="n1")
    request["composition"]["nodes"].append({"id": "side", "key": "never seen"})
    request["composition"]["links"].append({"source": "side", "target": "n1"})
    answer = ask(bundle, **request)
    assert (answer.strategy, answer.unknown) == ("back-off", ["never seen"])


@pytest.mark.parametrize("model", MODELS)
def test_a_context_of_unknown_nodes_gets_smoothed_frequencies(model: str, bundle: Bundle) -> None:
    """p(y) = (N(y) + 1) / (N + C) for every model and mask."""
    counts = bundle.graph.popularity + 1
    expected = dict(zip(bundle.vocabulary.services, (counts / counts.sum()).tolist(), strict=True))
    for mask in (MaskPolicy.OBSERVED, MaskPolicy.SOFT, MaskPolicy.NONE):
        answer = ask(bundle, path=["nobody knows"], model=model, mask=mask, k=MAX_K)
        found = {p.service: p.probability for p in answer.predictions}
        assert found == pytest.approx(expected, rel=1e-6)


def test_a_node_that_nothing_followed_is_terminal_and_opens_the_mask(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([chain(1, 2)["composition"], chain(1, 3)["composition"]]))
    store = Store(tmp_path / "store")
    train(read(data), store, load_config(models=["markov"]), measure=0)
    answer = ask(store.load(), path=["table_1001002", "service_1", "service_2"])
    assert (answer.terminal, answer.strategy, answer.unknown) == (True, "model", [])
    assert answer.candidates == len(answer.predictions) == 3
    assert not ask(store.load(), path=["service_1"]).terminal


@pytest.mark.parametrize("model", MODELS)
def test_a_hard_mask_never_lets_another_service_through(model: str, bundle: Bundle) -> None:
    graph, words = bundle.graph, bundle.vocabulary
    for key, id_ in words.ids.items():
        followers = {words.services[column] for column in graph.observed.row(id_)[0]}
        answer = ask(bundle, path=[key], model=model, mask="observed", k=MAX_K)
        assert {p.service for p in answer.predictions} == (followers or set(words.services))
        assert answer.candidates == len(answer.predictions)


def test_the_catalogue_mask_lets_declared_links_through_and_nothing_else(bundle: Bundle) -> None:
    answer = ask(bundle, path=["service_301"], mask="catalogue", k=MAX_K)
    assert {p.service for p in answer.predictions} == {"service_302", "service_303", "service_304"}


def test_a_bundle_without_declared_links_refuses_the_catalogue_mask(tmp_path: Path) -> None:
    store = Store(tmp_path)
    train(read(DATA), store, load_config(models=["popularity"]), measure=0)
    with pytest.raises(RequestError, match="mask 'catalogue' needs links that a user declared"):
        ask(store.load(), path=["service_301"], mask="catalogue")


@pytest.mark.parametrize("mask", list(MaskPolicy))
@pytest.mark.parametrize("model", MODELS)
def test_probabilities_fall_and_add_up_to_one(model: str, mask: MaskPolicy, bundle: Bundle) -> None:
    for path in (["table_1001002"], ["table_1001002", "service_301"], ["new", "service_305"]):
        answer = ask(bundle, path=path, model=model, mask=mask, k=MAX_K)
        probabilities = [p.probability for p in answer.predictions]
        assert probabilities == sorted(probabilities, reverse=True)
        assert math.fsum(probabilities) == pytest.approx(1, abs=1e-9)
        assert [p.rank for p in answer.predictions] == list(range(1, len(probabilities) + 1))
        assert answer.mask is mask


def test_equal_probabilities_keep_the_order_of_the_vocabulary(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([chain(mid)["composition"] for mid in (5, 3, 4)]))
    store = Store(tmp_path / "store")
    train(read(data), store, load_config(models=["markov"]), measure=0)
    answer = ask(store.load(), path=["table_1001002"])
    assert [(p.service, p.probability) for p in answer.predictions] == [
        (f"service_{mid}", pytest.approx(1 / 3)) for mid in (3, 4, 5)
    ]


def test_k_is_a_limit_and_not_a_demand(bundle: Bundle) -> None:
    node = known_node(bundle)
    everything = ask(bundle, path=[node], k=MAX_K)
    assert len(everything.predictions) == everything.candidates < len(bundle.vocabulary.services)
    for k in range(1, everything.candidates + 1):
        answer = ask(bundle, path=[node], k=k)
        assert answer.predictions == everything.predictions[:k]
        assert answer.candidates == everything.candidates


def test_support_counts_the_training_examples_of_the_link(bundle: Bundle) -> None:
    compositions = read(DATA).compositions
    pairs = [
        (c.by_id[source].key, c.by_id[target].key)
        for c in compositions
        for source, target in c.links
        if len(c.nodes) == 2  # one path: each link is one example
    ]
    answer = ask(bundle, path=["table_1001002"], mask="none", k=MAX_K)
    for prediction in answer.predictions:
        assert prediction.support >= pairs.count(("table_1001002", prediction.service))
    total = bundle.graph.support(bundle.vocabulary.ids["table_1001002"]).sum()
    assert sum(p.support for p in answer.predictions) == total
    assert {p.support for p in ask(bundle, path=["new"]).predictions} == {0}


def test_the_champion_and_the_mask_of_the_bundle_are_the_defaults(bundle: Bundle) -> None:
    answer = ask(bundle, path=["service_301"])
    assert answer.model == bundle.manifest.champion
    assert answer.mask is bundle.mask
    with pytest.raises(RequestError, match=f"model must be one of {', '.join(MODELS)}, found 'nobody'"):
        ask(bundle, path=["service_301"], model="nobody")


def test_lines_are_answered_in_order_with_errors_in_their_places(bundle: Bundle) -> None:
    lines = [
        '{"path": ["service_301"]}\n',
        "\n",
        "not json\n",
        '{"path": ["service_302"], "k": 2, "model": "popularity"}\n',
        "[]\n",
        '{"path": 5}\n',
        '{"path": ["service_303"], "mask": NaN}\n',
        json.dumps({"composition": ENDS}) + "\n",
        json.dumps(chain(301)),
    ]
    found = list(predict_lines(bundle, lines, {"k": 3, "model": "markov", "mask": "none"}))
    answers = {i: plain(a) for i, a in enumerate(found) if isinstance(a, Answer)}
    errors = {i: str(e) for i, e in enumerate(found) if isinstance(e, RequestError)}
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
    assert [answer.at for answer in all_of(found[6])] == ["a", "e"]


# What a user asks beyond the model


@pytest.mark.parametrize("model", ["markov", "gru4rec", "popularity"])
@pytest.mark.parametrize("path", [["table_1001002", "service_301"], ["nobody"], []])
def test_filters_hold_wherever_the_answer_comes_from(
    model: str, path: list[str], bundle: Bundle
) -> None:
    plain = ask(bundle, path=path, model=model, mask="none", k=1000)
    first, second, third = (p.service for p in plain.predictions[:3])
    denied = ask(bundle, path=path, model=model, mask="none", k=1000, deny=[first, "nobody"])
    assert [p.service for p in denied.predictions] == [p.service for p in plain.predictions[1:]]
    assert denied.candidates == plain.candidates - 1
    assert sum(p.probability for p in denied.predictions) == pytest.approx(1)
    allowed = ask(bundle, path=path, model=model, mask="none", allow=[third, second, "nobody"])
    assert [p.service for p in allowed.predictions] == [second, third]
    assert ask(bundle, path=path, model=model, allow=[]).predictions == []


def test_no_repeats_leaves_out_what_the_path_or_the_composition_holds(bundle: Bundle) -> None:
    path = ["table_1001002", "service_301", "service_303"]
    found = ask(bundle, path=path, mask="none", k=1000, no_repeats=True)
    assert {"service_301", "service_303"} & {p.service for p in found.predictions} == set()
    branches = chain(301, 303, at="n0")
    assert "service_303" in {p.service for p in ask(bundle, **branches, k=1000).predictions}
    kept = ask(bundle, **branches, k=1000, no_repeats=True)
    assert "service_303" not in {p.service for p in kept.predictions}


def test_neutral_settings_are_no_settings(bundle: Bundle) -> None:
    request: dict[str, Any] = {"path": ["table_1001002", "service_301"], "k": 1000}
    plain = ask(bundle, **request)
    neutral = {"deny": [], "no_repeats": False, "diversity": 0, "novelty": 0, "history": []}
    assert ask(bundle, **request, **neutral) == plain
    assert ask(bundle, **request, allow=list(bundle.vocabulary.services)) == plain


def test_diversity_and_novelty_change_the_order_alone(bundle: Bundle) -> None:
    request: dict[str, Any] = {"path": ["table_1001002", "service_301"], "k": 1000, "mask": "none"}
    plain = {p.service: p.probability for p in ask(bundle, **request).predictions}
    for how in ({"diversity": 0.9}, {"novelty": 3.0}):
        found = [(p.service, p.probability) for p in ask(bundle, **request, **how).predictions]
        assert dict(found) == plain
        assert found != [*plain.items()]


def test_scores_are_divided_by_the_temperature_of_the_model(bundle: Bundle) -> None:
    request: dict[str, Any] = {"path": ["table_1001002", "service_301"], "k": 1000, "model": "markov"}
    markov = replace(bundle.models["markov"], temperature=2.0)
    warm = replace(bundle, models={**bundle.models, "markov": markov})
    cold = {p.service: p.probability for p in ask(bundle, **request).predictions}
    found = {p.service: p.probability for p in ask(warm, **request).predictions}
    roots = {service: p**0.5 for service, p in cold.items()}
    assert list(found) == list(cold)
    for service, root in roots.items():
        assert found[service] == pytest.approx(root / sum(roots.values()), rel=1e-4)
