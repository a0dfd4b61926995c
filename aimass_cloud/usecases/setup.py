"""Making a new cloud: authority, keys, settings, database and the first api-key.

All is made in a folder beside its place and moved there at the end, ``cloud.toml`` last: a state folder with that file
is complete, and an ``init`` that broke off can simply be repeated.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from aimass.device.enrol import EnrolToken
from aimass.device.files import make_folder, write_atomic
from aimass.errors import ConfigError, ConflictError
from aimass.package.keys import SigningKey
from aimass.wire.ids import is_service
from aimass_cloud.broker.config import find_mosquitto
from aimass_cloud.broker.dynsec import Role
from aimass_cloud.pki.authority import Authority
from aimass_cloud.settings import FILE_NAME, load_settings, write_settings
from aimass_cloud.store.sql import SqlStore
from aimass_cloud.usecases.addresses import public_url
from aimass_cloud.usecases.base import Clock, now_ms
from aimass_cloud.usecases.certificates import CONTROL_IDENTITY
from aimass_cloud.usecases.enrolment import new_token

PART = ".init"
FIRST_KEY_NAME = "first"
PUBLISHER_KEY, CONTROL_KEY = Path("keys/publisher.pem"), Path("keys/control.pem")
DATABASE = "aimass.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCloud:
    """What ``init`` has to tell. The api-key is kept nowhere."""

    state_dir: Path
    api_key: str
    root_sha256: str


def is_made(state_dir: Path) -> bool:
    """Whether there is a cloud in this folder."""
    return (state_dir / FILE_NAME).is_file()


def make_cloud(
    state_dir: Path,
    *,
    hosts: Sequence[str],
    https_port: int,
    broker_port: int,
    bind: str = "",
    clock: Clock = time.time,
    check_broker: Callable[[], object] = find_mosquitto,
) -> NewCloud:
    """Make a cloud.

    Args:
        state_dir: an empty folder, or none yet.
        hosts: names and addresses under which devices and people reach it; the first one is told to devices.
        https_port: of the API.
        broker_port: of the broker.
        bind: address to listen on; all of them when empty.
        clock: unix seconds.
        check_broker: raises ConfigError when there is no broker on this machine.

    Raises:
        ConflictError: there is one in that folder, or something else.
        ConfigError: a host that is none, or the broker is not installed.
    """
    if is_made(state_dir):
        hint = "start it with 'run'; for a new cloud name another folder"
        raise ConflictError(f"there is a cloud in {state_dir} already", hint=hint)
    _check_bind(bind)
    check_broker()
    _clear_remains(state_dir)
    part = state_dir / PART
    make_folder(part)
    authority = Authority.create(part / "pki", clock=clock)
    authority.issue_server("aimass check", hosts, lifetime_s=60)  # names hosts that are none, before anything is kept
    for path in (PUBLISHER_KEY, CONTROL_KEY):
        make_folder((part / path).parent)
        write_atomic(part / path, SigningKey.generate().to_pem(), mode=0o600)
    key = _first_key(part, clock)
    _add_bind(write_settings(part, hosts=hosts, https_port=https_port, broker_port=broker_port), bind)
    for name in ("pki", "keys", DATABASE, FILE_NAME):
        (part / name).rename(state_dir / name)
    shutil.rmtree(part)
    return NewCloud(state_dir=state_dir, api_key=key, root_sha256=authority.root_sha256)


def _clear_remains(state_dir: Path) -> None:
    """Remove what an ``init`` that broke off has left; nobody has ever seen its keys."""
    part = state_dir / PART
    if part.exists():
        for name in ("pki", "keys"):
            shutil.rmtree(state_dir / name, ignore_errors=True)
        (state_dir / DATABASE).unlink(missing_ok=True)
        shutil.rmtree(part)
    elif state_dir.exists() and any(state_dir.iterdir()):
        raise ConflictError(f"{state_dir} is not empty", hint="name an empty folder, or one that does not exist")


def _check_bind(bind: str) -> None:
    try:
        ip_address(bind or "0.0.0.0")  # noqa: S104  only parsed
    except ValueError as exc:
        raise ConfigError(
            f"{bind!r} is not an IP address", hint="give the address to listen on, e.g. 127.0.0.1"
        ) from exc


def _add_bind(settings: Path, bind: str) -> None:
    """Say in each section where to listen."""
    if not bind:
        return
    lines = []
    for line in settings.read_text().splitlines():
        lines.append(line)
        if line.startswith("["):
            lines.append(f'bind = "{ip_address(bind)}"')
    write_atomic(settings, ("\n".join(lines) + "\n").encode(), mode=0o644)


def _first_key(part: Path, clock: Clock) -> str:
    store = SqlStore.open(part / DATABASE, clock=clock)
    try:
        with store.write() as tx:
            tx.devices.put(CONTROL_IDENTITY, role=Role.CONTROL, pool="", now_ms=now_ms(clock))
            return tx.api_keys.create(FIRST_KEY_NAME, now_ms=now_ms(clock))[1]
    finally:
        store.close()


def make_enrol_token(
    state_dir: Path, identity: str, ttl_s: float | None, *, clock: Clock = time.time
) -> tuple[str, str]:
    """An enrol-token for a device or a worker, and its end (ISO 8601). The cloud may be running.

    Raises:
        ConfigError: there is no cloud in that folder.
        InputError: not a device's id, or a lifetime out of range.
    """
    if not is_made(state_dir):
        raise ConfigError(f"there is no cloud in {state_dir}", hint=f"make one: aimass-cloud --dir {state_dir} init")
    settings = load_settings(state_dir)
    root_sha256 = Authority.open(state_dir / "pki", clock=clock).root_sha256
    lifetime_s = ttl_s or settings.enrol_token_ttl_s
    store = SqlStore.open(state_dir / DATABASE, clock=clock)
    try:
        role, pool = (Role.DISPATCHER, settings.pool.name) if is_service(identity) else (Role.DEVICE, "")
        secret = new_token(store, identity, ttl_s=lifetime_s, role=role, pool=pool, clock=clock)
    finally:
        store.close()
    token = EnrolToken(url=public_url(settings), id=identity, secret=secret, ca=root_sha256).encode()
    return token, datetime.fromtimestamp(clock() + lifetime_s, UTC).isoformat(timespec="seconds")


def read_key(state_dir: Path, path: Path) -> SigningKey:
    """One of the cloud's signing keys.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return SigningKey.from_pem((state_dir / path).read_bytes())
    except OSError as exc:
        raise ConfigError(f"cannot read {state_dir / path}: {exc.strerror}", hint="restore it from a backup") from exc
