"""The API behind TLS: uvicorn on a thread of its own, with a certificate that can be changed while it serves."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from aimass.errors import ConfigError

log = logging.getLogger(__name__)

START_TIMEOUT_S = 15.0
SHUTDOWN_S = 3
"""Requests under way get this long when the cloud stops."""
MAX_CONNECTIONS = 2000
KEEP_ALIVE_S = 30
POLL_S = 0.01


class HttpsServer:
    """One listening address.

    Args:
        app: what answers.
        certificate: key, leaf and intermediate in one file.
        bind: address to listen on.
        port: 0 takes a free one.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, app: ASGIApp, certificate: Path, *, bind: str, port: int) -> None:
        self._certificate = certificate
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_cert_chain(certificate)
        self._socket = _listen(bind, port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            proxy_headers=False,  # nobody may say where a request came from; the limit on guessing counts addresses
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_S,
            limit_concurrency=MAX_CONNECTIONS,
        )
        config.load()
        config.ssl = self._context
        self._server = uvicorn.Server(config)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="https", daemon=True)

    def start(self) -> None:
        """Begin to serve; returns when it does.

        Raises:
            ConfigError: it does not come up.
        """
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise ConfigError(f"the API does not come up: {self._failure or 'no reason given'}", hint="see the log")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Stop: no new requests, those under way get a moment."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(SHUTDOWN_S + 2)
        self._socket.close()

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive() and self._server.started

    def reload_certificate(self) -> None:
        """Show the certificate that is in the file now; open connections keep the one they began with."""
        self._context.load_cert_chain(self._certificate)

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except BaseException as exc:  # the thread's last word: `start` and `running` tell whoever waits for it
            self._failure = exc
            log.exception("the API has ended")


def _listen(bind: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        return socket.create_server((bind, port), family=family, backlog=1024)
    except OSError as exc:
        message = f"cannot listen on {bind}:{port}: {exc.strerror or exc}"
        raise ConfigError(message, hint="is another cloud running? else choose another [https] port") from exc
