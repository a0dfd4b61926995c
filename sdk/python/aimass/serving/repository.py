"""The repository extension: what is here, load, unload. A package that was not installed and signed never gets in."""

from __future__ import annotations

import asyncio
from typing import Any

from aimass.errors import ForbiddenError, InputError
from aimass.serving.asgi import UNSUPPORTED, Receive, Refusal, Scope, Send, send_bytes, send_json
from aimass.serving.base import Repository, Serves
from aimass.serving.describe import index
from aimass.serving.intake import Intake
from aimass.serving.paths import no_such_path, refuse_method
from aimass.wire.header import parameters_of, read_json
from aimass.wire.oip import Limits

_SIGNED_ONLY = "publish it through the cloud; this endpoint loads what is installed and signed"


class RepositoryVerbs:
    """`/v2/repository`.

    Args:
        runtime: what answers now.
        intake: bounds on bodies.
        limits: bounds on their JSON.
        repository: what may be loaded; None where callers may not.
    """

    def __init__(self, runtime: Serves, intake: Intake, limits: Limits, repository: Repository | None) -> None:
        self._runtime, self._intake, self._limits, self._repository = runtime, intake, limits, repository

    async def serve(self, scope: Scope, receive: Receive, send: Send, rest: list[str]) -> None:
        """Answers `index` and `models/{name}/load|unload`."""
        match rest:
            case ["index"] | ["models", _, "load" | "unload"]:
                if scope["method"] != "POST":
                    await refuse_method(scope, send, "POST")
                    return
            case _:
                raise no_such_path(scope)
        fields = await self._fields(scope, receive)
        if rest == ["index"]:
            await send_json(send, await self._index(fields))
            return
        _, name, verb = rest
        await (self._load(name, fields) if verb == "load" else self._unload(name))
        await send_bytes(send, 200, [b""])

    async def _fields(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        headers = dict(scope["headers"])
        hold = self._intake.hold(headers)
        try:
            body = await self._intake.read(headers, receive, hold)
            if not body.strip():
                return {}
            limits = self._limits
            return await asyncio.to_thread(
                read_json, body, max_bytes=limits.max_message_bytes, max_nesting=limits.max_nesting
            )
        finally:
            hold.release()

    async def _index(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        only_ready = fields.get("ready", False)
        if type(only_ready) is not bool:
            raise InputError("'ready' is true or false")
        installed = () if self._repository is None else await asyncio.to_thread(self._repository.installed)
        return index(self._runtime.models(), installed, only_ready=only_ready)

    async def _load(self, name: str, fields: dict[str, Any]) -> None:
        repository = self._offered()
        parameters = parameters_of(fields)
        if any(key.startswith("file:") for key in parameters):
            raise ForbiddenError("model files in a request are not taken", hint=_SIGNED_ONLY)
        if parameters.get("config"):
            raise ForbiddenError("a package's configuration is signed; a request cannot change it", hint=_SIGNED_ONLY)
        await asyncio.to_thread(repository.load, name, _version(parameters.get("version")))

    async def _unload(self, name: str) -> None:
        await asyncio.to_thread(self._offered().unload, name)

    def _offered(self) -> Repository:
        if self._repository is None:
            error = ForbiddenError("models cannot be loaded or unloaded through this endpoint", hint=_SIGNED_ONLY)
            raise Refusal(error, UNSUPPORTED)
        return self._repository


def _version(value: Any) -> int | None:
    """Our own parameter: which of the installed versions."""
    if value is None:
        return None
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InputError("parameter version is a whole number")
    return int(text)
