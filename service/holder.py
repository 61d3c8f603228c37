"""The one reference to the live bundle."""

from __future__ import annotations

from pathlib import Path

from dagrec.errors import StoreError
from dagrec.predict import Answer, Predictor, predict
from dagrec.request import PredictRequest
from dagrec.store.bundle import Bundle
from dagrec.store.catalogue import Store


class Holder:
    """Loads the store's live bundle, and has it answer before anybody else is answered from it."""

    def __init__(self, store: Path) -> None:
        self.store = Store(store)
        self._predictor: Predictor | None = None

    @property
    def bundle(self) -> Bundle:
        """The live bundle. Raises :class:`StoreError` before :meth:`load` has succeeded."""
        return self.predictor.bundle

    @property
    def predictor(self) -> Predictor:
        """What answers from the live bundle, the one reference to it. Raises :class:`StoreError`."""
        if self._predictor is None:
            raise StoreError(f"{self.store.root}: a bundle must be loaded, found none yet; try later")
        return self._predictor

    def load(self) -> None:
        """Load the live bundle, check it, and only then take it. Raises :class:`StoreError`."""
        bundle = self.store.load()
        self_check(bundle)
        self._predictor = Predictor(bundle, remember=2000)


def self_check(bundle: Bundle) -> None:
    """Every model must answer a canned context with probabilities that add up to at most 1."""
    path = list(bundle.vocabulary.others[:1] or bundle.vocabulary.services[:1])
    for label in bundle.models:
        answer = predict(bundle, PredictRequest(path=path, k=1000, model=label))
        assert isinstance(answer, Answer)
        total = sum(p.probability for p in answer.predictions)
        if not 0 < total <= 1 + 1e-6:
            raise StoreError(
                f"bundle {bundle.version}, model {label}: probabilities after {path} must add up to "
                f"at most 1, found {total}; publish it again"
            )
