"""The vectors that a published model has learned, as a file of plain arrays and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import ConfigError, DagrecError
from dagrec.evaluation.projection import Points, mean_cosine
from dagrec.files import replace_file
from dagrec.store.bundle import Bundle
from dagrec.types import Floats

MAX_POINTS = 1_000
"""Points of a picture; t-SNE takes a quarter of a minute for so many."""


@dataclass(frozen=True)
class Embeddings:
    """The vectors of one model of a bundle.

    keys: of all known nodes, services first; kinds: ``service`` or ``other``; counts: training examples
    in which a node is the last of the context, or the service that follows; nodes: [keys, D] and
    services: [services, H] (what each is scored with), where the model has them.
    """

    model: str
    recommender: str
    version: str
    fingerprints: dict[str, str]
    """Of data, vocabulary and graph."""
    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    counts: Floats
    nodes: Floats | None
    services: Floats | None

    @classmethod
    def of(cls, bundle: Bundle, label: str | None) -> Embeddings:
        """Those of a model, or of the champion. Raises :class:`ConfigError` where it has none."""
        label, fitted = bundle.model(label)
        model = fitted.recommender
        found = model.embeddings()
        if not found:
            able = [name for name, other in bundle.models.items() if other.recommender.embeddings()]
            raise ConfigError(
                f"model {label!r} learns no vectors, so that it has no embeddings; choose one of "
                f"{', '.join(able) or 'those that are trained by gradient, and train it'}"
            )
        words, manifest = bundle.vocabulary, bundle.manifest
        counts = bundle.graph.frontier_counts[FIRST_SERVICE:].copy()
        counts[: len(words.services)] += bundle.graph.popularity
        data = str(manifest.data.get("fingerprint", ""))
        return cls(
            model=label,
            recommender=model.name,
            version=bundle.version,
            fingerprints={"data": data, "vocabulary": manifest.vocabulary, "graph": manifest.graph},
            keys=(*words.services, *words.others),
            kinds=("service",) * len(words.services) + ("other",) * len(words.others),
            counts=counts,
            nodes=found.get("nodes"),
            services=found.get("services"),
        )

    def points(self, most: int = MAX_POINTS) -> Points:
        """What a picture shows: the nodes, or the services where only these have vectors."""
        vectors = self.services if self.nodes is None else self.nodes
        assert vectors is not None
        n = len(vectors)
        shown = np.sort(np.argsort(-self.counts[:n], kind="stable")[:most])
        keys, kinds = (tuple(values[i] for i in shown) for values in (self.keys, self.kinds))
        return Points(vectors[shown], keys, kinds, self.counts[shown], n)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Name -> array of the file. Texts are unicode arrays, so that nothing is pickled."""
        texts = {"model": self.model, "recommender": self.recommender, "version": self.version}
        texts |= {f"{name}_fingerprint": value for name, value in self.fingerprints.items()}
        found: dict[str, NDArray[np.generic]] = {name: np.array(text) for name, text in texts.items()}
        found |= {"keys": np.array(self.keys), "kinds": np.array(self.kinds), "counts": self.counts}
        vectors = {"nodes": self.nodes, "services": self.services}
        return found | {name: rows for name, rows in vectors.items() if rows is not None}

    def write(self, path: Path) -> None:
        """Write the npz file in one step. Raises :class:`DagrecError` if it cannot."""
        content = BytesIO()
        np.savez(content, **self.arrays())  # type: ignore[arg-type]
        try:
            replace_file(path, content.getvalue())
        except OSError as error:
            raise DagrecError(
                f"{path}: cannot be written: {error.strerror}; choose another place"
            ) from None

    def summary(self) -> dict[str, Any]:
        """As it goes into JSON; the vectors are in the file."""
        shapes = {
            name: None if rows is None else list(rows.shape)
            for name, rows in (("nodes", self.nodes), ("services", self.services))
        }
        cosine = None if self.services is None else mean_cosine(self.services)
        about = {"model": self.model, "recommender": self.recommender, "version": self.version}
        return {**about, "fingerprints": self.fingerprints, **shapes, "service_cosine": cosine}


__all__ = ["MAX_POINTS", "Embeddings"]
