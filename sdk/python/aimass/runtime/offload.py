"""Inference by the cloud's pool over the broker.

    start: encode ─► infer/{pool}/{cn}/req ─► dispatcher ─► d/{cn}/rsp/infer ─► decode on the network thread: done

A call ends with the first of: an answer with its correlation id, a receipt that says it reached nobody, the loss of the
link, its time. What comes for a call that has ended is dropped and counted. Latency is the product here: no thread of
ours stands between the caller and the socket, nor between the network thread and the caller.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from aimass.errors import AimassError, CancelledError, DeadlineError, LinkDownError, OverloadError
from aimass.transport.base import MESSAGE_OVERHEAD_BYTES, Message, Receipt, Transport
from aimass.transport.completion import Completion
from aimass.wire import topics
from aimass.wire.frame import pack_request, unpack_reply
from aimass.wire.messages import ErrorReply, InferRequest, InferResponse, Parameter
from aimass.wire.oip import DEFAULT_LIMITS, Limits

log = logging.getLogger(__name__)

CORRELATION_BYTES = 16
SWEEP_PERIOD_S = 0.25


class MqttCall(Completion[InferResponse]):
    """One request on its way to the pool. See `aimass.runtime.remote.RemoteCall`."""

    __slots__ = ("_remote", "correlation", "ends_at", "sent_at")

    def __init__(self, remote: MqttRemote, correlation: bytes, sent_at: float, ends_at: float) -> None:
        super().__init__()
        self._remote = remote
        self.correlation = correlation
        self.sent_at = sent_at
        self.ends_at = ends_at

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._remote.forget(self)
        self.complete(error=CancelledError("the call was taken back"))

    def follow(self, other: MqttCall) -> None:
        """End as another call with the same correlation id did."""
        self.complete(other.result, other.error)

    def taken(self, receipt: Receipt) -> None:
        """The broker said what became of the request."""
        if receipt.error is not None:
            self._remote.forget(self)
            self.complete(error=receipt.error)


class MqttRemote:
    """Sends requests to a pool through a transport. See `aimass.runtime.remote.Remote`. Thread-safe.

    Args:
        transport: the link; may be started before or afterwards.
        pool: which pool is asked.
        max_calls: bound of calls that wait; more are refused at once.
        limits: what an answer may be.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        transport: Transport,
        pool: str = "default",
        *,
        max_calls: int = 1000,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._request_topic = topics.infer_request(pool, transport.identity)
        self._answer_topic = topics.reply(transport.identity, "infer")
        # The broker drops what is above our limit in silence; so the dispatcher is told.
        self._max_answer_bytes = transport.max_incoming_bytes - MESSAGE_OVERHEAD_BYTES - len(self._answer_topic)
        self._max_calls = max_calls
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: dict[bytes, MqttCall] = {}
        self._counts: Counter[str] = Counter()
        self._may_hear = True
        self._closed = threading.Event()
        self._busy = threading.Event()
        self._sweeper: threading.Thread | None = None
        transport.subscribe(self._answer_topic, self._on_answer, qos=1)
        transport.on_link(self._on_link)

    @property
    def available(self) -> bool:
        """The link is up and the broker lets us hear answers."""
        return self._may_hear and self._transport.connected

    def start(self, request: InferRequest, remaining_s: float, *, correlation: bytes | None = None) -> MqttCall:
        """Send a request; errors come in the call.

        Args:
            request: what to ask.
            remaining_s: time left; the pool does not begin what would come too late.
            correlation: of an earlier call, to ask the same again: a dispatcher that has it in work does not begin it
                twice, and the first answer counts.
        """
        now = self._clock()
        call = MqttCall(self, correlation or os.urandom(CORRELATION_BYTES), now, now + remaining_s)
        if remaining_s <= 0:
            call.complete(error=DeadlineError("no time is left to ask the cloud"))
            return call
        if not self._enter(call):
            return call
        try:
            receipt = self._transport.publish(
                self._request_topic,
                pack_request(replace(request, parameters=self._parameters(request, remaining_s))),
                qos=1,
                correlation=call.correlation,
                expiry_s=math.ceil(remaining_s),
            )
        except AimassError as exc:
            self.forget(call)
            call.complete(error=exc)
        else:
            receipt.add_done_callback(call.taken)
        return call

    def forget(self, call: MqttCall) -> None:
        """Expect no answer to this call any more."""
        with self._lock:
            if self._calls.get(call.correlation) is call:
                del self._calls[call.correlation]

    def counts(self) -> Mapping[str, int]:
        """Counters since start: answers, errors, garbage, late (and duplicate) answers, expired calls."""
        with self._lock:
            return dict(self._counts) | {"waiting": len(self._calls)}

    def close(self) -> None:
        """End every call; answers are not heard any more."""
        self._closed.set()
        self._busy.set()
        self._end_all(LinkDownError("the way to the cloud was closed"))

    # --- inside

    def _parameters(self, request: InferRequest, remaining_s: float) -> Mapping[str, Parameter]:
        own: dict[str, Parameter] = {"timeout": int(remaining_s * 1e6), "max_answer_bytes": self._max_answer_bytes}
        return {**request.parameters, **own}

    def _enter(self, call: MqttCall) -> bool:
        with self._lock:
            if self._sweeper is None and not self._closed.is_set():
                self._sweeper = threading.Thread(target=self._sweep_for_ever, name="aimass-offload", daemon=True)
                self._sweeper.start()
            full = len(self._calls) >= self._max_calls
            if not full:
                older = self._calls.get(call.correlation)
                self._calls[call.correlation] = call
        if full:
            call.complete(error=OverloadError(f"{self._max_calls} calls are waiting for the cloud"))
        elif older is not None:
            call.add_done_callback(older.follow)
        if not self._busy.is_set():
            self._busy.set()
        return not full

    def _on_answer(self, message: Message) -> None:
        now = self._clock()
        with self._lock:
            call = None if message.correlation is None else self._calls.pop(message.correlation, None)
            if call is None:
                self._counts["late"] += 1
                return
        try:
            reply = unpack_reply(message.payload, self._limits)
        except AimassError as exc:
            self._count("garbage")
            call.complete(error=exc)
            return
        if isinstance(reply, ErrorReply):
            self._count("errors")
            call.complete(error=reply.to_error())
        else:
            self._count("answers")
            call.complete(_with_link_time(reply, now - call.sent_at))

    def _on_link(self, up: bool) -> None:
        if up:
            self._may_hear = self._answer_topic not in self._transport.refusals()
        else:
            self._end_all(LinkDownError("the link went before the cloud answered"))

    def _end_all(self, error: AimassError) -> None:
        with self._lock:
            calls = list(self._calls.values())
            self._calls.clear()
        for call in calls:
            call.complete(error=error)

    def _sweep_for_ever(self) -> None:
        """End calls whose time is over and that nobody took back; a backstop, the runtime has its own clock."""
        while not self._closed.is_set():
            self._busy.wait()
            self._closed.wait(SWEEP_PERIOD_S)
            self._busy.clear()
            if self._sweep():
                self._busy.set()

    def _sweep(self) -> int:
        """Returns how many calls still wait."""
        now = self._clock()
        with self._lock:
            over = [call for call in self._calls.values() if call.ends_at <= now]
            for call in over:
                del self._calls[call.correlation]
            self._counts["expired"] += len(over)
            waiting = len(self._calls)
        for call in over:
            call.complete(error=DeadlineError("the cloud did not answer in time"))
        return waiting

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def _with_link_time(response: InferResponse, round_trip_s: float) -> InferResponse:
    """Add what the way there and back took: the round trip less the pool's own time."""
    total_us = response.parameters.get("t_total_us", 0)
    own_us = total_us if isinstance(total_us, int | float) else 0
    link_us = max(0, round(round_trip_s * 1e6 - own_us))
    return replace(response, parameters={**response.parameters, "t_link_us": link_us})
