"""Counts and percentiles, cheap enough to be always on.

A model's numbers lie behind one small lock that is held for a few additions; percentiles come from the last 1,024
durations and are sorted only when somebody asks.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from typing import Any

from aimass.errors import AimassError, CancelledError, DeadlineError, OverloadError
from aimass.runtime.answer import Answer

_RING = 1024
_DROPS = (OverloadError, DeadlineError, CancelledError)


class ModelMetrics:
    """What happened to the requests of one model."""

    __slots__ = ("_at", "_durations_ms", "_errors", "_late", "_lock", "_served_by", "count")

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._durations_ms = array("d")
        self._at = 0
        self._late = 0
        self._errors: Counter[str] = Counter()
        self._served_by: dict[str, int] = {}

    def served(self, served_by: str, total_ms: float, late: bool) -> None:
        """One answer was given."""
        with self._lock:
            self.count += 1
            if late:
                self._late += 1
            self._served_by[served_by] = self._served_by.get(served_by, 0) + 1
            if len(self._durations_ms) < _RING:
                self._durations_ms.append(total_ms)
            else:
                self._durations_ms[self._at] = total_ms
                self._at = (self._at + 1) % _RING

    def failed(self, code: str) -> None:
        """One request ended in an error."""
        with self._lock:
            self.count += 1
            self._errors[code] += 1

    def snapshot(self) -> dict[str, Any]:
        """The numbers as plain values."""
        with self._lock:
            durations = sorted(self._durations_ms)
            out: dict[str, Any] = {
                "count": self.count,
                "errors": dict(self._errors),
                "served_by": dict(self._served_by),
                "late": self._late,
            }
        for percent in (50, 95, 99):
            out[f"p{percent}_ms"] = _percentile(durations, percent)
        return out


class Metrics:
    """Everything one runtime counts.

    A *drop* is a request that was not answered though nothing was wrong with it: refused as overload, expired, taken
    back. A *fallback* is an answer of the device where the cloud was wanted and did not answer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, ModelMetrics] = {}
        self._drops: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    def model(self, name: str) -> ModelMetrics:
        """The numbers of a model, made on first use; only for models that exist, as names come from outside."""
        found = self._models.get(name)
        if found is None:
            with self._lock:
                found = self._models.setdefault(name, ModelMetrics())
        return found

    def answered(self, answer: Answer) -> None:
        """One answer was given, by device or cloud."""
        self.model(answer.model).served(answer.served_by, answer.timings_ms["total"], answer.late)

    def failed(self, model: str, error: AimassError) -> None:
        """One request ended in an error. A name that no model here has is not remembered: it came from outside."""
        known = self._models.get(model)
        if known is not None:
            known.failed(error.code)
        if known is None or isinstance(error, _DROPS):
            self.drop(error.code)

    def drop(self, reason: str) -> None:
        """A sound request was not answered."""
        with self._lock:
            self._drops[reason] += 1

    def add(self, what: str) -> None:
        """One more of something that is not a model's: ``fallbacks``, ``offloaded``, ``swaps``, ``batches``, ..."""
        with self._lock:
            self._counts[what] += 1

    def snapshot(self) -> dict[str, Any]:
        """All numbers as plain values, for telemetry, ``/metrics`` and status."""
        with self._lock:
            models = dict(self._models)
            drops = dict(self._drops)
            counts = dict(self._counts)
        return {
            "models": {name: model.snapshot() for name, model in models.items()},
            "drops": drops,
            "fallbacks": 0,
            "offloaded": 0,
            **counts,
        }


def _percentile(ordered: list[float], percent: int) -> float:
    """Nearest rank; 0 while nothing was measured."""
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 4)
