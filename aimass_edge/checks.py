"""What `aimass-edge check` looks at, one small question each, and what to do when the answer is bad.

The questions go from the machine outwards (home, disk, memory, clock, cloud, broker), because a bad answer often
explains those after it. Each takes plain values, changes nothing, and ends within seconds.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import http.client
import shutil
import socket
import ssl
import stat
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aimass.device.identity import Identity
from aimass.engine import open_engine
from aimass.errors import AimassError
from aimass.transport.base import TlsFiles
from aimass_edge.settings import read_settings

TIMEOUT_S = 5.0
_QUIET_S = 0.7  # a broker that refuses our certificate under TLS 1.3 says so after the handshake
_MEBIBYTE = 1024 * 1024


class State(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 - not a password
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One answer.

    Attributes:
        name: what was looked at.
        state: how it stands.
        detail: what was seen.
        advice: what to do, when it is not a pass.
    """

    name: str
    state: State
    detail: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


def run_checks(home: Path, *, status: Callable[[], dict[str, Any]]) -> list[Check]:
    """All of them, for a home. Those that cannot be asked because of an earlier failure are left out."""
    import psutil

    checks = [check_home(home)]
    if home.is_dir():
        checks.append(check_disk(home))
    checks.append(check_memory(psutil.virtual_memory().available))
    try:
        settings = read_settings(home)
    except AimassError as exc:
        return [*checks, Check("settings", State.FAIL, exc.message, exc.hint)]
    checks.append(Check("settings", State.PASS, "valid"))
    checks += check_engines(settings.engines, settings.provider, open_engine)
    try:
        identity = Identity.load(home)
    except AimassError as exc:
        return [*checks, Check("identity", State.FAIL, exc.message, exc.hint)]
    checks.append(Check("identity", State.PASS, identity.cn))
    checks.append(check_certificate(identity.not_before, identity.not_after, _now()))
    tls, broker, cloud = identity.tls_files, identity.broker, urlsplit(identity.cloud_url)
    checks.append(check_name("cloud", cloud.hostname or "", cloud.port or 443))
    checks += check_cloud(identity.cloud_url, tls.ca, now=_now)
    if broker.host != cloud.hostname:
        checks.append(check_name("broker", broker.host, broker.port))
    checks.append(check_broker(broker.host, broker.port, tls))
    return [*checks, check_agent(status)]


def check_home(home: Path) -> Check:
    """The folder exists, is ours to write, and keeps its secrets to itself."""
    name = "home folder"
    if not home.is_dir():
        return Check(name, State.FAIL, f"{home} does not exist", f"enrol first: aimass-edge --home {home} enrol TOKEN")
    if home.stat().st_mode & stat.S_IWOTH:
        return Check(name, State.FAIL, f"{home} can be written by everybody", f"chmod o-w {home}")
    secret = (one for one in home.glob("identity/*.pem") if one.name != "ca.pem")
    open_keys = [one for one in secret if stat.S_IMODE(one.stat().st_mode) & 0o077]
    if open_keys:
        return Check(name, State.FAIL, f"{open_keys[0]} can be read by others", f"chmod 600 {open_keys[0]}")
    probe = home / ".aimass-check"
    try:
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as exc:
        return Check(name, State.FAIL, f"{home} cannot be written: {exc}", "run as the user who owns it")
    return Check(name, State.PASS, str(home))


def check_disk(home: Path, *, free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free) -> Check:
    """Room for a model beside the old one, and for the outbox."""
    free = free_bytes(home) // _MEBIBYTE
    detail = f"{free} MiB free in {home}"
    if free < 100:
        return Check("disk space", State.FAIL, detail, "free some; models and records can no longer be kept")
    if free < 1024:
        return Check("disk space", State.WARN, detail, "a large model may not fit beside the one it replaces")
    return Check("disk space", State.PASS, detail)


def check_memory(available_bytes: int) -> Check:
    """Room to load a model beside the old one."""
    available = available_bytes // _MEBIBYTE
    detail = f"{available} MiB available"
    if available < 64:
        return Check("memory", State.FAIL, detail, "stop other programs; the agent itself needs about 100 MiB")
    if available < 256:
        return Check("memory", State.WARN, detail, "a model may not fit beside the one it replaces")
    return Check("memory", State.PASS, detail)


def check_certificate(not_before: dt.datetime, not_after: dt.datetime, now: dt.datetime) -> Check:
    """The certificate is renewed at three quarters of its life; one much older means that this does not work."""
    days = (not_after - now).total_seconds() / 86400
    detail = f"valid until {not_after:%Y-%m-%d %H:%M} UTC, {days:.1f} days"
    if days <= 0:
        return Check("certificate", State.FAIL, detail, "start the agent: it renews even late; else enrol again")
    if (not_after - now) < 0.15 * (not_after - not_before):
        return Check("certificate", State.WARN, detail, "renewal is late: the agent must run and reach the cloud")
    return Check("certificate", State.PASS, detail)


def check_name(what: str, host: str, port: int) -> Check:
    """The name leads to an address."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        return Check(f"{what} name", State.FAIL, f"{host}: {exc}", "check DNS, or the name given to aimass-cloud init")
    return Check(f"{what} name", State.PASS, f"{host} is {found[0][4][0]}")


def check_cloud(url: str, ca: Path, *, now: Callable[[], dt.datetime]) -> list[Check]:
    """The cloud's API answers over TLS from our CA, and its clock and ours agree."""
    where = urlsplit(url)
    host, port = where.hostname or "", where.port or 443
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=_context(ca))
    try:
        connection.request("GET", "/health/live")
        reply = connection.getresponse()
        reply.read()
    except (OSError, http.client.HTTPException) as exc:
        return [Check("cloud", State.FAIL, f"{host}:{port}: {_say(exc)}", _advice(exc, "cloud"))]
    finally:
        connection.close()
    checks = [Check("cloud", State.PASS, f"{host}:{port} answers {reply.status}")]
    if reply.status != 200:
        checks[0] = Check("cloud", State.WARN, f"{host}:{port} answers {reply.status}", "look at the cloud's log")
    date = reply.getheader("Date")
    if date:
        checks.append(check_clock(email.utils.parsedate_to_datetime(date), now()))
    return checks


def check_clock(theirs: dt.datetime, ours: dt.datetime) -> Check:
    """A wrong clock makes good certificates look expired."""
    off_s = abs((theirs - ours).total_seconds())
    detail = f"{off_s:.0f} s from the cloud's"
    if off_s > 300:
        return Check("clock", State.FAIL, detail, "set it: timedatectl set-ntp true")
    if off_s > 10:
        return Check("clock", State.WARN, detail, "set it: timedatectl set-ntp true")
    return Check("clock", State.PASS, detail)


def check_broker(host: str, port: int, tls: TlsFiles) -> Check:
    """The broker takes our certificate."""
    name, where = "broker", f"{host}:{port}"
    try:
        context = _context(tls.ca)
        context.load_cert_chain(tls.cert, tls.key)
        with (
            socket.create_connection((host, port), timeout=TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            version = secured.version()
            secured.settimeout(_QUIET_S)
            try:
                if secured.recv(1) == b"":
                    return Check(name, State.FAIL, f"{where} closed the connection", "look at the broker's log")
            except TimeoutError:
                pass  # silence is what an accepted connection hears before it says anything
    except (OSError, ValueError) as exc:
        return Check(name, State.FAIL, f"{where}: {_say(exc)}", _advice(exc, "broker"))
    return Check(name, State.PASS, f"{where} takes our certificate ({version})")


def check_engines(names: Sequence[str], provider: str, open_engine: Callable[[str], Any]) -> list[Check]:
    """The engines that are set are here, and so is the provider."""
    if not names:
        return [Check("engines", State.WARN, "none set", "every request is offloaded; set engines in agent.toml")]
    checks = []
    for name in names:
        try:
            engine = open_engine(name)
        except AimassError as exc:
            checks.append(Check(f"engine {name}", State.WARN, exc.message, exc.hint))
            continue
        providers = engine.providers()
        if provider.partition(":")[0] not in {one.partition(":")[0] for one in providers}:
            advice = f"set provider to one of {', '.join(providers)}"
            checks.append(Check(f"engine {name}", State.WARN, f"{engine.version}, without {provider}", advice))
        else:
            checks.append(Check(f"engine {name}", State.PASS, f"{engine.version}, {', '.join(providers)}"))
    if not any(one.state is State.PASS for one in checks):
        checks.append(Check("engines", State.FAIL, "no engine can run a model", "install or set another engine"))
    return checks


def check_agent(status: Callable[[], dict[str, Any]]) -> Check:
    """The agent answers on its socket."""
    try:
        seen = status()
    except AimassError as exc:
        return Check("agent", State.WARN, exc.message, exc.hint)
    link = "link up" if seen.get("link", {}).get("up") else "link down"
    return Check("agent", State.PASS, f"process {seen.get('pid')} runs, {link}, {len(seen.get('models', []))} models")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _context(ca: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(ca)
    return context


def _say(exc: BaseException) -> str:
    return f"{exc}" or type(exc).__name__


def _advice(exc: BaseException, what: str) -> str:
    match exc:
        case ssl.SSLCertVerificationError():
            return "clock wrong, address not in the certificate, or not our cloud; enrol again if it was made anew"
        case ssl.SSLError():
            return f"the {what} refused our certificate: revoked, removed or expired; ask for a new enrol-token"
        case ConnectionRefusedError():
            return f"nothing listens there: is the {what} running, is the port right?"
        case socket.gaierror():
            return "check DNS, or the name given to aimass-cloud init"
        case TimeoutError():
            return "no answer: a firewall in between?"
        case _:
            return f"is the {what} running and can it be reached from here?"
