"""Learning curves from training logs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dagrec.errors import DataError
from dagrec.training.options import LOWER_IS_BETTER
from dagrec.types import validation_message


class Line(BaseModel):
    """A line of a training log, one epoch; see ``dagrec.training.log``."""

    time: float
    training: str
    model: str
    seed: int
    epoch: int
    loss: float
    validation: float | None
    metric: str
    learning_rate: float
    gradient_norm: float
    seconds: float


@dataclass(frozen=True)
class Training:
    """The epochs of one training, in order. Of a repeated epoch, the last line is used."""

    label: str
    lines: tuple[Line, ...]

    @property
    def best(self) -> Line | None:
        """The epoch with the best validation value, or None without validation."""
        validated = [line for line in self.lines if line.validation is not None]
        if not validated:
            return None
        sign = 1 if validated[0].metric in LOWER_IS_BETTER else -1
        return min(validated, key=lambda line: sign * (line.validation or 0.0))

    def summary(self) -> dict[str, Any]:
        """The main numbers of the training, as JSON."""
        best = self.best
        return {
            "label": self.label,
            "epochs": len(self.lines),
            "first_loss": self.lines[0].loss,
            "last_loss": self.lines[-1].loss,
            "metric": self.lines[0].metric,
            "best_validation": best.validation if best else None,
            "best_epoch": best.epoch if best else None,
            "seconds": sum(line.seconds for line in self.lines),
        }


def read_logs(paths: Iterable[Path]) -> list[Training]:
    """Read the trainings of some logs, in the order of their first epochs.

    Raises :class:`DataError` for files that are not training logs.
    """
    trainings: dict[tuple[str, str, int], dict[int, Line]] = {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {error}; check the path", rule="file") from None
        for number, raw in enumerate(text.splitlines(), start=1):
            try:
                line = Line.model_validate_json(raw)
            except ValidationError as error:
                reason = validation_message(error)
                raise DataError(
                    f"{path}: line {number}: must be a line of a training log: {reason}; "
                    "write one with --log",
                    rule="log",
                ) from None
            trainings.setdefault((line.training, line.model, line.seed), {})[line.epoch] = line
    if not trainings:
        raise DataError("a log must hold at least one epoch, found none; train with --log", rule="log")
    return [
        Training(f"{model}, seed {seed}, {training[:6]}", tuple(epochs[e] for e in sorted(epochs)))
        for (training, model, seed), epochs in trainings.items()
    ]
