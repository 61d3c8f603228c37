"""What the service counts, for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from dagrec.errors import RequestError, StoreError
from dagrec.recommend.answers import Answer, Answers
from dagrec_service.holder import Holder

if TYPE_CHECKING:
    from collections.abc import Sequence

BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds."""
logging.getLogger("prometheus_client").setLevel(logging.WARNING)


class Metrics:
    """Counters of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "dagrec_requests", "Requests", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "dagrec_request_seconds",
            "Time to the answer",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._answers = Counter(
            "dagrec_answers", "Answers of models", ("model", "strategy", "mask"), registry=self.registry
        )
        self._mask_fallbacks = Counter(
            "dagrec_mask_fallbacks",
            "Answers for which the mask let every service through: nothing ever followed, or unknown",
            registry=self.registry,
        )
        self._unknown = Counter(
            "dagrec_unknown_nodes",
            "Nodes in answered contexts that training never saw",
            registry=self.registry,
        )
        self._refused = Counter(
            "dagrec_unanswered",
            "Requests of batches that could not be answered",
            registry=self.registry,
        )
        self.active = 0
        active = Gauge("dagrec_active_requests", "Requests being answered", registry=self.registry)
        active.set_function(lambda: self.active)
        self.feedback = Counter(
            "dagrec_feedback", "Feedback written", ("action",), registry=self.registry
        )
        self._of_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._of_answer: dict[tuple[str, str, str], Counter] = {}
        ProcessCollector(registry=self.registry)

    def watch(self, holder: Holder) -> None:
        """Tell of what is live, too."""
        self.registry.register(_Live(holder))

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request."""
        key = route, method, status
        # Looking labels up costs more than counting.
        found = self._of_request.get(key)
        if found is None:
            found = self._requests.labels(route, method, str(status)), self._seconds.labels(route)
            self._of_request[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def answered(self, found: Sequence[Answer | Answers | RequestError]) -> None:
        """The answers of one request."""
        for each in found:
            if isinstance(each, RequestError):
                self._refused.inc()
                continue
            for answer in each.answers if isinstance(each, Answers) else (each,):
                key = answer.model, answer.strategy, answer.mask
                counter = self._of_answer.get(key)
                if counter is None:
                    counter = self._of_answer[key] = self._answers.labels(*key)
                counter.inc()
                if answer.unknown:
                    self._unknown.inc(len(answer.unknown))
                if answer.mask_fallback:
                    self._mask_fallbacks.inc()

    def text(self) -> tuple[bytes, str]:
        """What Prometheus reads, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Live(Collector):
    """What the holder knows, looked up when it is asked for."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder

    def collect(self) -> Iterable[Metric]:
        holder = self._holder
        yield from _counters(
            ("dagrec_bundle_swaps", "Bundles that took another's place", holder.swaps),
            ("dagrec_bundle_refusals", "Bundles that were refused", holder.refusals),
        )
        yield GaugeMetricFamily(
            "dagrec_bundle_refused",
            "1 while the store's live bundle is refused",
            float(holder.refused is not None),
        )
        try:
            predictor = holder.predictor
        except StoreError:
            return
        info = GaugeMetricFamily(
            "dagrec_bundle", "The bundle that answers", labels=("version", "champion")
        )
        info.add_metric((predictor.bundle.version, predictor.bundle.manifest.champion), 1.0)
        yield info
        yield from _counters(
            ("dagrec_cache_hits", "Contexts found among those remembered", predictor.hits),
            ("dagrec_cache_misses", "Contexts not found there", predictor.misses),
        )


def _counters(*values: tuple[str, str, int]) -> Iterator[Metric]:
    for name, about, value in values:
        yield CounterMetricFamily(name, about, float(value))
