"""Steps that several end-to-end tests take."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from aimass.cli import digits
from aimass.cli.load import STREAM
from aimass.cli.stack import Stack
from aimass.cli.waiting import wait_until
from aimass.client.base import Client
from aimass.errors import AimassError


def push(stack: Stack, classifier: digits.Classifier) -> int:
    """Upload a classifier; its version."""
    path = stack.folder / f"{classifier.name}.onnx"
    path.write_bytes(classifier.onnx)
    made = stack.api.push_model(path, classifier.name, labels=digits.LABELS, metrics={"accuracy": classifier.accuracy})
    return int(made["version"])


def deploy(stack: Stack, classifier: digits.Classifier) -> int:
    """Upload a classifier and wait until every gateway runs it; its version."""
    version = push(stack, classifier)
    stack.api.deploy(classifier.name, device=None, version=version)
    for id_ in stack.agents:
        stack.wait_running(id_, classifier.name, version)
    return version


def await_offload(client: Client, model: str, image: Any, *, timeout_s: float = 60) -> None:
    """Until the pool answers for this gateway."""
    wait_until(
        lambda: client.infer(model, image, mode="cloud", deadline_ms=2000).served_by == "cloud",
        timeout_s=timeout_s,
        every_s=0.2,
        what="an answer of the pool",
    )


def events_of(stack: Stack, id_: str, stream: str = STREAM) -> list[dict[str, Any]]:
    """Everything the cloud holds of one stream of a gateway."""
    return list(stack.api.events(id_, stream))


def numbers_in_cloud(stack: Stack, id_: str, stream: str = STREAM) -> list[int]:
    """The ``n`` of each stored record."""
    return [int(event["data"]["n"]) for event in events_of(stack, id_, stream) if event["kind"] != "gap"]


def wait_stored(stack: Stack, id_: str, wanted: Iterable[int], *, timeout_s: float = 60) -> list[int]:
    """Until the cloud holds all these records; everything it holds."""
    needed = set(wanted)
    found: list[int] = []

    def all_there() -> bool:
        found[:] = numbers_in_cloud(stack, id_)
        return needed <= set(found)

    try:
        wait_until(all_there, timeout_s=timeout_s, every_s=0.3, what=f"all records of {id_}")
    except (TimeoutError, AimassError):
        missing = sorted(needed - set(found))
        raise AssertionError(f"{len(missing)} of {len(needed)} records of {id_} are missing: {missing[:20]}") from None
    return found


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and how long it took in seconds."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def as_json(text: str) -> Any:
    """The JSON in the last line of a command's output."""
    return json.loads(text.splitlines()[-1])
