"""From a decoded request to the runtime's answer: deadline, policy and mode; and a client that may go away."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
from typing import Any

from aimass.errors import CancelledError, InputError
from aimass.placement.policy import Mode, Policy
from aimass.runtime.answer import Answer
from aimass.serving.asgi import Receive
from aimass.wire.messages import InferRequest

# A socket that closes while its request runs takes the request back. The watch for that costs a task, so it starts
# only for requests that are not answered within this time.
_WATCH_AFTER_S = 0.02
# A timeout is any 64-bit number of microseconds; what waits for it wants a number that a clock can be asked for.
_LONGEST_S = 86_400.0


def call_arguments(request: InferRequest, policy: Policy) -> dict[str, Any]:
    """Deadline, policy and mode out of a request's reserved parameters.

    Raises:
        InputError: one of them makes no sense.
    """
    given = request.parameters
    if not given:
        return {"deadline_s": None, "policy": policy, "mode": Mode.AUTO}
    for key in given:
        if key.startswith("triton_"):
            raise InputError(f"parameter {key[:100]!r}: names that begin with triton_ are reserved")
    timeout_us = _number(given.get("timeout", 0), "timeout", "the remaining time in microseconds")
    _number(given.get("priority", 0), "priority", "a whole number, 1 is the highest")
    try:
        return {
            "deadline_s": min(timeout_us / 1e6, _LONGEST_S) if timeout_us else None,
            "policy": Policy(str(given["policy"])) if "policy" in given else policy,
            "mode": Mode(str(given["mode"])) if "mode" in given else Mode.AUTO,
        }
    except ValueError as exc:
        allowed = f"policy: {', '.join(Policy)}; mode: {', '.join(Mode)}"
        raise InputError(f"parameter policy or mode is unknown: {exc}", hint=allowed) from exc


def _number(value: Any, key: str, meaning: str) -> float:
    # Clients send it as int64, uint64 or double; the type says nothing.
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or not math.isfinite(value):
        raise InputError(f"parameter {key} is {meaning}", hint="leave it out or give a number > 0")
    return value


async def until_answered(future: concurrent.futures.Future[Answer], receive: Receive) -> Answer:
    """Waits for the runtime's answer; a client that goes away takes its request back.

    Raises:
        CancelledError: the client went away.
        AimassError: whatever the runtime refused it for.
    """
    loop = asyncio.get_running_loop()
    watch: list[asyncio.Task[None]] = []
    timer = loop.call_later(_WATCH_AFTER_S, lambda: watch.append(loop.create_task(_until_gone(future, receive))))
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError as exc:
        if watch and watch[0].done():
            raise CancelledError("the client went away") from exc
        raise
    finally:
        timer.cancel()
        for task in watch:
            task.cancel()


async def _until_gone(future: concurrent.futures.Future[Answer], receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    future.cancel()
