"""What UR4Rec makes of the texts of services."""

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
from dagrec.data.vocabulary import FIRST
from dagrec.errors import DataError
from dagrec.models.hybrid.experts import TextExpert, read_vectors
from dagrec.models.hybrid.ur4rec import UR4Rec
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.checks import says
from tests.models.hybrid.ur4recs import COLD, DRAWN, READ, WORLD, answered, kinds, new, untrained


@pytest.fixture(scope="module")
def fitted() -> UR4Rec:
    return new(epochs=6).fit(WORLD.data)


@pytest.mark.parametrize("seed", range(3))
def test_the_text_loss_starts_near_the_logarithm_of_the_number_of_services(
    seed: int, bundled_data: TrainingData
) -> None:
    for data in (WORLD.data, bundled_data):
        network = untrained(data, seed, width=64, identity=False)
        loss = network.penalty(*answered(network, data))
        assert loss is not None
        services = int((data.graph.popularity > 0).sum())
        assert loss.mean().item() == pytest.approx(np.log(services), abs=0.1)


@pytest.fixture(scope="module")
def bundled_data(bundled: Sequence[Composition]) -> TrainingData:
    return TrainingData.of(extract(bundled)[0])


def test_the_length_of_texts_changes_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 8))
    h, last = torch.randn(5, 16, generator=torch.manual_seed(1)), torch.arange(5) + FIRST
    found = []
    for scale in (1.0, 10.0):
        torch.manual_seed(0)
        found.append(TextExpert(rows * scale, 16, 7)(h, last))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_products_stay_within_the_sharpness() -> None:
    """However large states and weights are, two services differ by 2 k at most, and k starts at 1."""
    torch.manual_seed(0)
    expert = TextExpert(np.random.default_rng(0).normal(size=(12, 8)) * 384, 16, 9)
    h, last = torch.randn(6, 16), torch.arange(6) + FIRST
    np.testing.assert_allclose(expert.sharpness(h).detach(), 1, rtol=1e-5)
    spread = (lambda x: x.amax(dim=1) - x.amin(dim=1))(expert(h, last))
    assert (spread <= 2).all()
    with torch.no_grad():
        expert.query.weight *= 1e4
        expert.sharp.weight.fill_(100.0)
    assert (expert.sharpness(h * 100) <= 20).all()
    assert expert(h * 100, last).isfinite().all()


def test_the_projection_keeps_the_angles_of_texts() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 8))
    torch.manual_seed(0)
    expert = TextExpert(rows, 16, 10)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = expert.vectors().detach().numpy()
    np.testing.assert_allclose(found @ found.T, units[FIRST:] @ units[FIRST:].T, atol=1e-6)


def test_a_service_without_a_text_is_neither_near_nor_far() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 4))
    rows[FIRST + 1] = 0
    torch.manual_seed(0)
    expert = TextExpert(rows, 16, 6)
    h, last = torch.randn(3, 16), torch.full((3,), FIRST)
    said = expert(h, last)
    read = torch.cat([h, expert.rows[last] * 2], dim=1)  # of length sqrt(4)
    queries = torch.nn.functional.normalize(expert.query(read), dim=1)
    cosines = queries @ expert.vectors().T
    assert not cosines[:, 1].any()
    torch.testing.assert_close(said[:, 1], -cosines.logsumexp(dim=1))
    said.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in expert.parameters())


def of_cold(model: UR4Rec) -> Floats:
    """[2, 2] scores of the two cold services after the two tables."""
    vocabulary = model.graph.vocabulary
    contexts = vocabulary.encode([Context(("table_a",)), Context(("table_b",))])
    return model.score(contexts)[:, [vocabulary.columns[key] for key in COLD]].astype(np.float64)


@pytest.mark.parametrize(
    "options", [{}, {"graph": False}, {"identity": False, "graph": False}], ids=str
)
def test_services_that_were_never_seen_are_ranked_by_their_text(options: dict[str, Any]) -> None:
    data = TrainingData.of(kinds().examples, services=COLD)
    (ab, ac), (bb, bc) = of_cold(new(epochs=60, **options).fit(data))
    assert ab > ac + 0.5
    assert bc > bb + 0.5


def test_texts_of_declared_services_are_read_beside_their_keys() -> None:
    """Keys that say nothing, and texts that do."""
    services = {"s1": "draw heatmap", "s2": "read parquet"}
    data = TrainingData.of(kinds().examples, services=services)
    rows = new().text_rows(data)
    near = rows @ rows.T
    drawn, read = (data.vocabulary.ids[key] for key in ("draw_lines", "read_csv"))
    s1, s2 = (data.vocabulary.ids[key] for key in services)
    assert near[s1, drawn] > near[s1, read]
    assert near[s2, read] > near[s2, drawn]


def test_without_the_text_they_are_alike() -> None:
    """Identity and counts cannot tell them apart."""
    data = TrainingData.of(kinds().examples, services=COLD)
    found = of_cold(new(epochs=60, text=False).fit(data))
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-6)


def test_texts_are_frozen_centred_and_of_length_1(fitted: UR4Rec) -> None:
    stored, rows = fitted.state()["text.rows"].astype(float), fitted.text_rows(WORLD.data)
    np.testing.assert_allclose(stored, rows, atol=1e-6)
    assert not rows[:FIRST].any()
    np.testing.assert_allclose(np.linalg.norm(rows[FIRST:], axis=1), 1, rtol=1e-9)
    near = rows[FIRST:] @ rows[FIRST:].T
    assert abs(near.mean()) < 0.05


def test_shuffled_texts_are_those_of_other_services() -> None:
    data = WORLD.data
    plain, one, two = (
        new(seed, shuffled=s).text_rows(data) for seed, s in [(0, False), (0, True), (1, True)]
    )
    services = slice(FIRST, FIRST + len(data.vocabulary.services))
    others = slice(services.stop, None)
    assert np.array_equal(plain[others], one[others])
    for rows in (one, two):
        assert not np.allclose(plain[services], rows[services])
        assert sorted(map(tuple, plain[services])) == sorted(map(tuple, rows[services]))
    assert not np.allclose(one, two)
    assert np.array_equal(one, new(0, shuffled=True).text_rows(data))


def vectors(folder: Path, **found: object) -> Path:
    file = folder / "vectors.safetensors"
    save_file({key: np.asarray(vector, dtype=np.float32) for key, vector in found.items()}, file)
    return file


def test_vectors_of_a_file_take_the_place_of_words(tmp_path: Path) -> None:
    """The cold services have vectors like those of the known ones, and keys that say nothing."""
    own = {key: [1, 0, 0.1 * i, 0] for i, key in enumerate((*DRAWN, "s1"))}
    own |= {key: [0, 1, 0, 0.1 * i] for i, key in enumerate((*READ, "s2"))}
    file = vectors(tmp_path, **own, nobody=[1, 1, 1, 1])
    data = TrainingData.of(kinds().examples, services={"s1": "", "s2": ""})
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
    again = new(epochs=60, texts=str(file)).restore(model.state(), data.vocabulary, data.graph)
    assert np.array_equal(again.score(contexts), scores)


@pytest.mark.parametrize(
    ("found", "parts"),
    [
        ({"nobody": [1.0, 2.0]}, ["found 0 of"]),
        ({"join": [1.0, 2.0], "plot": [1.0]}, ["of one length", "(1,), (2,)"]),
        ({"join": [[1.0], [2.0]]}, ["of one length", "(2, 1)"]),
        ({"join": [1.0, np.nan]}, ["finite"]),
    ],
    ids=str,
)
def test_vectors_that_do_not_fit_are_refused(
    found: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    file = vectors(tmp_path, **found)
    with pytest.raises(DataError) as error:
        read_vectors(file, WORLD.data.vocabulary)
    assert says(error, str(file), *parts)


@pytest.mark.parametrize("content", [None, b"", b"keys,vectors\n"])
def test_another_kind_of_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "vectors.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as error:
        new(texts=str(file)).fit(WORLD.data)
    assert str(file) in str(error.value)
    assert "must be a safetensors file with a vector for each key" in str(error.value)
