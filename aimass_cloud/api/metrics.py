"""Numbers for Prometheus: requests counted here, everything else read from where it is kept when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Gauges = Callable[[], Mapping[str, Mapping[str, float]]]

BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 2, 10, 60)


class ApiMetrics:
    """One registry for each app, so that several can live in one process (tests do that).

    Args:
        gauges: name to (value of its one label to number); ``name/label`` names that label, a plain number has the
            value "". Names that end in ``_total`` are counters.
    """

    def __init__(self, gauges: Gauges) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "aimass_http_requests",
            "Requests by route and status",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "aimass_http_request_seconds",
            "Time to answer, by route",
            ["route"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(_Gauges(gauges))

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


class _Gauges(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for name, values in self._gauges().items():
            metric, _, label = name.partition("/")
            labels = [label] if label else []
            kind = CounterMetricFamily if metric.endswith("_total") else GaugeMetricFamily
            family = kind(f"aimass_{metric}", metric.replace("_", " "), labels=labels)
            for key, value in values.items():
                family.add_metric([key] if label else [], value)
            yield family

    def describe(self) -> Iterator[Metric]:
        return iter(())  # asked for at registration, when nothing can be read yet
