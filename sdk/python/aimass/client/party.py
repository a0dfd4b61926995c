"""One enrolled party, put together: identity, link, twin, outbox and a runtime.

The agent is a party with doors and telemetry, `aimass.embed` is one inside an application. Both start the same way:
what was installed last answers first, without any network; then the link is begun, and it may take as long as it will.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aimass.client.engines import open_engines, versions_of
from aimass.device.cloud_http import CloudHttp
from aimass.device.identity import Identity
from aimass.device.outbox import Outbox, StreamLimits
from aimass.device.outbox_sender import OutboxSender
from aimass.device.presence import Presence, new_boot_id, presence_will
from aimass.device.renewal import Renewer
from aimass.device.store import PackageStore
from aimass.device.twin import ModelHost, Twin
from aimass.engine import ENGINES, Engine, EngineOptions
from aimass.package.manifest import Platform
from aimass.runtime.offload import MqttRemote
from aimass.runtime.runtime import Runtime, RuntimeSettings
from aimass.transport.mqtt import MqttTransport

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartySettings:
    """How a party works.

    Attributes:
        version: of the program, told to the cloud.
        engines: best first; empty for a party that only offloads.
        options: where and with how many threads engines run.
        shared_threads: one thread pool for all sessions of the process. Only for a process that is wholly ours.
        default_deadline_s: for requests that bring none.
        max_queue: requests waiting; above it they are refused.
        drain_timeout_s: how long a retired model version may finish what it has begun.
        offload: whether the cloud's pool is asked.
        pool: which one.
        heartbeat_s: how often the cloud hears that we live.
        keepalive_s: a link on which nothing comes is asked for a sign of life after this time.
        outbox: bounds of what is kept for the cloud.
    """

    version: str
    engines: tuple[str, ...] = ENGINES
    options: EngineOptions = field(default_factory=EngineOptions)
    shared_threads: int | None = None
    default_deadline_s: float = 1.0
    max_queue: int = 256
    drain_timeout_s: float = 30.0
    offload: bool = True
    pool: str = "default"
    heartbeat_s: float = 20.0
    keepalive_s: int = 30
    outbox: StreamLimits = field(default_factory=StreamLimits)

    def runtime_settings(self) -> RuntimeSettings:
        """What of it concerns the runtime."""
        return RuntimeSettings(
            default_deadline_s=self.default_deadline_s,
            max_queue=self.max_queue,
            drain_timeout_s=self.drain_timeout_s,
            engine_order=self.engines,
            engine_options=self.options,
        )


class Party:
    """Everything an enrolled home does.

    Args:
        home: an enrolled folder.
        settings: how it works.
        host: wraps the runtime where models are loaded, for the agent's guard against models that crash it.

    Raises:
        IdentityError: the home is not enrolled.
    """

    def __init__(
        self,
        home: Path,
        settings: PartySettings,
        *,
        host: Callable[[Runtime], ModelHost] = lambda runtime: runtime,
    ) -> None:
        self.home, self.settings = home, settings
        self.boot = new_boot_id()
        self.started_at = time.time()
        self.identity = Identity.load(home)
        self.engines: list[Engine] = open_engines(settings.engines, shared_threads=settings.shared_threads)
        cn, broker = self.identity.cn, self.identity.broker
        self.transport = MqttTransport(
            cn,
            broker.host,
            broker.port,
            self.identity.tls_files,
            will=presence_will(cn, self.boot, settings.version, self.started_at, heartbeat_s=settings.heartbeat_s),
            keepalive_s=settings.keepalive_s,
        )
        self.remote = MqttRemote(self.transport, settings.pool) if settings.offload else None
        self.runtime = Runtime(self.engines, remote=self.remote, settings=settings.runtime_settings())
        self.host = host(self.runtime)
        self.http = CloudHttp(self.identity)
        here = Platform(os=platform.system().lower(), arch=platform.machine(), engines=settings.engines)
        self.store = PackageStore(home / "models", publishers=self.identity.publisher_keys, here=here)
        self.twin = Twin(
            self.transport,
            self.store,
            self.http,
            self.host,
            cn=cn,
            control_keys=self.identity.control_keys,
            boot=self.boot,
            home=home,
            engines=versions_of(self.engines),
        )
        self.outbox = Outbox(home / "outbox.db", default_limits=settings.outbox)
        self.sender = OutboxSender(self.outbox, self.transport)
        self.presence = Presence(self.transport, self.boot, settings.version, heartbeat_s=settings.heartbeat_s)
        self.renewer = Renewer(self.identity, self.http, self.transport.reconnect_now)
        self.transport.on_link(lambda is_up: self.renewer.confirm() if is_up else None)
        self._is_started = False

    def load_models(self) -> None:
        """Loads what was installed last, from disk alone. What cannot be loaded is reported; it stops nothing."""
        try:
            active = self.twin.load_last_good()
        except Exception:  # noqa: BLE001 - see below
            # Whatever a model does to its engine must not keep the others, and the party, from working.
            _log.exception("loading what ran last was broken off; what is not loaded yet is tried again with the link")
            return
        _log.info("%d installed models answer", len(active))

    def start(self) -> None:
        """Begins with the link and everything that needs it; returns at once."""
        self._is_started = True
        self.presence.start()
        self.twin.start()
        self.sender.start()
        self.renewer.start()
        self.transport.start()

    def close(self) -> None:
        """Stops in the order in which nothing is lost: no new work, farewell, then what others stand on."""
        with contextlib.ExitStack() as stack:  # each step is done even when the one before failed
            stack.callback(self.http.close)
            stack.callback(self.runtime.close)
            if self.remote is not None:
                stack.callback(self.remote.close)
            stack.callback(self.outbox.close)
            stack.callback(self.transport.close, farewell=self.presence.farewell())
            if self._is_started:
                for part in (self.sender, self.twin, self.renewer, self.presence):
                    stack.callback(part.close)

    def certificate_days_left(self) -> float:
        """How long the certificate still lives."""
        return (self.identity.not_after - datetime.now(UTC)).total_seconds() / 86400

    def status(self) -> dict[str, Any]:
        """How it all stands, as plain values."""
        return {
            "id": self.identity.cn,
            "version": self.settings.version,
            "pid": os.getpid(),
            "boot": self.boot,
            "home": str(self.home),
            "started_at_ms": round(self.started_at * 1000),
            "cloud": self.identity.cloud_url,
            "link": {
                "up": self.transport.connected,
                "broker": f"{self.identity.broker.host}:{self.identity.broker.port}",
                "refusals": dict(self.transport.refusals()),
                "counts": dict(self.transport.counts()),
            },
            "certificate": {
                "not_after": self.identity.not_after.isoformat(),
                "days_left": round(self.certificate_days_left(), 3),
                "renewal": self.renewer.status(),
            },
            "engines": versions_of(self.engines),
            "models": self.twin.reported()["models"],
            "outbox": {"pending": self.outbox.pending()},
            "offload": {
                "enabled": self.settings.offload,
                "pool": self.settings.pool,
                "breaker": self.runtime.breaker_state,
            },
            "metrics": self.runtime.metrics.snapshot(),
        }
