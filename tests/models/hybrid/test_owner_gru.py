from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dagrec.data.examples import Call, Context, extract
from dagrec.data.history import Histories
from dagrec.data.vocabulary import FIRST_SERVICE, UNKNOWN, Vocabulary
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
HISTORY = (Call("s2", ("t0",)), Call("s0", ("t1", "s2")), Call("s2", ("t1",)))
SHAPES = [{}, {"tied": True}, {"tied": True, "hidden": 6, "layers": 1}]
pytestmark = pytest.mark.usefixtures("isolated_rng")


def config(**options: object) -> OwnerGRUConfig:
    return OwnerGRUConfig(**{"embedding": 6, "hidden": 5, "history_hidden": 4, "calls": 3, **options})


def network(**options: object) -> OwnerNetwork:
    """Return a small network with initial weights and nonzero age biases in evaluation mode."""
    torch.manual_seed(0)
    net = OwnerNetwork(config(**options), len(VOCABULARY), len(VOCABULARY.services)).eval()
    with torch.no_grad():
        net.age_bias.copy_(torch.linspace(0.5, -0.5, len(net.age_bias)))
    return net


def scores(net: OwnerNetwork, *contexts: Context, max_calls: int = 3) -> Tensor:
    """Return the scores [B, C] of the contexts."""
    units = OwnerUnits.of(VOCABULARY.encode(contexts), VOCABULARY, max_calls, shared=False)
    inputs, context_rows = units.take(np.arange(len(contexts)))
    assert context_rows.tolist() == list(range(len(contexts)))
    with torch.no_grad():
        result: Tensor = net(inputs)
    return result


def base_scores(net: OwnerNetwork, *contexts: Context, **options: object) -> Tensor:
    """Return the scores [B, C] of a GRU4Rec with the weights of the base."""
    base = GRUNetwork(config(**options), len(VOCABULARY), len(VOCABULARY.services)).eval()
    base.load_state_dict(net.base.state_dict())
    forest = PathForest.of(VOCABULARY.encode(contexts), shared=False)
    with torch.no_grad():
        result: Tensor = base(forest.take(np.arange(len(contexts)))[0])
    return result


def context_with(path: tuple[str, ...], *history: Call) -> Context:
    return Context(path, history=history)


# Formula


def reference_history_terms(net: OwnerNetwork, context: Context) -> Floats:
    """Return the terms that the history adds to the scores of the base, computed call by call."""
    w = {name: array.double().numpy() for name, array in net.state_dict().items()}
    ids = VOCABULARY.ids
    calls = [call for call in context.history[-3:] if call.service in ids]

    def embed(key: str) -> Floats:
        return np.asarray(w["base.embed.weight"][ids.get(key, UNKNOWN)])

    def sigmoid(x: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-x)))

    g, states = np.zeros(4), []
    for call in calls:
        states.append(g)
        x = np.concatenate([embed(call.path[-1]), embed(call.service)])
        r_x, z_x, n_x = np.split(w["gru.weight_ih_l0"] @ x + w["gru.bias_ih_l0"], 3)
        r_h, z_h, n_h = np.split(w["gru.weight_hh_l0"] @ g + w["gru.bias_hh_l0"], 3)
        z = sigmoid(z_x + z_h)
        g = (1 - z) * np.tanh(n_x + sigmoid(r_x + r_h) * n_h) + z * g
    query = w["situation.weight"] @ np.concatenate([embed(context.path[-1]), g])
    weights = []
    for i, call in enumerate(calls):
        key = w["situation.weight"] @ np.concatenate([embed(call.path[-1]), states[i]])
        weights.append(np.exp(query @ key / 2 + w["age_bias"][len(calls) - 1 - i]))
    terms = w["history_head.weight"] @ g
    for call, weight in zip(calls, weights, strict=True):
        terms[ids[call.service] - FIRST_SERVICE] += w["repeat_weight"][0] * weight / (1 + sum(weights))
    return np.asarray(terms)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_match_formula(shape: dict[str, object]) -> None:
    net = network(**shape)
    contexts = [
        context_with(("t0",), *HISTORY),
        context_with(("t1", "s2"), *HISTORY[:2]),
        context_with(("t0", "s1", "s3"), *HISTORY[2:]),
        context_with(("t1", "nobody"), HISTORY[0], Call("s3", ("nobody",))),
        context_with(("t1",), Call("s1", ("s3",)), *HISTORY),
    ]
    expected = base_scores(net, *contexts, **shape).numpy() + [
        reference_history_terms(net, c) for c in contexts
    ]
    np.testing.assert_allclose(scores(net, *contexts), expected, rtol=1e-4, atol=1e-5)


def test_untrained_network_repeats_call_after_same_node() -> None:
    options = {"embedding": 64, "history_hidden": 64}
    for seed in range(5):
        torch.manual_seed(seed)
        net = OwnerNetwork(config(**options), len(VOCABULARY), len(VOCABULARY.services)).eval()
        with torch.no_grad():
            net.history_head.weight.zero_()
        for node, service in (("t0", 1), ("t1", 3)):
            context = context_with((node,), Call("s1", ("t0",)), Call("s3", ("t1",)))
            added = (scores(net, context) - base_scores(net, context, **options))[0]
            assert added.argmax() == service
            assert added[[0, 2]].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_empty_call_receives_attention() -> None:
    """With equal logits, the n calls and the empty call have equal attention."""
    net = network()
    with torch.no_grad():
        for weight in (net.situation.weight, net.age_bias, net.history_head.weight):
            weight.zero_()
    context = context_with(("t0",), *HISTORY)
    added = scores(net, context) - base_scores(net, context)
    torch.testing.assert_close(added, torch.tensor([[0.75, 0.0, 1.5, 0.0]]))


# Without a history


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_without_history_equal_base(shape: dict[str, object]) -> None:
    net = network(**shape)
    paths = [("t0",), ("t1", "s2"), ("t0", "s1", "s3")]
    contexts = [context_with(path) for path in paths]
    assert torch.equal(scores(net, *contexts), base_scores(net, *contexts, **shape))
    # Also in a batch with contexts that have a history.
    mixed = [context_with(paths[0], *HISTORY), context_with(paths[1]), context_with(paths[2], *HISTORY)]
    result, base = scores(net, *mixed), base_scores(net, *mixed, **shape)
    assert torch.equal(result[1], base[1])
    assert (result[[0, 2]] != base[[0, 2]]).any(dim=1).all()


def test_calls_of_unknown_services_are_ignored() -> None:
    net = network()
    unknown = Call("nobody", ("t0",))
    context = context_with(("t0", "s1"), unknown, Call("t1"))
    assert torch.equal(scores(net, context), base_scores(net, context))
    a, b = scores(
        net, context_with(("t0",), *HISTORY[:2]), context_with(("t0",), HISTORY[0], unknown, HISTORY[1])
    )
    assert torch.equal(a, b)


def test_history_dropout_drops_whole_histories() -> None:
    no_dropout = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
    contexts = [context_with((node,), *HISTORY) for node in ("t0", "t1", "s1")] * 100
    for share in (0.0, 0.3, 0.9):
        net = network(history_dropout=share, **no_dropout).train()
        dropped = (scores(net, *contexts) == base_scores(net, *contexts, **no_dropout)).all(dim=1)
        assert dropped.float().mean() == pytest.approx(share, abs=0.1)
        if share:
            equal = scores(net.eval(), *contexts) == base_scores(net, *contexts, **no_dropout)
            assert not equal.all(dim=1).any()


# Inputs


def test_only_newest_calls_are_read() -> None:
    net, older = network(), Call("s3", ("t0",))
    a, b = scores(net, context_with(("t0",), *HISTORY), context_with(("t0",), older, *HISTORY))
    assert torch.equal(a, b)
    assert not torch.equal(a, scores(net, context_with(("t0",), *HISTORY, older))[0])


def test_scores_depend_on_calls_but_not_on_owner_and_time() -> None:
    net = network()
    expected = scores(net, context_with(("t0",), *HISTORY))[0]
    changed_histories = [
        HISTORY[::-1],
        (replace_call(HISTORY[0], service="s1"), *HISTORY[1:]),
        (replace_call(HISTORY[0], path=("t1",)), *HISTORY[1:]),
    ]
    for history in changed_histories:
        assert not torch.allclose(scores(net, context_with(("t0",), *history))[0], expected, atol=1e-5)
    timed = tuple(replace_call(call, time=float(i)) for i, call in enumerate(HISTORY))
    same = Context(("t0",), owner="ann", time=9.0, history=timed)
    assert torch.equal(scores(net, same)[0], expected)


def replace_call(call: Call, **changes: object) -> Call:
    return call._replace(**changes)  # type: ignore[arg-type]


def test_batch_equals_single_contexts() -> None:
    net = network()
    paths = [("t0",), ("t1", "s2"), ("t0", "s1", "s3"), ("s1",)]
    contexts = [context_with(path, *HISTORY[:n]) for path, n in zip(paths, (2, 0, 3, 1), strict=True)]
    single = torch.cat([scores(net, context) for context in contexts])
    torch.testing.assert_close(scores(net, *contexts), single, rtol=1e-5, atol=1e-6)


def test_key_covers_path_and_newest_calls() -> None:
    model = create("owner_gru", {"calls": 2})
    key = model.key  # type: ignore[attr-defined]
    first = key(context_with(("t0",), *HISTORY))
    assert first == key(context_with(("t0",), Call("s3", ("t1",)), *HISTORY[1:]))
    assert first == key(
        context_with(("t0",), HISTORY[0], HISTORY[1], replace_call(HISTORY[2], time=3.0))
    )
    assert first != key(context_with(("t1",), *HISTORY))
    assert first != key(context_with(("t0",), *HISTORY[:2]))
    assert first != key(context_with(("t0",), *HISTORY[:2], replace_call(HISTORY[2], path=("t0",))))
    assert first != key(context_with(("t0",)))


def test_prefixes_are_shared_only_without_histories() -> None:
    paths = [("t0",), ("t0", "s1"), ("t0", "s1", "s2")]
    without_history = VOCABULARY.encode([context_with(path) for path in paths])
    with_history = VOCABULARY.encode([context_with(path, *HISTORY[: len(path) - 1]) for path in paths])
    assert OwnerUnits.of(without_history, VOCABULARY, 3, shared=True).sizes.tolist() == [3]
    assert OwnerUnits.of(without_history, VOCABULARY, 3, shared=False).sizes.tolist() == [1, 2, 3]
    assert OwnerUnits.of(with_history, VOCABULARY, 3, shared=True).sizes.tolist() == [1, 3, 5]


def test_create_rejects_too_many_calls() -> None:
    with pytest.raises(ConfigError) as error:
        create("owner_gru", {"calls": 257})
    assert says(error, "owner_gru", "calls", "256", "found 257")


# Learning


def repeating_owners(owners: tuple[str, ...], times: int) -> TrainingData:
    """Return data in which each owner repeats one service, so targets depend on the history."""
    compositions = [
        composition(f"{owner}{i}", ("table_a", f"of_{number % 2}"), owner=owner, time=i * DAY)
        for i in range(times)
        for number, owner in enumerate(owners)
    ]
    return TrainingData.of(extract(compositions)[0])


def test_fit_learns_from_history_and_falls_back_to_base() -> None:
    options: dict[str, object] = {"epochs": 40, "min_steps": 0, "learning_rate": 0.01}
    data = repeating_owners(("ann", "bob"), 12)
    model = create("owner_gru", options).fit(data)
    # These owners are not in the training data.
    new_owners = repeating_owners(("cyd", "dan"), 4)
    examples = [e for e in new_owners.examples if e.context.history]
    columns = model.score(data.vocabulary.encode([e.context for e in examples])).argmax(axis=1)
    assert columns.tolist() == [data.vocabulary.columns[e.target] for e in examples]
    without_history = [replace(e.context, history=()) for e in examples]
    base = model.score(data.vocabulary.encode(without_history))
    # Equal up to rounding: a matrix product may sum some rows in another order.
    np.testing.assert_allclose(base, np.broadcast_to(base[0], base.shape), rtol=0, atol=1e-5)
    assert (base.argmax(axis=1) == [data.vocabulary.columns[e.target] for e in examples]).mean() == 0.5
    p = np.exp(base[0] - base[0].max())
    assert p.min() / p.sum() == pytest.approx(0.5, abs=0.15)


def test_fit_does_not_depend_on_owner_names() -> None:
    options: dict[str, object] = {"epochs": 2, "min_steps": 0}
    states = []
    for names in (("ann", "bob"), ("bob", "zoe")):
        model = create("owner_gru", options).fit(repeating_owners(names, 5))
        states.append(model.state())
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_training_examples_use_only_earlier_calls() -> None:
    """Later calls do not change the inputs of earlier examples."""
    data = everything().data
    model = create("owner_gru")
    later = [e for e in data.examples if (e.context.time or 0) < 15 * DAY]
    with_earlier_calls = Histories.of(later).with_history(later)
    context_of = {(e.composition, e.node, e.context.path): e.context for e in data.examples}
    for example in with_earlier_calls:
        context = context_of[example.composition, example.node, example.context.path]
        assert model.key(context) == model.key(example.context)  # type: ignore[attr-defined]
