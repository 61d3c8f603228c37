"""Tests of the text expert of UR4Rec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dagrec.data.compositions import Composition
from dagrec.data.examples import Context, extract
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import DataError
from dagrec.models.hybrid.experts import TextExpert, read_vectors
from dagrec.models.hybrid.ur4rec import UR4Rec
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.checks import says
from tests.models.hybrid.ur4recs import (
    COLD,
    DRAWN,
    READ,
    WORLD,
    draw_and_read,
    new,
    pair_inputs,
    untrained,
)


@pytest.fixture(scope="module")
def fitted() -> UR4Rec:
    return new(epochs=6).fit(WORLD.data)


@pytest.mark.parametrize("seed", range(3))
def test_initial_text_loss_is_close_to_uniform(seed: int, bundled_data: TrainingData) -> None:
    for data in (WORLD.data, bundled_data):
        network = untrained(data, seed, width=64, identity=False)
        loss = network.penalty(*pair_inputs(network, data))
        assert loss is not None
        services = int((data.graph.popularity > 0).sum())
        assert loss.mean().item() == pytest.approx(np.log(services), abs=0.1)


@pytest.fixture(scope="module")
def bundled_data(bundled: Sequence[Composition]) -> TrainingData:
    return TrainingData.of(extract(bundled)[0])


def test_scores_do_not_depend_on_length_of_vectors() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 8))
    h, last = torch.randn(5, 16, generator=torch.manual_seed(1)), torch.arange(5) + FIRST_SERVICE
    results = []
    for scale in (1.0, 10.0):
        torch.manual_seed(0)
        results.append(TextExpert(rows * scale, 16, 7)(h, last))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_score_differences_are_bounded_by_sharpness() -> None:
    """Scores of two services differ by at most 2 k for any states and weights; k is initially 1."""
    torch.manual_seed(0)
    expert = TextExpert(np.random.default_rng(0).normal(size=(12, 8)) * 384, 16, 9)
    h, last = torch.randn(6, 16), torch.arange(6) + FIRST_SERVICE
    np.testing.assert_allclose(expert.sharpness(h).detach(), 1, rtol=1e-5)
    spread = (lambda x: x.amax(dim=1) - x.amin(dim=1))(expert(h, last))
    assert (spread <= 2).all()
    with torch.no_grad():
        expert.query.weight *= 1e4
        expert.sharpness_logit.weight.fill_(100.0)
    assert (expert.sharpness(h * 100) <= 20).all()
    assert expert(h * 100, last).isfinite().all()


def test_initial_projection_preserves_angles() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 8))
    torch.manual_seed(0)
    expert = TextExpert(rows, 16, 10)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = expert.vectors().detach().numpy()
    np.testing.assert_allclose(
        vectors @ vectors.T, units[FIRST_SERVICE:] @ units[FIRST_SERVICE:].T, atol=1e-6
    )


def test_service_without_text_has_cosine_0() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 4))
    rows[FIRST_SERVICE + 1] = 0
    torch.manual_seed(0)
    expert = TextExpert(rows, 16, 6)
    h, last = torch.randn(3, 16), torch.full((3,), FIRST_SERVICE)
    log_p = expert(h, last)
    inputs = torch.cat([h, expert.rows[last] * 2], dim=1)  # scaled to length sqrt(4)
    queries = torch.nn.functional.normalize(expert.query(inputs), dim=1)
    cosines = queries @ expert.vectors().T
    assert not cosines[:, 1].any()
    torch.testing.assert_close(log_p[:, 1], -cosines.logsumexp(dim=1))
    log_p.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in expert.parameters())


def cold_scores(model: UR4Rec) -> Floats:
    """Return the scores [2, 2] of the two cold services after the two tables."""
    vocabulary = model.graph.vocabulary
    contexts = vocabulary.encode([Context(("table_a",)), Context(("table_b",))])
    return model.score(contexts)[:, [vocabulary.columns[key] for key in COLD]].astype(np.float64)


@pytest.mark.parametrize(
    "options", [{}, {"graph": False}, {"identity": False, "graph": False}], ids=str
)
def test_unseen_services_are_ranked_by_text(options: dict[str, Any]) -> None:
    data = TrainingData.of(draw_and_read().examples, services=COLD)
    (ab, ac), (bb, bc) = cold_scores(new(epochs=60, **options).fit(data))
    assert ab > ac + 0.5
    assert bc > bb + 0.5


def test_text_rows_use_texts_of_declared_services() -> None:
    """The keys are uninformative and the texts are not."""
    services = {"s1": "draw heatmap", "s2": "read parquet"}
    data = TrainingData.of(draw_and_read().examples, services=services)
    rows = new().text_rows(data)
    cosines = rows @ rows.T
    drawn, read = (data.vocabulary.ids[key] for key in ("draw_lines", "read_csv"))
    s1, s2 = (data.vocabulary.ids[key] for key in services)
    assert cosines[s1, drawn] > cosines[s1, read]
    assert cosines[s2, read] > cosines[s2, drawn]


def test_unseen_services_have_equal_scores_without_text() -> None:
    """Identity and counts cannot distinguish services that were never seen."""
    data = TrainingData.of(draw_and_read().examples, services=COLD)
    scores = cold_scores(new(epochs=60, text=False).fit(data))
    np.testing.assert_allclose(scores[:, 0], scores[:, 1], rtol=1e-6)


def test_text_rows_are_frozen_centred_and_normalised(fitted: UR4Rec) -> None:
    stored, rows = fitted.state()["text.rows"].astype(float), fitted.text_rows(WORLD.data)
    np.testing.assert_allclose(stored, rows, atol=1e-6)
    assert not rows[:FIRST_SERVICE].any()
    np.testing.assert_allclose(np.linalg.norm(rows[FIRST_SERVICE:], axis=1), 1, rtol=1e-9)
    cosines = rows[FIRST_SERVICE:] @ rows[FIRST_SERVICE:].T
    assert abs(cosines.mean()) < 0.05


def test_shuffled_permutes_text_rows_of_services() -> None:
    data = WORLD.data
    plain, one, two = (
        new(seed, shuffled=s).text_rows(data) for seed, s in [(0, False), (0, True), (1, True)]
    )
    services = slice(FIRST_SERVICE, FIRST_SERVICE + len(data.vocabulary.services))
    others = slice(services.stop, None)
    assert np.array_equal(plain[others], one[others])
    for rows in (one, two):
        assert not np.allclose(plain[services], rows[services])
        assert sorted(map(tuple, plain[services])) == sorted(map(tuple, rows[services]))
    assert not np.allclose(one, two)
    assert np.array_equal(one, new(0, shuffled=True).text_rows(data))


def vectors(folder: Path, **vectors_by_key: object) -> Path:
    file = folder / "vectors.safetensors"
    save_file(
        {key: np.asarray(vector, dtype=np.float32) for key, vector in vectors_by_key.items()}, file
    )
    return file


def test_vectors_from_file_replace_tfidf(tmp_path: Path) -> None:
    """The cold services have vectors similar to those of known ones, and uninformative keys."""
    vectors_by_key = {key: [1, 0, 0.1 * i, 0] for i, key in enumerate((*DRAWN, "s1"))}
    vectors_by_key |= {key: [0, 1, 0, 0.1 * i] for i, key in enumerate((*READ, "s2"))}
    file = vectors(tmp_path, **vectors_by_key, nobody=[1, 1, 1, 1])
    data = TrainingData.of(draw_and_read().examples, services={"s1": "", "s2": ""})
    rows = read_vectors(file, data.vocabulary)
    ids = data.vocabulary.ids
    np.testing.assert_allclose(
        rows[ids["draw_bars"]], np.array([1, 0, 0.1, 0]) / np.sqrt(1.01), rtol=1e-6
    )
    assert not rows[[0, 1, ids["table_a"]]].any()
    model = new(epochs=60, texts=str(file)).fit(data)
    contexts = data.vocabulary.encode([Context(("table_a",)), Context(("table_b",))])
    scores = model.score(contexts)
    first, second = (scores[:, data.vocabulary.columns[key]] for key in ("s1", "s2"))
    assert first[0] > second[0] + 0.5
    assert second[1] > first[1] + 0.5
    file.unlink()
    restored = new(epochs=60, texts=str(file)).restore(model.state(), data.vocabulary, data.graph)
    assert np.array_equal(restored.score(contexts), scores)


@pytest.mark.parametrize(
    ("vectors_by_key", "parts"),
    [
        ({"nobody": [1.0, 2.0]}, ["found 0 of"]),
        ({"join": [1.0, 2.0], "plot": [1.0]}, ["of one length", "(1,), (2,)"]),
        ({"join": [[1.0], [2.0]]}, ["of one length", "(2, 1)"]),
        ({"join": [1.0, np.nan]}, ["finite"]),
    ],
    ids=str,
)
def test_read_vectors_rejects_invalid_vectors(
    vectors_by_key: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    file = vectors(tmp_path, **vectors_by_key)
    with pytest.raises(DataError) as error:
        read_vectors(file, WORLD.data.vocabulary)
    assert says(error, str(file), *parts)


@pytest.mark.parametrize("content", [None, b"", b"keys,vectors\n"])
def test_fit_rejects_invalid_vector_file(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "vectors.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as error:
        new(texts=str(file)).fit(WORLD.data)
    assert str(file) in str(error.value)
    assert "must be a safetensors file with a vector for each key" in str(error.value)
