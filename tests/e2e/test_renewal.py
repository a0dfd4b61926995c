"""Everything that can expire lives two minutes here: whoever does not renew in time is shut out before the test ends.

Real processes for three minutes, with requests and records flowing. At the end the broker is killed, so that every
party has to show the certificate that it holds now.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from aimass.cli import digits
from aimass.cli.load import STREAM
from aimass.cli.stack import HOST, Stack
from aimass.cli.waiting import wait_until
from aimass.client.agent import connect
from aimass.device.identity import Identity
from aimass.errors import AimassError
from tests.e2e.conftest import NewStack
from tests.e2e.steps import await_offload, deploy, wait_stored

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

LIFE_S = 120
LIVES = {f"AIMASS_CLOUD_LIFETIMES__{name}_S": str(LIFE_S) for name in ("DEVICE", "SERVICE", "BROKER", "HTTPS", "CRL")}
AWAKE, FROZEN, STOPPED = "gw-awake", "gw-frozen", "gw-stopped"
WORKER = "worker"
TROUBLE = re.compile(r"(?i:expired)|not renewed|cannot renew|Traceback| ERROR ")


@dataclass(frozen=True, slots=True)
class Shown:
    """What matters of a certificate."""

    serial: int
    begins: datetime
    ends: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Shown:
        return cls(certificate.serial_number, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


@dataclass
class Application:
    """A program on a gateway that infers at the edge and in the cloud in turn, and records every answer."""

    socket: Path
    model: str
    images: digits.FloatArray
    places: Counter[str] = field(default_factory=Counter)
    recorded: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        number = 0
        with connect(self.socket) as client:
            while not self._stop.wait(0.02):
                number += 1
                mode = ("edge", "cloud")[number % 2]
                image = self.images[number % len(self.images)][None]
                try:
                    answer = client.infer(self.model, image, mode=mode, deadline_ms=1000)
                    self.places[f"{mode} asked, {answer.served_by} answered"] += 1
                    client.record(STREAM, {"n": number})
                    self.recorded.add(number)
                except AimassError as exc:
                    self.failures.append(f"{datetime.now(UTC):%H:%M:%S} {mode} {exc.code}: {exc.message}")


class Site:
    """The stack, and what it shows to who looks at it from outside."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def certificates(self) -> dict[str, Shown]:
        stack = self.stack
        return {
            AWAKE: self.held_by(stack.home(AWAKE)),
            WORKER: self.held_by(stack.cloud_dir / "workers" / "worker-0"),
            "control": Shown.of(read_leaf(stack.cloud_dir / "tls" / "control.pem")),
            "broker": self.shown_at(stack.broker_port, with_certificate=True),
            "https": self.shown_at(stack.https_port),
        }

    def held_by(self, home: Path) -> Shown:
        identity = Identity.load(home)
        return Shown(int(identity.serial, 16), identity.not_before, identity.not_after)

    def shown_at(self, port: int, *, with_certificate: bool = False) -> Shown:
        """The server's certificate in a handshake that checks it against the root."""
        context = ssl.create_default_context(cafile=str(self.stack.ca))
        if with_certificate:
            files = Identity.load(self.stack.home(AWAKE)).tls_files
            context.load_cert_chain(files.cert, files.key)
        with (
            socket.create_connection((HOST, port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as secured,
        ):
            return Shown.of(x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b""))

    def crl_until(self) -> datetime:
        """The end of the list that the broker has read last."""
        until = x509.load_pem_x509_crl((self.stack.cloud_dir / "broker" / "crl.pem").read_bytes()).next_update_utc
        assert until is not None
        return until

    def trouble(self, *parts: str) -> list[str]:
        """Lines of the logs that a fleet without mishap does not have."""
        logs = [self.stack.folder / "logs" / f"{part}.log" for part in parts]
        logs += (self.stack.cloud_dir / "broker").glob("*.log")
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
        return [line for line in lines if TROUBLE.search(line)]


def read_leaf(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


@pytest.fixture
def site(new_stack: NewStack, classifier: digits.Classifier) -> Site:
    stack = new_stack({id_: {} for id_ in (AWAKE, FROZEN, STOPPED)}, LIVES)
    stack.start()
    deploy(stack, classifier)
    return Site(stack)


def test_two_minute_lives_are_renewed_while_everything_runs_and_who_slept_past_the_end_comes_back(
    site: Site, data: digits.Digits, classifier: digits.Classifier
) -> None:
    stack, images = site.stack, data.test_images
    stack.agents[FROZEN].freeze()
    stack.agents[STOPPED].stop()
    asleep = {id_: site.held_by(stack.home(id_)) for id_ in (FROZEN, STOPPED)}
    with connect(stack.socket_path(AWAKE)) as client:
        await_offload(client, classifier.name, images[:1])
    first, first_crl = site.certificates(), site.crl_until()
    assert all(one.ends - datetime.now(UTC) < timedelta(seconds=LIFE_S) for one in first.values())

    application = Application(stack.socket_path(AWAKE), classifier.name, images)
    application.start()
    over = max(one.ends for one in (*first.values(), *asleep.values())) + timedelta(seconds=5)
    wait_until(lambda: datetime.now(UTC) > over, timeout_s=LIFE_S + 60, every_s=0.5, what="the first ones to be over")

    # Who was awake has others now, which are good; nobody who asked was let down, and no log complains.
    now, renewed = datetime.now(UTC), site.certificates()
    for name, certificate in renewed.items():
        assert certificate.serial != first[name].serial, name
        assert certificate.begins < now < certificate.ends, name
    assert first_crl < now < site.crl_until()
    assert stack.state(AWAKE) == "online"
    assert site.trouble("cloud", AWAKE) == []

    # A new broker lets nobody in by an old acquaintance. Then the sleepers wake up.
    pid = stack.kill_broker()
    stack.wait_broker(not_pid=pid)
    stack.wait_online(AWAKE)
    stack.agents[FROZEN].thaw()
    stack.start_agent(STOPPED)
    for id_, before in asleep.items():
        stack.wait_online(id_)
        assert site.held_by(stack.home(id_)).serial != before.serial
    for id_ in stack.agents:
        with connect(stack.socket_path(id_)) as client:
            await_offload(client, classifier.name, images[:1])

    application.stop()
    print(f"{sum(application.places.values())} requests: {dict(application.places)}")
    assert application.failures == []
    assert application.places["edge asked, edge answered"] > 1000
    assert application.places["cloud asked, cloud answered"] > 0.95 * application.places["edge asked, edge answered"]
    found = wait_stored(stack, AWAKE, application.recorded)
    assert sorted(found) == sorted(application.recorded)
