"""Feedback: what was answered lately is remembered, what people made of it is written durably."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import DagrecError, RequestError
from dagrec.feedback.record import Decision, Feedback, choose, decide
from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.request import PredictRequest, make_request

MAX_REMEMBERED = 10_000
MAX_BYTES = 100_000_000
"""Of all that is remembered, roughly."""
OF_A_KEY = 60
OF_A_PREDICTION = 450
"""Bytes, roughly, beside the characters."""


class _Asked(NamedTuple):
    """What is needed of a request: its path, or its composition as JSON: objects are larger."""

    path: list[str] | None
    composition: str | None
    k: int

    def request(self, at: str | None) -> PredictRequest:
        composition = None if self.composition is None else json.loads(self.composition)
        return make_request({"path": self.path, "composition": composition, "at": at, "k": self.k})


class _Remembered(NamedTuple):
    asked: list[_Asked]
    found: Sequence[Answer | Answers | RequestError]
    size: int


class FeedbackLog:
    """Remembers the newest answers, and appends decisions on them to files of a folder.

    A new file is begun when one would exceed ``most_mb`` megabytes, after a failed write, and by every
    process: nothing is ever appended to a line that may be torn. Threads may share it.
    """

    def __init__(
        self,
        folder: Path,
        most_mb: float,
        *,
        remembered: int = MAX_REMEMBERED,
        remembered_bytes: int = MAX_BYTES,
    ) -> None:
        """Makes the folder. Raises :class:`DagrecError` where it cannot be, or cannot be written to."""
        self.folder = folder
        self.most = int(most_mb * 1_000_000)
        self.most_remembered = remembered
        self.most_remembered_bytes = remembered_bytes
        self.bytes = 0
        self._answers: OrderedDict[str, _Remembered] = OrderedDict()
        self._remembering = Lock()
        self._writing = Lock()
        self._file: int | None = None
        self._size = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DagrecError(
                f"{folder}: a folder for feedback cannot be made: {error.strerror}; choose another"
            ) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise DagrecError(f"{folder}: feedback must be written there, found that it cannot be")

    def __len__(self) -> int:
        return len(self._answers)

    def remember(
        self,
        request_id: str,
        asked: Sequence[PredictRequest],
        found: Sequence[Answer | Answers | RequestError],
    ) -> None:
        """Keep what was asked and answered; the oldest are forgotten where it is too much."""
        kept = [_kept(request) for request in asked]
        size = OF_A_KEY + sum(map(_size_of_asked, kept)) + sum(map(_size_of_found, found))
        with self._remembering:
            self._forget(request_id)
            self._answers[request_id] = _Remembered(kept, found, size)
            self.bytes += size
            while len(self._answers) > self.most_remembered or self.bytes > self.most_remembered_bytes:
                self._forget(next(iter(self._answers)))

    def _forget(self, request_id: str) -> None:
        old = self._answers.pop(request_id, None)
        if old is not None:
            self.bytes -= old.size

    def note(self, feedback: Feedback, vocabulary: Vocabulary) -> Decision | None:
        """Write what feedback decides; on return it is on disk. None: the answer is not remembered.

        Raises :class:`RequestError` for feedback that does not fit the answer, and :class:`OSError`
        where it could not be written: then it does not count.
        """
        remembered = self._answers.get(feedback.request_id)
        if remembered is None:
            return None
        answer = choose(remembered.found, feedback)
        asked = remembered.asked[feedback.item or 0].request(answer.at)
        decision = decide(feedback, asked, answer, vocabulary)
        line = decision.model_dump_json().encode() + b"\n"
        with self._writing:
            self._append(line)
        return decision

    def _append(self, line: bytes) -> None:
        if self._file is not None and self._size + len(line) > self.most:
            self._close()
        if self._file is None:
            self._file, self._size = self._new_file(), 0
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError:
            self._take_back(self._file)
            self._close()
            raise
        self._size += len(line)

    def _take_back(self, file: int) -> None:
        """Cut off what a failed write has left; where even that fails it stays torn, and is skipped."""
        try:
            os.ftruncate(file, self._size)
            os.fsync(file)
        except OSError:
            pass

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def _new_file(self) -> int:
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        name = f"feedback-{moment}-{os.getpid()}.jsonl"
        file = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        try:
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)  # or the file's name may be lost with the power
            finally:
                os.close(folder)
        except OSError:
            os.close(file)
            raise
        return file


def _kept(request: PredictRequest) -> _Asked:
    composition = None if request.composition is None else json.dumps(request.composition)
    return _Asked(request.path, composition, request.k)


def _size_of_asked(asked: _Asked) -> int:
    if asked.path is not None:
        return sum(map(len, asked.path)) + OF_A_KEY * len(asked.path)
    return len(asked.composition or "")


def _size_of_found(found: Answer | Answers | RequestError) -> int:
    if isinstance(found, RequestError):
        return 1000
    if isinstance(found, Answers):
        return sum(map(_size_of_found, found.answers))
    # An explanation adds to each prediction, and the paths most like the one that was asked about.
    parts = 5 + len(found.predictions) * (1 if found.explanation is None else 3)
    parts += 0 if found.explanation is None else 10
    return OF_A_PREDICTION * parts + OF_A_KEY * len(found.unknown)
