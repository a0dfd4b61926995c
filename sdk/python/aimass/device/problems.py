"""From the cloud's problem document (``application/problem+json``) back to the error it was made from."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from aimass.errors import (
    AimassError,
    AuthError,
    ConflictError,
    ForbiddenError,
    FrameTooLargeError,
    NotFoundError,
    OverloadError,
    RemoteError,
)

_MAX_TEXT = 1000  # what a person reads; the server is ours, but nothing from outside is without a limit

# For answers that are not ours: a proxy on the way, or a broken server.
_BY_STATUS: Mapping[int, type[AimassError]] = {
    401: AuthError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: FrameTooLargeError,
    429: OverloadError,
    503: OverloadError,
}


@functools.cache
def error_classes() -> Mapping[str, type[AimassError]]:
    """Every error of the tree by its stable code."""
    found: dict[str, type[AimassError]] = {}
    waiting: list[type[AimassError]] = [AimassError]
    while waiting:
        cls = waiting.pop()
        found.setdefault(cls.code, cls)
        waiting.extend(cls.__subclasses__())
    return found


def error_from_problem(status: int, body: bytes) -> AimassError:
    """The error that an HTTP answer stands for.

    Args:
        status: the HTTP status, 300 or above.
        body: the answer's body, whatever it is.

    Returns:
        An error of the class that ``code`` names; without a code of ours the status decides, and what is left is a
        ``RemoteError`` that may be tried again when the server is at fault (5xx).
    """
    problem = _object(body)
    code = str(problem.get("code", ""))
    message = str(problem.get("detail") or problem.get("title") or f"the cloud answered with status {status}")[
        :_MAX_TEXT
    ]
    hint = str(problem["hint"])[:_MAX_TEXT] if problem.get("hint") else None
    retryable = problem.get("retryable")
    known = error_classes().get(code)
    cls = known or _BY_STATUS.get(status, RemoteError)
    if not isinstance(retryable, bool):
        retryable = True if known is None and status >= 500 else None
    return cls(message[:_MAX_TEXT], hint=hint, retryable=retryable, remote_code=code, status=status)


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
