"""Feedback on one answer: what a person reports, and the decision that is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, model_validator

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context
from dagrec.data.formats.draft import parse_time
from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import DataError, RequestError
from dagrec.graph.mask import MaskPolicy
from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.request import Key, PredictRequest, request_contexts
from dagrec.types import Options

Action = Literal["taken", "refused"]


class Step(Options):
    """A node of the path that an answer continued."""

    key: str
    kind: str


class Decision(Options):
    """What became of one answer, as far as one report of feedback tells: a line of a file."""

    time: str = Field(description="when it was reported, ISO 8601")
    request_id: str
    item: int = Field(description="number of the request in its batch, from 0; no batch: 0")
    at: str | None = Field(description="id of the composition's node that was extended; null: a path")
    action: Action
    service: str | None = Field(description="what was taken or refused; null: all that was shown")
    rank: int | None = Field(
        description="its place among those shown, from 1; null: it was none of them"
    )
    model: str
    version: str
    mask: MaskPolicy
    k: int
    shown: list[str]
    path: list[Step] = Field(description="the newest nodes of the path that was to be continued")
    unknown: list[str] = Field(description="keys that training had never seen")

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.action == "taken" and self.service is None:
            raise ValueError("what was taken must be named")
        if self.rank != _rank(self.service, self.shown):
            raise ValueError("rank must be the place of service in shown")
        try:
            parse_time(self.time, "time")
        except DataError as error:
            raise ValueError(str(error)) from None
        return self

    @cached_property
    def seconds(self) -> float:
        """Its time, in seconds since 1970."""
        return parse_time(self.time, "time") or 0.0

    @property
    def subject(self) -> tuple[str, int, str | None]:
        """What was decided on: one node to extend, of one request."""
        return self.request_id, self.item, self.at


class Feedback(Options):
    """A report of what a person made of an answer."""

    request_id: str = Field(
        min_length=1, max_length=128, description="X-Request-ID of the answer, a header of it"
    )
    action: Action = Field(description="taken: this service comes next; refused: it does not")
    service: Key | None = Field(
        None, description="any service may have been taken, shown or not; refused, and none: all shown"
    )
    at: str | int | None = Field(None, description="node that was extended, where several ends were")
    model: str | None = Field(None, description="label of the model, where several answered")
    item: int | None = Field(None, ge=0, description="of a batch: the number of the request, from 0")

    @model_validator(mode="after")
    def _names_what_was_taken(self) -> Self:
        if self.action == "taken" and self.service is None:
            raise ValueError("service must be named where it was taken")
        return self


def choose(found: Sequence[Answer | Answers | RequestError], feedback: Feedback) -> Answer:
    """The one answer, of those to a request, that feedback is about.

    Raises :class:`RequestError` where it names none, or not enough to tell which.
    """
    if feedback.item is None and len(found) > 1:
        raise RequestError(f"item must be named, 0 to {len(found) - 1}: the request was a batch")
    item = feedback.item or 0
    if item >= len(found):
        raise RequestError(f"item must be below {len(found)}, the requests of the batch, found {item}")
    answered = found[item]
    if isinstance(answered, RequestError):
        raise RequestError(
            f"item {item} must have been answered, found that it was refused: {answered}"
        )
    answers = answered.answers if isinstance(answered, Answers) else [answered]
    at = None if feedback.at is None else str(feedback.at)
    for name, wanted in (("at", at), ("model", feedback.model)):
        values = dict.fromkeys(getattr(answer, name) for answer in answers)
        if wanted is None and len(values) == 1:
            continue
        if wanted not in values:
            found_ = "none" if wanted is None else repr(wanted)
            raise RequestError(
                f"{name} must be one of {list(values)}, which were answered, found {found_}"
            )
        answers = [answer for answer in answers if getattr(answer, name) == wanted]
    return answers[0]


def decide(
    feedback: Feedback, asked: PredictRequest, answer: Answer, vocabulary: Vocabulary
) -> Decision:
    """The record of feedback on an answer to what was asked, as of now.

    A path tells no kinds: a key is a service where the vocabulary says so, else of kind ``other``.
    """
    question = asked.model_copy(update={"at": answer.at, "history": []})
    (context,) = request_contexts(question, vocabulary)
    shown = [prediction.service for prediction in answer.predictions]
    return Decision(
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        request_id=feedback.request_id,
        item=feedback.item or 0,
        at=answer.at,
        action=feedback.action,
        service=feedback.service,
        rank=_rank(feedback.service, shown),
        model=answer.model,
        version=answer.version,
        mask=answer.mask,
        k=asked.k,
        shown=shown,
        path=_steps(context, vocabulary),
        unknown=answer.unknown,
    )


def _rank(service: str | None, shown: Sequence[str]) -> int | None:
    return shown.index(service) + 1 if service in shown else None


def _steps(context: Context, vocabulary: Vocabulary) -> list[Step]:
    composition = context.composition
    kinds = {} if composition is None else {node.key: node.kind for node in composition.nodes}
    return [
        Step(key=key, kind=kinds.get(key) or ("service" if key in vocabulary.columns else "other"))
        for key in context.path[-MAX_CONTEXT_LENGTH:]
    ]
