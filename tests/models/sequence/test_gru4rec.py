from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE, PADDING, UNKNOWN
from dagrec.models.registry import create
from dagrec.models.sequence.gru4rec import GRU4Rec, GRU4RecConfig, GRUNetwork
from dagrec.models.sequence.paths import PathForest
from dagrec.training.losses import cross_entropy
from dagrec.types import Floats
from tests.models.sequence.rows import NODES, SERVICES, Path, eight_examples, encode, random_paths
from tests.worlds import WORLDS, everything, memory

NO_DROPOUT = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
SHAPES = [
    {"layers": 1},
    {"layers": 3},
    {"tied": True},
    {"tied": True, "hidden": 6},
]


def network(**options: object) -> GRUNetwork:
    """Return a small network with its initial weights in evaluation mode."""
    torch.manual_seed(0)
    config = GRU4RecConfig(**{"embedding": 6, "hidden": 5, "layers": 2, **options})
    return GRUNetwork(config, NODES, SERVICES).eval()


def scores(net: GRUNetwork, paths: Sequence[Path], *, shared: bool = False) -> Tensor:
    """Return the scores [B, C] of the paths; ``shared``: common prefixes are computed once."""
    forest = PathForest.of(encode(paths), shared=shared)
    inputs, context_rows = forest.take(np.arange(len(forest.sizes)))
    order = torch.from_numpy(np.argsort(context_rows, kind="stable"))
    result: Tensor = net(inputs)[order]
    return result


def assert_close(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# States of paths


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_of_mixed_lengths_equals_single_paths(shape: dict[str, object]) -> None:
    net = network(**shape)
    paths = [path[:n] for path, n in zip(random_paths(6, 6), (3, 1, 6, 2, 5, 4), strict=True)]
    single = [scores(net, [path]) for path in paths]
    assert_close(scores(net, paths), torch.cat(single))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_do_not_depend_on_later_nodes(shape: dict[str, object]) -> None:
    net, paths = network(**shape), random_paths(5, 6)
    prefixes = [path[:n] for path in paths for n in range(1, 7)]
    shared = scores(net, prefixes, shared=True)
    for length in range(1, 6):
        assert_close(shared[length - 1 :: 6], scores(net, [path[:length] for path in paths]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_depend_on_every_node(shape: dict[str, object]) -> None:
    net = network(**shape)
    for position in range(3):
        paths = [
            [FIRST_SERVICE] * position + [node] + [FIRST_SERVICE] * (2 - position)
            for node in range(FIRST_SERVICE, NODES)
        ]
        result = scores(net, paths, shared=True)
        distances = torch.cdist(result, result) + torch.eye(len(result))
        assert distances.min() > 1e-4, f"node {position}"


@given(
    st.lists(st.lists(st.integers(UNKNOWN, 4), min_size=1, max_size=6), min_size=1, max_size=12),
    st.sampled_from(SHAPES),
)
def test_shared_prefixes_do_not_change_scores(paths: list[list[int]], shape: dict[str, object]) -> None:
    net = network(**shape)
    with torch.no_grad():
        assert_close(scores(net, paths, shared=True), scores(net, paths))


def test_shared_prefixes_do_not_change_gradients() -> None:
    paths = [[2, 3, 4], [2, 3], [2, 3, 5, 6], [2], [7, 3], [2, 3, 4], [7]]
    net = network(**NO_DROPOUT).double()
    weights = torch.randn(len(paths), SERVICES, dtype=torch.float64)

    def loss(shared: bool) -> Callable[[], Tensor]:
        return lambda: (scores(net, paths, shared=shared) * weights).sum()

    for a, b in zip(with_gradients(net, loss(True)), with_gradients(net, loss(False)), strict=True):
        assert_close(a, b, 1e-10)


def test_shared_prefix_is_computed_once() -> None:
    """Paths that share their nodes have the same dropout mask."""
    net = network(layers=1, hidden_dropout=0.0).train()
    contexts = encode([[2, 3, 4], [2, 3, 4], [2, 3], [2, 3, 5]])
    for shared in (True, False):
        inputs, context_rows = PathForest.of(contexts, shared=shared).take(
            np.arange(2 if shared else 4)
        )
        assert inputs.levels == ((1, 1, 2) if shared else (4, 4, 3))
        states = net.states(inputs)[torch.from_numpy(np.argsort(context_rows))]
        assert states.shape == (4, 5)
        assert torch.equal(states[0], states[1]) is shared


# Formula


def reference_scores(net: GRUNetwork, path: Path) -> Floats:
    """Return scores by the formula, with the gates in PyTorch's order: reset, update, new."""
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
    tied_weights = weights["embed.weight"][FIRST_SERVICE : FIRST_SERVICE + SERVICES]
    return np.asarray(weights.get("head.weight", tied_weights) @ h + weights["head.bias"])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_match_reference(shape: dict[str, object]) -> None:
    net, paths = network(**shape), [*random_paths(4, 3), *random_paths(2, 5)]
    with torch.no_grad():
        net.head.bias.copy_(torch.randn(SERVICES))
        expected = [reference_scores(net, path) for path in paths]
        np.testing.assert_allclose(scores(net, paths, shared=True), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_states_match_torch_gru(shared: bool, layers: int) -> None:
    net = network(layers=layers)
    gru = nn.GRU(6, 5, num_layers=layers, batch_first=True)
    gru.load_state_dict(net.gru.state_dict())
    paths = [path[:n] for path in random_paths(4, 6) for n in (1, 2, 6)]
    with torch.no_grad():
        last_states = [gru(net.embed.weight[torch.tensor([path])])[0][0, -1] for path in paths]
        assert_close(scores(net, paths, shared=shared), net.head(torch.stack(last_states)))


@pytest.mark.parametrize("hidden", [6, 5])
def test_tied_weights_share_storage(hidden: int) -> None:
    net = network(tied=True, hidden=hidden)
    names = {name.split(".")[0] for name, _ in net.named_parameters()}
    assert names == {"embed", "gru", "head"} | ({"project"} if hidden != 6 else set())
    assert "head.weight" not in net.state_dict()
    paths = random_paths(2, 2)
    before = scores(net, paths)
    used = {node for path in paths for node in path}
    with torch.no_grad():
        unused = next(c for c in range(SERVICES) if c + FIRST_SERVICE not in used)
        net.embed.weight[unused + FIRST_SERVICE] += 1
    changed = (scores(net, paths) != before).any(dim=0)
    assert changed.nonzero().flatten().tolist() == [unused]


# Dropout


def is_random(net: GRUNetwork, *, training: bool) -> bool:
    """Return whether two passes over the same paths have different scores."""
    net.train(training)
    paths = random_paths(50, 3)
    return bool((scores(net, paths) != scores(net, paths)).any())


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["embedding_dropout", "hidden_dropout"])
def test_dropout_is_active_only_in_training(kind: str, layers: int) -> None:
    """This includes one layer, for which nn.GRU has no dropout."""
    net = network(layers=layers, **(NO_DROPOUT | {kind: 0.5}))
    assert is_random(net, training=True)
    assert not is_random(net, training=False)


def test_training_without_dropout_is_deterministic() -> None:
    assert not is_random(network(**NO_DROPOUT), training=True)


def test_recurrent_state_has_no_dropout() -> None:
    """With one layer, dropout only sets components of the last state to 0."""
    net = network(layers=1, embedding_dropout=0.0, hidden_dropout=0.5).train()
    paths = random_paths(200, 5)
    with torch.no_grad():
        forest = PathForest.of(encode(paths), shared=False)
        inputs, _ = forest.take(np.arange(len(paths)))
        dropped = net.states(inputs)
        expected = net.eval().states(inputs)
    zeros = dropped == 0
    assert 0.4 < zeros.float().mean() < 0.6
    assert_close(dropped[~zeros], 2 * expected[~zeros])


# Learning from counts


@pytest.mark.parametrize("world", ["branching", "diamond", "everything"])
def test_weighted_pairs_match_loss_and_gradients_of_single_examples(world: str) -> None:
    data = WORLDS[world].data
    torch.manual_seed(3)
    config = GRU4RecConfig(embedding=4, hidden=5, layers=2, **NO_DROPOUT)
    net = GRUNetwork(config, len(data.vocabulary), len(data.vocabulary.services)).double()
    rows, columns, counts = (torch.from_numpy(part) for part in data.pairs)
    paths = [
        row[:n].tolist() for row, n in zip(data.contexts.nodes, data.contexts.lengths, strict=True)
    ]
    example_rows, targets = data.rows, torch.from_numpy(data.targets)

    def pairs_loss() -> Tensor:
        return (cross_entropy(scores(net, paths, shared=True), rows, columns) * counts).sum()

    def examples_loss() -> Tensor:
        return nn.functional.cross_entropy(
            scores(net, [paths[i] for i in example_rows]), targets, reduction="sum"
        )

    pairs_result, expected = (with_gradients(net, loss) for loss in (pairs_loss, examples_loss))
    for a, b in zip(pairs_result, expected, strict=True):
        assert_close(a, b, 1e-6)


def with_gradients(net: GRUNetwork, loss: Callable[[], Tensor]) -> list[Tensor]:
    net.zero_grad()
    value = loss()
    value.backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    return [value.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)]


def test_initial_loss_is_close_to_uniform() -> None:
    torch.manual_seed(0)
    net = GRUNetwork(GRU4RecConfig(), 60, 15).eval()
    paths = torch.randint(FIRST_SERVICE, 60, (300, 5)).tolist()
    loss = nn.functional.cross_entropy(scores(net, paths), torch.randint(0, 15, (300,)))
    assert loss.item() == pytest.approx(math.log(15), rel=0.1)


@pytest.mark.parametrize("shape", [{}, {"tied": True}], ids=str)
def test_fit_memorises_eight_examples(shape: dict[str, object]) -> None:
    data = eight_examples()
    options = {
        "epochs": 150,
        "learning_rate": 0.01,
        "embedding": 16,
        "hidden": 32,
        **NO_DROPOUT,
        **shape,
    }
    model = create("gru4rec", options).fit(data)
    assert model.history[-1].loss < 0.05
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


def test_fit_learns_dependency_beyond_last_node() -> None:
    world = memory()
    options = {"epochs": 80, "learning_rate": 0.02, "embedding": 16, "hidden": 16}
    model = create("gru4rec", options).fit(world.data)
    scores = model.score(world.data.vocabulary.encode(world.contexts))
    predicted = [world.data.vocabulary.services[column] for column in scores.argmax(axis=1)]
    assert predicted == [world.certain[context.path] for context in world.contexts]


# The recommender


@pytest.fixture(scope="module")
def fitted() -> GRU4Rec:
    model = create("gru4rec", {"epochs": 2, "embedding": 6, "hidden": 5})
    assert isinstance(model, GRU4Rec)
    return model.fit(everything().data)


def test_unknown_node_has_mean_embedding(fitted: GRU4Rec) -> None:
    embedding = fitted.state()["embed.weight"]
    np.testing.assert_allclose(
        embedding[UNKNOWN], embedding[FIRST_SERVICE:].mean(axis=0), rtol=1e-5, atol=1e-7
    )


def test_padding_has_zero_embedding(fitted: GRU4Rec) -> None:
    assert not fitted.state()["embed.weight"][PADDING].any()


def test_unknown_node_changes_scores(fitted: GRU4Rec) -> None:
    encode = everything().data.vocabulary.encode
    known, followed = (fitted.score(encode([Context(path)])) for path in [("hub",), ("hub", "nobody")])
    assert not np.array_equal(known, followed)


def test_parameters_counts_network_and_prior(fitted: GRU4Rec) -> None:
    data = everything().data
    nodes, services = len(data.vocabulary), len(data.vocabulary.services)
    d, h = 6, 5
    first, second = 3 * h * (d + h + 2), 3 * h * (h + h + 2)
    assert fitted.parameters() == nodes * d + first + second + services * (h + 1) + services


def test_weights_depend_on_seed() -> None:
    data = everything().data
    options = {"epochs": 1, "embedding": 4, "hidden": 4}
    first, again, other = (
        create("gru4rec", options, seed=seed).fit(data).state()["head.weight"] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
