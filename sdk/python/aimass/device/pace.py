"""Bulk work takes a share of one core and no more, so that requests find a free one.

Carrying a model of 200 MB - decrypting, digesting, writing - is pure processor work, at a rate that keeps two cores
busy on a quick network. Whoever is woken by a request then waits for a core at every hop of its way: on two cores the
99th percentile of offloaded requests became 2.5 times as long. Resting after each piece for twice the time that it
took makes it 1.3 times, for an upload that takes 3 s instead of 2. Lower priorities for the threads did not help:
Linux lets a thread finish its slice whatever its priority, and the next hop waits again.

A slow network is not slowed down further: what counts is processor time, and data goes on arriving while we rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable

DEFAULT_SHARE = 1 / 3
MAX_REST_S = 0.1


class Pace:
    """How long the calling thread should rest for what it has done.

    Args:
        share: of a core, above 0; 1 never rests.
        clock: processor seconds of the calling thread.
    """

    def __init__(self, share: float = DEFAULT_SHARE, clock: Callable[[], float] = time.thread_time) -> None:
        self._rest_per_work = 1 / share - 1
        self._clock = clock
        self._since = clock()

    def rest_s(self, others_s: float = 0.0) -> float:
        """Seconds to rest for the work since the last call.

        Args:
            others_s: processor seconds that another thread has spent for us meanwhile.
        """
        now = self._clock()
        used_s, self._since = now - self._since + others_s, now
        return min(used_s * self._rest_per_work, MAX_REST_S)
