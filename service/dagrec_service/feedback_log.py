"""The feedback log: recent answers in memory, and the decisions on them in durable files."""

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
from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.feedback import Decision, Feedback, make_decision, select_answer
from dagrec.recommend.request import PredictRequest, make_request

MAX_RESULTS = 10_000
MAX_RESULTS_BYTES = 100_000_000
"""Approximate size of all results in memory."""
KEY_BYTES = 60
PREDICTION_BYTES = 450
"""Approximate sizes in memory, without the characters of the keys."""


class _StoredRequest(NamedTuple):
    """The fields of a request that a decision needs; a composition takes less memory as JSON."""

    path: list[str] | None
    composition: str | None
    k: int

    @classmethod
    def of(cls, request: PredictRequest) -> _StoredRequest:
        composition = None if request.composition is None else json.dumps(request.composition)
        return cls(request.path, composition, request.k)

    def request(self, at: str | None) -> PredictRequest:
        composition = None if self.composition is None else json.loads(self.composition)
        return make_request({"path": self.path, "composition": composition, "at": at, "k": self.k})


class _StoredResults(NamedTuple):
    """The requests sent under one request id, their results, and their approximate size in bytes."""

    requests: list[_StoredRequest]
    results: Sequence[Answer | Answers | RequestError]
    size: int


class FeedbackLog:
    """Keeps recent answers in memory, and appends decisions on them to the files of a folder.

    A new file is started when the current one would exceed ``max_file_mb`` megabytes, after a failed
    write, and by each process: nothing is ever appended to an incomplete line. Threads may share it.
    """

    def __init__(
        self,
        folder: Path,
        max_file_mb: float,
        *,
        max_results: int = MAX_RESULTS,
        max_results_bytes: int = MAX_RESULTS_BYTES,
    ) -> None:
        """Create the folder. Raises :class:`DagrecError` if it cannot be created or written to."""
        self.folder = folder
        self.max_file_bytes = int(max_file_mb * 1_000_000)
        self.max_results = max_results
        self.max_results_bytes = max_results_bytes
        self.results_bytes = 0
        self._results: OrderedDict[str, _StoredResults] = OrderedDict()
        self._results_lock = Lock()
        self._file_lock = Lock()
        self._file: int | None = None
        self._file_bytes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DagrecError(
                f"{folder}: cannot be created for feedback: {error.strerror}; choose another folder"
            ) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise DagrecError(f"{folder}: the feedback folder must be writable, found that it is not")

    def __len__(self) -> int:
        return len(self._results)

    def remember(
        self,
        request_id: str,
        requests: Sequence[PredictRequest],
        results: Sequence[Answer | Answers | RequestError],
    ) -> None:
        """Keep requests and their results in memory, and drop the oldest ones beyond the limits."""
        stored = [_StoredRequest.of(request) for request in requests]
        size = KEY_BYTES + sum(map(_request_bytes, stored)) + sum(map(_result_bytes, results))
        with self._results_lock:
            self._drop(request_id)
            self._results[request_id] = _StoredResults(stored, results, size)
            self.results_bytes += size
            while len(self._results) > self.max_results or self.results_bytes > self.max_results_bytes:
                self._drop(next(iter(self._results)))

    def _drop(self, request_id: str) -> None:
        dropped = self._results.pop(request_id, None)
        if dropped is not None:
            self.results_bytes -= dropped.size

    def record(self, feedback: Feedback, vocabulary: Vocabulary) -> Decision | None:
        """Write the decision for feedback to disk and return it; None if its answer is not in memory.

        Raises :class:`RequestError` for feedback that does not match the answer, and :class:`OSError`
        if the decision could not be written; it does not count then.
        """
        stored = self._results.get(feedback.request_id)
        if stored is None:
            return None
        answer = select_answer(stored.results, feedback)
        request = stored.requests[feedback.item or 0].request(answer.at)
        decision = make_decision(feedback, request, answer, vocabulary)
        line = decision.model_dump_json().encode() + b"\n"
        with self._file_lock:
            self._append(line)
        return decision

    def _append(self, line: bytes) -> None:
        if self._file is not None and self._file_bytes + len(line) > self.max_file_bytes:
            self._close()
        if self._file is None:
            self._file, self._file_bytes = self._new_file(), 0
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError:
            self._truncate(self._file)
            self._close()
            raise
        self._file_bytes += len(line)

    def _truncate(self, file: int) -> None:
        """Remove the remains of a failed write. If that fails too, readers skip the incomplete line."""
        try:
            os.ftruncate(file, self._file_bytes)
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
                os.fsync(folder)  # without it, a power failure may lose the file's name
            finally:
                os.close(folder)
        except OSError:
            os.close(file)
            raise
        return file


def _request_bytes(request: _StoredRequest) -> int:
    if request.path is not None:
        return sum(map(len, request.path)) + KEY_BYTES * len(request.path)
    return len(request.composition or "")


def _result_bytes(result: Answer | Answers | RequestError) -> int:
    if isinstance(result, RequestError):
        return 1000
    if isinstance(result, Answers):
        return sum(map(_result_bytes, result.answers))
    # An explanation adds parts to each prediction, and the most similar training paths.
    parts = 5 + len(result.predictions) * (1 if result.explanation is None else 3)
    parts += 0 if result.explanation is None else 10
    return PREDICTION_BYTES * parts + KEY_BYTES * len(result.unknown)
