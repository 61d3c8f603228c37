"""What a job has done so far, kept in files, so that one that was killed goes on where it was."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from dagrec.errors import StoreError
from dagrec.models.base import Recommender, Trainer
from dagrec.models.training_data import TrainingData
from dagrec.store.catalogue import replace_text

NumbersT = TypeVar("NumbersT", bound=BaseModel)


class Work:
    """The folder of one job; what is found there under a name is not done again.

    Things are written under another name first: a crash leaves whole ones, or none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def numbers(self, name: str, class_: type[NumbersT], make: Callable[[], NumbersT]) -> NumbersT:
        """What ``make`` gives, or gave before."""
        file = self.folder / f"{name}.json"
        try:
            return class_.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            made = make()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_text(file, made.model_dump_json())
        except OSError as error:
            raise _unwritten(file, error) from error
        return made

    def fitted(
        self, name: str, new: Recommender, data: TrainingData, trainer: Trainer | None
    ) -> tuple[Recommender, float]:
        """``new`` fitted to these data, now or before, and in how many seconds."""
        folder = self.folder / name
        try:
            about = json.loads((folder / "model.json").read_bytes())
            seconds = float((folder / "seconds").read_text(encoding="utf-8"))
            return new.load(folder, about, data.vocabulary, data.graph), seconds
        except (OSError, ValueError, StoreError):
            pass  # never done, or damaged
        start = time.perf_counter()
        model = new.fit(data, trainer)
        seconds = time.perf_counter() - start
        draft = folder.with_name(f".{folder.name}")
        try:
            shutil.rmtree(draft, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
            model.save(draft, data.vocabulary)
            (draft / "seconds").write_text(str(seconds), encoding="utf-8")
            draft.rename(folder)
        except (OSError, SafetensorError) as error:
            raise _unwritten(folder, error) from error
        return model, seconds

    def forget(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _unwritten(path: Path, error: Exception) -> StoreError:
    why = error.strerror if isinstance(error, OSError) else error
    return StoreError(f"{path}: cannot be written: {why}; check space and permissions")
