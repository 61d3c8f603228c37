from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dagrec.data.examples import Call, Context, extract
from dagrec.data.history import Histories
from dagrec.data.vocabulary import FIRST, UNKNOWN, Vocabulary
from dagrec.errors import ConfigError
from dagrec.models.hybrid.owner_gru import OwnerGRUConfig, OwnerNetwork, OwnerUnits
from dagrec.models.registry import create
from dagrec.models.sequence.gru4rec import GRUNetwork
from dagrec.models.sequence.paths import PathForest
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.checks import says
from tests.worlds import DAY, composition, everything

VOCABULARY = Vocabulary(("s0", "s1", "s2", "s3"), ("t0", "t1"))
PAST = (Call("s2", ("t0",)), Call("s0", ("t1", "s2")), Call("s2", ("t1",)))
SHAPES = [{}, {"tied": True}, {"tied": True, "hidden": 6, "layers": 1}]


@pytest.fixture(autouse=True)
def _own_generator() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


def config(**options: object) -> OwnerGRUConfig:
    return OwnerGRUConfig(**{"embedding": 6, "hidden": 5, "history_hidden": 4, "calls": 3, **options})


def network(**options: object) -> OwnerNetwork:
    """A small network with its first weights, in evaluation mode; ages count already."""
    torch.manual_seed(0)
    found = OwnerNetwork(config(**options), len(VOCABULARY), len(VOCABULARY.services)).eval()
    with torch.no_grad():
        found.age.copy_(torch.linspace(0.5, -0.5, len(found.age)))
    return found


def scores(net: OwnerNetwork, *contexts: Context, most: int = 3) -> Tensor:
    """[B, C] in the order of the contexts."""
    units = OwnerUnits.of(VOCABULARY.encode(contexts), VOCABULARY, most, shared=False)
    inputs, answered = units.take(np.arange(len(contexts)))
    assert answered.tolist() == list(range(len(contexts)))
    with torch.no_grad():
        found: Tensor = net(inputs)
    return found


def of_base(net: OwnerNetwork, *contexts: Context, **options: object) -> Tensor:
    """[B, C] of a GRU4Rec with the base's weights."""
    bare = GRUNetwork(config(**options), len(VOCABULARY), len(VOCABULARY.services)).eval()
    bare.load_state_dict(net.base.state_dict())
    forest = PathForest.of(VOCABULARY.encode(contexts), shared=False)
    with torch.no_grad():
        found: Tensor = bare(forest.take(np.arange(len(contexts)))[0])
    return found


def told(path: tuple[str, ...], *history: Call) -> Context:
    return Context(path, history=history)


# The formula


def by_hand(net: OwnerNetwork, context: Context) -> Floats:
    """What the history adds to the base's scores, call by call."""
    w = {name: array.double().numpy() for name, array in net.state_dict().items()}
    ids = VOCABULARY.ids
    calls = [call for call in context.history[-3:] if call.service in ids]

    def embed(key: str) -> Floats:
        return np.asarray(w["base.embed.weight"][ids.get(key, UNKNOWN)])

    def sigmoid(x: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-x)))

    g, before = np.zeros(4), []
    for call in calls:
        before.append(g)
        x = np.concatenate([embed(call.path[-1]), embed(call.service)])
        r_x, z_x, n_x = np.split(w["gru.weight_ih_l0"] @ x + w["gru.bias_ih_l0"], 3)
        r_h, z_h, n_h = np.split(w["gru.weight_hh_l0"] @ g + w["gru.bias_hh_l0"], 3)
        z = sigmoid(z_x + z_h)
        g = (1 - z) * np.tanh(n_x + sigmoid(r_x + r_h) * n_h) + z * g
    query = w["question.weight"] @ np.concatenate([embed(context.path[-1]), g])
    likes = []
    for i, call in enumerate(calls):
        key = w["question.weight"] @ np.concatenate([embed(call.path[-1]), before[i]])
        likes.append(np.exp(query @ key / 2 + w["age"][len(calls) - 1 - i]))
    found = w["doing.weight"] @ g
    for call, like in zip(calls, likes, strict=True):
        found[ids[call.service] - FIRST] += w["repeat"][0] * like / (1 + sum(likes))
    return np.asarray(found)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_are_those_of_the_base_and_of_the_history(shape: dict[str, object]) -> None:
    net = network(**shape)
    contexts = [
        told(("t0",), *PAST),
        told(("t1", "s2"), *PAST[:2]),
        told(("t0", "s1", "s3"), *PAST[2:]),
        told(("t1", "nobody"), PAST[0], Call("s3", ("nobody",))),
        told(("t1",), Call("s1", ("s3",)), *PAST),
    ]
    expected = of_base(net, *contexts, **shape).numpy() + [by_hand(net, c) for c in contexts]
    np.testing.assert_allclose(scores(net, *contexts), expected, rtol=1e-4, atol=1e-5)


def test_an_earlier_call_after_the_same_node_is_repeated_from_the_first_step_on() -> None:
    options = {"embedding": 64, "history_hidden": 64}
    for seed in range(5):
        torch.manual_seed(seed)
        net = OwnerNetwork(config(**options), len(VOCABULARY), len(VOCABULARY.services)).eval()
        with torch.no_grad():
            net.doing.weight.zero_()
        for node, service in (("t0", 1), ("t1", 3)):
            context = told((node,), Call("s1", ("t0",)), Call("s3", ("t1",)))
            added = (scores(net, context) - of_base(net, context, **options))[0]
            assert added.argmax() == service
            assert added[[0, 2]].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_attention_may_go_to_no_call() -> None:
    """With questions that are alike in nothing, n calls and the one that never was share equally."""
    net = network()
    with torch.no_grad():
        for weight in (net.question.weight, net.age, net.doing.weight):
            weight.zero_()
    context = told(("t0",), *PAST)
    added = scores(net, context) - of_base(net, context)
    torch.testing.assert_close(added, torch.tensor([[0.75, 0.0, 1.5, 0.0]]))


# A new owner


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_a_history_it_is_the_base_exactly(shape: dict[str, object]) -> None:
    net = network(**shape)
    paths = [("t0",), ("t1", "s2"), ("t0", "s1", "s3")]
    contexts = [told(path) for path in paths]
    assert torch.equal(scores(net, *contexts), of_base(net, *contexts, **shape))
    # And beside contexts that have one.
    mixed = [told(paths[0], *PAST), told(paths[1]), told(paths[2], *PAST)]
    found, base = scores(net, *mixed), of_base(net, *mixed, **shape)
    assert torch.equal(found[1], base[1])
    assert (found[[0, 2]] != base[[0, 2]]).any(dim=1).all()


def test_calls_that_nobody_knows_are_no_history() -> None:
    net = network()
    unknown = Call("nobody", ("t0",))
    context = told(("t0", "s1"), unknown, Call("t1"))
    assert torch.equal(scores(net, context), of_base(net, context))
    a, b = scores(net, told(("t0",), *PAST[:2]), told(("t0",), PAST[0], unknown, PAST[1]))
    assert torch.equal(a, b)


def test_training_leaves_out_whole_histories() -> None:
    off = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
    contexts = [told((node,), *PAST) for node in ("t0", "t1", "s1")] * 100
    for share in (0.0, 0.3, 0.9):
        net = network(history_dropout=share, **off).train()
        left_out = (scores(net, *contexts) == of_base(net, *contexts, **off)).all(dim=1)
        assert left_out.float().mean() == pytest.approx(share, abs=0.1)
        if share:
            same = scores(net.eval(), *contexts) == of_base(net, *contexts, **off)
            assert not same.all(dim=1).any()


# What is read


def test_only_the_newest_calls_are_read() -> None:
    net, older = network(), Call("s3", ("t0",))
    a, b = scores(net, told(("t0",), *PAST), told(("t0",), older, *PAST))
    assert torch.equal(a, b)
    assert not torch.equal(a, scores(net, told(("t0",), *PAST, older))[0])


def test_order_service_and_node_of_calls_matter_and_owner_and_time_do_not() -> None:
    net = network()
    first = scores(net, told(("t0",), *PAST))[0]
    changed = [
        PAST[::-1],
        (replace_call(PAST[0], service="s1"), *PAST[1:]),
        (replace_call(PAST[0], path=("t1",)), *PAST[1:]),
    ]
    for history in changed:
        assert not torch.allclose(scores(net, told(("t0",), *history))[0], first, atol=1e-5)
    timed = tuple(replace_call(call, time=float(i)) for i, call in enumerate(PAST))
    same = Context(("t0",), owner="ann", time=9.0, history=timed)
    assert torch.equal(scores(net, same)[0], first)


def replace_call(call: Call, **changes: object) -> Call:
    return call._replace(**changes)  # type: ignore[arg-type]


def test_mixed_batches_equal_each_alone() -> None:
    net = network()
    paths = [("t0",), ("t1", "s2"), ("t0", "s1", "s3"), ("s1",)]
    contexts = [told(path, *PAST[:n]) for path, n in zip(paths, (2, 0, 3, 1), strict=True)]
    alone = torch.cat([scores(net, context) for context in contexts])
    torch.testing.assert_close(scores(net, *contexts), alone, rtol=1e-5, atol=1e-6)


def test_examples_are_one_where_their_paths_and_what_is_read_of_their_histories_agree() -> None:
    model = create("owner_gru", {"calls": 2})
    key = model.key  # type: ignore[attr-defined]
    first = key(told(("t0",), *PAST))
    assert first == key(told(("t0",), Call("s3", ("t1",)), *PAST[1:]))
    assert first == key(told(("t0",), PAST[0], PAST[1], replace_call(PAST[2], time=3.0)))
    assert first != key(told(("t1",), *PAST))
    assert first != key(told(("t0",), *PAST[:2]))
    assert first != key(told(("t0",), *PAST[:2], replace_call(PAST[2], path=("t0",))))
    assert first != key(told(("t0",)))


def test_paths_share_their_beginnings_only_where_nobody_has_a_history() -> None:
    paths = [("t0",), ("t0", "s1"), ("t0", "s1", "s2")]
    untold = VOCABULARY.encode([told(path) for path in paths])
    some = VOCABULARY.encode([told(path, *PAST[: len(path) - 1]) for path in paths])
    assert OwnerUnits.of(untold, VOCABULARY, 3, shared=True).sizes.tolist() == [3]
    assert OwnerUnits.of(untold, VOCABULARY, 3, shared=False).sizes.tolist() == [1, 2, 3]
    assert OwnerUnits.of(some, VOCABULARY, 3, shared=True).sizes.tolist() == [1, 3, 5]


def test_more_calls_than_a_history_keeps_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        create("owner_gru", {"calls": 257})
    assert says(error, "owner_gru", "calls", "256", "found 257")


# Learning


def by_owner(owners: tuple[str, ...], times: int) -> TrainingData:
    """Each owner calls its own service after the table, again and again: only history tells which."""
    made = [
        composition(f"{owner}{i}", ("table_a", f"of_{number % 2}"), owner=owner, time=i * DAY)
        for i in range(times)
        for number, owner in enumerate(owners)
    ]
    return TrainingData.of(extract(made)[0])


def test_where_only_history_tells_it_is_right_and_a_new_owner_gets_the_base() -> None:
    options: dict[str, object] = {"epochs": 40, "min_steps": 0, "learning_rate": 0.01}
    data = by_owner(("ann", "bob"), 12)
    model = create("owner_gru", options).fit(data)
    # Owners that training never saw: who they are does not matter.
    strangers = by_owner(("cyd", "dan"), 4)
    asked = [e for e in strangers.examples if e.context.history]
    found = model.score(data.vocabulary.encode([e.context for e in asked])).argmax(axis=1)
    assert found.tolist() == [data.vocabulary.columns[e.target] for e in asked]
    untold = [replace(e.context, history=()) for e in asked]
    base = model.score(data.vocabulary.encode(untold))
    # The same but for the last bits: a matrix product may sum some of its rows in another order.
    np.testing.assert_allclose(base, np.broadcast_to(base[0], base.shape), rtol=0, atol=1e-5)
    assert (base.argmax(axis=1) == [data.vocabulary.columns[e.target] for e in asked]).mean() == 0.5
    p = np.exp(base[0] - base[0].max())
    assert p.min() / p.sum() == pytest.approx(0.5, abs=0.15)


def test_names_of_owners_change_nothing() -> None:
    options: dict[str, object] = {"epochs": 2, "min_steps": 0}
    states = []
    for names in (("ann", "bob"), ("bob", "zoe")):
        model = create("owner_gru", options).fit(by_owner(names, 5))
        states.append(model.state())
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_training_examples_see_only_what_was_before_them() -> None:
    """A call changes no input of an example that began before it."""
    data = everything().data
    model = create("owner_gru")
    later = [e for e in data.examples if (e.context.time or 0) < 15 * DAY]
    cut = Histories.of(later).with_history(later)
    whole = {(e.composition, e.node, e.context.path): e.context for e in data.examples}
    for example in cut:
        same = whole[example.composition, example.node, example.context.path]
        assert model.key(same) == model.key(example.context)  # type: ignore[attr-defined]
