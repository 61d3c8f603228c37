"""Array aliases, with their axes in words, and the base of every configuration.

B = rows of a batch, L = longest context of the batch, C = services of the vocabulary.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Ids = NDArray[np.int64]
"""Integers: node ids (0 padding, 1 unknown, 2.. nodes) or service columns (0 .. C-1)."""
Scores = NDArray[np.float32]
"""[B, C], higher is better, unmasked."""
Mask = NDArray[np.bool_]
"""[B, C], True where a service may follow."""
Floats = NDArray[np.float64]


Device = Literal["auto", "cpu", "cuda"]
"""Where networks are trained; auto: on a GPU where there is one."""


class Options(BaseModel):
    """A frozen configuration that refuses unknown keys and values that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
