"""Which handler gets which message. Shared by all transports; knows nothing of the network."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from aimass.transport.base import Handler, Message

log = logging.getLogger(__name__)

REFUSED_FROM = 0x80
"""SUBACK reason codes from here on are refusals (MQTT 5, 3.9.3)."""


def without_share(topic_filter: str) -> str:
    """The filter that topics are matched with: ``$share/{group}/`` is addressed to the broker only."""
    return topic_filter.split("/", 2)[2] if topic_filter.startswith("$share/") else topic_filter


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic matches a filter (MQTT 5, 4.7). Linear in the length of both."""
    pattern = topic_filter.split("/")
    levels = topic.split("/")
    if topic.startswith("$") and pattern[0] in ("+", "#"):
        return False
    for i, part in enumerate(pattern):
        if part == "#":
            return True
        if i >= len(levels) or part not in ("+", levels[i]):
            return False
    return len(pattern) == len(levels)


@dataclass(frozen=True, slots=True)
class Subscription:
    """One remembered subscription."""

    topic_filter: str
    handler: Handler
    qos: int

    @property
    def is_exact(self) -> bool:
        """Whether the filter names one topic."""
        return not any(part in ("+", "#") for part in self.topic_filter.split("/"))


class Subscriptions:
    """The remembered subscriptions, what the broker said to them, and the delivery to handlers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: dict[str, Subscription] = {}
        self._exact: Mapping[str, Subscription] = {}
        self._patterns: tuple[tuple[str, Subscription], ...] = ()
        self._refusals: dict[str, int] = {}
        self.counts: Counter[str] = Counter()

    def add(self, topic_filter: str, handler: Handler, qos: int) -> Subscription:
        """Remember one; replaces an earlier one with the same filter."""
        subscription = Subscription(topic_filter, handler, qos)
        with self._lock:
            self._all[topic_filter] = subscription
            self._index()
        return subscription

    def remove(self, topic_filter: str) -> None:
        """Forget one; unknown ones are ignored."""
        with self._lock:
            self._all.pop(topic_filter, None)
            self._refusals.pop(topic_filter, None)
            self._index()

    def all(self) -> list[Subscription]:
        """Every remembered subscription, oldest first."""
        with self._lock:
            return list(self._all.values())

    def answered(self, topic_filter: str, reason_code: int) -> None:
        """Note what the broker said to one filter."""
        with self._lock:
            if reason_code < REFUSED_FROM:
                self._refusals.pop(topic_filter, None)
                return
            self._refusals[topic_filter] = reason_code
        log.warning("the broker refused the subscription %s (reason 0x%02x)", topic_filter, reason_code)

    def refusals(self) -> Mapping[str, int]:
        """Filters that the broker refused."""
        with self._lock:
            return dict(self._refusals)

    def deliver(self, message: Message) -> None:
        """Hand a message to its handlers; what they raise is logged and counted."""
        self.counts["received"] += 1
        exact = self._exact.get(message.topic)
        if exact is not None:
            self._call(exact, message)
        matched = exact is not None
        for pattern, subscription in self._patterns:
            if topic_matches(pattern, message.topic):
                matched = True
                self._call(subscription, message)
        if not matched:
            self.counts["unmatched"] += 1
            log.debug("no handler for a message on %s", message.topic)

    def _call(self, subscription: Subscription, message: Message) -> None:
        try:
            subscription.handler(message)
        except Exception:  # a handler's fault must not take the link down
            self.counts["handler_errors"] += 1
            log.exception("the handler of %s failed", subscription.topic_filter)

    def _index(self) -> None:
        # New objects, never changed in place: deliver() reads them without the lock.
        self._exact = {without_share(s.topic_filter): s for s in self._all.values() if s.is_exact}
        self._patterns = tuple((without_share(s.topic_filter), s) for s in self._all.values() if not s.is_exact)
