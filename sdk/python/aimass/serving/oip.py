"""The Open Inference Protocol (v2) over HTTP, with Triton's extensions, as a plain ASGI door.

It translates: paths and bytes into the runtime's requests, answers and errors back into bytes. Which engine runs,
whether the cloud is asked, how long anything waits: the runtime decides that. What real clients depend on:

* Health answers carry a JSON object (the kserve client parses it) beside the status (tritonclient reads only that).
* `model_version` is a string, `id` comes back only when it was sent, `NaN` stays `NaN`.
* Every refusal is `{"error": ...}` with Content-Type `application/json`, on every path.

The runtime is asked through its queue and answers with a future, so no thread waits for a slow client, and health
is answered while models compute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aimass.errors import AimassError, ModelNotFoundError, OverloadError
from aimass.runtime.models import ModelInfo
from aimass.serving.asgi import Receive, Scope, Send, answering_errors, send_error, send_json
from aimass.serving.base import DoorSettings, Repository, Serves
from aimass.serving.describe import EXTENSIONS, configuration, metadata
from aimass.serving.infer import FRAMING, Inference
from aimass.serving.paths import checked_version, no_such_path, path_segments, refuse_method
from aimass.serving.repository import RepositoryVerbs

__all__ = [
    "FRAMING",
    "DoorSettings",
    "OipDoor",
    "Serves",
    "checked_version",
    "no_such_path",
    "path_segments",
    "refuse_method",
]


class OipDoor:
    """`/v2` over a runtime.

    Args:
        runtime: what answers.
        settings: bounds and names.
        ready: whether the process behind is ready to answer at all.
        repository: the packages that callers may load and unload; None where nobody may.
        inference: shared with another door; one of its own when left out.
    """

    def __init__(
        self,
        runtime: Serves,
        *,
        settings: DoorSettings | None = None,
        ready: Callable[[], bool] = lambda: True,
        repository: Repository | None = None,
        inference: Inference | None = None,
    ) -> None:
        self._runtime = runtime
        self._settings = settings or DoorSettings()
        self._ready = ready
        self._repository = repository
        self._inference = inference or Inference(runtime, self._settings)
        self._verbs = RepositoryVerbs(runtime, self._inference.intake, self._settings.limits, repository)
        self._app = answering_errors(self._route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Plain ASGI."""
        await self._app(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        match path_segments(scope):
            case ["v2", "models", model, "infer"]:
                await self._inference.serve(scope, receive, send, model, "")
            case ["v2", "models", model, "versions", version, "infer"]:
                await self._inference.serve(scope, receive, send, model, version)
            case ["v2", "repository", *rest]:
                await self._verbs.serve(scope, receive, send, rest)
            case ["v2", *rest]:
                await self._describe(scope, send, rest)
            case _:
                raise no_such_path(scope)

    async def _describe(self, scope: Scope, send: Send, rest: list[str]) -> None:
        if scope["method"] != "GET":
            self._check_path(scope, rest)
            await refuse_method(scope, send, "GET")
            return
        try:
            answer = self._description(scope, rest)
        except ModelNotFoundError as exc:
            answer = await self._missing(exc, rest)
        if isinstance(answer, AimassError):
            await send_error(send, answer)
        else:
            await send_json(send, answer)

    def _description(self, scope: Scope, rest: list[str]) -> dict[str, Any] | AimassError:
        match rest:
            case []:
                settings = self._settings
                return {"name": settings.name, "version": settings.version, "extensions": list(EXTENSIONS)}
            case ["health", "live"]:
                return {"live": True}
            case ["health", "ready"]:
                if not self._ready():
                    return OverloadError("not ready yet", hint="models are still loading, or it is shutting down")
                return {"ready": True, "live": True}
            case ["models", "stats"]:
                return {"model_stats": [self._inference.statistics.of(one) for one in self._runtime.models()]}
            case ["models", model]:
                return self._of_model(scope, model, "", "")
            case ["models", model, "versions", version]:
                return self._of_model(scope, model, version, "")
            case ["models", model, "versions", version, what]:
                return self._of_model(scope, model, version, what)
            case ["models", model, what]:
                return self._of_model(scope, model, "", what)
            case _:
                raise no_such_path(scope)

    def _of_model(self, scope: Scope, name: str, version: str, what: str) -> dict[str, Any]:
        if what not in ("", "ready", "config", "stats"):
            raise no_such_path(scope)
        info = self._runtime.model(name, checked_version(version))
        match what:
            case "":
                return metadata(info, [version] if version else map(str, self._versions(name)))
            case "ready":
                return {"name": info.name, "version": str(info.version), "ready": True}
            case "config":
                return configuration(info)
            case _:
                return {"model_stats": [self._inference.statistics.of(one) for one in self._counted(info, version)]}

    def _versions(self, name: str) -> list[int]:
        return sorted(one.version for one in self._runtime.models() if one.name == name)

    def _counted(self, info: ModelInfo, version: str) -> list[ModelInfo]:
        return [info] if version else [one for one in self._runtime.models() if one.name == info.name]

    async def _missing(self, error: ModelNotFoundError, rest: list[str]) -> AimassError:
        """A model that is installed but does not answer yet is not ready; any other is not found."""
        if self._repository is None or rest[-1:] != ["ready"]:
            return error
        installed = await asyncio.to_thread(self._repository.installed)
        if any(name == rest[1] for name, _ in installed):
            return OverloadError(f"model '{rest[1][:100]}' is installed, not loaded", hint="wait for it, or load it")
        return error

    def _check_path(self, scope: Scope, rest: list[str]) -> None:
        """Whether the path exists at all; a verb is only wrong where another one would be right."""
        match rest:
            case [] | ["health", "live" | "ready"] | ["models", _] | ["models", _, "ready" | "config" | "stats"]:
                return
            case ["models", _, "versions", _] | ["models", _, "versions", _, "ready" | "config" | "stats"]:
                return
            case _:
                raise no_such_path(scope)
