"""Array aliases with their shapes, ragged arrays, and the base class of all configurations.

B is the number of rows in a batch, L the length of the longest context in it, and C the number of
services in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from dagrec.errors import did_you_mean

Ids = NDArray[np.int64]
"""Node ids (0 is padding, 1 the unknown node, nodes start at 2) or service columns (0 .. C-1)."""
Scores = NDArray[np.float32]
"""[B, C] unmasked scores; higher is better."""
Mask = NDArray[np.bool_]
"""[B, C], True where a service is allowed."""
Floats = NDArray[np.float64]


Device = Literal["auto", "cpu", "cuda"]
"""The device that networks are trained on; ``auto`` uses a GPU if one is available."""


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array: row i is ``starts[i] : starts[i + 1]``."""

    starts: Ids

    @classmethod
    def of(cls, lengths: Sequence[int] | Ids) -> Ragged:
        """The layout of rows with these lengths."""
        return cls(np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]))

    @property
    def lengths(self) -> Ids:
        return np.diff(self.starts)

    def take(self, rows: Ids) -> tuple[Ids, Ids]:
        """Return the flat indices of the elements of ``rows``, and the position in ``rows`` of each."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        owner = np.repeat(np.arange(len(rows)), lengths)
        first = np.cumsum(lengths) - lengths
        return np.arange(len(owner)) - first[owner] + self.starts[rows][owner], owner


class Options(BaseModel):
    """A frozen configuration that rejects unknown keys and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def validation_message(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Format a pydantic error with one clause per field: the field, the rule and the value.

    A rule about several fields is given as it is. If ``model`` is given, an unknown field is followed
    by the model's fields with the most similar names.
    """
    clauses = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        rule = item["msg"].removeprefix("Value error, ")
        if not field and item["type"] == "value_error":
            clauses.append(rule)
            continue
        suggestion = ""
        if model is not None and item["type"] == "extra_forbidden":
            suggestion = did_you_mean(field, model.model_fields)
        clauses.append(f"{field or 'it'}: {rule}, found {item['input']!r:.80}{suggestion}")
    return "; ".join(clauses)
