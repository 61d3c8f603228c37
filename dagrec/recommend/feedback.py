"""Feedback on an answer, as it is reported, and the decision that is stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, model_validator

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context
from dagrec.data.formats.times import parse_time
from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import DataError, RequestError
from dagrec.graph.mask import MaskPolicy
from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.request import Key, PredictRequest, request_contexts
from dagrec.types import Options

Action = Literal["taken", "refused"]


class PathNode(Options):
    """A node of the path that an answer extends."""

    key: str
    kind: str


class Decision(Options):
    """The stored form of one feedback report: one line of a feedback file."""

    time: str = Field(description="when the feedback was reported, ISO 8601")
    request_id: str
    item: int = Field(description="index of the request in its batch, from 0; 0 without a batch")
    at: str | None = Field(description="id of the composition node that is extended; null for a path")
    action: Action
    service: str | None = Field(
        description="the service that was taken or refused; null: all services shown were refused"
    )
    rank: int | None = Field(
        description="rank of the service among those shown, from 1; null if it was not shown"
    )
    model: str
    version: str
    mask: MaskPolicy
    k: int
    shown: list[str]
    path: list[PathNode] = Field(description="the last nodes of the path that the answer extends")
    unknown: list[str] = Field(description="keys that do not occur in the training data")

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.action == "taken" and self.service is None:
            raise ValueError("service must be given when the action is taken")
        if self.rank != _rank(self.service, self.shown):
            raise ValueError("rank must be the position of service in shown")
        try:
            parse_time(self.time, "time")
        except DataError as error:
            raise ValueError(str(error)) from None
        return self

    @cached_property
    def seconds(self) -> float:
        """The time of the report, in seconds since 1970."""
        return parse_time(self.time, "time") or 0.0

    @property
    def subject(self) -> tuple[str, int, str | None]:
        """The node that is extended, identified by request, batch index and node id."""
        return self.request_id, self.item, self.at


class Feedback(Options):
    """A report on whether a person took or refused an answer."""

    request_id: str = Field(
        min_length=1, max_length=128, description="value of the answer's header X-Request-ID"
    )
    action: Action = Field(description="taken: this service comes next; refused: it does not")
    service: Key | None = Field(
        None,
        description="taken: any service, shown or not; refused: the refused service, or null for all "
        "services shown",
    )
    at: str | int | None = Field(
        None, description="the extended node, if the answers are for several open ends"
    )
    model: str | None = Field(None, description="label of the model, if several models answered")
    item: int | None = Field(None, ge=0, description="index of the request in its batch, from 0")

    @model_validator(mode="after")
    def _check_service(self) -> Self:
        if self.action == "taken" and self.service is None:
            raise ValueError("service must be given when the action is taken")
        return self


def select_answer(results: Sequence[Answer | Answers | RequestError], feedback: Feedback) -> Answer:
    """Return the answer that the feedback refers to, out of the results of its request.

    Raises :class:`RequestError` if the feedback refers to no answer, or to more than one.
    """
    if feedback.item is None and len(results) > 1:
        raise RequestError(f"item must be given, 0 to {len(results) - 1}: the request was a batch")
    item = feedback.item or 0
    if item >= len(results):
        raise RequestError(
            f"item must be below {len(results)}, the number of requests in the batch, found {item}"
        )
    result = results[item]
    if isinstance(result, RequestError):
        raise RequestError(f"item {item} must have been answered, found an error: {result}")
    answers = result.answers if isinstance(result, Answers) else [result]
    at = None if feedback.at is None else str(feedback.at)
    for name, value in (("at", at), ("model", feedback.model)):
        values = dict.fromkeys(getattr(answer, name) for answer in answers)
        if value is None and len(values) == 1:
            continue
        if value not in values:
            shown = "none" if value is None else repr(value)
            raise RequestError(
                f"{name} must be one of {list(values)}, as in the answers, found {shown}"
            )
        answers = [answer for answer in answers if getattr(answer, name) == value]
    return answers[0]


def make_decision(
    feedback: Feedback, request: PredictRequest, answer: Answer, vocabulary: Vocabulary
) -> Decision:
    """Return the decision to store for feedback on the answer to a request, with the current time.

    The keys of a path have no kind: a key is of kind ``service`` if it is a service of the vocabulary,
    and of kind ``other`` if not.
    """
    question = request.model_copy(update={"at": answer.at, "history": []})
    (context,), _ = request_contexts(question, vocabulary)
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
        k=request.k,
        shown=shown,
        path=_path_nodes(context, vocabulary),
        unknown=answer.unknown,
    )


def _rank(service: str | None, shown: Sequence[str]) -> int | None:
    return shown.index(service) + 1 if service in shown else None


def _path_nodes(context: Context, vocabulary: Vocabulary) -> list[PathNode]:
    composition = context.composition
    kinds = {} if composition is None else {node.key: node.kind for node in composition.nodes}
    return [
        PathNode(key=key, kind=kinds.get(key) or ("service" if key in vocabulary.columns else "other"))
        for key in context.path[-MAX_CONTEXT_LENGTH:]
    ]
