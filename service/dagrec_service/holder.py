"""The one reference to what is live, and how another bundle takes its place."""

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
    """A bundle that was not taken: its version, why, and when (ISO 8601)."""

    version: str
    why: str
    at: str


class Holder:
    """Loads the store's live bundle, and has it answer before anybody else is answered from it.

    ``cache``: contexts whose answers a predictor keeps. ``swaps`` and ``refusals`` count bundles;
    ``refused`` is the newest refusal where the store's live bundle is not the held one. ``taken`` is
    called whenever a bundle was taken.
    """

    def __init__(self, store: Path, *, cache: int = 0, taken: Callable[[], None] | None = None) -> None:
        self.store = Store(store)
        self._taken = taken
        self.swaps = self.refusals = 0
        self.refused: Refusal | None = None
        self._cache = cache
        self._predictor: Predictor | None = None
        self._loading = Lock()
        self._checked: tuple[Predictor | None, float] = None, 0.0

    @property
    def predictor(self) -> Predictor:
        """What answers from the live bundle. Raises :class:`StoreError` before :meth:`load`."""
        if self._predictor is None:
            raise StoreError(f"{self.store.root}: a bundle must be loaded, found none yet; try later")
        return self._predictor

    @property
    def bundle(self) -> Bundle:
        """The live bundle. Raises :class:`StoreError` before :meth:`load` has succeeded."""
        return self.predictor.bundle

    def check(self) -> Bundle:
        """The live bundle, whose champion has answered canned contexts within the last second.

        Not at every call: whoever asks for health has no key, and some champions take a while.
        Raises what :func:`self_check` does, and :class:`StoreError` before :meth:`load`.
        """
        predictor, now = self.predictor, time.monotonic()
        if self._checked[0] is not predictor or now - self._checked[1] > 1:
            self_check(predictor.bundle, [predictor.bundle.manifest.champion])
            self._checked = predictor, now
        return predictor.bundle

    def load(self) -> str:
        """Take the store's live bundle where it is another one than the held one; returns its version.

        It is loaded and checked whole before it is taken; requests go on meanwhile, and those that have
        begun finish with the old one. Where it is refused the old one stays: :class:`StoreError`.
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
                    if self._taken:
                        self._taken()
                    log.info("bundle %s is live", version)
            except Exception as error:  # whatever is wrong with it, it must not stop what is live
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
        """Look for a newly published bundle, again and again; a refused one is not tried twice."""
        while True:
            await asyncio.sleep(seconds)
            if self._is_new():
                with contextlib.suppress(StoreError):
                    await asyncio.to_thread(self.load)

    def _is_new(self) -> bool:
        try:
            version = self.store.current()
        except StoreError:
            version = ""
        held = "" if self._predictor is None else self.bundle.version
        if version == held:
            self.refused = None  # the store went back to what is held
        return version != held and (self.refused is None or self.refused.version != version)
