"""Who a party is: its key, its certificate, the pinned root and the pinned keys.

The folder ``<home>/identity`` holds::

    identity.pem   private key, certificate, intermediate: one file, so key and certificate always match
    previous.pem   the bundle before the last renewal, until the new one has worked once
    pending.pem    a key whose certificate has been asked for and has not come yet
    ca.pem         the pinned root
    trust.json     id, cloud address, broker address, publisher and control keys

Every change is one atomic replacement of one file. ``identity.pem`` is written last when enrolling: it is what makes
a home enrolled. The pinned root and keys never change by a renewal; only a new enrolment brings others.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aimass.device import x509
from aimass.device.enrolled import BrokerAddress, Trust
from aimass.device.files import LOCAL_DISK, Disk, make_folder, remove_file, write_atomic
from aimass.errors import AimassError, IdentityError
from aimass.package.keys import PublicKey
from aimass.transport.base import TlsFiles
from aimass.wire.ids import device_of

__all__ = ["BrokerAddress", "Identity", "Trust"]

log = logging.getLogger(__name__)

_KEY = re.compile(rb"-----BEGIN (?:EC )?PRIVATE KEY-----.+?-----END (?:EC )?PRIVATE KEY-----\r?\n?", re.DOTALL)
_NOT_ENROLLED = "enrol this machine first: aimass-edge enrol TOKEN"


@dataclass(frozen=True, slots=True)
class _Bundle:
    key_pem: bytes
    leaf: x509.Leaf
    obtained_at: datetime


class Identity:
    """The identity of one party; safe to use from several threads while it is being renewed.

    Made by :meth:`load`, or by :func:`aimass.device.enrol.enrol`.
    """

    def __init__(self, home: Path, trust: Trust, root_pem: bytes, bundle: _Bundle, disk: Disk) -> None:
        self.home = home
        self.root_pem = root_pem
        self.publisher_keys = tuple(PublicKey.from_pem(pem.encode()) for pem in trust.publisher_keys)
        self.control_keys = tuple(PublicKey.from_pem(pem.encode()) for pem in trust.control_keys)
        self._trust = trust
        self._bundle = bundle
        self._disk = disk
        self._folder = folder_of(home)
        self._lock = threading.Lock()

    @staticmethod
    def is_enrolled(home: Path) -> bool:
        """Whether this home has an identity."""
        return (folder_of(home) / "identity.pem").exists()

    @classmethod
    def load(cls, home: Path, *, disk: Disk = LOCAL_DISK) -> Identity:
        """Read the identity of a home. A damaged bundle falls back to the one before it.

        Raises:
            IdentityError: not enrolled, or nothing usable is there.
        """
        folder = folder_of(home)
        try:
            body = json.loads((folder / "trust.json").read_bytes())
            root_pem = (folder / "ca.pem").read_bytes()
        except FileNotFoundError as exc:
            raise IdentityError(f"{home} is not enrolled", hint=_NOT_ENROLLED) from exc
        except ValueError as exc:
            raise IdentityError(f"{folder / 'trust.json'} is not JSON", hint=_NOT_ENROLLED) from exc
        trust = Trust.from_mapping(body)
        return cls(home, trust, root_pem, _load_bundle(folder, root_pem, trust.id, disk), disk)

    @property
    def cn(self) -> str:
        """The identity in the certificate: broker user, client id and level in the topics."""
        return self._trust.id

    @property
    def device_id(self) -> str:
        """The device this identity belongs to (``gw-1`` of ``gw-1:app``)."""
        return device_of(self._trust.id)

    @property
    def cloud_url(self) -> str:
        """Where the cloud's HTTP API is, ``https://host:port``."""
        return self._trust.cloud_url

    @property
    def broker(self) -> BrokerAddress:
        """Where the broker is; a renewal may bring a new address."""
        return self._trust.broker

    @property
    def tls_files(self) -> TlsFiles:
        """Paths for the transport; the same paths after a renewal, with new content."""
        bundle = self._folder / "identity.pem"
        return TlsFiles(ca=self._folder / "ca.pem", cert=bundle, key=bundle)

    @property
    def serial(self) -> str:
        """Serial number of the present certificate, hex."""
        return self._bundle.leaf.serial

    @property
    def not_before(self) -> datetime:
        """Start of the certificate's life (UTC)."""
        return self._bundle.leaf.not_before

    @property
    def not_after(self) -> datetime:
        """End of the certificate's life (UTC)."""
        return self._bundle.leaf.not_after

    @property
    def obtained_at(self) -> datetime:
        """When this certificate came here, by this machine's clock (UTC).

        Issuers date a certificate back by minutes; with short lives a renewal counted from ``not_before`` would
        be due at once, for ever.
        """
        return self._bundle.obtained_at

    def sign(self, data: bytes) -> bytes:
        """Sign with the present key (ECDSA, SHA-256, DER)."""
        return x509.sign(self._bundle.key_pem, data)

    def next_csr(self) -> str:
        """A signing request for a new key. The key is kept, so that a repeated renewal asks for the same one.

        Raises:
            NoSpaceError: the key could not be kept.
        """
        with self._lock:
            key_pem = pending_key(self._folder, self._disk)
            if key_pem == self._bundle.key_pem:  # a cut came between the switch and its clearing away
                remove_file(self._folder / "pending.pem", disk=self._disk)
                key_pem = pending_key(self._folder, self._disk)
            return x509.signing_request(key_pem, self.cn)

    def install_renewed(self, certificate_pem: str, *, broker: BrokerAddress | None = None) -> None:
        """Check the new certificate, keep the old bundle aside, and switch in one step.

        Args:
            certificate_pem: the new certificate and the intermediate one.
            broker: a new address of the broker, or None to keep the known one.

        Raises:
            IdentityError: it is not for our new key, our name, or not under the pinned root. The old one stands.
            NoSpaceError: the disk is full. The old one stands.
        """
        with self._lock:
            key_pem = pending_key(self._folder, self._disk)
            chain = certificate_pem.encode()
            x509.check_chain(key_pem, chain, self.root_pem, self.cn)
            current = self._folder / "identity.pem"
            write_atomic(self._folder / "previous.pem", current.read_bytes(), disk=self._disk)
            write_atomic(current, bundle_bytes(key_pem, chain), disk=self._disk)
            self._bundle = _read_bundle(current, self.root_pem, self.cn)
            remove_file(self._folder / "pending.pem", disk=self._disk)
            if broker is not None and broker != self.broker:
                self._move_broker(broker)

    def confirm(self) -> None:
        """The present certificate has worked: the one before it is not needed any more."""
        with self._lock:
            remove_file(self._folder / "previous.pem", disk=self._disk)

    def restore_previous(self) -> bool:
        """Go back to the bundle before the last renewal, for an operator.

        Returns:
            False when there is none.
        """
        with self._lock:
            previous = self._folder / "previous.pem"
            if not previous.exists():
                return False
            self._bundle = _read_bundle(previous, self.root_pem, self.cn)
            self._disk.rename(previous, self._folder / "identity.pem")
            self._disk.sync_dir(self._folder)
            return True

    def _move_broker(self, broker: BrokerAddress) -> None:
        body = {**json.loads(self._trust.to_json()), "broker": {"host": broker.host, "port": broker.port}}
        trust = Trust.from_mapping(body)
        write_atomic(self._folder / "trust.json", trust.to_json(), disk=self._disk)
        self._trust = trust
        log.info("the broker moved to %s:%d", broker.host, broker.port)


def folder_of(home: Path) -> Path:
    """Where the identity of a home is kept."""
    return home / "identity"


def pending_key(folder: Path, disk: Disk) -> bytes:
    """The key whose certificate is being asked for; made and kept when there is none yet."""
    path = folder / "pending.pem"
    try:
        key_pem = path.read_bytes()
        x509.sign(key_pem, b"")
        return key_pem
    except FileNotFoundError:
        pass
    except IdentityError:
        log.warning("the pending key could not be read; a new one is made")
    key_pem = x509.new_key()
    write_atomic(path, key_pem, disk=disk)
    return key_pem


def save_enrolment(home: Path, trust: Trust, root_pem: bytes, chain_pem: bytes, *, disk: Disk = LOCAL_DISK) -> Identity:
    """Make a home enrolled with the pending key. A cut leaves it enrolled or not, never with halves of two identities.

    Raises:
        IdentityError: the certificate does not fit the key, the id or the root; nothing was changed.
        NoSpaceError: the disk is full; the home is not enrolled.
    """
    folder = folder_of(home)
    key_pem = pending_key(folder, disk)
    x509.check_chain(key_pem, chain_pem, root_pem, trust.id)
    for name in ("identity.pem", "previous.pem"):
        remove_file(folder / name, disk=disk)
    disk.sync_dir(folder)
    write_atomic(folder / "ca.pem", root_pem, mode=0o644, disk=disk)
    write_atomic(folder / "trust.json", trust.to_json(), disk=disk)
    write_atomic(folder / "identity.pem", bundle_bytes(key_pem, chain_pem), disk=disk)
    remove_file(folder / "pending.pem", disk=disk)
    return Identity.load(home, disk=disk)


def prepare_folder(home: Path, *, disk: Disk = LOCAL_DISK) -> Path:
    """Make the identity folder of a home, readable by its owner only."""
    folder = folder_of(home)
    make_folder(folder, disk=disk)
    return folder


def bundle_bytes(key_pem: bytes, chain_pem: bytes) -> bytes:
    """Key and chain as one PEM file, which ``ssl`` takes for both."""
    return key_pem.rstrip(b"\n") + b"\n" + chain_pem.strip() + b"\n"


def _load_bundle(folder: Path, root_pem: bytes, cn: str, disk: Disk) -> _Bundle:
    try:
        return _read_bundle(folder / "identity.pem", root_pem, cn)
    except (FileNotFoundError, AimassError) as exc:
        try:
            bundle = _read_bundle(folder / "previous.pem", root_pem, cn)
        except (FileNotFoundError, AimassError):
            raise IdentityError(f"{folder} holds no usable identity: {exc}", hint=_NOT_ENROLLED) from exc
        log.warning("identity.pem is not usable (%s); the bundle before it takes its place", exc)
        disk.rename(folder / "previous.pem", folder / "identity.pem")
        disk.sync_dir(folder)
        return bundle


def _read_bundle(path: Path, root_pem: bytes, cn: str) -> _Bundle:
    data = path.read_bytes()
    key = _KEY.search(data)
    if key is None:
        raise IdentityError(f"{path.name} holds no private key")
    leaf = x509.check_chain(key.group(), data[key.end() :], root_pem, cn)
    return _Bundle(key.group(), leaf, datetime.fromtimestamp(path.stat().st_mtime, UTC))
