from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrec.data.examples import Context, Example
from dagrec.data.vocabulary import FIRST, PADDING, UNKNOWN
from dagrec.errors import ConfigError
from dagrec.models.base import Trainer
from dagrec.models.registry import create
from dagrec.models.sequence.gru4rec import GRU4Rec, GRU4RecConfig, Network
from dagrec.models.training_data import TrainingData
from dagrec.training.losses import count_cross_entropy
from dagrec.types import Floats
from tests.checks import says
from tests.worlds import WORLDS, everything, memory

NODES, SERVICES = 12, 7
STILL = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
SHAPES = [
    {"layers": 1},
    {"layers": 3},
    {"tied": True},
    {"tied": True, "hidden": 6},
]


def network(**options: object) -> Network:
    """A small network with its first weights, in evaluation mode."""
    torch.manual_seed(0)
    config = GRU4RecConfig(**{"embedding": 6, "hidden": 5, "layers": 2, **options})
    return Network(config, NODES, SERVICES).eval()


@pytest.fixture(autouse=True)
def _own_generator() -> object:
    with torch.random.fork_rng(devices=[]):
        yield


def paths(count: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(FIRST, NODES, (count, length), generator=generator)


def full(nodes: Tensor) -> Tensor:
    """Lengths of paths without padding."""
    return torch.full((len(nodes),), nodes.shape[1])


def close(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> bool:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    return True


# The state is that of the last real node


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_padding_on_the_right_never_changes_scores(shape: dict[str, object]) -> None:
    net, nodes = network(**shape), paths(5, 4)
    bare = net(nodes, full(nodes))
    for padding in (1, 3, 20):
        assert close(net(nn.functional.pad(nodes, (0, padding)), full(nodes)), bare)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_later_nodes_never_reach_an_earlier_score(shape: dict[str, object]) -> None:
    net, nodes = network(**shape), paths(5, 6)
    for length in range(1, 6):
        lengths = torch.full((5,), length)
        assert close(net(nodes, lengths), net(nodes[:, :length], lengths))


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_paths_that_differ_in_one_node_differ_in_score(shape: dict[str, object], padding: int) -> None:
    """Were the state read at a padding position, short paths would all look the same."""
    net = network(**shape)
    for place in range(3):
        nodes = torch.full((NODES - FIRST, 3), FIRST)
        nodes[:, place] = torch.arange(FIRST, NODES)
        scores = net(nn.functional.pad(nodes, (0, padding)), full(nodes))
        distances = torch.cdist(scores, scores) + torch.eye(len(scores))
        assert distances.min() > 1e-4, f"node {place}"


def test_mixed_lengths_equal_each_alone() -> None:
    net, nodes = network(), paths(4, 4)
    lengths = torch.tensor([1, 2, 3, 4])
    padded = torch.where(torch.arange(4) < lengths[:, None], nodes, PADDING)
    alone = [net(nodes[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths.tolist())]
    assert close(net(padded, lengths), torch.cat(alone))


# The formula


def by_hand(net: Network, path: list[int]) -> Floats:
    """h' = (1 - z) n + z h, layer by layer, with PyTorch's order of gates: reset, update, new."""
    weights = {name: array.double().numpy() for name, array in net.state_dict().items()}
    inputs = [weights["embed.weight"][node] for node in path]
    for layer in range(net.gru.num_layers):
        w_x, w_h, b_x, b_h = (
            weights[f"gru.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h = np.zeros(net.gru.hidden_size)
        outputs = []
        for x in inputs:
            (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(w_x @ x + b_x, 3), np.split(w_h @ h + b_h, 3)
            r, z = 1 / (1 + np.exp(-(r_x + r_h))), 1 / (1 + np.exp(-(z_x + z_h)))
            n = np.tanh(n_x + r * n_h)
            h = (1 - z) * n + z * h
            outputs.append(h)
        inputs = outputs
    if not net.tied:
        return np.asarray(weights["head.weight"] @ h + weights["head.bias"])
    if "project.weight" in weights:
        h = weights["project.weight"] @ h + weights["project.bias"]
    return np.asarray(weights["embed.weight"][FIRST : FIRST + SERVICES] @ h + weights["bias"])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_follow_the_formula(shape: dict[str, object]) -> None:
    net, nodes = network(**shape), paths(4, 3)
    expected = [by_hand(net, path) for path in nodes.tolist()]
    np.testing.assert_allclose(net(nodes, full(nodes)).detach(), expected, rtol=1e-4, atol=1e-5)


def test_scores_equal_those_of_a_bare_gru_with_the_same_weights() -> None:
    net, nodes = network(), paths(5, 4)
    bare = nn.GRU(6, 5, num_layers=2, batch_first=True)
    bare.load_state_dict(net.gru.state_dict())
    states, _ = bare(net.embed.weight[nodes])
    assert close(net(nodes, full(nodes)), net.head(states[:, -1]))


@pytest.mark.parametrize("hidden", [6, 5])
def test_tied_weights_are_one_tensor(hidden: int) -> None:
    net = network(tied=True, hidden=hidden)
    names = {name.split(".")[0] for name, _ in net.named_parameters()}
    assert names == {"embed", "gru", "bias"} | ({"project"} if hidden != 6 else set())
    nodes = paths(2, 2)
    before = net(nodes, full(nodes))
    with torch.no_grad():
        unused = next(c for c in range(SERVICES) if c + FIRST not in nodes)
        net.embed.weight[unused + FIRST] += 1
    changed = (net(nodes, full(nodes)) != before).any(dim=0)
    assert changed.nonzero().flatten().tolist() == [unused]


# Dropout


def differs(net: Network, *, training: bool) -> bool:
    """Whether two passes over the same paths give different scores."""
    net.train(training)
    nodes = paths(50, 3)
    return bool((net(nodes, full(nodes)) != net(nodes, full(nodes))).any())


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["embedding_dropout", "hidden_dropout"])
def test_each_dropout_acts_in_training_alone(kind: str, layers: int) -> None:
    """Also with one layer, where nn.GRU itself drops nothing."""
    net = network(layers=layers, **(STILL | {kind: 0.5}))
    assert differs(net, training=True)
    assert not differs(net, training=False)


def test_without_dropout_training_is_as_evaluation() -> None:
    assert not differs(network(**STILL), training=True)


# Learning from counts


@pytest.mark.parametrize("world", ["branching", "diamond", "everything"])
def test_loss_and_gradients_of_counts_equal_those_of_single_rows(world: str) -> None:
    data = WORLDS[world].data
    torch.manual_seed(3)
    config = GRU4RecConfig(embedding=4, hidden=5, layers=2, **STILL)
    net = Network(config, len(data.vocabulary), len(data.vocabulary.services)).double()
    nodes, lengths = torch.from_numpy(data.contexts.nodes), torch.from_numpy(data.contexts.lengths)
    rows, columns, counts = (torch.from_numpy(part) for part in data.pairs)
    dense = torch.zeros(len(nodes), len(data.vocabulary.services), dtype=torch.float64)
    dense[rows, columns] = counts
    every, targets = torch.from_numpy(data.rows), torch.from_numpy(data.targets)

    def together() -> Tensor:
        return count_cross_entropy(net(nodes, lengths), dense)

    def one_by_one() -> Tensor:
        scores = net(nodes[every], lengths[every])
        return nn.functional.cross_entropy(scores, targets, reduction="sum")

    found, expected = (with_gradients(net, loss) for loss in (together, one_by_one))
    for a, b in zip(found, expected, strict=True):
        assert close(a, b, 1e-6)


def with_gradients(net: Network, loss: Callable[[], Tensor]) -> list[Tensor]:
    net.zero_grad()
    value = loss()
    value.backward()
    return [value.detach(), *(parameter.grad.clone() for parameter in net.parameters())]


def test_the_first_loss_is_that_of_a_uniform_guess() -> None:
    torch.manual_seed(0)
    net = Network(GRU4RecConfig(), 60, 15).eval()
    nodes = torch.randint(FIRST, 60, (300, 5))
    loss = nn.functional.cross_entropy(net(nodes, full(nodes)), torch.randint(0, 15, (300,)))
    assert loss.item() == pytest.approx(math.log(15), rel=0.1)


def eight() -> TrainingData:
    """Eight paths of one or two nodes, each with a service of its own."""
    paths = [(f"a{i}",) for i in range(4)] + [(f"a{i}", f"b{i}") for i in range(4)]
    return TrainingData.of([Example(Context(p), f"y{i}", "n", i) for i, p in enumerate(paths)])


@pytest.mark.parametrize("shape", [{}, {"tied": True}], ids=str)
def test_eight_examples_are_learned_by_heart(shape: dict[str, object], trainer: Trainer) -> None:
    data = eight()
    options = {"epochs": 150, "learning_rate": 0.01, "embedding": 16, "hidden": 32, **STILL, **shape}
    model = create("gru4rec", options).fit(data, trainer)
    assert model.history[-1].loss < 0.05
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


def test_the_memory_reaches_behind_the_last_node(trainer: Trainer) -> None:
    world = memory()
    options = {"epochs": 80, "learning_rate": 0.02, "embedding": 16, "hidden": 16}
    model = create("gru4rec", options).fit(world.data, trainer)
    scores = model.score(world.data.vocabulary.encode(world.contexts))
    answers = [world.data.vocabulary.services[column] for column in scores.argmax(axis=1)]
    assert answers == [world.certain[context.path] for context in world.contexts]


# Around the network


@pytest.fixture(scope="module")
def fitted(trainer: Trainer) -> GRU4Rec:
    model = create("gru4rec", {"epochs": 2, "embedding": 6, "hidden": 5})
    assert isinstance(model, GRU4Rec)
    return model.fit(everything().data, trainer)


def test_an_unknown_node_is_the_centre_of_the_known_ones(fitted: GRU4Rec) -> None:
    embedding = fitted.state()["embed.weight"]
    np.testing.assert_allclose(embedding[UNKNOWN], embedding[FIRST:].mean(axis=0), rtol=1e-5, atol=1e-7)


def test_padding_is_embedded_as_zero(fitted: GRU4Rec) -> None:
    assert not fitted.state()["embed.weight"][PADDING].any()


def test_an_unknown_node_counts_as_a_step(fitted: GRU4Rec) -> None:
    encode = everything().data.vocabulary.encode
    known, passed = (fitted.score(encode([Context(path)])) for path in [("hub",), ("hub", "nobody")])
    assert not np.array_equal(known, passed)


def test_parameters_are_those_of_the_network_and_the_prior(fitted: GRU4Rec) -> None:
    data = everything().data
    nodes, services = len(data.vocabulary), len(data.vocabulary.services)
    d, h = 6, 5
    first, second = 3 * h * (d + h + 2), 3 * h * (h + h + 2)
    assert fitted.parameters() == nodes * d + first + second + services * (h + 1) + services


def test_the_seed_decides_the_weights(trainer: Trainer) -> None:
    data = everything().data
    options = {"epochs": 1, "embedding": 4, "hidden": 4}
    first, again, other = (
        create("gru4rec", options, seed=seed).fit(data, trainer).state()["head.weight"]
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_trainer_is_needed() -> None:
    with pytest.raises(ConfigError) as error:
        GRU4Rec().fit(everything().data)
    assert says(error, "gru4rec", "trainer", "NetworkTrainer()")
