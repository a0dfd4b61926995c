"""The pool of connections to the agent, against agents that stop, hang, restart and lie."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aimass.client.http import Reply, UnixPool
from aimass.errors import ConnectError, DeadlineError, FrameTooLargeError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Agent:
    """A socket whose every connection is handled by the test's own function."""

    def __init__(self, path: Path, handle: Callable[[socket.socket], None], *, backlog: int = 16) -> None:
        self.connections = 0
        self._handle, self._open = handle, list[socket.socket]()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(backlog)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._handle(connection)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def request_of(connection: socket.socket) -> bytes:
    """One request with its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            raise OSError("closed")
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answering(answer: bytes = OK, *, times: int = 1000) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        for _ in range(times):
            request_of(connection)
            connection.sendall(answer)
        connection.close()

    return handle


def silent(connection: socket.socket) -> None:
    request_of(connection)


@pytest.fixture
def path(short_tmp: Path) -> Path:
    return short_tmp / "a.sock"


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def make(handle: Callable[[socket.socket], None], **how: int) -> Agent:
        path.unlink(missing_ok=True)
        agents.append(Agent(path, handle, **how))
        return agents[-1]

    yield make
    for agent in agents:
        with contextlib.suppress(OSError):
            agent.close()


@pytest.fixture
def pool(path: Path) -> Iterator[UnixPool]:
    pool = UnixPool(path, max_answer_bytes=1000)
    yield pool
    pool.close()


def get(pool: UnixPool, *, timeout_s: float = 5) -> Reply:
    return pool.request("POST", "/x", parts=[b"a", memoryview(b"bc")], timeout_s=timeout_s)


def test_one_connection_is_used_again(start: Callable[..., Agent], pool: UnixPool) -> None:
    agent = start(answering())
    assert [get(pool).body for _ in range(3)] == [b"hi"] * 3
    assert agent.connections == 1


def test_a_connection_that_the_agent_closed_is_replaced_without_notice(
    start: Callable[..., Agent], pool: UnixPool
) -> None:
    agent = start(answering(times=1))
    assert [get(pool).status for _ in range(3)] == [200] * 3
    assert agent.connections == 3


def test_threads_do_not_share_a_connection_at_one_time(start: Callable[..., Agent], pool: UnixPool) -> None:
    both = threading.Barrier(2, timeout=5)

    def handle(connection: socket.socket) -> None:
        request_of(connection)
        both.wait()
        connection.sendall(OK)

    start(handle)
    threads = [threading.Thread(target=get, args=(pool,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_no_agent_is_a_connect_error_at_once_with_what_to_do(pool: UnixPool) -> None:
    started = time.monotonic()
    with pytest.raises(ConnectError) as caught:
        get(pool)
    assert "aimass-edge run" in caught.value.hint
    assert time.monotonic() - started < 4


def test_a_socket_left_by_a_killed_agent_is_a_connect_error(path: Path, pool: UnixPool) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(ConnectError):
        get(pool)


def test_an_agent_that_hangs_ends_in_a_deadline_error_in_time(start: Callable[..., Agent], pool: UnixPool) -> None:
    start(silent)
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        get(pool, timeout_s=0.1)
    assert time.monotonic() - started < 4


def test_an_agent_that_stops_in_the_middle_of_an_answer_ends_in_a_deadline_error(
    start: Callable[..., Agent], pool: UnixPool
) -> None:
    def handle(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(OK[:-1])

    start(handle)
    with pytest.raises(DeadlineError):
        get(pool, timeout_s=0.1)


def test_a_full_backlog_ends_in_a_deadline_error(path: Path, pool: UnixPool) -> None:
    with socket.socket(socket.AF_UNIX) as stopped:  # listens, never accepts: an agent under SIGSTOP
        stopped.bind(str(path))
        stopped.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            with pytest.raises(DeadlineError):
                get(pool, timeout_s=0.1)


def test_an_agent_that_dies_during_the_first_call_is_a_connect_error(
    start: Callable[..., Agent], pool: UnixPool
) -> None:
    def handle(connection: socket.socket) -> None:
        request_of(connection)
        connection.shutdown(socket.SHUT_RDWR)

    start(handle)
    with pytest.raises(ConnectError):
        get(pool)


def test_an_agent_that_went_is_a_connect_error_and_was_seen_before(
    start: Callable[..., Agent], path: Path, pool: UnixPool
) -> None:
    agent = start(answering())
    get(pool)
    assert pool.was_answered
    agent.close()
    path.unlink()
    with pytest.raises(ConnectError) as caught:
        get(pool)
    assert caught.value.retryable


def test_an_answer_given_before_the_body_was_read_is_heard(start: Callable[..., Agent], pool: UnixPool) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        connection.close()

    start(handle)
    reply = pool.request("POST", "/x", parts=[b"x" * 10_000_000], timeout_s=5)
    assert (reply.status, reply.body) == (413, b"no")


def test_too_long_an_answer_is_refused_unread(start: Callable[..., Agent], pool: UnixPool) -> None:
    start(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"))
    with pytest.raises(FrameTooLargeError):
        get(pool)


def test_garbage_is_a_connect_error(start: Callable[..., Agent], pool: UnixPool) -> None:
    start(answering(b"SSH-2.0-OpenSSH\r\n"))
    with pytest.raises(ConnectError):
        get(pool)


def test_a_closed_pool_says_so(pool: UnixPool) -> None:
    pool.close()
    with pytest.raises(ConnectError, match="closed") as caught:
        get(pool)
    assert not caught.value.retryable
