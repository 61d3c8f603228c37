from __future__ import annotations

import numpy as np
import pytest

from dagrec.data.examples import Context, context_at
from dagrec.data.vocabulary import Contexts
from dagrec.errors import DataError, NotFittedError
from dagrec.models.attention import Attentive
from dagrec.models.registry import create
from dagrec.models.sequence.sasrec import SASRec
from tests.checks import says
from tests.models.sequence.rows import eight
from tests.worlds import chain, diamond, everything, memory

SMALL = {"width": 16, "batch_size": 16, "learning_rate": 0.01, "schedule": "constant"}


@pytest.fixture(scope="module")
def fitted() -> SASRec:
    model = create("sasrec", {**SMALL, "epochs": 3, "layers": 2, "heads": 4})
    assert isinstance(model, SASRec)
    return model.fit(everything().data)


@pytest.mark.parametrize("shape", [{}, {"tied": False}, {"positions": "absolute"}], ids=str)
def test_eight_examples_are_learned_by_heart(shape: dict[str, object]) -> None:
    data = eight()
    options = {**SMALL, "epochs": 150, "width": 32, "dropout": 0.0, **shape}
    model = create("sasrec", options).fit(data)
    assert model.history[-1].loss < 0.05
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


@pytest.mark.parametrize("positions", ["distance", "absolute"])
def test_the_memory_reaches_behind_the_last_node(positions: str) -> None:
    world = memory()
    options = {**SMALL, "epochs": 60, "positions": positions}
    model = create("sasrec", options).fit(world.data)
    found = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
    answers = [world.data.vocabulary.services[column] for column in found]
    assert answers == [world.certain[context.path] for context in world.contexts]


@pytest.mark.parametrize(
    "loss",
    ["ce", "bce", "gbce", "bpr", "bpr-max", "top1", "top1-max", "hinge", "infonce", "sampled-softmax"],
)
def test_a_chain_is_learned_with_every_loss(loss: str) -> None:
    world = chain()
    options = {**SMALL, "epochs": 40, "loss": loss, "negatives": 8, "dropout": 0.0}
    model = create("sasrec", options).fit(world.data)
    found = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
    answers = [world.data.vocabulary.services[column] for column in found]
    assert answers == [world.certain[context.path] for context in world.contexts]


# Attention


def test_it_says_that_its_attention_can_be_read(fitted: SASRec) -> None:
    assert isinstance(fitted, Attentive)
    assert not isinstance(create("popularity"), Attentive)


def test_attention_is_of_the_nodes_of_the_path(fitted: SASRec) -> None:
    found = fitted.attention(Context(("table_a", "nobody", "extract")))
    assert found.nodes == ("table_a", "nobody", "extract")
    assert found.weights.shape == (2, 4, 3, 3)
    assert found.weights.dtype == np.float32
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, rtol=1e-6)
    assert not np.triu(found.weights, 1).any()
    assert (fitted.attention(Context(("extract",))).weights == 1).all()


def test_attention_of_one_context_is_that_in_a_batch(fitted: SASRec) -> None:
    data = everything().data
    inputs, answered = fitted.units(data.contexts, training=False).take(np.arange(len(data.contexts)))
    _, weights = fitted._fitted(fitted._network).attend(inputs)  # type: ignore[operator]
    for row, i in enumerate(answered):
        context = data.contexts.origins[i]
        n = len(context.path)
        batch = np.stack([layer[row, :, :n, :n].detach().numpy() for layer in weights])
        np.testing.assert_allclose(fitted.attention(context).weights, batch, rtol=1e-4, atol=1e-6)


def test_attention_reads_what_scores_are_read_from() -> None:
    data, (whole,) = diamond().data, diamond().compositions
    model = create("sasrec", {**SMALL, "epochs": 1, "read": "upstream"}).fit(data)
    assert isinstance(model, SASRec)
    nodes = model.attention(context_at(whole, "merge")).nodes
    assert nodes == ("table_d", "split", "left", "right", "merge")


def test_an_empty_context_has_no_attention(fitted: SASRec) -> None:
    with pytest.raises(DataError) as error:
        fitted.attention(Context(()))
    assert says(error, "sasrec", "one node or more", "empty")
    with pytest.raises(NotFittedError):
        SASRec().attention(Context(("a",)))


def test_training_shares_rows_and_answers_every_context(fitted: SASRec) -> None:
    contexts: Contexts = everything().data.contexts
    shared, alone = (fitted.units(contexts, training=training) for training in (True, False))
    assert len(alone.sizes) == len(contexts) > len(shared.sizes)
    _, answered = shared.take(np.arange(len(shared.sizes)))
    assert sorted(answered.tolist()) == list(range(len(contexts)))
