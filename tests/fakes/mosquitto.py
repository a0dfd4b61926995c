"""A real mosquitto for tests: mutual TLS on a free loopback port, throw-away certificates, and ways to hurt it.

    with Mosquitto(tmp_path) as broker:
        transport = MqttTransport("gw-1", "localhost", broker.port, broker.identity("gw-1"))

By default every identity may do everything. With `roles` the dynamic-security plug-in denies all that is not listed:

    Mosquitto(tmp_path, roles={"gw-1": [("publishClientSend", "aimass/v1/d/gw-1/#"), ("subscribePattern", "...")]})
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aimass.transport import TlsFiles
from tests.fakes.certs import TestCa

PLUGIN = Path("/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so")
Rule = tuple[str, str]


def find_mosquitto() -> str | None:
    """The broker's program, also where only root has it in the path."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Mosquitto:
    """One broker process."""

    def __init__(
        self,
        folder: Path,
        *,
        max_packet_bytes: int = 4 * 1024 * 1024,
        max_inflight: int = 100,
        roles: Mapping[str, Sequence[Rule]] | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.ca = TestCa(folder / "ca")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        server = self.ca.issue("localhost", server=True, stem="broker")
        lines = [
            "per_listener_settings false",
            "persistence false",
            "set_tcp_nodelay true",
            f"max_packet_size {max_packet_bytes}",
            f"max_inflight_messages {max_inflight}",
            "max_queued_messages 2000",
            f"listener {self.port} 127.0.0.1",
            f"cafile {server.ca}",
            f"certfile {server.cert}",
            f"keyfile {server.key}",
            "require_certificate true",
            "use_identity_as_username true",
            "use_username_as_clientid true",
            "tls_version tlsv1.2",
            *extra,
        ]
        if roles is None:
            lines.append("allow_anonymous true")
        else:
            lines += ["allow_anonymous false", f"plugin {PLUGIN}"]
            lines.append(f"plugin_opt_config_file {folder / 'security.json'}")
            (folder / "security.json").write_text(json.dumps(_security(roles)))
        if os.geteuid() == 0:
            lines.append("user root")  # otherwise it drops to a user that cannot read our folder
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The broker's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the broker wrote so far."""
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def identity(self, common_name: str) -> TlsFiles:
        """Certificate files of a client with this name."""
        return self.ca.issue(common_name)

    def start(self) -> None:
        """Start the broker, again on the same port, and wait until it takes connections."""
        program = find_mosquitto()
        assert program is not None, "mosquitto is not installed"
        with (self.folder / "mosquitto.log").open("ab") as out:
            self._process = subprocess.Popen([program, "-v", "-c", str(self._config)], stdout=out, stderr=out)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"mosquitto ended: {self.log[-2000:]}"
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.01)
        raise AssertionError("mosquitto does not listen")

    def kill(self) -> None:
        """SIGKILL: nothing is saved, no will is sent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def restart(self) -> None:
        """Kill and start."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop the process: connections stay open, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def hang_up(self) -> None:
        """Reload the configuration (SIGHUP)."""
        os.kill(self.pid, signal.SIGHUP)


def _security(roles: Mapping[str, Sequence[Rule]]) -> dict[str, object]:
    acl_types = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")
    return {
        "defaultACLAccess": dict.fromkeys(acl_types, False),
        "clients": [{"username": name, "roles": [{"rolename": name}]} for name in roles],
        "roles": [
            {
                "rolename": name,
                "acls": [{"acltype": kind, "topic": topic, "priority": 0, "allow": True} for kind, topic in rules],
            }
            for name, rules in roles.items()
        ],
    }
