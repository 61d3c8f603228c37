"""Array aliases, with their axes in words; ragged arrays; the base of every configuration.

B = rows of a batch, L = longest context of the batch, C = services of the vocabulary.
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
"""Integers: node ids (0 padding, 1 unknown, 2.. nodes) or service columns (0 .. C-1)."""
Scores = NDArray[np.float32]
"""[B, C], higher is better, unmasked."""
Mask = NDArray[np.bool_]
"""[B, C], True where a service may follow."""
Floats = NDArray[np.float64]


Device = Literal["auto", "cpu", "cuda"]
"""Where networks are trained; auto: on a GPU where there is one."""


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths behind each other: row i is at starts[i] .. starts[i + 1]."""

    starts: Ids

    @classmethod
    def of(cls, lengths: Sequence[int] | Ids) -> Ragged:
        return cls(np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]))

    @property
    def lengths(self) -> Ids:
        return np.diff(self.starts)

    def take(self, rows: Ids) -> tuple[Ids, Ids]:
        """Places of what these rows hold, and which of ``rows`` each is of."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        owner = np.repeat(np.arange(len(rows)), lengths)
        first = np.cumsum(lengths) - lengths
        return np.arange(len(owner)) - first[owner] + self.starts[rows][owner], owner


class Options(BaseModel):
    """A frozen configuration that refuses unknown keys and values that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def validation_message(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """What pydantic found, one clause per field: the field, the rule and the value.

    A rule between fields names them itself. With the ``model`` that refused, a field that it does not
    have is followed by the nearest ones that it has.
    """
    clauses = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        rule = item["msg"].removeprefix("Value error, ")
        if not field and item["type"] == "value_error":
            clauses.append(rule)
            continue
        nearest = ""
        if model is not None and item["type"] == "extra_forbidden":
            nearest = did_you_mean(field, model.model_fields)
        clauses.append(f"{field or 'it'}: {rule}, found {item['input']!r:.80}{nearest}")
    return "; ".join(clauses)
