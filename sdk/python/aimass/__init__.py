"""AI Mass: an answer before the deadline, from the device or the cloud.

    import aimass

    with aimass.connect() as client:
        answer = client.infer("digits", image, deadline_ms=50)
        print(answer.outputs["scores"], answer.served_by)

The names below are the whole public interface. They are imported when they are first used, so that `import aimass`
stays quick and brings in neither an engine nor MQTT.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aimass.errors import (
    AimassError,
    ConnectError,
    DeadlineError,
    InputError,
    ModelNotFoundError,
    OverloadError,
)
from aimass.version import __version__

if TYPE_CHECKING:
    from aimass.client.agent import connect
    from aimass.client.base import Client
    from aimass.client.embed import embed
    from aimass.client.enrolment import enrol
    from aimass.placement.policy import Mode, Policy
    from aimass.runtime.answer import Answer
    from aimass.runtime.models import ModelInfo

__all__ = [
    "AimassError",
    "Answer",
    "Client",
    "ConnectError",
    "DeadlineError",
    "InputError",
    "Mode",
    "ModelInfo",
    "ModelNotFoundError",
    "OverloadError",
    "Policy",
    "__version__",
    "connect",
    "embed",
    "enrol",
]

_LAZY = {
    "Answer": "aimass.runtime.answer",
    "Client": "aimass.client.base",
    "Mode": "aimass.placement.policy",
    "ModelInfo": "aimass.runtime.models",
    "Policy": "aimass.placement.policy",
    "connect": "aimass.client.agent",
    "embed": "aimass.client.embed",
    "enrol": "aimass.client.enrolment",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'aimass' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
