"""Export the learned vectors of a published model."""

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
from dagrec.output.files import replace_file
from dagrec.store.bundle import Bundle
from dagrec.types import Floats

MAX_POINTS = 1_000
"""Maximum number of points in a plot, for which t-SNE takes about 15 seconds."""


@dataclass(frozen=True)
class Embeddings:
    """The learned vectors of a model.

    fingerprints: of data, vocabulary and graph; keys: [N] keys of all nodes, services first; kinds:
    [N] ``service`` or ``other``; counts: [N] number of training examples in which a node is the last
    of the context or the target; nodes: [N, D] input vectors of the nodes; services: [C, H] output
    vectors of the services. Either is None if the model does not have it.
    """

    model: str
    recommender: str
    version: str
    fingerprints: dict[str, str]
    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    counts: Floats
    nodes: Floats | None
    services: Floats | None

    @classmethod
    def of(cls, bundle: Bundle, label: str | None) -> Embeddings:
        """Those of a model, by default the champion. Raises :class:`ConfigError` if it has none."""
        label, fitted = bundle.model(label)
        model = fitted.recommender
        vectors = model.embeddings()
        if not vectors:
            labels = [name for name, other in bundle.models.items() if other.recommender.embeddings()]
            remedy = f"choose one of {', '.join(labels)}" if labels else "train one by gradient descent"
            raise ConfigError(f"model {label!r}: must have embeddings, found none; {remedy}")
        vocabulary, manifest = bundle.vocabulary, bundle.manifest
        counts = bundle.graph.frontier_counts[FIRST_SERVICE:].copy()
        counts[: len(vocabulary.services)] += bundle.graph.popularity
        data = str(manifest.data.get("fingerprint", ""))
        return cls(
            model=label,
            recommender=model.name,
            version=bundle.version,
            fingerprints={"data": data, "vocabulary": manifest.vocabulary, "graph": manifest.graph},
            keys=(*vocabulary.services, *vocabulary.others),
            kinds=("service",) * len(vocabulary.services) + ("other",) * len(vocabulary.others),
            counts=counts,
            nodes=vectors.get("nodes"),
            services=vectors.get("services"),
        )

    def points(self, max_points: int = MAX_POINTS) -> Points:
        """The most frequent nodes for a plot, or services if the model has no vectors of nodes."""
        vectors = self.services if self.nodes is None else self.nodes
        assert vectors is not None
        n = len(vectors)
        rows = np.sort(np.argsort(-self.counts[:n], kind="stable")[:max_points])
        keys, kinds = (tuple(values[i] for i in rows) for values in (self.keys, self.kinds))
        return Points(vectors[rows], keys, kinds, self.counts[rows], n)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays of the npz file. Strings are Unicode arrays, so that nothing is pickled."""
        texts = {"model": self.model, "recommender": self.recommender, "version": self.version}
        texts |= {f"{name}_fingerprint": value for name, value in self.fingerprints.items()}
        arrays: dict[str, NDArray[np.generic]] = {name: np.array(text) for name, text in texts.items()}
        arrays |= {"keys": np.array(self.keys), "kinds": np.array(self.kinds), "counts": self.counts}
        vectors = {"nodes": self.nodes, "services": self.services}
        return arrays | {name: array for name, array in vectors.items() if array is not None}

    def write(self, path: Path) -> None:
        """Write the npz file. Raises :class:`DagrecError` if it cannot be written."""
        content = BytesIO()
        np.savez(content, **self.arrays())  # type: ignore[arg-type]
        try:
            replace_file(path, content.getvalue())
        except OSError as error:
            raise DagrecError(
                f"{path}: cannot be written: {error.strerror}; choose another place"
            ) from None

    def summary(self) -> dict[str, Any]:
        """Return everything except for the vectors, as it is written to JSON."""
        shapes = {
            name: None if array is None else list(array.shape)
            for name, array in (("nodes", self.nodes), ("services", self.services))
        }
        cosine = None if self.services is None else mean_cosine(self.services)
        about = {"model": self.model, "recommender": self.recommender, "version": self.version}
        return {**about, "fingerprints": self.fingerprints, **shapes, "service_cosine": cosine}
