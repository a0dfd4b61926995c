"""The errors of the agent, raised again here as the class they were there.

A program that catches `InputError` must not care whether the model runs in its own process or behind the socket.
"""

from __future__ import annotations

import json

from aimass.client.http import Reply
from aimass.device.problems import error_classes
from aimass.errors import AimassError, RemoteError


def error_from(reply: Reply) -> AimassError:
    """What a refused call raises."""
    try:
        parsed = json.loads(reply.body)
        message, extra = parsed["error"], parsed.get("parameters", {})
        code, retryable, hint = extra.get("code", ""), bool(extra.get("retryable", False)), str(extra.get("hint", ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        start = reply.body[:200].decode(errors="replace")
        return RemoteError(f"the agent answered {reply.status} without an error object: {start!r}", remote_code="")
    cls = error_classes().get(code)
    if cls is None:
        return RemoteError(str(message), hint=hint, retryable=retryable, remote_code=str(code))
    return cls(str(message), hint=hint, retryable=retryable)
