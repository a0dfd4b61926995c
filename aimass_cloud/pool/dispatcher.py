"""Takes a pool's requests from the broker and gives them to a runtime.

    infer/{pool}/{cn}/req ─► decode ─► runtime.submit ─► ... future done ─► encode ─► d/{cn}/rsp/infer

Rules:

* The answer goes to the identity in the request's topic, which the broker has checked; nothing in the message can send
  it elsewhere.
* Every request is answered: with a response, or with a small error reply (bad frame, unknown model, overload, deadline,
  answer too large for the requester). Work whose time is over is not begun, and its late answer is not sent.
* A correlation id that is in work is not begun again: both askers wait for the one answer.
* What cannot be answered because nobody could match the answer (no correlation id, no topic of ours) is counted.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol

from aimass.errors import AimassError, DeadlineError, FrameTooLargeError, InputError, LinkDownError, OverloadError
from aimass.placement.policy import Mode
from aimass.runtime.answer import Answer
from aimass.runtime.models import ModelInfo
from aimass.transport.base import MAX_CORRELATION_BYTES, MESSAGE_OVERHEAD_BYTES, Message, Receipt, Transport
from aimass.wire import topics
from aimass.wire.frame import pack_error, pack_response, unpack_request
from aimass.wire.messages import ErrorReply, InferRequest
from aimass.wire.oip import DEFAULT_LIMITS, Limits

log = logging.getLogger(__name__)

# Requests are decoded on the network thread, and a coded message of 2 KB may stand for as much as this: so it is four
# times what the broker lets through, and not what a door of one's own process may take.
REQUEST_LIMITS = replace(DEFAULT_LIMITS, max_message_bytes=16 * 1024 * 1024)


class Runs(Protocol):
    """What a dispatcher needs of a runtime."""

    def submit(self, request: InferRequest, *, deadline_s: float | None = None, mode: Mode = ...) -> Future[Answer]:
        """Queue a request."""

    def models(self) -> list[ModelInfo]:
        """What can be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherSettings:
    """Bounds of a dispatcher.

    Attributes:
        max_pending: requests in work; more are refused at once, so that the requester can go elsewhere.
        default_timeout_s: for a request that does not say how long it waits.
        max_timeout_s: a request is not kept longer than this, whatever it says.
        limits: what a request may be.
    """

    max_pending: int = 512
    default_timeout_s: float = 10.0
    max_timeout_s: float = 120.0
    limits: Limits = REQUEST_LIMITS


@dataclass(frozen=True, slots=True)
class _Job:
    """One request in work."""

    topic: str
    correlation: bytes
    ends_at: float
    id: str
    max_answer_bytes: int


class Dispatcher:
    """Serves one pool through one transport. Thread-safe.

    Args:
        transport: to be started by the owner; should have a session expiry of 0, so that nothing is parked for a dead
            dispatcher.
        runtime: does the work.
        pool: which pool's requests.
        settings: bounds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        transport: Transport,
        runtime: Runs,
        *,
        pool: str = "default",
        settings: DispatcherSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._runtime = runtime
        self._pool = pool
        self._settings = settings or DispatcherSettings()
        self._clock = clock
        self._share = topics.infer_share(pool)
        self._state = "serving"
        self._is_refused = False
        self._announced = b""
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._jobs: dict[tuple[str, bytes], _Job] = {}
        self._counts: Counter[str] = Counter()

    def start(self) -> None:
        """Take requests whenever the transport is up."""
        self._transport.on_link(self._on_link)
        self._transport.subscribe(self._share, self._on_request, qos=1)

    def announce(self) -> None:
        """Publish the pool's state if it has changed: call it after models came or went."""
        state = "refused" if self._is_refused else self._state
        payload = cloud_state(self._transport.identity, self._pool, state, self._runtime.models())
        if payload != self._announced and self._transport.connected:
            try:
                self._transport.publish(topics.cloud_state(self._transport.identity), payload, qos=1, retain=True)
            except AimassError as exc:
                log.info("the pool's state was not published: %s", exc)
            else:
                self._announced = payload

    def drain(self, timeout_s: float) -> bool:
        """Take no new requests and finish those in work.

        Returns:
            Whether all were finished in time.
        """
        ends_at = self._clock() + timeout_s
        self._state = "draining"
        self.announce()
        try:
            # Requests that the broker had given to us before arrive before this answer, and are served.
            self._transport.unsubscribe(self._share).wait(min(2.0, timeout_s))
        except (LinkDownError, DeadlineError) as exc:
            log.info("leaving the pool without the broker's answer: %s", exc)
        with self._idle:
            return self._idle.wait_for(lambda: not self._jobs, max(0.0, ends_at - self._clock()))

    def farewell(self) -> tuple[str, bytes]:
        """What the transport publishes when it closes."""
        identity = self._transport.identity
        return topics.cloud_state(identity), cloud_state(identity, self._pool, "stopped", [])

    def counts(self) -> Mapping[str, int]:
        """Counters since start: requests, answers, errors by code, duplicates, dropped, replies_lost; and in_work."""
        with self._lock:
            return dict(self._counts) | {"in_work": len(self._jobs)}

    # --- on the network thread

    def _on_link(self, up: bool) -> None:
        self._announced = b""
        if not up:
            return
        self._is_refused = self._share in self._transport.refusals()
        if self._is_refused:
            log.error(
                "%s may not answer for pool %s: its enrol-token was for another one",
                self._transport.identity,
                self._pool,
            )
        self.announce()

    def _on_request(self, message: Message) -> None:
        received_at = self._clock()
        self._count("requests")
        try:
            topic = topics.answer_topic(message.topic)
        except AimassError as exc:
            self._drop(f"topic {message.topic[:200]!r}: {exc}")
            return
        correlation = message.correlation
        if message.retained or correlation is None or not 0 < len(correlation) <= MAX_CORRELATION_BYTES:
            self._drop(f"no usable correlation id from {topic}")
            return
        job = _Job(topic, correlation, received_at + self._settings.default_timeout_s, "", self._reply_limit(topic))
        try:
            request = unpack_request(message.payload, self._settings.limits)
            job = self._job(job, request, received_at)
            self._begin(job, request)
        except AimassError as exc:
            self._reply_error(job, exc)

    def _job(self, job: _Job, request: InferRequest, received_at: float) -> _Job:
        timeout_us = _number(request, "timeout", self._settings.default_timeout_s * 1e6)
        max_answer_bytes = _number(request, "max_answer_bytes", job.max_answer_bytes)
        return replace(
            job,
            id=request.id,
            ends_at=received_at + min(timeout_us / 1e6, self._settings.max_timeout_s),
            max_answer_bytes=min(job.max_answer_bytes, int(max_answer_bytes)),
        )

    def _begin(self, job: _Job, request: InferRequest) -> None:
        remaining_s = job.ends_at - self._clock()
        if remaining_s <= 0:
            raise DeadlineError("no time was left when the request arrived")
        key = (job.topic, job.correlation)
        with self._lock:
            if key in self._jobs:
                self._counts["duplicates"] += 1
                return
            if len(self._jobs) >= self._settings.max_pending:
                raise OverloadError(f"{len(self._jobs)} requests are in work already")
            self._jobs[key] = job
        try:
            future = self._runtime.submit(request, deadline_s=remaining_s, mode=Mode.EDGE)
        except BaseException:
            self._end(job)
            raise
        future.add_done_callback(lambda done: self._on_done(job, done))

    # --- on the runtime's threads

    def _on_done(self, job: _Job, future: Future[Answer]) -> None:
        try:
            frame = self._frame(job, future.result())
        except AimassError as exc:
            self._reply_error(job, exc)
        except Exception:  # a fault of ours must still be answered; the details stay here
            log.exception("a request of %s failed", job.topic)
            self._reply_error(job, AimassError("the pool failed inside; its log says how"))
        else:
            self._reply(job, frame, "answers")
        finally:
            self._end(job)

    def _frame(self, job: _Job, answer: Answer) -> bytes:
        if answer.late or self._clock() >= job.ends_at:
            raise DeadlineError("the answer came too late to be sent")
        frame = pack_response(answer.to_response(job.id))
        if len(frame) > job.max_answer_bytes:
            raise FrameTooLargeError(
                f"the answer of {len(frame)} bytes is above the requester's limit",
                size_bytes=len(frame),
                limit_bytes=job.max_answer_bytes,
            )
        return frame

    def _end(self, job: _Job) -> None:
        with self._idle:
            self._jobs.pop((job.topic, job.correlation), None)
            if not self._jobs:
                self._idle.notify_all()

    def _reply_error(self, job: _Job, error: AimassError) -> None:
        self._reply(job, pack_error(ErrorReply.from_error(error)), f"error:{error.code}")

    def _reply(self, job: _Job, frame: bytes, kind: str) -> None:
        self._count(kind)
        expiry_s = max(1, math.ceil(job.ends_at - self._clock()))
        try:
            receipt = self._transport.publish(job.topic, frame, qos=1, correlation=job.correlation, expiry_s=expiry_s)
        except AimassError as exc:
            self._count("replies_lost")
            log.debug("no reply to %s: %s", job.topic, exc)
        else:
            receipt.add_done_callback(self._check_receipt)

    def _check_receipt(self, receipt: Receipt) -> None:
        if receipt.error is not None:
            self._count("replies_lost")
            log.debug("a reply was lost: %s", receipt.error)

    # --- helpers

    def _reply_limit(self, topic: str) -> int:
        return self._transport.max_packet_bytes - MESSAGE_OVERHEAD_BYTES - len(topic)

    def _drop(self, why: str) -> None:
        self._count("dropped")
        log.warning("a request cannot be answered: %s", why)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def cloud_state(node: str, pool: str, state: str, models: list[ModelInfo]) -> bytes:
    """The retained payload that says what a dispatcher serves."""
    names = [{"name": model.name, "version": model.version} for model in models]
    return json.dumps({"node": node, "pool": pool, "models": names, "state": state}).encode()


def _number(request: InferRequest, name: str, default: float) -> float:
    value: Any = request.parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"parameter {name} is not a number")
    return float(value)
