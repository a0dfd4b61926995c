"""The agent, put together: read this file to see all of it.

    home ── lock ── settings, identity
                     │
      Party: runtime ◄─ twin ◄─ store          (aimass.client.party, shared with aimass.embed)
             outbox ─ sender, presence, renewal, transport
                     │
      doors: Unix socket ─ ManagementDoor ─┐
             loopback TCP ─ Guard ─────────┴─ RestDoor ─ runtime
      telemetry

Order at start: what is installed answers first, without any network; then the doors open; then the link is begun. At
SIGTERM: doors close and what they have begun is finished, the cloud hears a farewell, exit code 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from aimass.client.home import HomeLock
from aimass.client.party import Party, PartySettings
from aimass.device.files import write_atomic
from aimass.device.identity import Identity
from aimass.device.outbox import StreamLimits
from aimass.engine import EngineOptions
from aimass.errors import ConfigError, IdentityError
from aimass.serving.asgi import App
from aimass.serving.base import DoorSettings
from aimass.serving.guard import Guard
from aimass.serving.installed import InstalledModels
from aimass.serving.rest import RestDoor
from aimass.version import __version__
from aimass_edge.crash_guard import CrashGuard
from aimass_edge.door import ManagementDoor
from aimass_edge.local_socket import bind_socket, remove_socket
from aimass_edge.settings import EdgeSettings, read_settings
from aimass_edge.telemetry import ProcessMeter, Telemetry, metrics_of

_log = logging.getLogger(__name__)
_KEEP_ALIVE_S = 75


def run(home: Path) -> None:
    """Runs the agent until SIGTERM or SIGINT.

    Raises:
        ConfigError: the home is not enrolled, or a setting makes no sense.
        ConflictError: an agent runs on this home already.
    """
    os.umask(0o077)  # what the agent keeps is its own; only the socket is for the group, and says so itself
    settings = read_settings(home)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        Identity.load(home)
    except IdentityError as exc:
        raise ConfigError(exc.message, hint=f"enrol first: aimass-edge --home {home} enrol TOKEN") from exc
    with HomeLock(home):
        _let_group_through(home)
        asyncio.run(Agent(home, settings).run())


class Agent:
    """One agent on one enrolled home.

    Args:
        home: its folder, held by the caller's `HomeLock`.
        settings: how it works.
    """

    def __init__(self, home: Path, settings: EdgeSettings) -> None:
        self.home, self.settings = home, settings
        self.party = Party(home, party_settings(settings), host=lambda host: CrashGuard(host, home / "loading.json"))
        self._stopping = asyncio.Event()
        self._status_meter, self._telemetry_meter = ProcessMeter(), ProcessMeter()
        self.telemetry = Telemetry(self.party.transport, self.metrics, settings.effective_telemetry_period_s)

    async def run(self) -> None:
        """Until it is told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        with contextlib.ExitStack() as stack:
            stack.callback(self.party.close)
            await asyncio.to_thread(self.party.load_models)
            servers = [stack.enter_context(door) for door in self._doors()]
            self.party.start()
            self.telemetry.start()
            stack.callback(self.telemetry.close)
            _log.info("agent %s %s answers on %s", self.party.identity.cn, __version__, self._socket_path)
            await self._serve(servers)
        _log.info("agent stopped")

    def status(self) -> dict[str, Any]:
        """How it stands: what `aimass-edge status` shows."""
        return {
            **self.party.status(),
            "process": self._status_meter.read(),
            "socket": str(self._socket_path),
            "telemetry": {"sent": self.telemetry.sent, "skipped": self.telemetry.skipped},
        }

    def metrics(self) -> dict[str, Any]:
        """What telemetry sends."""
        return metrics_of(self.party.status(), self._telemetry_meter.read(), at_s=time.time())

    @property
    def _socket_path(self) -> Path:
        return self.settings.socket_in(self.home)

    async def _serve(self, servers: list[_Server]) -> None:
        running = [asyncio.create_task(one.serve_until_told()) for one in servers]
        told = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([told, *running], return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            for one in servers:
                one.should_exit = True
            await asyncio.gather(*running)

    def _doors(self) -> Iterator[contextlib.AbstractContextManager[_Server]]:
        yield self._unix_door()
        if self.settings.tcp.enabled:
            yield self._tcp_door()

    def _inference(self, repository: InstalledModels | None = None) -> App:
        """Every inference protocol; with a repository, callers may load and unload what is installed."""
        return RestDoor(
            self.party.runtime,
            settings=DoorSettings(version=__version__, policy=self.settings.offload.policy),
            ready=lambda: not self._stopping.is_set(),
            repository=repository,
        )

    @contextlib.contextmanager
    def _unix_door(self) -> Iterator[_Server]:
        inference = self._inference(InstalledModels(self.party.store, self.party.host))
        door = ManagementDoor(self.party.runtime, self.party.outbox, self.status, inference)
        sock = bind_socket(self._socket_path)
        try:
            yield _Server(door, sock, self.settings.drain_timeout_s)
        finally:
            remove_socket(self._socket_path)
            sock.close()
            door.close()

    @contextlib.contextmanager
    def _tcp_door(self) -> Iterator[_Server]:
        tcp = self.settings.tcp
        guard = Guard(
            self._inference(), token=_token(self.settings.token_in(self.home)), allowed_hosts=tcp.allowed_hosts
        )
        family = socket.AF_INET6 if ":" in tcp.host else socket.AF_INET
        try:
            sock = socket.create_server((tcp.host, tcp.port), family=family)
        except OSError as exc:
            raise ConfigError(f"cannot listen on {tcp.host} port {tcp.port}: {exc}", hint="set tcp.port") from exc
        with sock:
            _log.info("loopback door on %s port %d", *sock.getsockname()[:2])
            yield _Server(guard, sock, self.settings.drain_timeout_s)


class _Server(uvicorn.Server):
    """uvicorn over a socket of ours, that leaves signals to the agent."""

    def __init__(self, app: App, sock: socket.socket, drain_timeout_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(drain_timeout_s)),
            )
        )
        self._sock = sock

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: uvicorn would end the process by the signal once more, and not with exit code 0."""
        yield

    async def serve_until_told(self) -> None:
        """Serves until `should_exit` is set and what has begun is finished."""
        await self.serve(sockets=[self._sock])


def party_settings(settings: EdgeSettings) -> PartySettings:
    """The agent's settings as those of a party."""
    threads = settings.intra_threads
    return PartySettings(
        version=__version__,
        engines=settings.engines,
        options=EngineOptions(provider=settings.provider, intra_threads=threads),
        # With one thread a run stays on its caller's thread and no pool is needed; with more, all sessions share one.
        # The process is wholly ours, so the pool may be global.
        shared_threads=None if threads == 1 else threads,
        default_deadline_s=settings.default_deadline_s,
        max_queue=settings.max_queue,
        drain_timeout_s=settings.drain_timeout_s,
        offload=settings.offload.enabled,
        pool=settings.offload.pool,
        heartbeat_s=settings.effective_heartbeat_s,
        keepalive_s=settings.effective_keepalive_s,
        outbox=StreamLimits(
            max_rows=settings.outbox.max_records,
            max_bytes=settings.outbox.max_bytes,
            max_age_s=settings.outbox.max_age_s,
        ),
    )


def _let_group_through(home: Path) -> None:
    """Lets the socket's group pass the folder it is in, without reading what else is there."""
    if home.stat().st_uid == os.geteuid():
        home.chmod(home.stat().st_mode & 0o777 | 0o010)


def _token(path: Path) -> str:
    """The loopback door's token, made at the first start.

    Raises:
        ConfigError: others can read it, or it is empty.
    """
    if not path.exists():
        write_atomic(path, secrets.token_urlsafe(32).encode() + b"\n")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others", hint=f"chmod 600 {path}")
    token = path.read_text().strip()
    if not token:
        raise ConfigError(f"{path} is empty", hint="remove it; the agent makes a new one")
    return token
