"""What the cloud sends to devices on its own account: desired documents, and the clearing of what removed ones left.

Nobody waits for the broker here. What is to be sent is kept by topic - a newer document replaces an older one that is
still waiting - and a thread sends it, a bounded number at a time; what a lost link swallowed is sent again when it is
back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from aimass.errors import AimassError, NobodyListensError, OverloadError, TransportError
from aimass.transport.base import Receipt, Transport
from aimass.wire import topics

log = logging.getLogger(__name__)

WINDOW = 100
"""Messages on their way at once; a tenth of what the transport allows, the rest is for acknowledgements."""
RECEIPT_TIMEOUT_S = 10.0
PAUSE_S = 0.2
MAX_PAUSE_S = 30.0


class FleetOutlet:
    """Sends retained messages. Fulfils :class:`aimass_cloud.usecases.base.Outlet`.

    Args:
        transport: the link, identity ``svc:control``.
        on_link_up: work for each new link, on this thread: repairing identities, announcing all documents. What it
            raises of our errors is tried again.
    """

    def __init__(self, transport: Transport, *, on_link_up: Callable[[], None]) -> None:
        self._transport = transport
        self._on_link_up = on_link_up
        self._waiting: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._is_new_link = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="fleet-outlet", daemon=True)
        transport.on_link(self._link_changed)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def close(self) -> None:
        """Stop; what waits is sent by the next run of the cloud."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def announce(self, identity: str, envelope: bytes) -> None:
        """Publish this desired document, retained."""
        self._send_later({topics.desired(identity): envelope})

    def clear(self, identity: str) -> None:
        """Remove what a removed identity left retained."""
        left = (topics.desired(identity), topics.state(identity), topics.reported(identity))
        self._send_later(dict.fromkeys(left, b""))

    @property
    def waiting(self) -> int:
        """Messages that wait to be sent."""
        with self._changed:
            return len(self._waiting)

    def _send_later(self, messages: dict[str, bytes]) -> None:
        with self._changed:
            self._waiting.update(messages)
            self._changed.notify_all()

    def _link_changed(self, up: bool) -> None:  # on the network thread: only a sign to ours
        if up:
            with self._changed:
                self._is_new_link = True
                self._changed.notify_all()

    def _run(self) -> None:
        pause_s = PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._is_new_link or self._has_work())
                if self._closed:
                    return
                is_new_link, self._is_new_link = self._is_new_link, False
            try:
                if is_new_link:
                    self._on_link_up()
                self._send_some()
                pause_s = PAUSE_S
            except Exception as exc:  # the thread must go on: without it no device hears of a deployment any more
                if not isinstance(exc, AimassError):
                    log.exception("sending to the fleet failed")
                else:
                    log.warning("sending to the fleet failed, trying again: %s", exc)
                self._put_off(is_new_link, pause_s)
                pause_s = min(MAX_PAUSE_S, pause_s * 2)

    def _has_work(self) -> bool:
        return bool(self._waiting) and self._transport.connected

    def _put_off(self, is_new_link: bool, pause_s: float) -> None:
        with self._changed:
            self._is_new_link = self._is_new_link or is_new_link
            self._changed.wait_for(lambda: self._closed, pause_s)

    def _send_some(self) -> None:
        with self._changed:
            batch = dict(list(self._waiting.items())[:WINDOW])
        receipts: dict[str, Receipt] = {}
        for topic, payload in batch.items():
            try:
                receipts[topic] = self._transport.publish(topic, payload, qos=1, retain=True)
            except OverloadError:
                break
            except TransportError as exc:
                log.debug("%s waits for the link: %s", topic, exc)
                break
        deadline = time.monotonic() + RECEIPT_TIMEOUT_S
        for topic, receipt in receipts.items():
            self._settle(topic, batch[topic], receipt, deadline)
        if not receipts:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, PAUSE_S)

    def _settle(self, topic: str, payload: bytes, receipt: Receipt, deadline: float) -> None:
        try:
            receipt.wait(max(0.0, deadline - time.monotonic()))
        except NobodyListensError:
            pass  # the device is away; the broker keeps the message for it
        except AimassError as exc:
            if exc.retryable or not isinstance(exc, TransportError):
                return  # it stays waiting
            log.error("the broker refused %s: %s", topic, exc)  # noqa: TRY400  the message says it all
        with self._changed:
            if self._waiting.get(topic) == payload:
                del self._waiting[topic]
