"""The whole cloud, put together. Read this to see the system.

    state folder ── settings, keys, authority, store, blobs
    broker       ── mosquitto, our child; its files are made from the store before each start
    fleet        ── svc:control at the broker: takes in what devices say, sends desired documents
    API          ── FastAPI behind TLS, on the use cases
    workers      ── the pool's processes, enrolled like devices
    timers       ── certificates, revocation list, what is old enough to be forgotten

It starts from the broker outwards and stops the other way round.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from aimass.device.files import make_folder, remove_tree, write_atomic
from aimass.errors import AimassError, ConfigError
from aimass.transport.base import TlsFiles
from aimass.transport.mqtt import MqttTransport
from aimass.wire.ids import SERVICE_PREFIX
from aimass_cloud.api.factory import create_api
from aimass_cloud.api.server import HttpsServer
from aimass_cloud.api.services import Services
from aimass_cloud.blobs.local import LocalBlobStore
from aimass_cloud.broker.commands import DynamicSecurity
from aimass_cloud.broker.config import BrokerConfig
from aimass_cloud.broker.dynsec import Grant, Role, write_dynsec
from aimass_cloud.broker.supervisor import BrokerSupervisor
from aimass_cloud.build.findings import BuildLimits
from aimass_cloud.build.runner import Examiner
from aimass_cloud.fleet.accounts import BrokerAccounts
from aimass_cloud.fleet.control import FleetControl
from aimass_cloud.fleet.outlet import FleetOutlet
from aimass_cloud.fleet.pool import LocalPool
from aimass_cloud.fleet.pool import names as worker_names
from aimass_cloud.pki.authority import Authority
from aimass_cloud.settings import CloudSettings, UploadSettings
from aimass_cloud.store.lock import state_lock
from aimass_cloud.store.sql import SqlStore
from aimass_cloud.usecases.addresses import certificate_names, invitations, reach
from aimass_cloud.usecases.base import Clock, grant_of, now_ms
from aimass_cloud.usecases.certificates import CONTROL_IDENTITY, ServiceCertificates, ServiceLives
from aimass_cloud.usecases.deployments import Deployments, entitled_blobs
from aimass_cloud.usecases.device_auth import DeviceAuth
from aimass_cloud.usecases.devices import Devices
from aimass_cloud.usecases.enrolment import CertificateLives, Enrolment
from aimass_cloud.usecases.holds import BlobHolds
from aimass_cloud.usecases.idempotency import Idempotency
from aimass_cloud.usecases.models import Models
from aimass_cloud.usecases.setup import CONTROL_KEY, DATABASE, PUBLISHER_KEY, is_made, read_key
from aimass_cloud.usecases.workshop import Workshop

log = logging.getLogger(__name__)

LINK_TIMEOUT_S = 15.0
TICK_S = 0.2
PRUNE_EVERY_S = 3600.0
KEEP_EXPIRED_MS = 30 * 86_400_000
WORKER_TOKEN_S = 300.0


class Cloud:
    """One running cloud.

    Args:
        state_dir: made by ``init``.
        settings: from its ``cloud.toml``.
        clock: unix seconds.

    Raises:
        ConfigError: there is no cloud in that folder, or something of it cannot be read.
        ConflictError: another process runs it.
    """

    def __init__(self, state_dir: Path, settings: CloudSettings, *, clock: Clock = time.time) -> None:
        if not is_made(state_dir):
            raise ConfigError(
                f"there is no cloud in {state_dir}", hint=f"make one: aimass-cloud --dir {state_dir} init"
            )
        self.state_dir = state_dir.absolute()
        self.settings = settings
        self._clock = clock
        self._stack = ExitStack()
        self._stack.enter_context(state_lock(self.state_dir))
        try:
            self._put_together()
        except BaseException:
            self._stack.close()
            raise

    # --- the parts, each on those above it

    def _put_together(self) -> None:
        self._open_state()
        self._make_broker()
        self._make_use_cases()
        self._make_doors()

    def _open_state(self) -> None:
        folder, settings, clock = self.state_dir, self.settings, self._clock
        self.store = SqlStore.open(folder / DATABASE, clock=clock)
        self._stack.callback(self.store.close)
        self.blobs = LocalBlobStore(folder / "blobs")
        self.publisher, self.control = read_key(folder, PUBLISHER_KEY), read_key(folder, CONTROL_KEY)
        self.authority = Authority.open(folder / "pki", clock=clock)
        lives = settings.lifetimes
        self.certificates = ServiceCertificates(
            self.authority,
            self.store,
            folder,
            hosts=certificate_names(settings.hosts, settings.https.bind),
            broker_hosts=certificate_names((settings.broker_host,), settings.broker.bind),
            lives=ServiceLives(
                service_s=lives.service_s, broker_s=lives.broker_s, https_s=lives.https_s, crl_s=lives.crl_s
            ),
            clock=clock,
        )
        self.certificates.ensure()

    def _make_broker(self) -> None:
        """The broker and our own connection to it."""
        folder, settings = self.state_dir, self.settings.broker
        config = BrokerConfig.in_folder(folder / "broker", bind=settings.bind, port=settings.port)
        self.broker = BrokerSupervisor(config, before_start=self._write_broker_files)
        tls = TlsFiles(folder / "pki" / "root.pem", self.certificates.control_file, self.certificates.control_file)
        # No session is kept for us: what waited in one would look like live evidence when it comes.
        self.transport = MqttTransport(CONTROL_IDENTITY, reach(settings.bind), settings.port, tls, session_expiry_s=0)
        self.accounts = BrokerAccounts(DynamicSecurity(self.transport), self._grants)
        self.fleet = FleetControl(self.transport, self.store, epoch=self.store.epoch)
        self.outlet = FleetOutlet(self.transport, on_link_up=self._link_up)

    def _make_use_cases(self) -> None:
        settings, store, clock = self.settings, self.store, self._clock
        publish_crl = self.certificates.publish_crl
        self.deployments = Deployments(store, self.control, self.outlet, clock=clock)
        self.devices = Devices(store, self.fleet, self.accounts, self.outlet, on_revoked=publish_crl, clock=clock)
        for_devices, for_workers = invitations(settings, publisher=self.publisher.public, control=self.control.public)
        self.enrolment = Enrolment(
            store,
            self.authority,
            self.accounts,
            invitation=for_devices,
            local=for_workers,
            local_names=frozenset(f"{SERVICE_PREFIX}{name}" for name in worker_names(settings.pool.workers)),
            lives=CertificateLives(device_s=settings.lifetimes.device_s, service_s=settings.lifetimes.service_s),
            on_enrolled=lambda identity: self.deployments.refresh([identity]),
            on_revoked=publish_crl,
            clock=clock,
        )
        self.device_auth = DeviceAuth(store, entitled=entitled_blobs, grace_s=settings.grace_s, clock=clock)
        self.idempotency = Idempotency(store, clock=clock)
        self.holds = BlobHolds(store, self.blobs)
        self.examiner = Examiner()
        workshop = Workshop(
            self.state_dir / "work",
            self.blobs,
            _limits(settings.uploads),
            examine=self.examiner.examine,
            unpack=self.examiner.unpack,
        )
        self.models = Models(
            store, self.holds, self.publisher, workshop, on_changed=self.deployments.refresh, clock=clock
        )

    def _make_doors(self) -> None:
        """The API, the workers, the timers."""
        settings = self.settings
        services = Services(
            store=self.store,
            blobs=self.blobs,
            models=self.models,
            deployments=self.deployments,
            devices=self.devices,
            enrolment=self.enrolment,
            device_auth=self.device_auth,
            idempotency=self.idempotency,
            root_pem=self.authority.root_pem.decode(),
            chain_pem=self.authority.chain_pem.decode(),
            is_ready=self.why_not_ready,
            gauges=self.gauges,
            token_ttl_s=settings.enrol_token_ttl_s,
            clock=self._clock,
        )
        self.https = HttpsServer(
            create_api(services), self.certificates.https_file, bind=settings.https.bind, port=settings.https.port
        )
        self.pool = LocalPool(
            self.state_dir,
            pool=settings.pool.name,
            count=settings.pool.workers,
            is_good=self._is_good_certificate,
            new_token=self._worker_token,
        )
        self._stopping = threading.Event()
        self._timers = threading.Thread(target=self._run_timers, name="timers", daemon=True)
        self.certificates.use("https", self.https.reload_certificate)
        self.certificates.use("broker", self.broker.reload)
        self.certificates.use("crl", self.broker.reload)
        self.certificates.use("control", self.transport.reconnect_now)

    # --- life

    def start(self) -> None:
        """Start everything; returns when the API serves and the connection to the broker stands.

        Raises:
            ConfigError: a part does not come up; nothing is left running.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything, in a few seconds. May be called again."""
        self._stopping.set()
        self.examiner.close()
        self.pool.begin_stop()
        self._stack.close()

    def why_not_ready(self) -> str:
        """Empty when all parts work, else which one does not."""
        if not self.broker.running:
            return "the broker is not running"
        if not self.transport.connected:
            return "the connection to the broker is down"
        refused = self.transport.refusals()
        if refused:
            return f"the broker refuses subscriptions: {sorted(refused)}"
        try:
            with self.store.read() as tx:
                tx.meta.epoch()
        except AimassError as exc:
            return f"the database does not answer: {exc.message}"
        return ""

    def gauges(self) -> Mapping[str, Mapping[str, float]]:
        """Numbers for /metrics; a name's part after the slash is its label."""
        with self.store.read() as tx:
            devices = [record.id for record in tx.devices.list(role=Role.DEVICE)]
            models = [record.newest for record in tx.models.list()]
        states = Counter(str(self.fleet.presence(device).state) for device in devices)
        return {
            "devices/state": {"online": 0, "offline": 0, "unknown": 0, "never": 0, **states},
            "models": {"": len(models)},
            "uploads_total/outcome": {"published": self.models.published, "refused": self.models.refused},
            "enrolments_total": {"": self.enrolment.count},
            "broker_restarts_total": {"": self.broker.restarts},
            "broker_connected": {"": self.transport.connected},
            "worker_restarts_total/worker": self.pool.restarts(),
            "fleet_total/what": self.fleet.counts(),
            "desired_waiting": {"": self.outlet.waiting},
        }

    def _start(self) -> None:
        self.blobs.sweep()
        self.holds.sweep()
        remove_tree(self.state_dir / "work")
        make_folder(self.state_dir / "work")
        self.deployments.refresh()  # a restored store has a new epoch: every document is made anew
        self.broker.start()
        self._stack.callback(self.broker.stop)
        self._write_pid()
        self.fleet.start()
        self._stack.callback(self.fleet.close)
        self.outlet.start()
        self._stack.callback(self.outlet.close)
        self.transport.start()
        self._stack.callback(self.transport.close)
        self.https.start()
        self._stack.callback(self.https.stop)
        self._await_link()
        self._timers.start()
        self._stack.callback(self._timers.join)
        self.pool.start()
        self._stack.callback(self.pool.stop)

    def _await_link(self) -> None:
        deadline = time.monotonic() + LINK_TIMEOUT_S
        while self.why_not_ready():
            if time.monotonic() > deadline:
                message = f"not ready after {LINK_TIMEOUT_S:g} s: {self.why_not_ready()}"
                raise ConfigError(message, hint=f"see {self.broker.config.log_file}")
            time.sleep(0.02)

    def _link_up(self) -> None:
        """On each new connection to the broker: it may be a new one that knows nothing."""
        self.accounts.reconcile()
        self.deployments.announce_all()

    def _write_broker_files(self) -> None:
        """All that the broker reads, from what the store knows; before each of its starts."""
        self.certificates.ensure()
        write_dynsec(self.broker.config.dynsec_file, self._grants())

    def _grants(self) -> list[Grant]:
        with self.store.read() as tx:
            return [grant_of(record) for record in tx.devices.list()]

    # --- timers

    def _run_timers(self) -> None:
        renew_at = prune_at = time.monotonic()
        while not self._stopping.wait(TICK_S):
            self._write_pid()
            now = time.monotonic()
            if now >= renew_at:
                renew_at = now + min(self.certificates.step(), 5.0)
            if now >= prune_at:
                prune_at = now + PRUNE_EVERY_S
                self._prune()

    def _prune(self) -> None:
        now = now_ms(self._clock)
        try:
            with self.store.write() as tx:
                tx.tokens.prune(expired_before_ms=now - KEEP_EXPIRED_MS)
                tx.certificates.prune(expired_before_ms=now - KEEP_EXPIRED_MS - round(self.settings.grace_s * 1000))
                tx.events.prune(received_before_ms=now - round(self.settings.event_days * 86_400_000))
            self.idempotency.prune()
        except AimassError as exc:
            log.error("cannot forget what is old, will try again: %s", exc)  # noqa: TRY400  the message is enough

    def _write_pid(self) -> None:
        """Say which process the broker is, for people and for ``aimass demo``."""
        pid, path = self.broker.pid, self.state_dir / "broker" / "mosquitto.pid"
        if pid != self._written_pid:
            self._written_pid = pid
            write_atomic(path, b"" if pid is None else b"%d\n" % pid, mode=0o644)

    _written_pid: int | None = None

    # --- the workers of this machine

    def _is_good_certificate(self, identity: str, serial: str) -> bool:
        with self.store.read() as tx:
            grace_ms = round(self.settings.grace_s * 1000)
            usable = tx.certificates.usable(identity, now_ms=now_ms(self._clock), grace_ms=grace_ms)
            worker = tx.devices.find(identity)
        if worker is None or worker.pool != self.settings.pool.name:  # the pool was renamed: its rights are for another
            return False
        return serial in {record.serial for record in usable}

    def _worker_token(self, identity: str) -> str:
        pool = self.settings.pool.name
        return self.enrolment.create_token(identity, ttl_s=WORKER_TOKEN_S, role=Role.DISPATCHER, pool=pool)


def wait_for(stop: threading.Event, cloud: Cloud, on_ready: Callable[[], None]) -> None:
    """Run a cloud until ``stop`` is set or its API has ended.

    Raises:
        ConfigError: a part does not come up, or the API ended by itself.
    """
    cloud.start()
    try:
        on_ready()
        while not stop.wait(0.5):
            if not cloud.https.running:
                raise ConfigError("the API has ended by itself", hint="see the log")
    finally:
        cloud.stop()


def _limits(uploads: UploadSettings) -> BuildLimits:
    return BuildLimits(
        max_model_bytes=uploads.max_model_bytes,
        memory_bytes=uploads.check_memory_bytes,
        cpu_s=max(1, round(uploads.check_timeout_s)),
        wall_s=uploads.check_timeout_s,
    )
