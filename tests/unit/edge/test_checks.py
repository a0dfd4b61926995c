"""What `aimass-edge check` says about machines that are well and machines that are not."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aimass.errors import ConnectError, EngineMissingError
from aimass.transport.base import TlsFiles
from aimass_edge import checks
from aimass_edge.checks import Check, State
from tests.fakes.certs import TestCa

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
MIB = 1024 * 1024


def test_a_good_home_passes(tmp_path: Path) -> None:
    assert checks.check_home(tmp_path).state is State.PASS
    assert not list(tmp_path.iterdir())


def test_a_missing_home_says_how_to_enrol(tmp_path: Path) -> None:
    found = checks.check_home(tmp_path / "none")
    assert found.state is State.FAIL
    assert "enrol" in found.advice


def test_keys_that_others_can_read_are_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "identity").mkdir()
    key = tmp_path / "identity" / "identity.pem"
    key.touch(mode=0o644)
    found = checks.check_home(tmp_path)
    assert (found.state, found.advice) == (State.FAIL, f"chmod 600 {key}")


@pytest.mark.parametrize(("mib", "state"), [(10, State.FAIL), (500, State.WARN), (5000, State.PASS)])
def test_disk(tmp_path: Path, mib: int, state: State) -> None:
    assert checks.check_disk(tmp_path, free_bytes=lambda _: mib * MIB).state is state


@pytest.mark.parametrize(("mib", "state"), [(10, State.FAIL), (100, State.WARN), (5000, State.PASS)])
def test_memory(mib: int, state: State) -> None:
    assert checks.check_memory(mib * MIB).state is state


@pytest.mark.parametrize(("days", "state"), [(-1, State.FAIL), (10, State.WARN), (60, State.PASS)])
def test_certificate(days: float, state: State) -> None:
    end = NOW + dt.timedelta(days=days)
    assert checks.check_certificate(end - dt.timedelta(days=90), end, NOW).state is state


@pytest.mark.parametrize(("off_s", "state"), [(2, State.PASS), (-60, State.WARN), (4000, State.FAIL)])
def test_clock(off_s: float, state: State) -> None:
    assert checks.check_clock(NOW + dt.timedelta(seconds=off_s), NOW).state is state


def test_names() -> None:
    assert checks.check_name("cloud", "localhost", 443).state is State.PASS
    assert checks.check_name("cloud", "no-such-host.invalid", 443).state is State.FAIL


class FakeEngine:
    version = "1.2"

    def providers(self) -> tuple[str, ...]:
        return ("CPU", "OpenVINO")


def open_fake(name: str) -> Any:
    if name == "absent":
        raise EngineMissingError("not installed", hint="pip install it")
    return FakeEngine()


@pytest.mark.parametrize(
    ("names", "provider", "states"),
    [
        (("here",), "CPU", [State.PASS]),
        (("here",), "OpenVINO:GPU", [State.PASS]),
        (("here", "absent"), "CPU", [State.PASS, State.WARN]),
        (("here",), "CUDA", [State.WARN, State.FAIL]),
        (("absent",), "CPU", [State.WARN, State.FAIL]),
        ((), "CPU", [State.WARN]),
    ],
)
def test_engines(names: tuple[str, ...], provider: str, states: list[State]) -> None:
    assert [one.state for one in checks.check_engines(names, provider, open_fake)] == states


def test_the_agent_that_is_not_running_is_a_warning() -> None:
    def refused() -> dict[str, Any]:
        raise ConnectError("no agent listens")

    assert checks.check_agent(refused).state is State.WARN
    assert "link up" in checks.check_agent(lambda: {"pid": 1, "link": {"up": True}, "models": []}).detail


class TlsServer:
    """Takes TLS connections with client certificates of one CA and does with each what the test says."""

    def __init__(self, ca: TestCa, talk: Callable[[ssl.SSLSocket], None], *, wants_client: bool = True) -> None:
        files = ca.issue("server", server=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert, files.key)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(ca.ca_file)
        self._context, self._talk = context, talk
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._server.accept()
            except OSError:
                return
            with plain:
                try:
                    with self._context.wrap_socket(plain, server_side=True) as secured:
                        self._talk(secured)
                except OSError:
                    pass

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)


def wait_for_end(secured: ssl.SSLSocket) -> None:
    while secured.recv(100):
        pass


@pytest.fixture
def ca(tmp_path: Path) -> TestCa:
    return TestCa(tmp_path / "ca")


@pytest.fixture
def serve(ca: TestCa) -> Iterator[Callable[..., TlsServer]]:
    servers: list[TlsServer] = []

    def start(talk: Callable[[ssl.SSLSocket], None], **how: Any) -> TlsServer:
        servers.append(TlsServer(ca, talk, **how))
        return servers[-1]

    yield start
    for one in servers:
        one.close()


def broker_check(server: TlsServer, files: TlsFiles, ca: TestCa) -> Check:
    return checks.check_broker("localhost", server.port, TlsFiles(ca.ca_file, files.cert, files.key))


def test_a_broker_that_takes_our_certificate_passes(ca: TestCa, serve: Callable[..., TlsServer]) -> None:
    found = broker_check(serve(wait_for_end), ca.issue("gw-1"), ca)
    assert found.state is State.PASS, found.detail


def test_a_broker_that_refuses_our_certificate_says_to_enrol_again(
    ca: TestCa, tmp_path: Path, serve: Callable[..., TlsServer]
) -> None:
    stranger = TestCa(tmp_path / "other", name="Other root").issue("gw-1")
    found = broker_check(serve(wait_for_end), stranger, ca)
    assert found.state is State.FAIL
    assert "enrol-token" in found.advice


def test_a_broker_of_somebody_else_is_told_apart(ca: TestCa, tmp_path: Path, serve: Callable[..., TlsServer]) -> None:
    found = broker_check(serve(wait_for_end), ca.issue("gw-1"), TestCa(tmp_path / "other", name="Other root"))
    assert found.state is State.FAIL
    assert "not our cloud" in found.advice


def test_a_broker_that_is_not_there_is_told_apart(ca: TestCa) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    files = ca.issue("gw-1")
    found = checks.check_broker("127.0.0.1", port, files)
    assert found.state is State.FAIL
    assert "nothing listens" in found.advice


def http_answer(head: bytes) -> Callable[[ssl.SSLSocket], None]:
    def talk(secured: ssl.SSLSocket) -> None:
        secured.recv(4096)
        secured.sendall(head + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    return talk


def test_a_healthy_cloud_passes_and_tells_the_time(ca: TestCa, serve: Callable[..., TlsServer]) -> None:
    talk = http_answer(b"HTTP/1.1 200 OK\r\nDate: Tue, 01 Jan 2030 00:00:05 GMT")
    server = serve(talk, wants_client=False)
    found = checks.check_cloud(f"https://localhost:{server.port}", ca.ca_file, now=lambda: NOW)
    assert [(one.name, one.state) for one in found] == [("cloud", State.PASS), ("clock", State.PASS)]


def test_a_sick_cloud_is_a_warning(ca: TestCa, serve: Callable[..., TlsServer]) -> None:
    server = serve(http_answer(b"HTTP/1.1 503 Busy"), wants_client=False)
    found = checks.check_cloud(f"https://localhost:{server.port}", ca.ca_file, now=lambda: NOW)
    assert [one.state for one in found] == [State.WARN]


def test_a_cloud_that_is_away_fails(ca: TestCa) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = checks.check_cloud(f"https://127.0.0.1:{port}", ca.ca_file, now=lambda: NOW)
    assert [one.state for one in found] == [State.FAIL]
