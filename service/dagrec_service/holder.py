"""The holder of the live bundle, which replaces it when another bundle is published."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from dagrec.errors import StoreError
from dagrec.recommend.check import self_check
from dagrec.recommend.predictor import Predictor
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store

log = logging.getLogger("dagrec.service")


@dataclass(frozen=True)
class Refusal:
    """A bundle that was refused: its version, the reason, and the time (ISO 8601)."""

    version: str
    why: str
    at: str


class Holder:
    """Loads the store's live bundle, and checks it before any request is answered from it.

    ``cache`` is the number of contexts that a predictor caches. ``swaps`` and ``refusals`` count
    bundles. ``refused`` is the last refusal while the store's live bundle is not the loaded one.
    ``on_load`` is called after each bundle that was loaded.
    """

    def __init__(
        self, store: Path, *, cache: int = 0, on_load: Callable[[], None] | None = None
    ) -> None:
        self.store = Store(store)
        self.swaps = self.refusals = 0
        self.refused: Refusal | None = None
        self._on_load = on_load
        self._cache = cache
        self._predictor: Predictor | None = None
        self._loading = Lock()
        self._checked: tuple[Predictor | None, float] = None, 0.0

    @property
    def predictor(self) -> Predictor:
        """The predictor of the live bundle. Raises :class:`StoreError` before :meth:`load`."""
        if self._predictor is None:
            raise StoreError(f"{self.store.root}: a bundle must be loaded, found none yet; try later")
        return self._predictor

    @property
    def bundle(self) -> Bundle:
        """The live bundle. Raises :class:`StoreError` before :meth:`load` has succeeded."""
        return self.predictor.bundle

    def check(self) -> Bundle:
        """Return the live bundle, after a self-check of its champion at most once a second.

        It is not checked on every call, because health requests need no key and some champions are
        slow. Raises the errors of :func:`self_check`, and :class:`StoreError` before :meth:`load`.
        """
        predictor, now = self.predictor, time.monotonic()
        if self._checked[0] is not predictor or now - self._checked[1] > 1:
            self_check(predictor.bundle, [predictor.bundle.manifest.champion])
            self._checked = predictor, now
        return predictor.bundle

    def load(self) -> str:
        """Load the store's live bundle unless it is already loaded, and return its version.

        The bundle is loaded and checked completely before it replaces the current one, from which
        requests are answered until then. Requests in progress finish with the bundle they started with.
        Raises :class:`StoreError` if the bundle is refused; the current one stays.
        """
        with self._loading:
            version = ""
            try:
                version = self.store.current()
                if self._predictor is None or version != self.bundle.version:
                    bundle = self.store.load(version)
                    self_check(bundle)
                    self.swaps += self._predictor is not None
                    self.refused = None
                    self._predictor = Predictor(bundle, cache=self._cache)
                    if self._on_load:
                        self._on_load()
                    log.info("bundle %s is live", version)
            except Exception as error:  # no error of a new bundle may stop the service
                self._refuse(version, error)
                raise StoreError(f"bundle {version or '?'} was refused: {error}") from error
            self.refused = None
            return version

    def _refuse(self, version: str, error: Exception) -> None:
        if self._predictor is not None:
            log.error("bundle %s was refused: %s", version or "?", error)
        self.refusals += 1
        self.refused = Refusal(version, str(error), datetime.now(UTC).isoformat(timespec="seconds"))

    async def watch(self, seconds: float) -> None:
        """Load newly published bundles, checked for periodically; a refused bundle is not retried."""
        while True:
            await asyncio.sleep(seconds)
            if self._must_load():
                with contextlib.suppress(StoreError):
                    await asyncio.to_thread(self.load)

    def _must_load(self) -> bool:
        try:
            version = self.store.current()
        except StoreError:
            version = ""
        loaded = "" if self._predictor is None else self.bundle.version
        if version == loaded:
            self.refused = None  # the store was rolled back to the loaded bundle
        return version != loaded and (self.refused is None or self.refused.version != version)
