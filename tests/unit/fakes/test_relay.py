import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.fakes.relay import Relay


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def relay() -> Iterator[Relay]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with Relay(*server.server_address) as relay:
            yield relay
        server.shutdown()


def connect(relay: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port), timeout=5)


def test_passes_bytes_both_ways(relay: Relay) -> None:
    with connect(relay) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    assert relay.accepted == 1


def test_stalled_it_accepts_but_delivers_nothing_until_resumed(relay: Relay) -> None:
    with connect(relay) as old:
        old.sendall(b"1")
        assert old.recv(100) == b"1"
        relay.stall()
        with connect(relay) as new:
            for client in (old, new):
                client.sendall(b"2")
                client.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    client.recv(100)
            relay.resume()
            for client in (old, new):
                client.settimeout(5)
                assert client.recv(100) == b"2"


def test_cut_it_resets_what_is_open_and_refuses_what_comes(relay: Relay) -> None:
    with connect(relay) as client:
        client.sendall(b"1")
        assert client.recv(100) == b"1"
        relay.cut()
        assert gone(client)
        with connect(relay) as late:
            assert gone(late)
        relay.resume()
        with connect(relay) as again:
            again.sendall(b"3")
            assert again.recv(100) == b"3"


def gone(client: socket.socket) -> bool:
    try:
        return client.recv(100) == b""
    except ConnectionError:
        return True
