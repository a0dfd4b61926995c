"""All REST protocols behind one door: `/v2` (Open Inference Protocol) and `/v1/models` (TensorFlow Serving, KServe V1).

app = RestDoor(runtime, settings=DoorSettings(version=__version__))
"""

from __future__ import annotations

from collections.abc import Callable

from aimass.serving.asgi import Receive, Scope, Send
from aimass.serving.base import DoorSettings, Repository, Serves
from aimass.serving.infer import Inference
from aimass.serving.oip import OipDoor
from aimass.serving.v1 import V1Door


class RestDoor:
    """Every inference protocol over HTTP, with one set of bounds and counts.

    Args:
        runtime: what answers.
        settings: bounds and names.
        ready: whether the process behind is ready to answer at all.
        repository: the packages that callers may load and unload; None where nobody may.
    """

    def __init__(
        self,
        runtime: Serves,
        *,
        settings: DoorSettings | None = None,
        ready: Callable[[], bool] = lambda: True,
        repository: Repository | None = None,
    ) -> None:
        settings = settings or DoorSettings()
        inference = Inference(runtime, settings)
        self._v1 = V1Door(inference)
        self._oip = OipDoor(runtime, settings=settings, ready=ready, repository=repository, inference=inference)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Plain ASGI."""
        is_v1 = scope["path"][:4].lower() == "/v1/"
        await (self._v1 if is_v1 else self._oip)(scope, receive, send)
