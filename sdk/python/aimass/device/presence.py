"""Tells the cloud that this party is there: birth, heartbeat, farewell, and the will for the day it cannot.

A hint only: the cloud computes a device's state from the age of its evidence. The boot id ties the four together, so
that the will of a process that died is not taken for news of its successor.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from aimass.errors import AimassError
from aimass.transport.base import Transport, Will
from aimass.wire import topics

log = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
_RETRY_S = 1.0


def new_boot_id() -> str:
    """Names one run of one process."""
    return secrets.token_hex(8)


def presence_will(cn: str, boot: str, version: str, started_at_s: float, *, heartbeat_s: float = HEARTBEAT_S) -> Will:
    """What the broker shall say when we are gone without a word."""
    return Will(topics.state(cn), _state("lost", boot, version, started_at_s, heartbeat_s))


class Presence:
    """Publishes birth and heartbeats in a thread of its own.

    Args:
        transport: the link; its will is :func:`presence_will` with the same boot id.
        boot: of this run.
        version: of the program.
        heartbeat_s: how often to be heard.
        now: Unix time in seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        transport: Transport,
        boot: str,
        version: str,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._boot, self._version, self._heartbeat_s = boot, version, heartbeat_s
        self._now, self._clock = now, clock
        self._wake = threading.Event()
        self._birth_is_due = False
        self._is_closed = False
        self._beats = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin: a birth at each link-up, heartbeats while the link is up."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="aimass-presence", daemon=True)
        self._thread.start()
        self._transport.on_link(self._link_changed)

    def close(self) -> None:
        """Stop. The farewell is the transport's last message: ``transport.close(farewell=presence.farewell())``."""
        self._is_closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def farewell(self) -> tuple[str, bytes]:
        """Topic and payload of the message that says we go on purpose."""
        return topics.state(self._transport.identity), self._payload("offline")

    def _link_changed(self, is_up: bool) -> None:  # on the network thread: only a sign to ours
        if is_up:
            self._birth_is_due = True
            self._wake.set()

    def _run(self) -> None:
        beat_at = self._clock() + self._heartbeat_s
        while True:
            wait_s = beat_at - self._clock()
            self._wake.wait(max(0.0, min(wait_s, _RETRY_S) if self._birth_is_due else wait_s))
            self._wake.clear()
            if self._is_closed:
                return
            if self._birth_is_due:
                self._birth()
            if self._clock() >= beat_at:
                beat_at = self._clock() + self._heartbeat_s
                self._beat()

    def _birth(self) -> None:
        self._birth_is_due = False
        topic = topics.state(self._transport.identity)
        # Without a link the next link-up makes it due again; anything else is tried again in a moment.
        if not self._publish(topic, self._payload("online"), qos=1, retain=True) and self._transport.connected:
            self._birth_is_due = True

    def _beat(self) -> None:
        self._beats += 1
        payload = json.dumps({"boot": self._boot, "n": self._beats}).encode()
        if self._transport.connected:
            self._publish(topics.telemetry(self._transport.identity, "heartbeat"), payload, qos=0, retain=False)

    def _publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        try:
            self._transport.publish(topic, payload, qos=qos, retain=retain)
        except AimassError as exc:
            log.debug("presence was not published: %s", exc)
            return False
        return True

    def _payload(self, state: str) -> bytes:
        return _state(state, self._boot, self._version, self._now(), self._heartbeat_s)


def _state(state: str, boot: str, version: str, at_s: float, heartbeat_s: float) -> bytes:
    body: dict[str, Any] = {
        "state": state,
        "boot": boot,
        "version": version,
        "at_ms": round(at_s * 1000),
        "heartbeat_s": heartbeat_s,
    }
    return json.dumps(body).encode()
