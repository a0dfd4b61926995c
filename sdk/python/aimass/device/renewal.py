"""Renews the certificate in good time, for as long as the party runs.

Due at a random moment between 60 and 75 percent of the certificate's life, so that a fleet enrolled in one hour does
not come back in one minute. A failed attempt is repeated at growing pauses. An expired certificate is still renewed:
the cloud allows it for a grace period, because the request is signed by our key and needs no client certificate.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aimass.device.cloud_http import DeviceHttp
from aimass.device.identity import BrokerAddress, Identity
from aimass.errors import AimassError, RemoteError

log = logging.getLogger(__name__)

_RENEW = "/v1/device/renew"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalSettings:
    """When to renew and how often to try.

    Attributes:
        earliest: share of the life after which it may be due.
        latest: share of the life after which it is due for certain.
        first_pause_s: after the first failure.
        max_pause_s: a month-long certificate leaves more than a week for attempts an hour apart.
        max_pause_share: and never longer than this share of the life, for certificates that live minutes.
        look_again_s: the longest sleep; a wall clock that jumps is noticed after this time.
    """

    earliest: float = 0.60
    latest: float = 0.75
    first_pause_s: float = 2.0
    max_pause_s: float = 3600.0
    max_pause_share: float = 0.03
    look_again_s: float = 600.0


class Renewer:
    """Keeps one identity's certificate fresh, in a thread of its own.

    Args:
        identity: whose certificate.
        http: the cloud.
        on_renewed: called after each switch, on this thread; connects again with the new certificate.
        settings: when and how often.
        now: Unix time in seconds.
        rng: for the spread.
    """

    def __init__(
        self,
        identity: Identity,
        http: DeviceHttp,
        on_renewed: Callable[[], None],
        *,
        settings: RenewalSettings | None = None,
        now: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._identity = identity
        self._http = http
        self._on_renewed = on_renewed
        self._settings = settings or RenewalSettings()
        self._now = now
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._serial = ""
        self._due_at = 0.0
        self._failures = 0
        self._error: AimassError | None = None

    def start(self) -> None:
        """Begin to watch the certificate."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aimass-renewal", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop; an attempt that is under way ends first."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def confirm(self) -> None:
        """The link is up with the present certificate: the one before it can go."""
        self._identity.confirm()

    def status(self) -> dict[str, Any]:
        """When the certificate ends and how renewing goes, for the status page."""
        return {
            "serial": self._identity.serial,
            "not_after": self._identity.not_after.isoformat(),
            "failures": self._failures,
            "error": None if self._error is None else self._error.as_dict(),
        }

    def step(self) -> float:
        """Renew if it is due.

        Returns:
            Seconds until this should be called again.
        """
        now = self._now()
        if self._serial != self._identity.serial:
            self._plan()
        if now < self._due_at:
            return min(self._due_at - now, self._settings.look_again_s)
        try:
            self._renew()
        except AimassError as exc:
            self._failures += 1
            self._error = exc
            pause_s = self._pause_s()
            log.warning("the certificate was not renewed (%s); again in %.0f s", exc, pause_s)
            self._due_at = now + pause_s
            return min(pause_s, self._settings.look_again_s)
        self._failures = 0
        self._error = None
        self._plan()
        self._on_renewed()
        return min(max(self._due_at - self._now(), self._settings.first_pause_s), self._settings.look_again_s)

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            try:
                wait_s = self.step()
            except Exception:  # supervisor: a renewal that stops for ever is a site visit, so it goes on
                log.exception("renewal failed in an unforeseen way")
                wait_s = self._pause_s()

    def _renew(self) -> None:
        csr_pem = self._identity.next_csr()
        answer = self._http.request("POST", _RENEW, {"csr_pem": csr_pem}, auth_paths=(_RENEW,))
        certificate_pem = answer.get("certificate_pem")
        if not isinstance(certificate_pem, str):
            raise RemoteError("the cloud's answer to a renewal lacks the certificate")
        self._identity.install_renewed(certificate_pem, broker=_broker_of(answer))
        log.info("certificate renewed, valid until %s", self._identity.not_after.isoformat())

    def _plan(self) -> None:
        identity = self._identity
        start = identity.not_before
        if start < identity.obtained_at < identity.not_after:
            start = identity.obtained_at
        share = self._rng.uniform(self._settings.earliest, self._settings.latest)
        self._due_at = start.timestamp() + share * (identity.not_after - start).total_seconds()
        self._serial = identity.serial

    def _pause_s(self) -> float:
        settings = self._settings
        life_s = (self._identity.not_after - self._identity.not_before).total_seconds()
        longest_s = max(settings.first_pause_s, min(settings.max_pause_s, settings.max_pause_share * life_s))
        pause_s = min(settings.first_pause_s * 2.0 ** min(self._failures, 30), longest_s)
        return pause_s * self._rng.uniform(0.5, 1.0)


def _broker_of(answer: dict[str, Any]) -> BrokerAddress | None:
    """The broker's address in the answer, or None when it is not usable: a known one is not given up for it."""
    broker = answer.get("broker")
    if not isinstance(broker, dict):
        return None
    host, port = broker.get("host"), broker.get("port")
    if isinstance(host, str) and host and isinstance(port, int) and 0 < port < 65536:
        return BrokerAddress(host, port)
    return None
