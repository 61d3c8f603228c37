from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dagrec.data.examples import Context, Example
from dagrec.data.vocabulary import FIRST, PADDING, UNKNOWN, Contexts
from dagrec.models.registry import create
from dagrec.models.sequence.gru4rec import GRU4Rec, GRU4RecConfig, GRUNetwork
from dagrec.models.sequence.paths import PathForest
from dagrec.training.data import TrainingData
from dagrec.training.losses import cross_entropy
from dagrec.types import Floats
from tests.worlds import WORLDS, everything, memory

NODES, SERVICES = 12, 7
STILL = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
SHAPES = [
    {"layers": 1},
    {"layers": 3},
    {"tied": True},
    {"tied": True, "hidden": 6},
]
Path = Sequence[int]


def network(**options: object) -> GRUNetwork:
    """A small network with its first weights, in evaluation mode."""
    torch.manual_seed(0)
    config = GRU4RecConfig(**{"embedding": 6, "hidden": 5, "layers": 2, **options})
    return GRUNetwork(config, NODES, SERVICES).eval()


@pytest.fixture(autouse=True)
def _own_generator() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


def paths(count: int, length: int) -> list[Path]:
    generator = torch.Generator().manual_seed(1)
    found: list[Path] = torch.randint(FIRST, NODES, (count, length), generator=generator).tolist()
    return found


def encoded(of: Sequence[Path]) -> Contexts:
    width = max(map(len, of))
    nodes = np.array([[*path, *[PADDING] * (width - len(path))] for path in of], dtype=np.int64)
    lengths = np.array([len(path) for path in of], dtype=np.int64)
    return Contexts(nodes, lengths, tuple(Context(tuple(map(str, path))) for path in of))


def scores(net: GRUNetwork, of: Sequence[Path], *, shared: bool = False) -> Tensor:
    """[B, C] of these paths, in their order."""
    forest = PathForest.of(encoded(of), shared=shared)
    inputs, answered = forest.take(np.arange(len(forest.sizes)))
    back = torch.from_numpy(np.argsort(answered, kind="stable"))
    found: Tensor = net(inputs)[back]
    return found


def close(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> bool:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    return True


# The state is that of the last node


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mixed_lengths_equal_each_alone(shape: dict[str, object]) -> None:
    net = network(**shape)
    of = [path[:n] for path, n in zip(paths(6, 6), (3, 1, 6, 2, 5, 4), strict=True)]
    alone = [scores(net, [path]) for path in of]
    assert close(scores(net, of), torch.cat(alone))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_later_nodes_never_reach_an_earlier_score(shape: dict[str, object]) -> None:
    """Whatever else is computed along with a path, be it the rest of it."""
    net, of = network(**shape), paths(5, 6)
    beginnings = [path[:n] for path in of for n in range(1, 7)]
    together = scores(net, beginnings, shared=True)
    for length in range(1, 6):
        assert close(together[length - 1 :: 6], scores(net, [path[:length] for path in of]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_paths_that_differ_in_one_node_differ_in_score(shape: dict[str, object]) -> None:
    net = network(**shape)
    for place in range(3):
        of = [[FIRST] * place + [node] + [FIRST] * (2 - place) for node in range(FIRST, NODES)]
        found = scores(net, of, shared=True)
        distances = torch.cdist(found, found) + torch.eye(len(found))
        assert distances.min() > 1e-4, f"node {place}"


@given(
    st.lists(st.lists(st.integers(UNKNOWN, 4), min_size=1, max_size=6), min_size=1, max_size=12),
    st.sampled_from(SHAPES),
)
def test_sharing_beginnings_changes_no_score(of: list[list[int]], shape: dict[str, object]) -> None:
    net = network(**shape)
    with torch.no_grad():
        assert close(scores(net, of, shared=True), scores(net, of))


def test_sharing_beginnings_changes_no_gradient() -> None:
    of = [[2, 3, 4], [2, 3], [2, 3, 5, 6], [2], [7, 3], [2, 3, 4], [7]]
    net = network(**STILL).double()
    weights = torch.randn(len(of), SERVICES, dtype=torch.float64)

    def loss(shared: bool) -> Callable[[], Tensor]:
        return lambda: (scores(net, of, shared=shared) * weights).sum()

    for a, b in zip(with_gradients(net, loss(True)), with_gradients(net, loss(False)), strict=True):
        assert close(a, b, 1e-10)


def test_a_shared_beginning_is_computed_once() -> None:
    """Dropout tells: paths that share all their nodes share what is dropped of them."""
    net = network(layers=1, hidden_dropout=0.0).train()
    of = encoded([[2, 3, 4], [2, 3, 4], [2, 3], [2, 3, 5]])
    for shared in (True, False):
        inputs, answered = PathForest.of(of, shared=shared).take(np.arange(2 if shared else 4))
        assert inputs.levels == ((1, 1, 2) if shared else (4, 4, 3))
        states = net.states(inputs)[torch.from_numpy(np.argsort(answered))]
        assert states.shape == (4, 5)
        assert torch.equal(states[0], states[1]) is shared


# The formula


def by_hand(net: GRUNetwork, path: Path) -> Floats:
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
    if "project.weight" in weights:
        h = weights["project.weight"] @ h + weights["project.bias"]
    tied = weights["embed.weight"][FIRST : FIRST + SERVICES]
    return np.asarray(weights.get("head.weight", tied) @ h + weights["head.bias"])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_follow_the_formula(shape: dict[str, object]) -> None:
    net, of = network(**shape), [*paths(4, 3), *paths(2, 5)]
    with torch.no_grad():
        net.head.bias.copy_(torch.randn(SERVICES))
        expected = [by_hand(net, path) for path in of]
        np.testing.assert_allclose(scores(net, of, shared=True), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_states_equal_those_of_a_bare_gru_over_each_path(shared: bool, layers: int) -> None:
    net = network(layers=layers)
    bare = nn.GRU(6, 5, num_layers=layers, batch_first=True)
    bare.load_state_dict(net.gru.state_dict())
    of = [path[:n] for path in paths(4, 6) for n in (1, 2, 6)]
    with torch.no_grad():
        lasts = [bare(net.embed.weight[torch.tensor([path])])[0][0, -1] for path in of]
        assert close(scores(net, of, shared=shared), net.head(torch.stack(lasts)))


@pytest.mark.parametrize("hidden", [6, 5])
def test_tied_weights_are_one_tensor(hidden: int) -> None:
    net = network(tied=True, hidden=hidden)
    names = {name.split(".")[0] for name, _ in net.named_parameters()}
    assert names == {"embed", "gru", "head"} | ({"project"} if hidden != 6 else set())
    assert "head.weight" not in net.state_dict()
    of = paths(2, 2)
    before = scores(net, of)
    used = {node for path in of for node in path}
    with torch.no_grad():
        unused = next(c for c in range(SERVICES) if c + FIRST not in used)
        net.embed.weight[unused + FIRST] += 1
    changed = (scores(net, of) != before).any(dim=0)
    assert changed.nonzero().flatten().tolist() == [unused]


# Dropout


def differs(net: GRUNetwork, *, training: bool) -> bool:
    """Whether two passes over the same paths give different scores."""
    net.train(training)
    of = paths(50, 3)
    return bool((scores(net, of) != scores(net, of)).any())


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["embedding_dropout", "hidden_dropout"])
def test_each_dropout_acts_in_training_alone(kind: str, layers: int) -> None:
    """Also with one layer, where nn.GRU itself drops nothing."""
    net = network(layers=layers, **(STILL | {kind: 0.5}))
    assert differs(net, training=True)
    assert not differs(net, training=False)


def test_without_dropout_training_is_as_evaluation() -> None:
    assert not differs(network(**STILL), training=True)


def test_the_state_that_is_handed_on_is_not_dropped() -> None:
    """With one layer, dropout of states makes holes in the last of them and changes nothing else."""
    net = network(layers=1, embedding_dropout=0.0, hidden_dropout=0.5).train()
    of = paths(200, 5)
    with torch.no_grad():
        forest = PathForest.of(encoded(of), shared=False)
        inputs, _ = forest.take(np.arange(len(of)))
        dropped = net.states(inputs)
        whole = net.eval().states(inputs)
    holes = dropped == 0
    assert 0.4 < holes.float().mean() < 0.6
    assert close(dropped[~holes], 2 * whole[~holes])


# Learning from counts


@pytest.mark.parametrize("world", ["branching", "diamond", "everything"])
def test_loss_and_gradients_of_counts_equal_those_of_single_rows(world: str) -> None:
    data = WORLDS[world].data
    torch.manual_seed(3)
    config = GRU4RecConfig(embedding=4, hidden=5, layers=2, **STILL)
    net = GRUNetwork(config, len(data.vocabulary), len(data.vocabulary.services)).double()
    rows, columns, counts = (torch.from_numpy(part) for part in data.pairs)
    of = [row[:n].tolist() for row, n in zip(data.contexts.nodes, data.contexts.lengths, strict=True)]
    every, targets = data.rows, torch.from_numpy(data.targets)

    def together() -> Tensor:
        return (cross_entropy(scores(net, of, shared=True), rows, columns) * counts).sum()

    def one_by_one() -> Tensor:
        return nn.functional.cross_entropy(
            scores(net, [of[i] for i in every]), targets, reduction="sum"
        )

    found, expected = (with_gradients(net, loss) for loss in (together, one_by_one))
    for a, b in zip(found, expected, strict=True):
        assert close(a, b, 1e-6)


def with_gradients(net: GRUNetwork, loss: Callable[[], Tensor]) -> list[Tensor]:
    net.zero_grad()
    value = loss()
    value.backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    return [value.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)]


def test_the_first_loss_is_that_of_a_uniform_guess() -> None:
    torch.manual_seed(0)
    net = GRUNetwork(GRU4RecConfig(), 60, 15).eval()
    of = torch.randint(FIRST, 60, (300, 5)).tolist()
    loss = nn.functional.cross_entropy(scores(net, of), torch.randint(0, 15, (300,)))
    assert loss.item() == pytest.approx(math.log(15), rel=0.1)


def eight() -> TrainingData:
    """Eight paths of one or two nodes, each with a service of its own."""
    paths = [(f"a{i}",) for i in range(4)] + [(f"a{i}", f"b{i}") for i in range(4)]
    return TrainingData.of([Example(Context(p), f"y{i}", "n", i) for i, p in enumerate(paths)])


@pytest.mark.parametrize("shape", [{}, {"tied": True}], ids=str)
def test_eight_examples_are_learned_by_heart(shape: dict[str, object]) -> None:
    data = eight()
    options = {"epochs": 150, "learning_rate": 0.01, "embedding": 16, "hidden": 32, **STILL, **shape}
    model = create("gru4rec", options).fit(data)
    assert model.history[-1].loss < 0.05
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


def test_the_memory_reaches_behind_the_last_node() -> None:
    world = memory()
    options = {"epochs": 80, "learning_rate": 0.02, "embedding": 16, "hidden": 16}
    model = create("gru4rec", options).fit(world.data)
    found = model.score(world.data.vocabulary.encode(world.contexts))
    answers = [world.data.vocabulary.services[column] for column in found.argmax(axis=1)]
    assert answers == [world.certain[context.path] for context in world.contexts]


# Around the network


@pytest.fixture(scope="module")
def fitted() -> GRU4Rec:
    model = create("gru4rec", {"epochs": 2, "embedding": 6, "hidden": 5})
    assert isinstance(model, GRU4Rec)
    return model.fit(everything().data)


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


def test_the_seed_decides_the_weights() -> None:
    data = everything().data
    options = {"epochs": 1, "embedding": 4, "hidden": 4}
    first, again, other = (
        create("gru4rec", options, seed=seed).fit(data).state()["head.weight"] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
