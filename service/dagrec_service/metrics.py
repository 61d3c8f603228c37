"""Prometheus metrics of the service."""

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
"""Upper bounds in seconds."""
logging.getLogger("prometheus_client").setLevel(logging.WARNING)


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "dagrec_requests", "Requests", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "dagrec_request_seconds",
            "Time to respond to a request",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._answers = Counter(
            "dagrec_answers",
            "Answers by model, strategy and mask",
            ("model", "strategy", "mask"),
            registry=self.registry,
        )
        self._mask_fallbacks = Counter(
            "dagrec_mask_fallbacks",
            "Answers for which the mask allowed all services, after a terminal or unknown node",
            registry=self.registry,
        )
        self._unknown = Counter(
            "dagrec_unknown_nodes",
            "Nodes in answered contexts that are not in the training data",
            registry=self.registry,
        )
        self._unanswered = Counter(
            "dagrec_unanswered",
            "Requests in batches that could not be answered",
            registry=self.registry,
        )
        self.active = 0
        active = Gauge("dagrec_active_requests", "Requests in progress", registry=self.registry)
        active.set_function(lambda: self.active)
        self.feedback = Counter(
            "dagrec_feedback", "Feedback reports written", ("action",), registry=self.registry
        )
        # Caches of labelled metrics: looking up labels takes longer than counting.
        self._request_metrics: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._answer_counters: dict[tuple[str, str, str], Counter] = {}
        ProcessCollector(registry=self.registry)

    def add_holder(self, holder: Holder) -> None:
        """Expose metrics of the live bundle as well."""
        self.registry.register(_BundleCollector(holder))

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request and its duration."""
        key = route, method, status
        metrics = self._request_metrics.get(key)
        if metrics is None:
            metrics = self._requests.labels(route, method, str(status)), self._seconds.labels(route)
            self._request_metrics[key] = metrics
        metrics[0].inc()
        metrics[1].observe(seconds)

    def count_answers(self, results: Sequence[Answer | Answers | RequestError]) -> None:
        """Count the answers to a request."""
        for result in results:
            if isinstance(result, RequestError):
                self._unanswered.inc()
                continue
            for answer in result.answers if isinstance(result, Answers) else (result,):
                key = answer.model, answer.strategy, answer.mask
                counter = self._answer_counters.get(key)
                if counter is None:
                    counter = self._answer_counters[key] = self._answers.labels(*key)
                counter.inc()
                if answer.unknown:
                    self._unknown.inc(len(answer.unknown))
                if answer.mask_fallback:
                    self._mask_fallbacks.inc()

    def exposition(self) -> tuple[bytes, str]:
        """Return the metrics in Prometheus' text format, and the content type of it."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _BundleCollector(Collector):
    """Reads the metrics of the live bundle from the holder when they are collected."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder

    def collect(self) -> Iterable[Metric]:
        holder = self._holder
        yield from _counters(
            ("dagrec_bundle_swaps", "Bundles that replaced another bundle", holder.swaps),
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
        info = GaugeMetricFamily("dagrec_bundle", "The live bundle", labels=("version", "champion"))
        info.add_metric((predictor.bundle.version, predictor.bundle.manifest.champion), 1.0)
        yield info
        yield from _counters(
            ("dagrec_cache_hits", "Contexts found in the cache", predictor.hits),
            ("dagrec_cache_misses", "Contexts not found in the cache", predictor.misses),
        )


def _counters(*values: tuple[str, str, int]) -> Iterator[Metric]:
    for name, description, value in values:
        yield CounterMetricFamily(name, description, float(value))
