"""The device's HTTPS against a real TLS server: pinned root, tokens for exact paths, ranges, bounds."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import secrets
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from aimass.device.cloud_http import CloudHttp, token_message
from aimass.device.download import FetchLimits, fetch
from aimass.device.https import HttpsClient
from aimass.device.identity import Identity
from aimass.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    ConnectError,
    DownloadError,
    FrameTooLargeError,
    NotFoundError,
    OverloadError,
    RemoteError,
)
from aimass.package.manifest import FileEntry
from tests.fakes.certs import TestCa
from tests.fakes.device_cloud import FakeCloud

pytestmark = pytest.mark.integration

BLOB = bytes(range(256)) * 2000


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.server.calls.append((self.command, self.path, self.client_address[1]))
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.path.startswith("/v1/blobs/"):
            if self._is_allowed():
                self._blob()
        elif self.path == "/v1/device/nonce":
            self._send(200, {"nonce": self.server.new_nonce(), "expires_s": 60})
        elif self.path == "/v1/device/token":
            self._token(body)
        elif self.path == "/guarded":
            if self._is_allowed():
                self._send(200, {"ok": True})
        else:
            self._plain(body)

    def _plain(self, body: dict[str, Any]) -> None:
        match self.path:
            case "/echo":
                self._send(200, body)
            case "/problem":
                problem = {"code": "store.conflict", "detail": "twice", "hint": "once", "retryable": True}
                self._send(409, problem, "application/problem+json")
            case "/busy":
                self._raw(503, b"<html>proxy</html>")
            case "/broken":
                self._raw(500, b"")
            case "/text":
                self._raw(200, b"hello")
            case "/list":
                self._raw(200, b"[1]")
            case "/deep":
                self._raw(200, b"[" * 100_000)
            case "/large":
                self._raw(200, b"x" * 200_000)
            case "/redirect":
                self._raw(302, b"")
            case "/hangup":
                self.close_connection = True
            case "/drop-after":
                self._send(200, {"then": "gone"})
                self.close_connection = True  # without saying so: the client finds out at its next call
            case _:
                self._raw(404, b"")

    def _token(self, body: dict[str, Any]) -> None:
        message = token_message(body["id"], body["nonce"], body["paths"])
        try:
            self.server.nonces.remove(body["nonce"])
            self.server.device_key.verify(base64.b64decode(body["signature"]), message, ec.ECDSA(hashes.SHA256()))
        except (ValueError, InvalidSignature):
            self._send(401, {"code": "identity.auth", "detail": "bad signature or nonce"})
            return
        token = secrets.token_hex(8)
        self.server.tokens[token] = set(body["paths"])
        self._send(200, {"token": token, "expires_s": 600})

    def _is_allowed(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.path in self.server.tokens.get(token, ()):
            return True
        self._send(401, {"code": "identity.auth", "detail": "no token for this path"})
        return False

    def _blob(self) -> None:
        data, start = BLOB, 0
        asked = self.headers.get("Range", "")
        if asked:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self._raw(416, b"")
                return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        self.wfile.write(data[start:] if cut is None else data[start : start + cut])
        if cut is not None:
            self.close_connection = True

    def _send(self, status: int, body: dict[str, Any], kind: str = "application/json") -> None:
        self._raw(status, json.dumps(body).encode(), kind)

    def _raw(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, ca: TestCa, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Handler)
        files = ca.issue("localhost", server=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert, files.key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.root_pem = ca.ca_file.read_bytes()
        self.calls: list[tuple[str, str, int]] = []
        self.cuts: list[int] = []
        self.nonces: list[str] = []
        self.tokens: dict[str, set[str]] = {}
        self.device_key: Any = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server_address[1]}"

    def new_nonce(self) -> str:
        self.nonces.append(secrets.token_hex(8))
        return self.nonces[-1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken handshakes are part of the tests."""


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(Server(TestCa(tmp_path / "ca"))) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[HttpsClient]:
    client = HttpsClient(server.url, server.root_pem, timeout_s=5, max_response_bytes=100_000)
    yield client
    client.close()


@pytest.fixture
def identity(tmp_path: Path, server: Server) -> Identity:
    identity = FakeCloud().enrolled(tmp_path / "home")
    certificate = x509.load_pem_x509_certificates(identity.tls_files.cert.read_bytes())[0]
    server.device_key = certificate.public_key()
    return identity


def test_sends_json_and_gets_json_over_one_kept_connection(server: Server, client: HttpsClient) -> None:
    for n in range(5):
        assert client.request("POST", "/echo", {"n": n}) == {"n": n}
    assert len({port for _, _, port in server.calls}) == 1


def test_a_kept_connection_that_the_server_closed_is_replaced_unseen(server: Server, client: HttpsClient) -> None:
    for _ in range(3):
        assert client.request("GET", "/drop-after") == {"then": "gone"}
    assert len({port for _, _, port in server.calls}) == 3


def test_trusts_the_pinned_root_only(server: Server, tmp_path: Path) -> None:
    other = TestCa(tmp_path / "other").ca_file.read_bytes()
    with pytest.raises(ConnectError, match="not accepted") as caught:
        HttpsClient(server.url, other).request("GET", "/echo")
    assert "clock" in caught.value.hint
    assert server.calls == []


def test_checks_the_host_name(tmp_path: Path) -> None:
    with serving(Server(TestCa(tmp_path / "ca"), "127.0.0.2")) as server:
        url = server.url.replace("localhost", "127.0.0.2")
        with pytest.raises(ConnectError, match="not accepted"):
            HttpsClient(url, server.root_pem).request("GET", "/echo")
        assert server.calls == []


def test_without_a_root_anybody_is_believed_for_the_first_contact(server: Server) -> None:
    client = HttpsClient(server.url, None)
    assert client.request("POST", "/echo", {"a": 1}) == {"a": 1}
    client.close()


@pytest.mark.parametrize("url", ["http://x", "x:1", "https://", ""])
def test_speaks_https_only(url: str) -> None:
    with pytest.raises(ConfigError):
        HttpsClient(url, None)


def test_a_problem_document_becomes_the_error_it_was(client: HttpsClient) -> None:
    with pytest.raises(ConflictError, match="twice") as caught:
        client.request("GET", "/problem")
    assert (caught.value.hint, caught.value.retryable) == ("once", True)


@pytest.mark.parametrize(
    ("path", "error", "retryable"),
    [
        ("/busy", OverloadError, True),
        ("/broken", RemoteError, True),
        ("/text", RemoteError, True),
        ("/list", RemoteError, True),
        ("/deep", RemoteError, True),
        ("/redirect", RemoteError, False),
        ("/nothing", NotFoundError, False),
        ("/large", FrameTooLargeError, False),
        ("/hangup", ConnectError, True),
    ],
)
def test_whatever_a_server_answers_is_one_of_our_errors(
    client: HttpsClient, path: str, error: type[Exception], retryable: bool
) -> None:
    with pytest.raises(error) as caught:
        client.request("GET", path)
    assert caught.value.retryable is retryable  # type: ignore[attr-defined]
    assert client.request("POST", "/echo", {"still": "fine"}) == {"still": "fine"}


def test_nobody_at_home_is_a_connect_error(server: Server) -> None:
    with pytest.raises(ConnectError):
        HttpsClient("https://localhost:1", server.root_pem, timeout_s=2).request("GET", "/")


def test_a_token_is_asked_for_once_and_used_for_its_paths_only(server: Server, identity: Identity) -> None:
    http = CloudHttp(identity, client=HttpsClient(server.url, server.root_pem))
    for _ in range(3):
        assert http.request("POST", "/guarded", {}, auth_paths=["/guarded"]) == {"ok": True}
    assert [path for _, path, _ in server.calls].count("/v1/device/token") == 1
    with pytest.raises(AuthError):
        http.request("POST", "/guarded", {}, auth_paths=["/other"])
    with pytest.raises(AuthError):
        http.request("POST", "/guarded", {})
    http.close()


def test_a_token_that_died_with_a_restart_of_the_cloud_is_replaced(server: Server, identity: Identity) -> None:
    http = CloudHttp(identity, client=HttpsClient(server.url, server.root_pem))
    http.request("POST", "/guarded", {}, auth_paths=["/guarded"])
    server.tokens.clear()
    assert http.request("POST", "/guarded", {}, auth_paths=["/guarded"]) == {"ok": True}
    server.tokens.clear()
    with http.download("/v1/blobs/x") as body:
        assert b"".join(body.chunks) == BLOB
    http.close()


def test_a_token_is_renewed_before_it_ends(server: Server, identity: Identity) -> None:
    now_s = 0.0
    http = CloudHttp(identity, client=HttpsClient(server.url, server.root_pem), clock=lambda: now_s)
    http.request("POST", "/guarded", {}, auth_paths=["/guarded"])
    now_s = 500.0
    http.request("POST", "/guarded", {}, auth_paths=["/guarded"])
    assert [path for _, path, _ in server.calls].count("/v1/device/token") == 2
    http.close()


def test_a_signature_of_another_key_gets_no_token(server: Server, identity: Identity) -> None:
    server.device_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    http = CloudHttp(identity, client=HttpsClient(server.url, server.root_pem))
    with pytest.raises(AuthError):
        http.request("POST", "/guarded", {}, auth_paths=["/guarded"])
    http.close()


def test_fetches_with_ranges_over_connections_that_break(server: Server, identity: Identity, tmp_path: Path) -> None:
    entry = FileEntry(hashlib.sha256(BLOB).hexdigest(), len(BLOB))
    server.cuts = [100_000, 150_001]
    http = CloudHttp(identity, client=HttpsClient(server.url, server.root_pem))
    fetch(
        http,
        f"/v1/blobs/{entry.sha256}",
        entry,
        tmp_path / "f",
        stopped=lambda wait_s: False,
        limits=FetchLimits(reserve_bytes=0, first_pause_s=0),
    )
    assert (tmp_path / "f").read_bytes() == BLOB
    http.close()


def test_a_range_beyond_the_end_says_that_the_whole_is_to_be_fetched(server: Server, identity: Identity) -> None:
    http = CloudHttp(identity, client=HttpsClient(server.url, server.root_pem))
    with pytest.raises(DownloadError) as caught, http.download("/v1/blobs/x", offset_bytes=10**9):
        pass
    assert caught.value.restart is True
    http.close()
