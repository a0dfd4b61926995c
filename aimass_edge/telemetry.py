"""Metrics of the agent, sent to the cloud now and then. They may be lost: the next ones say the same and more."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from aimass.errors import OverloadError, TransportError, WireError
from aimass.transport.base import Transport
from aimass.wire.topics import telemetry as topic_of

NAME = "metrics"
_log = logging.getLogger(__name__)


class ProcessMeter:
    """CPU and memory of this process. The CPU figure is the mean since the last look: one meter for each user."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent(None)

    def read(self) -> dict[str, Any]:
        """What the process uses now."""
        return {
            "cpu_percent": self._process.cpu_percent(None),
            "rss_bytes": self._process.memory_info().rss,
            "threads": self._process.num_threads(),
        }


def metrics_of(status: Mapping[str, Any], process: Mapping[str, Any], *, at_s: float) -> dict[str, Any]:
    """What is sent, out of the agent's status: enough to see load, latency, losses and what is running out.

    Args:
        status: of the party.
        process: what `ProcessMeter.read` said.
        at_s: unix time.
    """
    measured = status["metrics"]
    counts = [one["count"] for one in measured["models"].values()]
    offloaded = measured.get("offloaded", 0)
    return {
        "at_ms": round(at_s * 1000),
        "boot": status["boot"],
        "uptime_s": round(at_s - status["started_at_ms"] / 1000, 1),
        **process,
        "models": measured["models"],
        "offload_share": round(offloaded / max(1, sum(counts)), 4),
        "fallbacks": measured.get("fallbacks", 0),
        "drops": measured.get("drops", {}),
        "breaker": status["offload"]["breaker"],
        "outbox_pending": status["outbox"]["pending"],
        "certificate_days_left": status["certificate"]["days_left"],
    }


class Telemetry:
    """Sends metrics every period, on a thread of its own.

    Args:
        transport: the link.
        read: gives what is to be sent.
        period_s: how often.
    """

    def __init__(self, transport: Transport, read: Callable[[], Mapping[str, Any]], period_s: float) -> None:
        self._transport, self._read, self._period_s = transport, read, period_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.sent = 0
        self.skipped = 0

    def start(self) -> None:
        """Begins, unless the period is 0."""
        if self._period_s > 0 and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aimass-telemetry", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def step(self) -> bool:
        """Sends once; False when there is no link: metrics are not kept for later."""
        if not self._transport.connected:
            self.skipped += 1
            return False
        payload = json.dumps(self._read(), separators=(",", ":")).encode()
        try:
            self._transport.publish(topic_of(self._transport.identity, NAME), payload, qos=0)
        except (TransportError, OverloadError, WireError) as exc:
            self.skipped += 1
            _log.debug("metrics not sent: %s", exc)
            return False
        self.sent += 1
        return True

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self.step()
            except Exception:  # noqa: BLE001 - see below
                # A figure that cannot be read must not silence the agent for ever; it is logged and tried again.
                _log.exception("telemetry failed")
