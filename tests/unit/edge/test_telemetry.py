"""What the agent measures of itself and sends."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from aimass.errors import LinkDownError
from aimass_edge.telemetry import ProcessMeter, Telemetry, metrics_of

STATUS: dict[str, Any] = {
    "boot": "b",
    "started_at_ms": 1_000_000,
    "metrics": {
        "models": {"a": {"count": 3, "p50_ms": 1.0}, "b": {"count": 1, "p50_ms": 2.0}},
        "drops": {"overload": 2},
        "fallbacks": 1,
        "offloaded": 2,
    },
    "offload": {"breaker": "closed"},
    "outbox": {"pending": 5},
    "certificate": {"days_left": 12.5},
}


class FakeTransport:
    """Keeps what is published."""

    identity = "gw-1"

    def __init__(self) -> None:
        self.connected = True
        self.breaks = False
        self.published: list[tuple[str, dict[str, Any], int]] = []
        self.heard = threading.Event()

    def publish(self, topic: str, payload: bytes, *, qos: int = 0) -> None:
        if self.breaks:
            raise LinkDownError("gone in this moment")
        self.published.append((topic, json.loads(payload), qos))
        self.heard.set()


def test_the_payload_tells_load_latency_losses_and_what_runs_out() -> None:
    payload = metrics_of(STATUS, {"cpu_percent": 3.0, "rss_bytes": 7}, at_s=1060.0)
    assert payload["uptime_s"] == 60
    assert payload["offload_share"] == 0.5
    assert payload["models"]["a"]["p50_ms"] == 1.0
    for key, value in {
        "cpu_percent": 3.0, "rss_bytes": 7, "fallbacks": 1, "drops": {"overload": 2}, "breaker": "closed",
        "outbox_pending": 5, "certificate_days_left": 12.5,
    }.items():  # fmt: skip
        assert payload[key] == value


def test_a_quiet_gateway_has_an_offload_share_of_zero() -> None:
    quiet = {**STATUS, "metrics": {"models": {}}}
    assert metrics_of(quiet, {}, at_s=1.0)["offload_share"] == 0


def test_the_meter_reads_this_process() -> None:
    read = ProcessMeter().read()
    assert read["rss_bytes"] > 1_000_000
    assert read["cpu_percent"] >= 0


def test_one_step_publishes_losably() -> None:
    transport = FakeTransport()
    telemetry = Telemetry(transport, lambda: {"x": 1}, 60)  # type: ignore[arg-type]
    assert telemetry.step()
    assert transport.published == [("aimass/v1/d/gw-1/tele/metrics", {"x": 1}, 0)]


@pytest.mark.parametrize("breaks", [False, True])
def test_without_a_link_metrics_are_skipped_and_counted(breaks: bool) -> None:
    transport = FakeTransport()
    transport.connected, transport.breaks = breaks, breaks
    telemetry = Telemetry(transport, dict, 60)  # type: ignore[arg-type]
    assert not telemetry.step()
    assert (telemetry.sent, telemetry.skipped) == (0, 1)


def test_a_figure_that_cannot_be_read_does_not_end_it() -> None:
    transport, first = FakeTransport(), [True]

    def read() -> dict[str, Any]:
        if first.pop() if first else False:
            raise ZeroDivisionError
        return {}

    telemetry = Telemetry(transport, read, 0.01)  # type: ignore[arg-type]
    telemetry.start()
    try:
        assert transport.heard.wait(5)
    finally:
        telemetry.close()


def test_a_period_of_zero_starts_nothing() -> None:
    telemetry = Telemetry(FakeTransport(), dict, 0)  # type: ignore[arg-type]
    before = threading.active_count()
    telemetry.start()
    assert threading.active_count() == before
    telemetry.close()
