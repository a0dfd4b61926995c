"""A client that calls an ASGI app directly: no socket, every byte and every moment in the test's hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class AsgiReply:
    """What the app answered."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


class AsgiCall:
    """One request whose body comes piece by piece, and whose client may go away."""

    def __init__(
        self, app: Any, method: str, path: str, headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    ) -> None:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        raw, _, query = path.partition("?")
        self.scope = {
            "type": "http",
            "method": method,
            "path": raw,
            "raw_path": raw.encode(),
            "query_string": query.encode(),
            "headers": [(key.lower().encode(), value.encode()) for key, value in pairs],
        }
        self.reply = AsgiReply()
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._app = app

    def feed(self, *chunks: bytes, last: bool = True) -> AsgiCall:
        for number, chunk in enumerate(chunks, 1):
            more = not (last and number == len(chunks))
            self._incoming.put_nowait({"type": "http.request", "body": chunk, "more_body": more})
        return self

    def go_away(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def run(self) -> AsgiReply:
        await self._app(self.scope, self._incoming.get, self._send)
        return self.reply

    async def _send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not self.reply.status, "answered twice"
            self.reply.status = message["status"]
            self.reply.headers = {key.decode(): value.decode() for key, value in message["headers"]}
        else:
            self.reply.body += message.get("body", b"")


async def call(app: Any, method: str, path: str, body: bytes | Iterable[bytes] = b"", headers: Any = ()) -> AsgiReply:
    """A request that is all there, and its answer."""
    chunks = [body] if isinstance(body, bytes) else list(body)
    return await AsgiCall(app, method, path, headers).feed(*chunks).run()
