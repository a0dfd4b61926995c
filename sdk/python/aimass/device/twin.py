"""The twin: what the cloud wants this party to hold becomes what it holds.

The desired document is signed and whole. It comes retained over the broker, is accepted only when it is newer than all
before, is kept on disk, and is worked off in one thread: download, check, install, load beside the old version, switch,
then unload what is not wanted any more. A newer document takes over at once. One model's failure is that model's: the
others go on, and the version that ran keeps running until another one runs in its place.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aimass.device.cloud_http import DeviceHttp
from aimass.device.download import FetchLimits
from aimass.device.files import LOCAL_DISK, Disk, write_atomic
from aimass.device.install import Installer
from aimass.device.store import ActiveModel, PackageStore
from aimass.device.twin_models import ModelHost, ModelWork
from aimass.device.twin_report import Reporter
from aimass.errors import AimassError, RollbackError, StoreError
from aimass.package.desired import Desired
from aimass.package.keys import PublicKey
from aimass.package.trust import accept_desired
from aimass.transport.base import Message, Transport
from aimass.wire import topics

__all__ = ["ModelHost", "Twin", "TwinSettings"]

log = logging.getLogger(__name__)

_MAX_WAITING_DOCUMENTS = 8
_SAVE_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinSettings:
    """How the twin works.

    Attributes:
        first_pause_s: before a failed model is tried again; doubles each time.
        max_pause_s: the longest such pause.
        fetch: how hard a single file is tried.
    """

    first_pause_s: float = 1.0
    max_pause_s: float = 300.0
    fetch: FetchLimits = field(default_factory=FetchLimits)


class Twin:
    """Keeps one party's models as its desired document says, in a thread of its own.

    Args:
        transport: the link; brings the documents and takes the reports.
        store: the packages on disk.
        http: where packages come from.
        host: what runs models. Those that it was given by others are left alone.
        cn: our identity.
        control_keys: the pinned keys that sign desired documents.
        boot: id of this run, for the report.
        home: where the accepted document is kept.
        engines: engines and their versions, for the report.
        settings: pauses and limits.
        now: Unix time in seconds, for the report.
        clock: monotonic seconds, for pauses.
        rng: for the spread of pauses.
        disk: where the document is written.
    """

    def __init__(
        self,
        transport: Transport,
        store: PackageStore,
        http: DeviceHttp,
        host: ModelHost,
        *,
        cn: str,
        control_keys: Sequence[PublicKey],
        boot: str,
        home: Path,
        engines: Mapping[str, str] | None = None,
        settings: TwinSettings | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        disk: Disk = LOCAL_DISK,
    ) -> None:
        self._transport = transport
        self._cn = cn
        self._control_keys = tuple(control_keys)
        self._boot = boot
        self._path = home / "desired.json"
        self._engines = dict(engines or {})
        self._now, self._clock, self._disk = now, clock, disk
        self._settings = settings or TwinSettings()
        self._inbox: deque[bytes] = deque(maxlen=_MAX_WAITING_DOCUMENTS)
        self._unsaved: bytes | None = None
        self._refused: Counter[str] = Counter()
        self._last_refused: dict[str, Any] | None = None
        self._changed = threading.Condition()
        self._has_news = False
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._reporter = Reporter(transport, lambda: json.dumps(self.reported()).encode())
        self._work = ModelWork(
            store,
            Installer(store, http, limits=self._settings.fetch, stopped=self._stopped),
            host,
            first_pause_s=self._settings.first_pause_s,
            max_pause_s=self._settings.max_pause_s,
            clock=clock,
            rng=rng or random.Random(),  # noqa: S311 - spreads load, guards nothing
            stopped=self._stopped,
            on_change=self._report,
        )
        self._desired = self._restore()

    def load_last_good(self) -> list[ActiveModel]:
        """Load what ran last, from disk alone. What does not load is reported; its previous version takes its place.

        Returns:
            What runs now.
        """
        return self._work.load_last_good()

    def start(self) -> None:
        """Begin to follow the desired document."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="aimass-twin", daemon=True)
        self._thread.start()
        self._reporter.start()
        self.listen()

    def listen(self) -> None:
        """Take documents and link changes; part of :meth:`start`."""
        self._transport.subscribe(topics.desired(self._cn), self._document_arrived)
        self._transport.on_link(lambda is_up: self.wake() if is_up else None)

    def close(self) -> None:
        """Stop. A download under way is left as it is and goes on at the next start; loaded models stay loaded."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._reporter.close()

    def wake(self) -> None:
        """Try failed models again now, where another try may help: the link is back, an operator freed the disk."""
        with self._changed:
            self._work.retry_now()
            self._has_news = True
            self._changed.notify_all()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have the callback called when the report changed, on the twin's thread."""
        self._callbacks.append(callback)

    def reported(self) -> dict[str, Any]:
        """The report, as it is published."""
        desired = self._desired
        return {
            "epoch": desired.epoch if desired else 0,
            "version": desired.version if desired else 0,
            "boot": self._boot,
            "at_ms": round(self._now() * 1000),
            "models": self._work.report(),
            "engines": self._engines,
            "refused": dict(self._refused),
            "last_refused": self._last_refused,
        }

    def step(self) -> float:
        """Accept what came and do what is due.

        Returns:
            Seconds after which there is more to do, if nothing happens before.
        """
        self._accept_waiting()
        if self._desired is None:
            return _SAVE_AGAIN_S if self._unsaved else 3600.0
        wait_s = self._work.reconcile(self._desired)
        return min(wait_s, _SAVE_AGAIN_S) if self._unsaved else wait_s

    def _run(self) -> None:
        wait_s = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._has_news or self._is_closed, wait_s)
                self._has_news = False
                if self._is_closed:
                    return
            try:
                wait_s = self.step()
            except Exception:  # supervisor: a twin that stops for ever would need a site visit
                log.exception("the twin failed in an unforeseen way")
                wait_s = self._settings.max_pause_s

    def _accept_waiting(self) -> None:
        if self._unsaved is not None:
            payload, self._unsaved = self._unsaved, None
            self._accept(payload)
        while self._inbox:
            self._accept(self._inbox.popleft())

    def _accept(self, payload: bytes) -> None:
        last = (self._desired.epoch, self._desired.version) if self._desired else None
        try:
            desired = accept_desired(payload, keys=self._control_keys, device=self._cn, last=last)
        except RollbackError as exc:
            if not exc.details.get("same"):  # the very one we have comes with every link-up
                self._refuse(exc)
            return
        except AimassError as exc:
            self._refuse(exc)
            return
        try:
            write_atomic(self._path, payload, disk=self._disk)
        except StoreError as exc:  # acted on only once it is kept: after a restart nothing older may be accepted
            self._refuse(exc)
            self._unsaved = payload
            return
        log.info("desired %d/%d accepted: %d models", desired.epoch, desired.version, len(desired.models))
        self._desired = desired
        self._work.begin(desired)
        self._report()

    def _refuse(self, error: AimassError) -> None:
        log.warning("a desired document was refused: %s", error)
        self._refused[error.code] += 1
        self._last_refused = {**error.as_dict(), "at_ms": round(self._now() * 1000)}
        self._report()

    def _restore(self) -> Desired | None:
        """The document accepted last. Checked like one from outside: the home may be enrolled elsewhere now."""
        try:
            payload = self._path.read_bytes()
            return accept_desired(payload, keys=self._control_keys, device=self._cn, last=None)
        except FileNotFoundError:
            return None
        except AimassError as exc:
            log.warning("the kept desired document is not usable: %s", exc)
            return None

    def _stopped(self, wait_s: float) -> bool:
        """Wait, and say whether the work at hand is to be left: we close, or a newer document came."""
        if wait_s <= 0:
            return self._is_closed or bool(self._inbox)
        with self._changed:
            return self._changed.wait_for(lambda: self._is_closed or bool(self._inbox), wait_s)

    def _document_arrived(self, message: Message) -> None:  # on the network thread: only a sign to ours
        if not message.payload:  # the retained document was cleared: nothing is said, so nothing changes
            return
        with self._changed:
            self._inbox.append(message.payload)
            self._has_news = True
            self._changed.notify_all()

    def _report(self) -> None:
        self._reporter.changed()
        for callback in self._callbacks:
            callback()
