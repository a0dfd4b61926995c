"""Counts of the statistics extension: what went through the doors, by model and version, since the process began.

The runtime's own metrics (percentiles, batches, fallbacks) are wider; these are the sums that clients of the protocol
ask for. Times that this runtime does not tell apart (copying inputs and outputs) are part of `compute_infer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aimass.runtime.answer import Answer
from aimass.runtime.models import ModelInfo

Clock = Callable[[], float]


class Counts:
    """The sums of one model version."""

    __slots__ = ("compute_ms", "fail_ms", "failures", "last_s", "queue_ms", "success_ms", "successes")

    def __init__(self) -> None:
        self.successes = self.failures = 0
        self.success_ms = self.queue_ms = self.compute_ms = self.fail_ms = self.last_s = 0.0


class Statistics:
    """For one event loop; nothing is locked.

    Args:
        wall_clock: seconds since 1970.
    """

    def __init__(self, wall_clock: Clock = time.time) -> None:
        self._wall_clock = wall_clock
        self._counts: dict[tuple[str, str], Counts] = {}

    def succeeded(self, answer: Answer) -> None:
        """An answer was given."""
        counts = self._counts.get((answer.model, answer.version)) or self._of(answer.model, answer.version)
        spent = answer.timings_ms.get
        counts.successes += 1
        counts.success_ms += spent("total", 0.0)
        counts.queue_ms += spent("queue", 0.0)
        counts.compute_ms += spent("compute", 0.0)
        counts.last_s = self._wall_clock()

    def failed(self, info: ModelInfo, duration_s: float) -> None:
        """A request to a model that is here was refused or failed."""
        counts = self._of(info.name, str(info.version))
        counts.failures += 1
        counts.fail_ms += duration_s * 1e3

    def of(self, info: ModelInfo) -> dict[str, Any]:
        """The entry of one version."""
        counts = self._counts.get((info.name, str(info.version))) or Counts()
        spent = {"count": counts.successes}
        none = {"count": 0, "ns": 0}
        return {
            "name": info.name,
            "version": str(info.version),
            "last_inference": int(counts.last_s * 1000),
            "inference_count": counts.successes,
            "execution_count": counts.successes,
            "inference_stats": {
                "success": {**spent, "ns": round(counts.success_ms * 1e6)},
                "fail": {"count": counts.failures, "ns": round(counts.fail_ms * 1e6)},
                "queue": {**spent, "ns": round(counts.queue_ms * 1e6)},
                "compute_input": none,
                "compute_infer": {**spent, "ns": round(counts.compute_ms * 1e6)},
                "compute_output": none,
                "cache_hit": none,
                "cache_miss": none,
            },
            "batch_stats": [],
        }

    def _of(self, name: str, version: str) -> Counts:
        counts = self._counts.get((name, version))
        if counts is None:
            counts = self._counts[name, version] = Counts()
        return counts
