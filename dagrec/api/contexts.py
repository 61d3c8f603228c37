"""What :meth:`dagrec.Model.recommend` takes for a context: paths, compositions, graphs, requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

from dagrec.data.compositions import Composition
from dagrec.data.formats.native import to_document
from dagrec.data.objects import composition_of_graph
from dagrec.data.scalars import quoted, require_key
from dagrec.errors import RequestError
from dagrec.recommend.request import PredictRequest

if TYPE_CHECKING:
    import networkx

Context: TypeAlias = (
    "Sequence[str | int] | Composition | Mapping[str, Any] | networkx.DiGraph | PredictRequest"
)
FIELDS = PredictRequest.model_fields.keys()
BESIDE = {"composition", "id", "owner", "time"}
"""What native JSON may have beside its composition; anything else makes it a request."""
OPTIONS = (
    *("as_dataframe", "k"),
    *(name for name in FIELDS if name not in ("path", "composition", "model", "models", "k")),
)
"""Options of :meth:`Model.recommend`."""


def as_list(value: Any) -> Any:
    """An array or a series as a list; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def is_context(value: Any) -> bool:
    """Whether this is one context, and not a list of them."""
    if isinstance(value, str):
        raise RequestError(
            f"a context must be a list of node keys or a composition, found {quoted(value)}; "
            f"write [{quoted(value)}]"
        )
    if isinstance(value, Composition | Mapping | PredictRequest) or hasattr(value, "edges"):
        return True
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise RequestError(
            f"a context must be a list of node keys or a composition, found {type(value).__name__}; "
            "see Model.recommend"
        )
    return isinstance(value, Sequence) and all(isinstance(item, str | Integral) for item in value)


def request_values(context: Any) -> dict[str, Any]:
    """The fields of a request that ask about a context."""
    context = as_list(context)
    if isinstance(context, PredictRequest):
        return context.model_dump(exclude_unset=True)
    if isinstance(context, Composition):
        return {"composition": to_document(context)}
    if isinstance(context, Mapping):
        wrapped = "composition" in context and (context.keys() <= FIELDS or context.keys() - BESIDE)
        return dict(context) if "path" in context or wrapped else {"composition": dict(context)}
    if hasattr(context, "edges"):
        return {"composition": to_document(composition_of_graph(context))}
    if isinstance(context, str | bytes) or not isinstance(context, Sequence):
        raise RequestError(
            f"must be a list of node keys or a composition, found {quoted(context)}; "
            "see Model.recommend"
        )
    return {"path": [_key(key, place) for place, key in enumerate(context)]}


def _key(key: Any, place: int) -> Any:
    """A key that is an integer as text, as :func:`dagrec.from_paths` takes it."""
    return require_key(key, f"path: key {place}") if isinstance(key, Integral) else key
