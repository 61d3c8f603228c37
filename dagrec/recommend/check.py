"""The last questions to a bundle before anybody is answered from it: does every model answer at all?"""

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
    """Have models (None: all) answer canned contexts with probabilities that add up to at most 1.

    The contexts: nothing, an unknown node, a known node, and the longest path that a context keeps.
    Raises :class:`StoreError`, or :class:`NumericalError` for scores that are not finite.
    """
    predictor = Predictor(bundle)
    for label in bundle.models if labels is None else labels:
        for path, mask in _questions(bundle):
            # Explained, too: what is made when it is first asked for is made before anybody waits.
            request = PredictRequest(path=path, k=MAX_K, model=label, mask=mask, explain=True)
            answer = predictor.answer(request)
            assert isinstance(answer, Answer)
            total = sum(p.probability for p in answer.predictions)
            if not 0 < total <= 1 + 1e-6:
                raise StoreError(
                    f"bundle {bundle.version}, model {label}: probabilities after {path[:3]} must add "
                    f"up to at most 1, found {total}; publish it again"
                )


def _questions(bundle: Bundle) -> Iterator[tuple[list[str], MaskPolicy | None]]:
    keys = (*bundle.vocabulary.others, *bundle.vocabulary.services)
    longest = [keys[i % len(keys)] for i in range(MAX_CONTEXT_LENGTH)]
    for path in ([], ["\0unknown"], list(keys[:1]), longest):
        yield path, None
    yield longest, MaskPolicy.NONE
