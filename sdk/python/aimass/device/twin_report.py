"""Tells the cloud how this party stands: the ``reported`` half of the twin."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from aimass.errors import AimassError, LinkDownError
from aimass.transport.base import Transport
from aimass.wire import topics

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class Reporter:
    """Publishes a retained document at each link-up and after each change, the newest state only.

    A thread of its own: the network thread and the one that installs models only leave a sign, so neither waits for
    the other.

    Args:
        transport: the link.
        document: makes the document as it is now.
    """

    def __init__(self, transport: Transport, document: Callable[[], bytes]) -> None:
        self._transport = transport
        self._document = document
        self._wake = threading.Event()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to report."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aimass-report", daemon=True)
            self._thread.start()
            self._transport.on_link(lambda is_up: self.changed() if is_up else None)

    def changed(self) -> None:
        """There is something new to report. Returns at once."""
        self._wake.set()

    def close(self) -> None:
        """Stop; what changed last is still published when the link is up."""
        self._is_closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        retry_s: float | None = None
        while True:
            self._wake.wait(retry_s)
            self._wake.clear()
            retry_s = None if self._publish() else _RETRY_S
            if self._is_closed:
                return

    def _publish(self) -> bool:
        try:
            topic = topics.reported(self._transport.identity)
            self._transport.publish(topic, self._document(), qos=1, retain=True)
        except LinkDownError:
            return True  # the next link-up is a sign of its own
        except AimassError as exc:
            log.debug("the report was not published: %s", exc)
            return False
        return True
