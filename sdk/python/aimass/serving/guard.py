"""The guard before a loopback TCP door.

A port on loopback is open to every program and every user of the machine, and to every web page in a browser on it:
pages may send requests to 127.0.0.1, and DNS rebinding lets them read the answers too. So three things are asked of
each request: a `Host` that is on the list (stops rebinding), no `Origin` (no page may call at all), and the bearer
token (stops other users).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from aimass.errors import AuthError, ForbiddenError
from aimass.serving.asgi import App, Receive, Scope, Send, header, headers, send_error

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """Lets a request through to `app` only when it comes from a program that knows the token.

    Args:
        app: the door behind.
        token: what the caller must show as `Authorization: Bearer TOKEN`.
        allowed_hosts: names that `Host` may carry, without port; IPv6 in brackets.
    """

    def __init__(self, app: App, *, token: str, allowed_hosts: Iterable[str] = LOOPBACK_NAMES) -> None:
        if not token:
            raise ForbiddenError("a loopback door without a token would be open to everybody on this machine")
        self._app = app
        self._credential = b"Bearer " + token.encode()
        self._hosts = frozenset(name.lower() for name in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Plain ASGI."""
        try:
            self.check(scope)
        except ForbiddenError as exc:
            await send_error(send, exc)
        except AuthError as exc:
            await send_error(send, exc, extra=[(b"www-authenticate", b"Bearer")])
        else:
            await self._app(scope, receive, send)

    def check(self, scope: Scope) -> None:
        """Whether the request may pass.

        Raises:
            ForbiddenError: wrong or doubled Host, or an Origin: never repaired by a credential.
            AuthError: the token is missing or wrong.
        """
        hosts = headers(scope, b"host")
        if len(hosts) != 1 or _host_name(hosts[0]) not in self._hosts:
            raise ForbiddenError(
                "this Host is not allowed here", hint=f"call one of {', '.join(sorted(self._hosts))} by that name"
            )
        if header(scope, b"origin") is not None:
            raise ForbiddenError(
                "requests of web pages (with an Origin header) are not allowed", hint="call from a program"
            )
        shown = headers(scope, b"authorization")
        if len(shown) != 1 or not hmac.compare_digest(shown[0], self._credential):
            raise AuthError(
                "the bearer token is missing or wrong", hint="read it from the door's token file and send it"
            )


def _host_name(host: bytes) -> str:
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]
