"""The results of the finished steps of a job, from which an interrupted job is resumed."""

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
from dagrec.models.base import Recommender
from dagrec.output.files import replace_file
from dagrec.training.data import TrainingData

ResultT = TypeVar("ResultT", bound=BaseModel)


class WorkFolder:
    """The folder of a job. Steps with a stored result are not repeated.

    Results are replaced atomically, so that a crash never leaves an incomplete one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def result(self, name: str, class_: type[ResultT], compute: Callable[[], ResultT]) -> ResultT:
        """The stored result of a step, or else the computed one, which is then stored."""
        file = self.folder / f"{name}.json"
        try:
            return class_.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            result = compute()
        try:
            replace_file(file, result.model_dump_json())
        except OSError as error:
            raise _cannot_write(file, error) from error
        return result

    def fit(self, name: str, new: Recommender, data: TrainingData) -> tuple[Recommender, float]:
        """The stored recommender of a step, or else ``new`` fitted to data; and the seconds it took."""
        folder = self.folder / name
        try:
            about = json.loads((folder / "model.json").read_bytes())
            seconds = float((folder / "seconds").read_text(encoding="utf-8"))
            return new.load(folder, about, data.vocabulary, data.graph), seconds
        except (OSError, ValueError, StoreError):
            pass  # missing or damaged
        start = time.perf_counter()
        recommender = new.fit(data)
        seconds = time.perf_counter() - start
        draft = folder.with_name(f".{folder.name}")
        try:
            shutil.rmtree(draft, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
            recommender.save(draft, data.vocabulary)
            (draft / "seconds").write_text(str(seconds), encoding="utf-8")
            draft.rename(folder)
        except (OSError, SafetensorError) as error:
            raise _cannot_write(folder, error) from error
        return recommender, seconds

    def remove(self) -> None:
        """Remove all results."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _cannot_write(path: Path, error: Exception) -> StoreError:
    reason = error.strerror if isinstance(error, OSError) else error
    return StoreError(f"{path}: cannot be written: {reason}; check space and permissions")
