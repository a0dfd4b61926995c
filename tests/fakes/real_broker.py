"""A real mosquitto under our own supervisor, with throw-away certificates, for one test."""

import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from aimass.transport.base import TlsFiles
from aimass_cloud.broker.config import BrokerConfig
from aimass_cloud.broker.dynsec import Grant, Role, write_dynsec
from aimass_cloud.broker.supervisor import BrokerSupervisor
from aimass_cloud.pki.authority import Authority, KeyedCertificate
from aimass_cloud.pki.crl import RevokedSerial, build_crl

HOST = "127.0.0.1"
CONTROL = Grant(identity="svc:control", role=Role.CONTROL)


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 15.0) -> None:
    """Returns when the condition holds; fails the test after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.01)


class RealBroker:
    """Authority, broker and supervisor in one folder. ``grants`` and ``revoked`` stand for the database."""

    def __init__(self, folder: Path, grants: Iterable[Grant] = (), *, server_s: float = 3600.0) -> None:
        self.folder = folder
        self.authority = Authority.create(folder / "pki")
        self.config = BrokerConfig.in_folder(folder / "broker", bind=HOST, port=free_port())
        self.config.folder.mkdir(parents=True)
        self.grants = {grant.identity: grant for grant in (CONTROL, *grants)}
        self.revoked: list[RevokedSerial] = []
        self.server_s = server_s
        self.supervisor = BrokerSupervisor(self.config, before_start=self.write_files)

    @property
    def port(self) -> int:
        return self.config.port

    def write_files(self) -> None:
        self.config.ca_file.write_bytes(self.authority.chain_pem)
        self.write_server()
        self.write_crl()
        write_dynsec(self.config.dynsec_file, self.grants.values())

    def write_server(self) -> None:
        bundle = self.authority.issue_server("broker", [HOST, "localhost"], lifetime_s=self.server_s).bundle_pem
        self.config.server_pem.write_bytes(bundle)

    def write_crl(self, lifetime_s: float = 3600.0) -> None:
        self.config.crl_file.write_bytes(build_crl(self.authority, self.revoked, lifetime_s=lifetime_s))

    def client(self, identity: str, lifetime_s: float = 3600.0) -> KeyedCertificate:
        """A certificate for an identity, whether it is granted anything or not."""
        return self.authority.issue_client_with_key(identity, lifetime_s=lifetime_s)

    def files(self, keyed: KeyedCertificate, ca_pem: bytes | None = None) -> TlsFiles:
        """Writes certificate files as a device has them."""
        home = self.folder / "homes" / keyed.certificate.serial
        home.mkdir(parents=True, exist_ok=True)
        bundle, ca = home / "bundle.pem", home / "ca.pem"
        bundle.write_bytes(keyed.bundle_pem)
        ca.write_bytes(ca_pem or self.authority.root_pem)
        return TlsFiles(ca=ca, cert=bundle, key=bundle)

    def __enter__(self) -> "RealBroker":
        self.supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.supervisor.stop()
