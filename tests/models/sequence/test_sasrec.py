from __future__ import annotations

import numpy as np
import pytest

from dagrec.data.examples import Context, context_at
from dagrec.data.vocabulary import Contexts
from dagrec.errors import DataError, NotFittedError
from dagrec.models.attention import SupportsAttention
from dagrec.models.registry import create
from dagrec.models.sequence.sasrec import SASRec
from tests.checks import says
from tests.models.sequence.rows import eight_examples
from tests.worlds import chain, diamond, everything, memory

SMALL = {"width": 16, "batch_size": 16, "learning_rate": 0.01, "schedule": "constant"}


@pytest.fixture(scope="module")
def fitted() -> SASRec:
    model = create("sasrec", {**SMALL, "epochs": 3, "layers": 2, "heads": 4})
    assert isinstance(model, SASRec)
    return model.fit(everything().data)


@pytest.mark.parametrize("shape", [{}, {"tied": False}, {"positions": "absolute"}], ids=str)
def test_fit_memorises_eight_examples(shape: dict[str, object]) -> None:
    data = eight_examples()
    options = {**SMALL, "epochs": 150, "width": 32, "dropout": 0.0, **shape}
    model = create("sasrec", options).fit(data)
    assert model.history[-1].loss < 0.05
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


@pytest.mark.parametrize("positions", ["distance", "absolute"])
def test_fit_learns_dependency_beyond_last_node(positions: str) -> None:
    world = memory()
    options = {**SMALL, "epochs": 60, "positions": positions}
    model = create("sasrec", options).fit(world.data)
    columns = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
    predicted = [world.data.vocabulary.services[column] for column in columns]
    assert predicted == [world.certain[context.path] for context in world.contexts]


@pytest.mark.parametrize(
    "loss",
    ["ce", "bce", "gbce", "bpr", "bpr-max", "top1", "top1-max", "hinge", "infonce", "sampled-softmax"],
)
def test_fit_learns_chain_with_every_loss(loss: str) -> None:
    world = chain()
    options = {**SMALL, "epochs": 40, "loss": loss, "negatives": 8, "dropout": 0.0}
    model = create("sasrec", options).fit(world.data)
    columns = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
    predicted = [world.data.vocabulary.services[column] for column in columns]
    assert predicted == [world.certain[context.path] for context in world.contexts]


# Attention


def test_sasrec_supports_attention(fitted: SASRec) -> None:
    assert isinstance(fitted, SupportsAttention)
    assert not isinstance(create("popularity"), SupportsAttention)


def test_attention_covers_nodes_of_the_path(fitted: SASRec) -> None:
    attention = fitted.attention(Context(("table_a", "nobody", "extract")))
    assert attention.nodes == ("table_a", "nobody", "extract")
    assert attention.weights.shape == (2, 4, 3, 3)
    assert attention.weights.dtype == np.float32
    np.testing.assert_allclose(attention.weights.sum(axis=-1), 1, rtol=1e-6)
    assert not np.triu(attention.weights, 1).any()
    assert (fitted.attention(Context(("extract",))).weights == 1).all()


def test_attention_matches_batched_weights(fitted: SASRec) -> None:
    contexts = everything().data.contexts
    inputs, context_rows = fitted.units(contexts, training=False).take(np.arange(len(contexts)))
    _, weights = fitted._fitted(fitted._network).attend(inputs)  # type: ignore[operator]
    for row, i in enumerate(context_rows):
        context = contexts.origins[i]
        n = len(context.path)
        batch = np.stack([layer[row, :, :n, :n].detach().numpy() for layer in weights])
        np.testing.assert_allclose(fitted.attention(context).weights, batch, rtol=1e-4, atol=1e-6)


def test_attention_covers_upstream_nodes_if_these_are_read() -> None:
    data, (composition,) = diamond().data, diamond().compositions
    model = create("sasrec", {**SMALL, "epochs": 1, "read": "upstream"}).fit(data)
    assert isinstance(model, SASRec)
    nodes = model.attention(context_at(composition, "merge")).nodes
    assert nodes == ("table_d", "split", "left", "right", "merge")


def test_attention_rejects_empty_context(fitted: SASRec) -> None:
    with pytest.raises(DataError) as error:
        fitted.attention(Context(()))
    assert says(error, "sasrec", "one node or more", "empty")
    with pytest.raises(NotFittedError):
        SASRec().attention(Context(("a",)))


def test_training_units_share_rows_and_cover_every_context(fitted: SASRec) -> None:
    contexts: Contexts = everything().data.contexts
    shared, separate = (fitted.units(contexts, training=training) for training in (True, False))
    assert len(separate.sizes) == len(contexts) > len(shared.sizes)
    _, context_rows = shared.take(np.arange(len(shared.sizes)))
    assert sorted(context_rows.tolist()) == list(range(len(contexts)))
