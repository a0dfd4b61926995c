"""One worker of a pool, put together: read this file to see all of it.

    identity ─► transport ─► dispatcher ─► runtime ◄─ twin ◄─ package store ◄─ cloud
                    └─ presence, renewal

A worker is a party like any device: it enrols with a token, holds its models through its own twin, renews its
certificate. What it has more is the dispatcher. Its session at the broker ends with the connection, because requests
that were parked for a dead worker would be answered by nobody; its will takes back the pool's state.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from aimass.client.engines import open_engines, versions_of
from aimass.client.home import HomeLock
from aimass.device.cloud_http import CloudHttp
from aimass.device.enrol import enrol
from aimass.device.files import make_folder
from aimass.device.identity import Identity
from aimass.device.presence import Presence, new_boot_id
from aimass.device.renewal import Renewer
from aimass.device.store import PackageStore
from aimass.device.twin import Twin
from aimass.engine import ENGINES, EngineOptions
from aimass.package.manifest import Platform
from aimass.runtime.runtime import Runtime, RuntimeSettings
from aimass.transport.base import Will
from aimass.transport.mqtt import MqttTransport
from aimass.version import __version__
from aimass.wire import topics
from aimass_cloud.pool.dispatcher import Dispatcher, DispatcherSettings, cloud_state

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How a worker works.

    Attributes:
        pool: whose requests it answers; the broker lets it into that pool only.
        engines: best first.
        options: where and with how many threads engines run.
        drain_timeout_s: how long requests in work may take after SIGTERM; less than the patience of who sends it.
        heartbeat_s: how often the cloud hears that we live.
        keepalive_s: a link on which nothing comes is asked for a sign of life after this time.
        dispatcher: bounds of requests.
    """

    pool: str = "default"
    engines: tuple[str, ...] = ENGINES
    options: EngineOptions = field(default_factory=EngineOptions)
    drain_timeout_s: float = 2.5
    heartbeat_s: float = 20.0
    keepalive_s: int = 30
    dispatcher: DispatcherSettings = field(default_factory=DispatcherSettings)


def run_worker(
    home: Path, *, token: str = "", settings: WorkerSettings | None = None, stop: threading.Event | None = None
) -> None:
    """Run a worker until it is told to stop, then finish what is in work and return.

    Args:
        home: its folder; made when it is not there.
        token: enrol-token for the first start; ignored by a home that has this identity already.
        settings: how it works.
        stop: tells it to stop; SIGTERM and SIGINT do when left out (and the second one ends the process at once).

    Raises:
        IdentityError: the home is not enrolled and no token was given, or the token was refused.
        ConnectError: the cloud cannot be reached to enrol.
        ConflictError: a worker runs on this home already.
    """
    make_folder(home)
    with HomeLock(home):
        if token:
            enrol(token, home)
        with contextlib.closing(Worker(home, settings or WorkerSettings())) as worker:
            told = stop or _stop_by_signal()
            worker.start()
            told.wait()
            log.info("%s is told to stop", worker.identity.cn)
            worker.drain()


def _stop_by_signal() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


class Worker:
    """The parts of one worker process.

    Args:
        home: an enrolled folder.
        settings: how it works.

    Raises:
        IdentityError: the home is not enrolled.
    """

    def __init__(self, home: Path, settings: WorkerSettings) -> None:
        self.settings = settings
        self.identity = Identity.load(home)
        cn, broker, boot = self.identity.cn, self.identity.broker, new_boot_id()
        engines = open_engines(settings.engines)
        self.runtime = Runtime(
            engines,
            settings=RuntimeSettings(
                engine_order=settings.engines,
                engine_options=settings.options,
                drain_timeout_s=settings.drain_timeout_s,
                max_queue=settings.dispatcher.max_pending,
                served_by="cloud",
            ),
        )
        self.transport = MqttTransport(
            cn,
            broker.host,
            broker.port,
            self.identity.tls_files,
            will=Will(topics.cloud_state(cn), cloud_state(cn, settings.pool, "lost", []), delay_s=0),
            keepalive_s=settings.keepalive_s,
            session_expiry_s=0,
        )
        self.dispatcher = Dispatcher(self.transport, self.runtime, pool=settings.pool, settings=settings.dispatcher)
        self.http = CloudHttp(self.identity)
        here = Platform(os=platform.system().lower(), arch=platform.machine(), engines=settings.engines)
        self.store = PackageStore(home / "models", publishers=self.identity.publisher_keys, here=here)
        self.twin = Twin(
            self.transport,
            self.store,
            self.http,
            self.runtime,
            cn=cn,
            control_keys=self.identity.control_keys,
            boot=boot,
            home=home,
            engines=versions_of(engines),
        )
        self.twin.on_change(self.dispatcher.announce)
        self.presence = Presence(self.transport, boot, __version__, heartbeat_s=settings.heartbeat_s)
        self.renewer = Renewer(self.identity, self.http, self.transport.reconnect_now)
        self.transport.on_link(lambda up: self.renewer.confirm() if up else None)
        self._started = False

    def start(self) -> None:
        """Load what was installed last, then begin with the link and everything that needs it."""
        try:
            active = self.twin.load_last_good()
            log.info("%s of pool %s: %d installed models answer", self.identity.cn, self.settings.pool, len(active))
        except Exception:  # one model's fault must not keep the others, and the worker, from working
            log.exception("loading what ran last was broken off; the rest is tried again with the link")
        self._started = True
        self.dispatcher.start()
        self.presence.start()
        self.twin.start()
        self.renewer.start()
        self.transport.start()

    def drain(self) -> None:
        """Take no new requests and finish those in work."""
        if not self.dispatcher.drain(self.settings.drain_timeout_s):
            log.warning("%d requests were still in work after draining", self.dispatcher.counts()["in_work"])

    def close(self) -> None:
        """Stop in the order in which nothing is lost: no news, farewell, then what others stand on."""
        with contextlib.ExitStack() as stack:  # each step is done even when the one before failed
            stack.callback(self.http.close)
            stack.callback(self.runtime.close)
            stack.callback(self.transport.close, farewell=self.dispatcher.farewell())
            if self._started:
                stack.callback(self._say_offline)
                for part in (self.twin, self.renewer, self.presence):
                    stack.callback(part.close)

    def _say_offline(self) -> None:
        topic, payload = self.presence.farewell()
        if self.transport.connected:
            self.transport.publish(topic, payload, qos=1, retain=True)
