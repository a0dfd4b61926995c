"""A whole AI Mass on one machine: cloud, broker, worker and gateways as real processes in one folder.

Used by ``aimass demo`` and by the end-to-end tests. It knows the programs only by their command lines and folders, as
an operator does. Ports are free ones on loopback. Whatever happens to the process that owns the stack, nothing is left
running: ``close`` stops the parts, and the reaper ends what a killed owner left behind.

    with Stack(folder, agents={"gw-1": {}}) as stack:
        stack.start()
        stack.api.devices()
        stack.kill_broker()
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from aimass.cli import reaper
from aimass.cli.cloud_api import CloudApi
from aimass.cli.process import Process, is_running, kill_pid
from aimass.cli.waiting import wait_until
from aimass.errors import AimassError, ConfigError

HOST = "127.0.0.1"
START_TIMEOUT_S = 60
COMMAND_TIMEOUT_S = 60


class Stack:
    """One cloud and N agents.

    Args:
        folder: for all state and logs; made when missing.
        agents: id of each gateway and environment variables for it (``AIMASS_EDGE_...`` settings).
        cloud_env: environment variables for the cloud (``AIMASS_CLOUD_...`` settings).
    """

    def __init__(
        self,
        folder: Path,
        *,
        agents: Mapping[str, Mapping[str, str]],
        cloud_env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.cloud_dir = self.folder / "cloud"
        self.https_port, self.broker_port = free_ports(2)
        self.url = f"https://{HOST}:{self.https_port}"
        self.api_key = ""
        self.mark = uuid.uuid4().hex
        self._cloud_env = dict(cloud_env or {})
        self._agent_env = {id_: dict(env) for id_, env in agents.items()}
        self._reaper: subprocess.Popen[bytes] | None = None
        self._api: CloudApi | None = None
        self.cloud = self._process("cloud", self._cloud_command("run"), self._cloud_env)
        self.agents = {id_: self._agent(id_, env) for id_, env in self._agent_env.items()}

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # starting and ending

    def start(self) -> None:
        """Make the cloud, start it, enrol and start the agents; returns when all are online.

        Raises:
            ConfigError: a command failed, or a part did not come up in time; its log's end is in the message.
        """
        self.init_cloud()
        self.start_cloud()
        for id_ in self.agents:
            self.enrol(id_)
            self.agents[id_].start()
        for id_ in self.agents:
            self.wait_online(id_)

    def init_cloud(self) -> None:
        """Make certificates, broker configuration, database and the first api-key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start_reaper()
        ports = ["--https-port", str(self.https_port), "--broker-port", str(self.broker_port)]
        out = self.command(
            "cloud", self._cloud_command("init", "--host", HOST, "--host", "localhost", *ports, "--json")
        )
        self.api_key = str(json.loads(out.splitlines()[-1])["api_key"])

    def start_cloud(self) -> None:
        """Start (again) and wait until it serves."""
        self.cloud.start()
        self._wait(self.cloud, self.api.ready, "to be ready")

    def enrol(self, id_: str) -> None:
        """Give a gateway its certificate."""
        token = self.api.enrol_token(id_)
        self.command(id_, self._edge_command(id_, "enrol", token), self._agent_env[id_])

    def start_agent(self, id_: str) -> None:
        """Start (again) and wait until its local door answers."""
        self.agents[id_].start()
        self._wait(self.agents[id_], lambda: answers(self.socket_path(id_)), "to open its local door")

    def close(self) -> None:
        """Stop everything; what does not obey is killed. May be called again."""
        if self._api is not None:
            self._api.close()  # first: a server waits a while for connections that are open
            self._api = None
        for agent in self.agents.values():
            agent.thaw()
            agent.begin_stop()
        for process in (*self.agents.values(), self.cloud):  # the cloud last: it hears the agents' farewells
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.thaw()
                process.stop()
        reaper.end_all(self.mark)
        if self._reaper is not None and self._reaper.stdin is not None:
            self._reaper.stdin.close()
            self._reaper.wait(10)
            self._reaper = None

    # looking

    @property
    def ca(self) -> Path:
        """The root certificate of this cloud."""
        return self.cloud_dir / "pki" / "root.pem"

    @property
    def api(self) -> CloudApi:
        """REST with the first api-key."""
        if self._api is None:
            self._api = CloudApi(self.url, self.api_key, ca=self.ca)
        return self._api

    def home(self, id_: str) -> Path:
        """The state folder of a gateway."""
        return self.folder / "agents" / id_

    def socket_path(self, id_: str) -> Path:
        """The Unix socket of a gateway's local door."""
        return self.home(id_) / "agent.sock"

    def broker_pid(self) -> int | None:
        """The process id of the running broker, or None."""
        for pid in reaper.marked(self.mark):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "mosquitto" and is_running(pid):
                    return pid
        return None

    def state(self, id_: str) -> str:
        """What the cloud says about a gateway: online, offline, unknown or never."""
        return str(self.api.device(id_)["state"])

    def running(self, id_: str) -> dict[str, int]:
        """Models a gateway reports as running, with their versions."""
        models = (self.api.device(id_).get("reported") or {}).get("models", [])
        return {m["name"]: int(m["version"]) for m in models if m["state"] == "running"}

    # waiting and breaking

    def wait_online(self, id_: str, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until the cloud has fresh evidence of a gateway."""
        self._wait(self.agents[id_], lambda: self.state(id_) == "online", "to be online", timeout_s)

    def wait_running(self, id_: str, model: str, version: int, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until a gateway reports this version of a model as running."""
        what = f"to report {model} version {version} as running"
        self._wait(self.agents[id_], lambda: self.running(id_).get(model) == version, what, timeout_s)

    def wait_broker(self, *, not_pid: int | None = None, timeout_s: float = START_TIMEOUT_S) -> int:
        """Until a broker (another one than ``not_pid``) runs and accepts connections; its process id."""

        def up() -> bool:
            return self.broker_pid() not in (None, not_pid) and accepts(HOST, self.broker_port)

        self._wait(self.cloud, up, "to have its broker running", timeout_s)
        pid = self.broker_pid()
        assert pid is not None
        return pid

    def kill_broker(self) -> int:
        """SIGKILL the broker; the cloud's supervisor starts another one. Returns the killed process's id."""
        pid = self.broker_pid()
        if pid is None:
            raise ConfigError("the broker is not running", hint=f"see {self.cloud.log}")
        kill_pid(pid)
        return pid

    def backup(self, path: Path) -> None:
        """Save database, keys and blobs of the running cloud."""
        self.command("cloud", self._cloud_command("backup", str(path)), self._cloud_env)

    def restore(self, path: Path) -> None:
        """Put a backup in the place of the stopped cloud's state."""
        self.command("cloud", self._cloud_command("restore", str(path)), self._cloud_env)

    def write_profile(self, path: Path) -> None:
        """A profile file with which ``aimass --profile PATH ...`` reaches this cloud."""
        text = json.dumps({"url": self.url, "api_key": self.api_key, "ca": str(self.ca)}, indent=1)
        path.touch(mode=0o600)
        path.write_text(text + "\n")

    # plumbing

    def command(self, name: str, argv: list[str], env: Mapping[str, str] | None = None) -> str:
        """Run a command of one of the programs to its end; what it printed.

        Raises:
            ConfigError: it failed; its message is in ours.
        """
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._env(env or {}),
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise ConfigError(f"{name}: {' '.join(argv[2:])} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _wait(self, part: Process, condition: object, what: str, timeout_s: float = START_TIMEOUT_S) -> None:
        assert callable(condition)

        def holds_or_dead() -> bool:
            if not part.alive:
                raise ConfigError(f"{part.name} ended with code {part.exit_code}. Its log ends with:\n{part.tail()}")
            try:
                return bool(condition())
            except AimassError:
                return False  # not reachable yet; the deadline decides

        try:
            wait_until(holds_or_dead, timeout_s=timeout_s, what=f"{part.name} {what}")
        except TimeoutError as exc:
            raise ConfigError(f"{exc}. Its log ends with:\n{part.tail()}") from exc

    def _agent(self, id_: str, env: Mapping[str, str]) -> Process:
        return self._process(id_, self._edge_command(id_, "run"), env)

    def _process(self, name: str, argv: list[str], env: Mapping[str, str]) -> Process:
        return Process(name, argv, log=self.folder / "logs" / f"{name}.log", env=self._env(env))

    def _cloud_command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "aimass_cloud", "--dir", str(self.cloud_dir), *words]

    def _edge_command(self, id_: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "aimass_edge", "--home", str(self.home(id_)), *words]

    def _env(self, extra: Mapping[str, str]) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("AIMASS_")}
        return {**clean, reaper.VARIABLE: self.mark, "PYTHONUNBUFFERED": "1", **extra}

    def _start_reaper(self) -> None:
        if self._reaper is None:
            argv = [sys.executable, "-I", reaper.__file__, self.mark]
            self._reaper = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; all held while choosing, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]


def accepts(host: str, port: int) -> bool:
    """Whether somebody accepts TCP connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def answers(path: Path) -> bool:
    """Whether somebody accepts connections on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True
