"""Fitting, answering, saving and loading from Python."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dagrec
from dagrec import cli
from dagrec.api.model import COLUMNS
from dagrec.data.dataset import Dataset, ReadReport
from dagrec.data.formats.native import to_document
from dagrec.data.synthetic import World, WorldOptions, dump
from dagrec.errors import ConfigError, DagrecError, DataError, RequestError, StoreError
from dagrec.evaluation.evaluator import TestPart
from dagrec.jobs.train import held_out_parts
from dagrec.recommend.predictor import Predictor
from dagrec.recommend.request import PredictRequest, make_request
from dagrec.store.bundle import MANIFEST
from dagrec.training.runtime import current_runtime
from tests.checks import says

CHAINS = [["t", "a", "b"], ["t", "b", "c"], ["u", "a", "c"], ["t", "a", "c"]]
SERVICES = ["a", "b", "c"]
QUICK: dict[str, Any] = {"epochs": 2, "min_steps": 0, "hidden": 8, "embedding": 8}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dagrec.from_paths(CHAINS * 3, services=SERVICES)


@pytest.fixture(scope="module")
def model(data: Dataset) -> dagrec.Model:
    return dagrec.fit(data, "markov", order=2, mu=1.0)


@pytest.fixture(scope="module")
def saved(model: dagrec.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two models, which `dagrec train` would have made."""
    from dagrec.jobs.config import load_config
    from dagrec.jobs.train import train
    from dagrec.store.store import Store

    folder = tmp_path_factory.mktemp("store") / "store"
    data = dagrec.from_paths(CHAINS * 3, services=SERVICES)
    train(data, Store(folder), load_config(models=["popularity", "markov"]), measure=1)
    return folder


Command = Callable[..., str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Runs a command in this process, and returns what it printed."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["dagrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        shown = capsys.readouterr()
        assert end.value.code == 0, shown.err
        return shown.out

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def composition(*keys: str) -> dagrec.Composition:
    return dagrec.from_paths([keys], services=SERVICES)[0]


def state_of(fitted: dagrec.Model) -> dict[str, np.ndarray[Any, Any]]:
    return fitted.recommender.state()


def check_equal(one: dagrec.Model, other: dagrec.Model) -> None:
    """The same numbers to the last bit."""
    assert state_of(one).keys() == state_of(other).keys()
    for name, array in state_of(one).items():
        np.testing.assert_array_equal(array, state_of(other)[name], err_msg=name)


def ranked(answer: Any) -> list[tuple[str, float, int]]:
    return [(p.service, p.probability, p.support) for p in answer]


# fit


def test_fit_with_a_name_takes_the_defaults(data: Dataset) -> None:
    fitted = dagrec.fit(data, "markov")
    assert fitted.label == fitted.recommender.name == "markov"
    assert fitted.recommender.config == dagrec.models.Markov().config
    assert fitted.services == ("a", "b", "c")


def test_fit_with_a_configured_recommender_equals_fit_with_options(data: Dataset) -> None:
    check_equal(
        dagrec.fit(data, dagrec.models.Markov(order=3, mu=2.0)),
        dagrec.fit(data, "markov", order=3, mu=2.0),
    )
    by_name = dagrec.fit(data, "gru4rec", seed=4, **QUICK)
    check_equal(dagrec.fit(data, dagrec.models.GRU4Rec(**QUICK), seed=4), by_name)
    check_equal(dagrec.fit(data, dagrec.models.GRU4Rec(seed=4, **QUICK)), by_name)
    assert by_name.recommender.seed == 4


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [(4, None, 4), (4, 9, 9), (4, 0, 0), (None, None, 0), (None, 9, 9), (0, 9, 9), (0, None, 0)],
)
def test_a_given_seed_comes_before_that_of_the_recommender(
    own: int | None, given: int | None, expected: int, data: Dataset
) -> None:
    """``own`` None: the model is given by name."""
    if own is None:
        fitted = dagrec.fit(data, "gru4rec", seed=given, **QUICK)
    else:
        fitted = dagrec.fit(data, dagrec.models.GRU4Rec(seed=own, **QUICK), seed=given)
    assert fitted.recommender.seed == expected
    config = fitted.bundle.manifest.config
    assert config is not None
    assert (config["seed"], config["examples"]["seed"]) == (expected, expected)
    check_equal(fitted, dagrec.fit(data, "gru4rec", seed=expected, **QUICK))


def test_options_may_be_numbers_of_numpy(data: Dataset) -> None:
    plain = dagrec.fit(data, "markov", order=2, mu=1.0, calibrate=True, seed=3)
    same = dagrec.fit(
        data, "markov", order=np.int64(2), mu=np.float64(1), calibrate=True, seed=np.int64(3)
    )
    check_equal(plain, same)
    assert same.bundle.manifest.config == plain.bundle.manifest.config
    report = dagrec.evaluate(
        data, "markov", repeats=np.int64(1), order=np.int64(2), processes=np.int8(1)
    )
    assert json.dumps(report.result)
    tuning = dagrec.tune(data, "markov", np.int64(1), parts=1, order=np.int64(2))
    assert tuning.best_options["order"] == 2
    assert len(plain.recommend(["t"], np.int64(1))) == 1


def test_fit_leaves_the_configured_recommender_unfitted(data: Dataset) -> None:
    own = dagrec.models.Markov()
    fitted = dagrec.fit(data, own)
    assert fitted.recommender is not own
    with pytest.raises(DagrecError):
        own.state()


def test_fit_without_a_model_is_auto(data: Dataset) -> None:
    fitted = dagrec.fit(data, dagrec.models.Auto(candidates=("markov", "popularity"), folds=2))
    assert fitted.recommender.name == "auto"
    assert dagrec.fit.__kwdefaults__["seed"] is None
    assert dagrec.fit.__kwdefaults__["calibrate"] is False
    assert dagrec.fit.__defaults__ == ("auto",)


@pytest.mark.parametrize("name", ["markov", "gru4rec"])
def test_equal_calls_give_equal_models(name: str, data: Dataset) -> None:
    options = QUICK if name == "gru4rec" else {}
    check_equal(dagrec.fit(data, name, **options), dagrec.fit(data, name, **options))


def test_another_seed_gives_another_network(data: Dataset) -> None:
    fitted = (dagrec.fit(data, "gru4rec", seed=seed, **QUICK) for seed in (1, 2))
    one, other = (state_of(each).values() for each in fitted)
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_training_leaves_the_random_state_of_the_program_alone(data: Dataset) -> None:
    def states() -> tuple[object, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    before = states()
    fitted = dagrec.fit(data, "gru4rec", calibrate=True, hidden_dropout=0.3, **QUICK)
    fitted.recommend(["t"], mask="soft", diversity=0.5)
    dagrec.evaluate(data, "gru4rec", repeats=2, **QUICK)
    dagrec.tune(data, "markov", 2, parts=1)
    assert states() == before


def test_fit_leaves_the_runtime_of_the_program_alone(data: Dataset) -> None:
    before = current_runtime()
    dagrec.fit(data, "markov", device="cpu", progress=False)
    with pytest.raises(ConfigError):
        dagrec.fit(data, "gru4rec", device="gpu")
    assert current_runtime() is before


@pytest.mark.parametrize("mask", ["observed", "soft", "none"])
def test_fit_answers_under_its_mask(mask: str, data: Dataset) -> None:
    fitted = dagrec.fit(data, "markov", mask=mask)
    answer = fitted.recommend(["u", "a"])
    assert answer.answer.mask == mask
    assert set(answer.services) == ({"b", "c"} if mask == "observed" else {"a", "b", "c"})
    assert sum(p.probability for p in answer) == pytest.approx(1.0)
    assert f"mask {mask}" in repr(answer)


def test_fit_with_a_catalogue_lets_its_links_through(data: Dataset) -> None:
    fitted = dagrec.fit(data, "markov", mask="catalogue", catalogue=[("t", "c"), ("t", "a")])
    assert set(fitted.recommend(["t"]).services) == {"a", "c"}
    assert set(fitted.recommend(["t"], mask="observed").services) == {"a", "b"}


def test_fit_notes_declared_links_of_unknown_keys(data: Dataset) -> None:
    fitted = dagrec.fit(data, "markov", catalogue=[("t", "c"), ("t", "nowhere"), (7, "c")])
    assert "note: 2 declared links" in repr(fitted)


def test_fit_with_services_adds_candidates(data: Dataset) -> None:
    fitted = dagrec.fit(data, "markov", mask="none", services={"new": "does new things", 7: ""})
    assert set(fitted.services) == {"a", "b", "c", "new", "7"}
    assert set(fitted.recommend(["t"]).services) == set(fitted.services)


def test_fit_learns_links_once(data: Dataset) -> None:
    diamond = nx.DiGraph([("t", "a"), ("t", "b"), ("a", "c"), ("b", "c"), ("c", "d")])
    data = dagrec.from_networkx([diamond])
    paths, links = (dagrec.fit(data, "markov", examples=form) for form in ("paths", "links"))
    for model in (paths, links):
        assert model.recommend(["t", "a", "c"])[0].support == 1  # compositions, not paths
    assert ranked(paths.recommend([])) != ranked(links.recommend([]))
    same = dagrec.fit(data, "markov", examples={"form": "links", "count": "paths"})
    check_equal(links, same)


def test_fit_calibrates_on_held_out_parts(data: Dataset) -> None:
    world = World(WorldOptions(compositions=80)).draw()
    graphs = [
        nx.DiGraph([(str(link["source"]), str(link["target"])) for link in each["links"]])
        for each in world
    ]
    for graph in graphs:
        for node in graph:
            graph.nodes[node]["key"] = node[:3]
    data = dagrec.from_networkx(graphs)
    plain = dagrec.fit(data, "ease")
    calibrated = dagrec.fit(data, "ease", calibrate=True)
    assert plain.fitted.temperature == 1.0
    assert calibrated.fitted.temperature != 1.0
    assert "mrr" not in repr(plain)
    assert "mrr" in repr(calibrated)
    check_equal(plain, calibrated)
    context = [data[0].nodes[0].key]
    assert plain.recommend(context).services == calibrated.recommend(context).services
    again = dagrec.fit(data, "ease", calibrate=True)
    assert again.fitted.temperature == calibrated.fitted.temperature


def test_fit_calibrates_on_three_parts_of_a_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dagrec.from_paths(CHAINS * 5, services=SERVICES)
    made: list[list[TestPart]] = []

    def parts(*arguments: Any) -> list[TestPart]:
        made.append(held_out_parts(*arguments))
        return made[-1]

    monkeypatch.setattr("dagrec.api.model.held_out_parts", parts)
    dagrec.fit(data, "markov", calibrate=False)
    assert made == []
    dagrec.fit(data, "markov", calibrate=True, seed=3)
    (found,) = made
    assert len(found) == 3
    for part in found:
        tested, trained = (
            {example.composition for example in examples}
            for examples in (part.examples, part.data.examples)
        )
        assert len(tested) == 4
        assert tested | trained == set(range(20))
        assert not tested & trained


def test_a_model_shows_what_it_is(model: dagrec.Model) -> None:
    for text in ("model markov", "24 examples of a list of paths", "observed", "services"):
        assert text in repr(model)
    assert model._repr_html_().startswith("<div>")


@pytest.mark.parametrize("wrong", [None, 5, "data.json", CHAINS, {"nodes": []}, Dataset])
def test_functions_refuse_what_is_no_data_set(wrong: Any) -> None:
    for function in (dagrec.fit, dagrec.evaluate, dagrec.tune):
        with pytest.raises(DataError) as error:
            function(wrong, "markov")
        assert says(error, f"{function.__name__}: data", type(wrong).__name__, "dagrec.read")


@pytest.mark.parametrize(
    ("paths", "services"), [([["a"]], None), ([["t", "u"], ["u"]], []), ([["a", "t"]], ["a"])]
)
def test_functions_refuse_data_without_an_example(paths: Any, services: Any) -> None:
    data = dagrec.from_paths(paths, services=services)
    for function in (dagrec.fit, dagrec.evaluate, dagrec.tune):
        with pytest.raises(DataError) as error:
            function(data, "markov")
        assert says(error, "service", "found none")


def test_functions_refuse_an_empty_data_set() -> None:
    data = Dataset.of((), ReadReport(), source="nowhere")
    for function in (dagrec.fit, dagrec.evaluate, dagrec.tune):
        with pytest.raises(DataError) as error:
            function(data, "markov")
        assert says(error, "found none")


class Mine(dagrec.models.Markov):
    """Markov's name, and not Markov."""


class Nameless(dagrec.models.Markov):
    name = "nameless"


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (None, ("one name or one configured recommender", "found NoneType", "write 'markov'")),
        (5, ("one name or one configured recommender", "found int")),
        (b"markov", ("found bytes",)),
        (["markov"], ("found list", "dagrec.evaluate takes several")),
        ({"mine": "markov"}, ("found dict", "dagrec.evaluate takes several")),
        ("all", ("found 'all'", "dagrec.evaluate takes several")),
        (dagrec.models.Markov, ("found its class", "write Markov()")),
        ("makrov", ("no recommender 'makrov'", "did you mean markov?")),
        ("GRU4REC", ("no recommender 'GRU4REC'", "did you mean gru4rec")),
        ("", ("no recommender ''", "popularity", "markov")),
        (Mine(), ("Mine", "registered recommender", "'markov'", "docs/extending.md")),
        (Nameless(), ("Nameless", "registered recommender", "'nameless'")),
    ],
    ids=repr,
)
def test_fit_and_tune_refuse_what_is_no_model(
    wrong: Any, parts: tuple[str, ...], data: Dataset
) -> None:
    for function in (dagrec.fit, dagrec.tune):
        with pytest.raises(ConfigError) as error:
            function(data, wrong)
        assert says(error, *parts)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"ordr": 2}, ("fit", "'ordr'", "no hyperparameter of markov", "did you mean order?")),
        ({"maks": "soft"}, ("fit", "'maks'", "did you mean mask?")),
        ({"calibrat": 2}, ("fit", "'calibrat'", "did you mean calibrate")),
        ({"epochs": 2}, ("fit", "'epochs'", "no hyperparameter of markov", "they are order, mu")),
        ({"recommender": "ease"}, ("fit", "'recommender'", "no hyperparameter of markov")),
        ({"order": 0}, ("markov", "order", "greater than or equal to 1", "found 0")),
        ({"order": "two"}, ("markov", "order", "valid integer", "found 'two'")),
        ({"mu": float("nan")}, ("markov", "mu", "found nan")),
        ({"mask": "sof"}, ("fit", "mask", "'observed', 'catalogue', 'soft' or 'none'", "found 'sof'")),
        ({"mask": None}, ("fit", "mask", "found None")),
        (
            {"mask": "catalogue"},
            ("fit", "declared links", "found none", "catalogue=[(source, service)"),
        ),
        ({"examples": "pths"}, ("fit", "examples", "'paths' or 'links'", "found 'pths'")),
        ({"examples": 5}, ("fit", "examples", "found int")),
        ({"examples": {"fom": "links"}}, ("fit", "examples", "'fom'", "did you mean form?")),
        ({"examples": {1: "links"}}, ("fit", "examples", "'1'", "form")),
        ({"examples": {"max_paths": 0}}, ("fit", "examples.max_paths", "found 0")),
        ({"calibrate": 1}, ("fit", "calibrate", "True or False", "found 1")),
        ({"calibrate": 0}, ("fit", "calibrate", "True or False", "found 0")),
        ({"calibrate": -1}, ("fit", "calibrate", "True or False", "found -1")),
        ({"calibrate": None}, ("fit", "calibrate", "True or False", "found None")),
        ({"calibrate": np.True_}, ("fit", "calibrate", "True or False", "found")),
        ({"calibrate": "yes"}, ("fit", "calibrate", "True or False", "found 'yes'")),
        ({"calibrate": 1.5}, ("fit", "calibrate", "True or False", "found 1.5")),
        ({"seed": -1}, ("fit", "seed", "from 0 to", "found -1")),
        ({"seed": 2**40}, ("fit", "seed", "from 0 to", f"found {2**40}")),
        ({"seed": "x"}, ("fit", "seed", "valid integer", "found 'x'")),
        ({"seed": 1.5}, ("fit", "seed", "valid integer", "found 1.5")),
        ({"device": "gpu"}, ("device", "auto, cpu or cuda", "found 'gpu'")),
        ({"device": 0}, ("device", "found 0")),
        ({"catalogue": 5}, ("fit: catalogue", "(source, service)", "found 5")),
        ({"catalogue": "ab"}, ("fit: catalogue", 'found "ab"')),
        ({"catalogue": [("a",)]}, ("fit: catalogue: link 1", "found ('a',)")),
        ({"catalogue": [("t", "a"), "ab"]}, ("fit: catalogue: link 2", "found 'ab'")),
        ({"catalogue": [("t", None)]}, ("fit: catalogue: link 1", "found nothing")),
        ({"services": 5}, ("fit: services", "dict of key and text", "found int")),
        ({"services": ["a"]}, ("fit: services", "found list")),
        ({"services": {"a": None}}, ("fit: services", "the text of 'a'", "found nothing")),
        ({"services": {"": "x"}}, ("fit: services: a key", "non-empty")),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_fit_refuses_wrong_options(
    options: dict[str, Any], parts: tuple[str, ...], data: Dataset
) -> None:
    with pytest.raises((ConfigError, DataError)) as error:
        dagrec.fit(data, "markov", **options)
    assert says(error, *parts)


def test_fit_takes_no_options_beside_a_configured_recommender(data: Dataset) -> None:
    for function in (dagrec.fit, dagrec.tune):
        with pytest.raises(ConfigError) as error:
            function(data, dagrec.models.Markov(), order=2)
        assert says(error, function.__name__, "given once", "found order", "constructor")


def test_fit_cannot_calibrate_on_a_single_example() -> None:
    with pytest.raises(DataError) as error:
        dagrec.fit(dagrec.from_paths([["a", "b"]]), "markov", calibrate=True)
    assert says(error, "two", "found 1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fit_says_that_there_is_no_gpu(data: Dataset) -> None:
    with pytest.raises(ConfigError) as error:
        dagrec.fit(data, "gru4rec", device="cuda", **QUICK)
    assert says(error, "cuda", "cpu")


# recommend


def test_recommend_answers_one_context(model: dagrec.Model) -> None:
    answer = model.recommend(["t", "a"])
    assert isinstance(answer, dagrec.Recommendations)
    assert len(answer) == 2
    assert answer.services == [p.service for p in answer]
    assert set(answer.services) == {"b", "c"}
    assert [p.rank for p in answer] == [1, 2]
    assert answer[0] == next(iter(answer))
    assert answer[:1] == [answer[0]]
    assert answer[0] in answer
    assert answer[0].probability >= answer[1].probability


@pytest.mark.parametrize("path", [["t", "a"], ["t"], [], ["nobody"], ["t", "nobody", "a"]])
@pytest.mark.parametrize("options", [{}, {"mask": "soft", "k": 2, "no_repeats": True}])
def test_recommend_equals_the_predictor(
    path: list[str], options: dict[str, Any], model: dagrec.Model
) -> None:
    mine = model.recommend(path, **options).answer
    expected = Predictor(model.bundle).answer(make_request({"path": path, **options}))
    assert mine.model_dump(exclude={"took_ms"}) == expected.model_dump(exclude={"took_ms"})


def test_recommend_equals_the_command_line(
    model: dagrec.Model, saved: Path, command: Command, tmp_path: Path
) -> None:
    shown = json.loads(command("predict", "--store", saved, "--path", "t,a", "-k", "2", "--json"))
    mine = model.recommend(["t", "a"], k=2).answer.model_dump(mode="json")
    assert mine | {"took_ms": 0} == shown | {"took_ms": 0}
    file = tmp_path / "partial.json"
    graph = nx.DiGraph([("t", "a"), ("t", "b")])
    (partial,) = dagrec.from_networkx(graph)
    file.write_text(json.dumps(to_document(partial)))
    shown = json.loads(command("predict", "--store", saved, "--composition", file, "--json"))
    assert [ranked(each) for each in model.recommend(graph)] == [
        [(p["service"], p["probability"], p["support"]) for p in each["predictions"]]
        for each in shown["answers"]
    ]


@pytest.mark.parametrize(
    "contexts",
    [
        [["t", "a"], ["t"], []],
        (("t", "a"), ("t",), ()),
        (context for context in [["t", "a"], ("t",), []]),
        pd.Series([["t", "a"], ["t"], []]),
        [np.array(["t", "a"]), pd.Series(["t"]), {"path": []}],
        [composition("t", "a"), make_request({"path": ["t"]}), []],
        [to_document(composition("t", "a")), {"path": ["t"], "history": []}, ()],
        [nx.DiGraph([("t", "a")]), ["t"], []],
    ],
    ids=["lists", "tuples", "generator", "series", "arrays", "objects", "documents", "graphs"],
)
def test_recommend_answers_each_of_several_contexts(contexts: Any, model: dagrec.Model) -> None:
    answers = model.recommend(contexts)
    alone = [model.recommend(["t", "a"]), model.recommend(["t"]), model.recommend([])]
    assert [ranked(each) for each in answers] == [ranked(each) for each in alone]


def test_recommend_takes_keys_that_are_integers() -> None:
    fitted = dagrec.fit(dagrec.from_paths([[1, 2, 3]] * 2), "markov")
    for context in ([1, 2], ["1", "2"], (np.int64(1), 2), np.array([1, 2]), pd.Series([1, 2])):
        assert fitted.recommend(context).services == ["3"]
    assert fitted.recommend(range(1, 3)).services == ["3"]


def test_recommend_answers_at_each_open_end_of_a_composition(model: dagrec.Model) -> None:
    graph = nx.DiGraph([("t", "a"), ("t", "b")])
    both = model.recommend(graph)
    assert [each.answer.at for each in both] == ["a", "b"]
    assert [ranked(each) for each in both] == [
        ranked(model.recommend(["t", "a"])),
        ranked(model.recommend(["t", "b"])),
    ]
    one = model.recommend(graph, at="b")
    assert ranked(one) == ranked(both[1])
    assert "after node b" in repr(one)
    nested = model.recommend([graph, ["t"]])
    assert [len(each) if isinstance(each, list) else None for each in nested] == [2, None]


@pytest.mark.parametrize(
    "make",
    [
        lambda c: c,
        lambda c: to_document(c),
        lambda c: {"composition": to_document(c)},
        lambda c: {"composition": to_document(c), "owner": "ann", "id": "mine"},
        lambda c: {"composition": to_document(c), "at": 2},
        lambda c: PredictRequest(composition=to_document(c)),
        lambda c: c.to_networkx(),
    ],
    ids=["Composition", "document", "wrapped", "with owner", "request", "PredictRequest", "DiGraph"],
)
def test_recommend_takes_a_composition_in_every_form(make: Any, model: dagrec.Model) -> None:
    answer = model.recommend(make(composition("t", "a")))
    assert ranked(answer) == ranked(model.recommend(["t", "a"]))
    assert answer.answer.at == "2"


def test_recommend_puts_a_requests_own_fields_first(model: dagrec.Model) -> None:
    for request in ({"path": ["t", "a"], "k": 1}, PredictRequest(path=["t", "a"], k=1)):
        assert len(model.recommend(request, k=2)) == 1
    for request in ({"path": ["t", "a"]}, PredictRequest(path=["t", "a"])):
        assert len(model.recommend(request, k=1, mask="none")) == 1
        assert len(model.recommend(request, k=3, mask="none")) == 3


def test_recommend_answers_a_request_with_the_loaded_model(store: Path) -> None:
    for label in ("markov", "popularity"):
        loaded = dagrec.load(store, label)
        for context in (["t"], {"path": ["t"]}, PredictRequest(path=["t"])):
            assert loaded.recommend(context).answer.model == label


@pytest.mark.parametrize("k", [1, 2, 3, 1000])
def test_recommend_gives_at_most_k_and_all_there_are(k: int, model: dagrec.Model) -> None:
    assert len(model.recommend(["t", "a"], k, mask="none")) == min(k, 3)


def test_recommend_names_unknown_nodes(model: dagrec.Model) -> None:
    answer = model.recommend(["t", "nobody", "knows"])
    assert answer.answer.unknown == ["nobody", "knows"]
    assert answer.answer.strategy == "ancestor"
    assert "not in the training data: nobody, knows" in repr(answer)
    assert answer.answer.why
    assert answer.answer.why in repr(answer)
    assert "not in the training data: nobody, knows" in answer._repr_html_()
    assert "unknown" not in repr(model.recommend(["t", "a"]))


def test_recommend_after_nothing_ranks_by_frequency(model: dagrec.Model) -> None:
    answer = model.recommend([])
    assert answer.answer.strategy == "popularity"
    assert set(answer.services) == {"a", "b", "c"}
    assert answer.answer.why
    assert answer.answer.why in repr(answer)


def test_recommend_filters_and_says_where_nothing_is_left(model: dagrec.Model) -> None:
    assert "b" not in model.recommend(["t", "a"], deny=["b"]).services
    assert model.recommend(["t", "a"], allow=["b"]).services == ["b"]
    nothing = model.recommend(["t", "a"], allow=[])
    assert list(nothing) == nothing.services == []
    assert nothing.answer.why
    assert nothing.answer.why in repr(nothing)
    assert nothing.to_dataframe().columns.tolist() == list(COLUMNS)


def test_recommend_explains_where_asked(model: dagrec.Model) -> None:
    assert model.recommend(["t", "a"]).answer.explanation is None
    explanation = model.recommend(["t", "a"], explain=True).answer.explanation
    assert explanation is not None
    assert {step.service for step in explanation.steps} == {"b", "c"}


def test_an_explained_answer_shows_the_evidence_of_each_service(model: dagrec.Model) -> None:
    answer = model.recommend(["a"], explain=True)
    lines = [
        "c: 6 compositions after a, such as path-2, path-3, path-6",
        "b: 3 compositions after a, such as path-0, path-4, path-8",
    ]
    assert repr(answer).splitlines()[-2:] == lines
    assert all(f"<div>{line}</div>" in answer._repr_html_() for line in lines)
    plain = model.recommend(["a"])
    assert repr(plain).splitlines() == repr(answer).splitlines()[:-2]

    longer = repr(model.recommend(["nobody", "u", "a"], explain=True)).splitlines()
    assert longer[-2:] == [
        "c: 3 compositions after u > a, such as path-2, path-6, path-10",
        "b: 3 compositions after a, such as path-0, path-4, path-8",
    ]

    several = model.recommend([["t"], ["a"]], explain=True)
    assert [repr(each).splitlines()[-2:] for each in several][1] == lines


def test_an_explained_answer_says_nothing_of_a_service_that_never_followed(
    model: dagrec.Model,
) -> None:
    answer = model.recommend(["a"], mask="soft", explain=True)
    assert answer.services[-1] == "a"
    text = repr(answer)
    assert "\nc: 6 compositions" in text
    assert "\na: " not in text
    assert "such as" not in repr(model.recommend(["nobody"], explain=True))


def test_recommend_takes_times_of_every_kind(
    model: dagrec.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []
    answer = Predictor.answer

    def recorded(self: Predictor, request: PredictRequest) -> Any:
        asked.append(request.time)
        return answer(self, request)

    monkeypatch.setattr(Predictor, "answer", recorded)
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)
    for moment in (noon, noon.isoformat(), noon.timestamp(), pd.Timestamp(noon), np.datetime64(0, "s")):
        model.recommend(["t"], time=moment)
        model.recommend({"path": ["t"], "time": moment})
    assert asked == [noon.timestamp()] * 8 + [0.0] * 2


def test_recommend_as_a_data_frame_has_a_row_a_service(model: dagrec.Model) -> None:
    contexts = [["t", "a"], nx.DiGraph([("t", "a"), ("t", "b")]), ["nobody"]]
    frame = model.recommend(contexts, k=2, as_dataframe=True)
    assert tuple(frame.columns) == COLUMNS
    assert frame["context"].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert frame["at"].isna().tolist() == [True, True, False, False, False, True, True]
    assert frame["at"].dropna().tolist() == ["a", "a", "b"]
    first = frame[frame["context"] == 0]
    answer = model.recommend(["t", "a"], k=2)
    rows = first[["service", "probability", "support"]].itertuples(index=False, name=None)
    assert list(rows) == ranked(answer)
    assert first["rank"].tolist() == [1, 2]
    pd.testing.assert_frame_equal(
        model.recommend(["t", "a"], k=2, as_dataframe=True), answer.to_dataframe()
    )
    empty = model.recommend(iter([]), as_dataframe=True)
    assert tuple(empty.columns) == COLUMNS
    assert len(empty) == 0
    assert model.recommend(iter([])) == []


def test_answers_show_themselves_escaped() -> None:
    keys = ["<script>alert(1)</script>", "<b>&amp;"]
    fitted = dagrec.fit(dagrec.from_paths([keys] * 2), "markov")
    answer = fitted.recommend([keys[0], "<img src=x>"])
    html = answer._repr_html_()
    for text in ("<script", "<b>", "<img"):
        assert text not in html
    assert "&lt;b&gt;&amp;amp;" in html
    assert "&lt;img src=x&gt;" in html
    assert keys[1] in repr(answer)


@pytest.mark.parametrize(
    ("contexts", "parts"),
    [
        (None, ("a context", "list of node keys or a composition", "found NoneType")),
        (5, ("a context", "found int")),
        ("a", ("a context", "found 'a'", "write ['a']")),
        (b"ab", ("a context", "found bytes")),
        ((key for key in "ab"), ("contexts[0]: ", "found 'a'")),
        ({"a"}, ("contexts[0]: ", "found 'a'")),
        (pd.DataFrame({"a": [1]}), ("contexts[0]: ", "found 'a'")),
        ([["t"], "a"], ("contexts[1]: ", "found 'a'")),
        ([["t"], None], ("contexts[1]: ", "found None")),
        ([["t"], 5, ["t"]], ("contexts[1]: ", "found 5")),
        (["t", ["a"]], ("contexts[0]: ", "found 't'")),
        ([["t", 1.5]], ("contexts[0]: ", "path.1", "valid string", "found 1.5")),
        ([True], ("path: key 0", "text or an integer", "found true")),
        ([""], ("path.0", "at least 1 character", "found ''")),
        (["\ud800"], ("path.0", "unicode")),
        (["x" * 1001], ("path.0", "at most 1000 characters")),
        ([10**5000], ("path: key 0", "an integer of")),
        (["t"] * 10_001, ("path", "at most 10000 items")),
        ({}, ("composition", "known format", "nodes and links")),
        ({"nodes": [], "links": []}, ("composition", "node", "found none")),
        ({"path": "a"}, ("path", "valid list", "found 'a'")),
        ({"path": ["a"], "maks": "soft"}, ("maks", "did you mean mask?")),
        ({"path": ["a"], 1: 2}, ("Keys should be strings",)),
        ({"composition": to_document(composition("t")), "maks": "x"}, ("maks", "did you mean mask?")),
        (nx.Graph([(1, 2)]), ("directed networkx graph", "found Graph", "networkx.DiGraph")),
        (nx.DiGraph(), ("node", "found none")),
        (nx.DiGraph([("a", "b"), ("b", "a")]), ("'b' -> 'a'", "cycle")),
        ([["t"], nx.DiGraph([("a", "a")])], ("contexts[1]: ", "cycle")),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, tuple) else "",
)
def test_recommend_refuses_what_is_no_context(
    contexts: Any, parts: tuple[str, ...], model: dagrec.Model
) -> None:
    with pytest.raises(RequestError) as error:
        model.recommend(contexts)
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"k": 0}, ("k", "greater than or equal to 1", "found 0")),
        ({"k": 1001}, ("k", "less than or equal to 1000", "found 1001")),
        ({"k": None}, ("k", "valid integer", "found None")),
        ({"k": "5"}, ("k", "found '5'")),
        ({"k": True}, ("k", "found True")),
        ({"mask": "sof"}, ("mask", "'observed', 'catalogue', 'soft' or 'none'", "found 'sof'")),
        ({"mask": "catalogue"}, ("catalogue", "found none")),
        ({"maks": "soft"}, ("recommend has no option 'maks'", "did you mean mask?")),
        ({"as_datafram": True}, ("no option 'as_datafram'", "did you mean as_dataframe?")),
        ({"model": "markov"}, ("no option 'model'", "there are")),
        ({"path": ["b"]}, ("no option 'path'",)),
        ({"at": "x"}, ("at", "composition")),
        ({"allow": "a"}, ("allow", "valid list", "found 'a'")),
        ({"diversity": 2}, ("diversity", "less than or equal to 1", "found 2")),
        ({"novelty": "x"}, ("novelty", "found 'x'")),
        ({"no_repeats": 1}, ("no_repeats", "valid boolean", "found 1")),
        ({"history": ["a"]}, ("history.0", "found 'a'")),
        ({"history": 5}, ("history", "found 5")),
        ({"time": "noon"}, ("time", "ISO 8601", "noon")),
        ({"time": [1]}, ("time", "ISO 8601", "found list")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_recommend_refuses_wrong_options(
    options: dict[str, Any], parts: tuple[str, ...], model: dagrec.Model
) -> None:
    with pytest.raises(RequestError) as error:
        model.recommend(["t"], **options)
    assert says(error, *parts)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(
            st.sampled_from(["path", "composition", "nodes", "links", "at", "k", "mask", 1]), inner
        )
    ),
    max_leaves=6,
)


@cache
def fixed() -> dagrec.Model:
    """For tests of hypothesis, which takes no fixtures of a function."""
    return dagrec.fit(dagrec.from_paths(CHAINS, services=SERVICES), "popularity")


@given(JUNK)
def test_recommend_answers_or_refuses_any_junk(junk: Any) -> None:
    try:
        answer = fixed().recommend(junk)
    except RequestError:
        return
    assert isinstance(answer, list | dagrec.Recommendations)


@given(st.sampled_from(["k", "mask", "at", "history", "time", "allow", "deny", "zzz"]), JUNK)
def test_recommend_answers_or_refuses_any_option(name: str, junk: Any) -> None:
    try:
        answer = fixed().recommend(["t", "a"], **{name: junk})
    except RequestError:
        return
    assert isinstance(answer, dagrec.Recommendations)


# save and load


def test_a_loaded_model_answers_as_the_saved_one(saved: Path, model: dagrec.Model) -> None:
    for path in (saved, str(saved)):
        loaded = dagrec.load(path)
        check_equal(loaded, model)
        assert loaded.label == model.label
        assert loaded.recommender.config == model.recommender.config
        for context in (["t", "a"], ["t"], [], ["nobody", "a"], composition("t", "b")):
            mine, other = (each.recommend(context, mask="soft").answer for each in (loaded, model))
            assert mine.model_dump(exclude={"took_ms"}) == other.model_dump(exclude={"took_ms"})
        assert repr(loaded) == repr(model)


def test_a_network_is_loaded_with_its_history_and_temperature(data: Dataset, tmp_path: Path) -> None:
    fitted = dagrec.fit(data, "gru4rec", calibrate=True, mask="soft", **QUICK)
    fitted.save(tmp_path / "network")
    loaded = dagrec.load(tmp_path / "network")
    check_equal(loaded, fitted)
    assert len(loaded.recommender.history) == QUICK["epochs"]
    assert loaded.fitted.temperature == fitted.fitted.temperature
    assert loaded.recommend(["t"]).answer.mask == "soft"
    assert ranked(loaded.recommend(["t"])) == ranked(fitted.recommend(["t"]))


def test_save_replaces_a_model_that_was_saved_before(data: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    dagrec.fit(data, "popularity").save(folder)
    dagrec.fit(data, "markov").save(str(folder))
    assert dagrec.load(folder).label == "markov"
    assert not (folder / "models" / "popularity").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    dagrec.load(folder).save(folder)
    assert dagrec.load(folder).label == "markov"


def test_a_saved_model_can_be_read_by_other_users(saved: Path) -> None:
    """As by a service that runs under a name of its own."""
    for path in (saved, *saved.rglob("*")):
        wanted = 0o555 if path.is_dir() else 0o444
        assert path.stat().st_mode & wanted == wanted, path


def test_save_fills_an_empty_folder(model: dagrec.Model, tmp_path: Path) -> None:
    model.save(tmp_path)
    assert dagrec.load(tmp_path).label == "markov"


def test_save_leaves_other_folders_and_files_alone(model: dagrec.Model, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("work")
    for place in (tmp_path / "other", tmp_path / "file"):
        with pytest.raises(StoreError) as error:
            model.save(place)
        assert says(error, str(place), "choose another folder")
    assert (tmp_path / "other" / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]


def test_save_does_not_replace_a_store(model: dagrec.Model, store: Path) -> None:
    with pytest.raises(StoreError) as error:
        model.save(store)
    assert says(error, str(store), "choose another folder")
    assert dagrec.load(store).label in ("markov", "popularity")


def test_save_that_fails_leaves_the_saved_model(
    saved: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = dagrec.fit(data, "popularity")
    beside = sorted(path.name for path in saved.parent.iterdir())
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if Path(target) == saved and "old" not in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(StoreError) as error:
        fitted.save(saved)
    assert says(error, str(saved), "cannot be written", "No space left", "check space and permissions")
    monkeypatch.undo()
    assert dagrec.load(saved).label == "markov"
    assert sorted(path.name for path in saved.parent.iterdir()) == beside


@pytest.mark.parametrize("place", ["/proc/nowhere/model", "/proc/model"])
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_save_into_a_read_only_folder_says_so(place: str, model: dagrec.Model) -> None:
    with pytest.raises(StoreError) as error:
        model.save(place)
    assert says(error, place, "cannot be written", "check space and permissions")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_save_and_load_without_permission_say_so(model: dagrec.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    tmp_path.chmod(0)
    try:
        for call in (lambda: model.save(tmp_path / "model"), lambda: dagrec.load(tmp_path / "model")):
            with pytest.raises(StoreError) as error:
                call()
            assert says(error, str(tmp_path), "Permission denied")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (None, ("path", "text or a path", "found NoneType")),
        (5, ("path", "found int")),
        (b"model", ("path", "found bytes")),
        ("", ("path", "must name a file or a folder", "found ''")),
        ("a\0b", ("path", "must name a file or a folder")),
        ("x" * 300, ("File name too long", "check")),
    ],
    ids=["None", "number", "bytes", "empty", "null byte", "long"],
)
def test_save_and_load_refuse_what_is_no_path(
    path: Any, parts: tuple[str, ...], model: dagrec.Model
) -> None:
    for call in (model.save, dagrec.load):
        with pytest.raises((ConfigError, StoreError)) as error:
            call(path)
        assert says(error, *parts)


def test_load_reads_the_live_bundle_of_a_store_and_any_model_of_it(store: Path) -> None:
    champion = dagrec.load(store)
    assert champion.label == champion.bundle.manifest.champion
    assert dagrec.load(store, "popularity").recommender.name == "popularity"
    assert dagrec.load(store, "markov").recommend(["t"]).answer.model == "markov"
    version = next((store / "bundles").iterdir())
    assert dagrec.load(version, "markov").bundle.version == version.name


def test_load_reads_any_version_of_a_store(store: Path, data: Dataset, tmp_path: Path) -> None:
    from dagrec.jobs.config import load_config
    from dagrec.jobs.train import train
    from dagrec.store.store import Store

    folder = tmp_path / "store"
    shutil.copytree(store, folder)
    (first,) = Store(folder).versions()
    train(data, Store(folder), load_config(models=["markov"]), measure=0)
    (_, second) = Store(folder).versions()
    assert dagrec.load(folder).bundle.version == second
    assert dagrec.load(folder, version=None).bundle.version == second
    assert dagrec.load(str(folder), version=second).bundle.version == second
    early = dagrec.load(folder, "popularity", version=first)
    assert (early.bundle.version, early.label) == (first, "popularity")
    check_equal(early, dagrec.load(store, "popularity"))
    with pytest.raises(ConfigError) as error:
        dagrec.load(folder, "popularity", version=second)
    assert says(error, "markov", "found 'popularity'")
    with pytest.raises(TypeError):
        dagrec.load(folder, "popularity", first)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "version",
    ["", ".", "..", "../bundles", "a/b", "/", "a\0b", "\ud800", 5, True, ["x"], b"x", Path("x")],
    ids=repr,
)
def test_load_refuses_what_is_no_version(version: Any, store: Path, saved: Path) -> None:
    for place in (store, saved):
        with pytest.raises(ConfigError) as error:
            dagrec.load(place, version=version)
        assert says(error, "load: version", "name of a bundle", "found", "`dagrec bundles`")


def test_load_takes_no_way_around_the_versions(store: Path) -> None:
    version = next((store / "bundles").iterdir())
    for way in (f"../bundles/{version.name}", f"./{version.name}", f"{version.name}/", str(version)):
        with pytest.raises(ConfigError) as error:
            dagrec.load(store, version=way)
        assert says(error, "load: version", "found", way[:20])


def test_load_refuses_a_version_that_is_not_there_or_of_a_single_bundle(
    store: Path, saved: Path
) -> None:
    with pytest.raises(StoreError) as error:
        dagrec.load(store, version="20200101T000000000000-00000000")
    assert says(error, str(store), "20200101T000000000000-00000000")
    bundle = next((store / "bundles").iterdir())
    for place in (saved, bundle):
        with pytest.raises(StoreError) as error:
            dagrec.load(place, version=bundle.name)
        assert says(error, str(place), "a version needs a store", "found a single bundle", "omit")


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("makrov", ("popularity, markov", "found 'makrov'")),
        ("", ("popularity, markov", "found ''")),
        (5, ("label of a model", "found int", "leave it out")),
        (["markov"], ("label of a model", "found list")),
    ],
)
def test_load_refuses_a_label_that_is_not_there(
    label: Any, parts: tuple[str, ...], store: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        dagrec.load(store, label)
    assert says(error, *parts)


def test_load_refuses_garbage(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / MANIFEST).write_text("{")
    shutil.copytree(saved, tmp_path / "changed")
    (tmp_path / "changed" / "vocabulary.json").write_text("{}")
    shutil.copytree(saved, tmp_path / "lacking")
    (tmp_path / "lacking" / "graph.safetensors").unlink()
    for name in ("nowhere", "file", "empty", "garbage", "changed", "lacking"):
        with pytest.raises(StoreError) as error:
            dagrec.load(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_a_saved_model_is_a_bundle_for_the_command_line(saved: Path, command: Command) -> None:
    shown = json.loads(command("explain", "--store", saved, "--path", "t,a", "--json"))
    assert shown


def test_a_model_of_read_data_equals_one_of_the_command_line(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(dump(World(WorldOptions(compositions=60)).draw()))
    command("train", file, "--store", tmp_path / "store", "--model", "markov", "--measure", "3")
    trained = dagrec.load(tmp_path / "store")
    fitted = dagrec.fit(dagrec.read(file), "markov", calibrate=True)
    check_equal(trained, fitted)
    assert fitted.fitted.temperature == trained.fitted.temperature
    mine, theirs = (each.bundle.manifest.models["markov"] for each in (fitted, trained))
    assert mine.metrics == theirs.metrics
