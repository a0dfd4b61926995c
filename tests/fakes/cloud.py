"""A cloud without network and processes: real store, blobs and authority; broker and fleet connection are stand-ins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aimass.device.enrol import EnrolToken
from aimass.errors import LinkDownError
from aimass.package.keys import SigningKey
from aimass_cloud.api.services import Services
from aimass_cloud.blobs.local import LocalBlobStore
from aimass_cloud.broker.dynsec import Grant, Role
from aimass_cloud.build.examine import examine_here
from aimass_cloud.build.findings import BuildLimits
from aimass_cloud.build.unpack import unpack_here
from aimass_cloud.fleet.presence import Presence, State
from aimass_cloud.pki.authority import Authority
from aimass_cloud.pki.csr import make_csr, new_key_pem
from aimass_cloud.store.sql import SqlStore
from aimass_cloud.usecases.deployments import Deployments, entitled_blobs
from aimass_cloud.usecases.device_auth import DeviceAuth
from aimass_cloud.usecases.devices import Devices
from aimass_cloud.usecases.enrolment import CertificateLives, EnrolAnswer, Enrolment, Invitation
from aimass_cloud.usecases.holds import BlobHolds
from aimass_cloud.usecases.idempotency import Idempotency
from aimass_cloud.usecases.models import Models
from aimass_cloud.usecases.package import UploadForm
from aimass_cloud.usecases.workshop import Workshop
from tests.fakes.cloud_models import affine_bytes

DAY_S = 86_400.0


class Clock:
    """Unix seconds, moved by hand."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def forward(self, seconds: float) -> None:
        self.now_s += seconds

    @property
    def ms(self) -> int:
        return round(self.now_s * 1000)


class FakeAccounts:
    """The broker's identities as a dictionary; ``is_down`` refuses everything."""

    def __init__(self) -> None:
        self.known: dict[str, Grant] = {}
        self.calls: list[str] = []
        self.is_down = False

    def put(self, grant: Grant) -> None:
        self._do(f"put {grant.identity}")
        self.known[grant.identity] = grant

    def remove(self, identity: str) -> None:
        self._do(f"remove {identity}")
        self.known.pop(identity, None)

    def _do(self, what: str) -> None:
        self.calls.append(what)
        if self.is_down:
            raise LinkDownError("the broker is not there")


class FakeOutlet:
    """Keeps what would be published."""

    def __init__(self) -> None:
        self.announced: list[tuple[str, bytes]] = []
        self.cleared: list[str] = []

    def announce(self, identity: str, envelope: bytes) -> None:
        self.announced.append((identity, envelope))

    def clear(self, identity: str) -> None:
        self.cleared.append(identity)


class FakeWatch:
    """Presence and telemetry as set by the test."""

    def __init__(self) -> None:
        self.states: dict[str, Presence] = {}
        self.forgotten: list[str] = []

    def presence(self, identity: str) -> Presence:
        return self.states.get(identity, Presence(State.NEVER, None, None))

    def telemetry(self, identity: str) -> Mapping[str, Any]:
        return {}

    def forget(self, identity: str) -> None:
        self.forgotten.append(identity)


class CloudInMemory:
    """All use cases over a temporary folder."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.clock = Clock()
        self.folder = folder
        self.store = SqlStore.open(folder / "aimass.db", clock=self.clock)
        self.blobs = LocalBlobStore(folder / "blobs")
        self.authority = Authority.create(folder / "pki", clock=self.clock)
        self.accounts, self.outlet, self.watch = FakeAccounts(), FakeOutlet(), FakeWatch()
        self.publisher, self.control = SigningKey.generate(), SigningKey.generate()
        self.crls_published = 0
        self.not_ready = ""
        self.deployments = Deployments(self.store, self.control, self.outlet, clock=self.clock)
        self.devices = Devices(
            self.store, self.watch, self.accounts, self.outlet, on_revoked=self._revoked, clock=self.clock
        )
        self.enrolment = Enrolment(
            self.store,
            self.authority,
            self.accounts,
            invitation=self._invitation("cloud.test"),
            local=self._invitation("127.0.0.1"),
            local_names=frozenset({"svc:worker-0"}),
            lives=CertificateLives(device_s=30 * DAY_S, service_s=DAY_S),
            on_enrolled=lambda identity: self.deployments.refresh([identity]),
            on_revoked=self._revoked,
            clock=self.clock,
        )
        self.device_auth = DeviceAuth(self.store, entitled=entitled_blobs, grace_s=60 * DAY_S, clock=self.clock)
        (folder / "work").mkdir()
        self.holds = BlobHolds(self.store, self.blobs)
        workshop = Workshop(
            folder / "work", self.blobs, BuildLimits(**limits), examine=examine_here, unpack=unpack_here
        )
        self.models = Models(
            self.store, self.holds, self.publisher, workshop, on_changed=self.deployments.refresh, clock=self.clock
        )
        self.idempotency = Idempotency(self.store, clock=self.clock)

    def _invitation(self, host: str) -> Invitation:
        return Invitation(
            url=f"https://{host}:8443",
            broker_host=host,
            broker_port=8883,
            publisher_keys=(self.publisher.public.to_pem().decode(),),
            control_keys=(self.control.public.to_pem().decode(),),
        )

    def services(self) -> Services:
        return Services(
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
            is_ready=lambda: self.not_ready,
            gauges=lambda: {"models": {"": 1.0}, "devices/state": {"online": 2.0}},
            token_ttl_s=DAY_S,
            clock=self.clock,
        )

    def api_key(self, name: str = "test") -> str:
        with self.store.write() as tx:
            return tx.api_keys.create(name, now_ms=self.clock.ms)[1]

    def enrol(
        self, identity: str, key_pem: bytes | None = None, role: Role = Role.DEVICE, pool: str = ""
    ) -> EnrolAnswer:
        token = EnrolToken.parse(self.enrolment.create_token(identity, ttl_s=DAY_S, role=role, pool=pool))
        return self.enrolment.enrol(token.secret, identity, make_csr(key_pem or new_key_pem(), identity))

    def push(self, name: str = "digits", **options: Any) -> int:
        with self.models.begin() as upload:
            upload.receive(f"{name}.onnx", [affine_bytes(**options)])
            return upload.publish(UploadForm(name=name)).version

    def close(self) -> None:
        self.store.close()

    def _revoked(self) -> None:
        self.crls_published += 1
