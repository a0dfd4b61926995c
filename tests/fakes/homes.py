"""An enrolled home without a cloud, and a real agent process on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aimass
from aimass.client.agent import AgentClient
from aimass.device.identity import BrokerAddress, Trust, prepare_folder, save_enrolment
from aimass.device.store import ActiveModel, PackageStore
from aimass.errors import AimassError
from aimass.package.keys import SigningKey
from tests.conftest import ROOT
from tests.fakes.certs import TestCa
from tests.fakes.mosquitto import free_port
from tests.fakes.onnx_models import package
from tests.fakes.waiting import until


class EnrolledHome:
    """A folder as `aimass-edge enrol` leaves it, with packages as the twin leaves them.

    Args:
        folder: the home.
        ca: signs its certificate; a new one when left out.
        identity: its name.
        broker_port: a port where nobody listens when left out; the cloud's never has a listener.
    """

    def __init__(self, folder: Path, *, ca: TestCa | None = None, identity: str = "gw-1", broker_port: int = 0) -> None:
        self.folder = folder
        self.ca = ca or TestCa(folder.parent / f"ca-{folder.name}")
        self.publisher, self.control = SigningKey.generate(), SigningKey.generate()
        files = self.ca.issue(identity, stem=f"device-{identity.replace(':', '_')}")
        (prepare_folder(folder) / "pending.pem").write_bytes(files.key.read_bytes())
        trust = Trust(
            id=identity,
            cloud_url=f"https://127.0.0.1:{free_port()}",
            broker=BrokerAddress("localhost", broker_port or free_port()),
            publisher_keys=(self.publisher.public.to_pem().decode(),),
            control_keys=(self.control.public.to_pem().decode(),),
        )
        save_enrolment(folder, trust, self.ca.ca_file.read_bytes(), files.cert.read_bytes())

    def install(self, data: bytes, name: str, version: int = 1, **more: Any) -> None:
        """Put a package there, signed by the publisher, and make it what shall run."""
        store = PackageStore(self.folder / "models", publishers=[self.publisher.public])
        package(store.folder(name, version), data, name=name, version=version, key=self.publisher, **more)
        others = [one for one in store.active() if one.name != name]
        store.set_active([*others, ActiveModel(name, version)])


class AgentProcess:
    """`aimass-edge run` on a home.

    Args:
        home: its folder.
        env: settings.
        autostart: start it on entering the context.
    """

    def __init__(self, home: Path, env: Mapping[str, str] | None = None, *, autostart: bool = True) -> None:
        self._autostart = autostart
        self.home = home
        self.log = home.parent / f"{home.name}.log"
        self._env = dict(env or {})
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> AgentProcess:
        """Starts it, unless it is to be started by hand (`autostart=False`)."""
        if self._autostart:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def start(self, *, wait: bool = True) -> None:
        """Starts it, and waits until its door answers."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                edge_command(self.home, "run"), stdout=out, stderr=out, env=clean_env(self._env)
            )
        if wait:
            until(self._answers, f"the agent; {self.log} has its log", 20)

    def client(self, **how: Any) -> AgentClient:
        """A client of it."""
        return aimass.connect(self.home / "agent.sock", **how)

    def stop(self, number: int = signal.SIGTERM, *, timeout_s: float = 20) -> int:
        """Sends a signal and waits; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def said(self) -> str:
        """Its log."""
        return self.log.read_text()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        try:
            with self.client() as client:
                client.status()
        except AimassError:
            return False
        return True


def edge_command(home: Path, *words: str) -> list[str]:
    """The command line of the agent."""
    return [sys.executable, "-m", "aimass_edge", "--home", str(home), *words]


def clean_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings of ours, and with the sources importable where nothing is installed."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("AIMASS_")}
    return {**env, "PYTHONPATH": f"{ROOT / 'sdk' / 'python'}:{ROOT}", **(extra or {})}


def run_edge(home: Path, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command of the agent to its end."""
    return subprocess.run(
        edge_command(home, *words), capture_output=True, text=True, check=False, timeout=60, env=clean_env(env)
    )
