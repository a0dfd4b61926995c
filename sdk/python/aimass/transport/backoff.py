"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Doubling pauses with jitter, so that a thousand devices do not come back in the same second.

    Args:
        first_s: the first pause.
        max_s: the longest pause.
        stable_s: a link that lived this long starts the count again; one that dies young does not, or two processes
            with the same identity would kick each other out as fast as the network allows.
        chance: uniform number in [0, 1).
    """

    def __init__(
        self,
        first_s: float = 0.2,
        max_s: float = 10.0,
        stable_s: float = 5.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._stable_s = stable_s
        self._chance = chance
        self._attempt = 0

    def next_s(self) -> float:
        """The pause before the next attempt: between half and the whole of the doubled value."""
        whole_s = min(self._max_s, self._first_s * 2.0 ** min(self._attempt, 30))
        self._attempt += 1
        return whole_s * (0.5 + 0.5 * self._chance())

    def link_lived(self, lifetime_s: float) -> None:
        """Tell how long the link that was just lost had been up."""
        if lifetime_s >= self._stable_s:
            self._attempt = 0
