"""How long a run takes, learned from the runs before."""

from __future__ import annotations

#: Weight of the newest run. 0.3 follows a throttling device within about five runs (research/split-computing.md 2.6).
_WEIGHT = 0.3

#: Mean plus this many mean absolute deviations. For a normal spread p95 is mean + 2.06 of them; run times have longer
#: tails.
_SPREADS = 3.0


class LatencyEstimate:
    """Exponentially weighted mean and mean absolute deviation, from which a 95th percentile is guessed.

    Written by one thread at a time (its owner's lock), read by any: both numbers are single attributes, and an estimate
    that is one run old is as good.

    Args:
        first_s: what to believe before anything was measured; ``None`` when nothing is known.
    """

    __slots__ = ("_deviation_s", "_mean_s", "count")

    def __init__(self, first_s: float | None = None) -> None:
        self.count = 0
        self._mean_s = 0.0
        self._deviation_s = 0.0
        if first_s is not None:
            self.add(first_s)

    def add(self, seconds: float) -> None:
        """Learn from one run."""
        if not self.count:
            self._mean_s = seconds
            self._deviation_s = seconds / 4  # one run says little about the spread
        else:
            off = seconds - self._mean_s
            self._mean_s += _WEIGHT * off
            self._deviation_s += _WEIGHT * (abs(off) - self._deviation_s)
        self.count += 1

    @property
    def mean_s(self) -> float:
        """Expected duration; 0 while nothing is known."""
        return self._mean_s

    @property
    def p95_s(self) -> float:
        """Duration that about 19 of 20 runs stay under; 0 while nothing is known."""
        return self._mean_s + _SPREADS * self._deviation_s
