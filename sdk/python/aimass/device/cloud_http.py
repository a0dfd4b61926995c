"""The cloud's HTTP API as an enrolled party uses it: each call carries a token that our key has asked for.

One scheme for all device HTTP: a nonce of the server, signed with the device key, gives a ten-minute token for exact
paths. No client certificate is needed on the TLS connection, so it also works when the certificate has expired.
"""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from aimass.device.https import Body, HttpsClient
from aimass.device.identity import Identity
from aimass.errors import AuthError, RemoteError

_TOKEN_CONTEXT = b"aimass-device-token"
_MAX_TOKENS = 64


class DeviceHttp(Protocol):
    """What the twin, downloads and the renewal need of the cloud's HTTP API."""

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, auth_paths: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Send JSON, get a JSON object.

        Args:
            method: the HTTP method.
            path: starts with ``/v1``.
            body: the JSON object to send.
            auth_paths: the paths to ask a token for; none sends the call without a token.

        Raises:
            AimassError: what the cloud says, or ``ConnectError``.
        """

    def download(
        self, path: str, *, offset_bytes: int = 0, auth_paths: Sequence[str] = ()
    ) -> AbstractContextManager[Body]:
        """Open a download.

        Args:
            path: what to fetch.
            offset_bytes: where to go on.
            auth_paths: the paths to ask the token for, so that one token serves all files of a package; the path
                itself when left out.
        """


class CloudHttp:
    """The cloud, as :class:`DeviceHttp`.

    Args:
        identity: who asks.
        client: the connection; made from the identity's pinned address and root when left out.
        clock: monotonic seconds, for the age of tokens.
    """

    def __init__(
        self, identity: Identity, *, client: HttpsClient | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._identity = identity
        self._client = client or HttpsClient(identity.cloud_url, identity.root_pem)
        self._clock = clock
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._lock = threading.Lock()

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, auth_paths: Sequence[str] = ()
    ) -> dict[str, Any]:
        """As :meth:`DeviceHttp.request`."""
        if not auth_paths:
            return self._client.request(method, path, body)
        token, fresh = self._token(auth_paths)
        try:
            return self._client.request(method, path, body, token=token)
        except AuthError:
            if fresh:
                raise
            # A kept token may have died with a restart of the cloud: only a fresh one tells whether we are refused.
            self._forget(auth_paths)
            return self._client.request(method, path, body, token=self._token(auth_paths)[0])

    @contextlib.contextmanager
    def download(self, path: str, *, offset_bytes: int = 0, auth_paths: Sequence[str] = ()) -> Iterator[Body]:
        """As :meth:`DeviceHttp.download`."""
        paths = auth_paths or (path,)
        token, fresh = self._token(paths)
        with contextlib.ExitStack() as stack:
            try:
                body = stack.enter_context(self._client.stream(path, offset_bytes=offset_bytes, token=token))
            except AuthError:
                if fresh:
                    raise
                self._forget(paths)
                token, _ = self._token(paths)
                body = stack.enter_context(self._client.stream(path, offset_bytes=offset_bytes, token=token))
            yield body

    def close(self) -> None:
        """Close the kept connections."""
        self._client.close()

    def _token(self, paths: Sequence[str]) -> tuple[str, bool]:
        """A token for these paths, and whether it is fresh."""
        key = tuple(paths)
        with self._lock:
            known = self._tokens.get(key)
        if known is not None and self._clock() < known[1]:
            return known[0], False
        token, expires_s = self._ask_for_token(key)
        with self._lock:
            now = self._clock()
            self._tokens = {k: v for k, v in self._tokens.items() if v[1] > now and len(self._tokens) < _MAX_TOKENS}
            self._tokens[key] = (token, now + 0.8 * expires_s)  # never one that dies on its way
        return token, True

    def _forget(self, paths: Sequence[str]) -> None:
        with self._lock:
            self._tokens.pop(tuple(paths), None)

    def _ask_for_token(self, paths: tuple[str, ...]) -> tuple[str, float]:
        cn = self._identity.cn
        nonce = _field(self._client.request("POST", "/v1/device/nonce", {"id": cn}), "nonce")
        signed = self._identity.sign(token_message(cn, nonce, paths))
        body = {"id": cn, "nonce": nonce, "paths": list(paths), "signature": base64.b64encode(signed).decode()}
        answer = self._client.request("POST", "/v1/device/token", body)
        try:
            expires_s = float(answer.get("expires_s", 600))
        except (TypeError, ValueError) as exc:
            raise RemoteError("the cloud's token has no valid lifetime") from exc
        return _field(answer, "token"), expires_s


def token_message(cn: str, nonce: str, paths: Sequence[str]) -> bytes:
    """The bytes that a device signs to get a token; the cloud builds the same ones."""
    return b"\n".join([_TOKEN_CONTEXT, cn.encode(), nonce.encode(), "\n".join(paths).encode()])


def _field(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise RemoteError(f"the cloud's answer lacks {name!r}")
    return value
