"""A smoke test of a bundle before it goes live: every model must give valid probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dagrec.data.examples import MAX_CONTEXT_LENGTH
from dagrec.errors import StoreError
from dagrec.graph.mask import MaskPolicy
from dagrec.recommend.answers import Answer
from dagrec.recommend.predictor import Predictor
from dagrec.recommend.request import MAX_K, PredictRequest
from dagrec.store.bundle import Bundle


def self_check(bundle: Bundle, labels: Iterable[str] | None = None) -> None:
    """Check that models (None: all) give probabilities that add up to at most 1 for fixed contexts.

    The contexts are an empty path, an unknown node, a known node, and a path of the maximum length.
    Raises :class:`StoreError`, or :class:`NumericalError` for scores that are not finite.
    """
    predictor = Predictor(bundle)
    for label in bundle.models if labels is None else labels:
        for path, mask in _contexts(bundle):
            # Explanations, too, so that everything computed lazily is ready for the first request.
            request = PredictRequest(path=path, k=MAX_K, model=label, mask=mask, explain=True)
            answer = predictor.answer(request)
            assert isinstance(answer, Answer)
            total = sum(p.probability for p in answer.predictions)
            if not 0 < total <= 1 + 1e-6:
                raise StoreError(
                    f"bundle {bundle.version}, model {label}: probabilities after {path[:3]} must add "
                    f"up to at most 1, found {total}; publish it again"
                )


def _contexts(bundle: Bundle) -> Iterator[tuple[list[str], MaskPolicy | None]]:
    keys = (*bundle.vocabulary.others, *bundle.vocabulary.services)
    longest = [keys[i % len(keys)] for i in range(MAX_CONTEXT_LENGTH)]
    for path in ([], ["\0unknown"], list(keys[:1]), longest):
        yield path, None
    yield longest, MaskPolicy.NONE
