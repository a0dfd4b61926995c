"""The way to the cloud as the runtime sees it: the remote, its circuit breaker, and the time it usually takes.

The remote itself (``aimass.runtime.offload``) knows bytes and topics. Here is decided whether it is asked at all, when
an answer is given up, and what an outcome says about the link:

* an answer, or an error the other side sent: the link works;
* link down, nobody listens, refused, too many in flight, nothing within the time: a failure;
* anything else (the request is too large for the broker, taken back): says nothing about the link.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from aimass.errors import AimassError, DeadlineError, OverloadError, RemoteError, TransportError
from aimass.placement.breaker import CircuitBreaker
from aimass.placement.estimate import LatencyEstimate
from aimass.runtime.remote import Remote, RemoteCall
from aimass.runtime.watchdog import Alarm, Watchdog
from aimass.wire.messages import InferRequest, InferResponse

Outcome = InferResponse | AimassError


class Uplink:
    """Asks the cloud.

    Args:
        remote: what carries requests and answers.
        watchdog: gives up calls at their deadline.
        clock: seconds.
        breaker: stops asking a link that does not answer.
    """

    def __init__(self, remote: Remote, watchdog: Watchdog, clock: Callable[[], float], breaker: CircuitBreaker) -> None:
        self._remote = remote
        self._watchdog = watchdog
        self._clock = clock
        self.breaker = breaker
        self.latency = LatencyEstimate()
        self._lock = threading.Lock()

    @property
    def is_available(self) -> bool:
        """There is a link now, as far as the transport knows."""
        return self._remote.available

    def allows(self) -> bool:
        """Whether the breaker lets a request through; a yes may make it the one probe, so ask only when sending."""
        return self.breaker.allow(self._clock())

    def send(
        self, request: InferRequest, remaining_s: float, on_outcome: Callable[[Outcome], None], *, repeat: bool = False
    ) -> SentCall:
        """Send a request. Does not block; `on_outcome` is called once, on any thread, perhaps before this returns.

        Args:
            request: what to ask.
            remaining_s: after this the outcome is a DeadlineError.
            on_outcome: must be quick.
            repeat: ask a second time where that may help; for requests that nobody else can answer.
        """
        sent = SentCall(self, request, remaining_s, on_outcome)
        sent.start(self._remote, self._watchdog, repeat=repeat)
        return sent

    def now(self) -> float:
        """The clock's time."""
        return self._clock()

    def learn(self, outcome: Outcome, sent_at: float) -> None:
        """What an outcome says about the link."""
        now = self._clock()
        if isinstance(outcome, InferResponse | RemoteError):
            with self._lock:
                self.latency.add(now - sent_at)
            self.breaker.success(now)
        elif isinstance(outcome, TransportError | DeadlineError | OverloadError):
            self.breaker.failure(now)


class SentCall:
    """One request on its way to the cloud. It goes on when the device was quicker, so that the link is still judged.

    A dispatcher that dies takes its requests with it, and nobody tells: with `repeat` the request is sent once more,
    with the same correlation id, when half of its time has passed in silence, or at once when the pool refused it
    before that and said that it may be repeated. The first answer counts; a dispatcher that has it in work does not
    begin it twice.
    """

    def __init__(
        self, uplink: Uplink, request: InferRequest, remaining_s: float, on_outcome: Callable[[Outcome], None]
    ) -> None:
        self._uplink = uplink
        self._request = request
        self._on_outcome = on_outcome
        self._sent_at = uplink.now()
        self._half_at = self._sent_at + remaining_s / 2
        self._end_at = self._sent_at + remaining_s
        self._lock = threading.Lock()
        self._open = True
        self._remote: Remote | None = None
        self._repeatable = False
        self._calls: list[RemoteCall] = []  # one, or two when it was repeated
        self._alarms: list[Alarm] = []

    def start(self, remote: Remote, watchdog: Watchdog, *, repeat: bool) -> None:
        """Send, and give up when the time is over."""
        self._remote = remote
        self._repeatable = repeat
        self._alarms.append(watchdog.at(self._end_at, self._expire))
        if repeat:
            self._alarms.append(watchdog.at(self._half_at, self._repeat))
        self._watch(remote.start(self._request, self._end_at - self._sent_at))

    def cancel(self) -> None:
        """Nobody waits for it any more. Says nothing about the link."""
        if self._close():
            self._cancel_calls()

    def _watch(self, call: RemoteCall) -> None:
        self._calls.append(call)
        call.add_done_callback(self._done)
        if not self._open:  # it was given up before there was anything to cancel
            call.cancel()

    def _done(self, call: RemoteCall) -> None:
        result, error = call.result, call.error
        if isinstance(error, RemoteError) and error.retryable and self._uplink.now() < self._half_at and self._repeat():
            return
        if not self._close():
            return
        outcome = result if result is not None else error or RemoteError("the call ended without an answer")
        self._uplink.learn(outcome, self._sent_at)
        self._on_outcome(outcome)

    def _repeat(self) -> bool:
        """Send it again, if it may be and was not before."""
        with self._lock:
            may_repeat, self._repeatable = self._repeatable and self._open, False
        if not may_repeat or self._remote is None or not self._calls:
            return False
        remaining_s = self._end_at - self._uplink.now()
        self._watch(self._remote.start(self._request, remaining_s, correlation=self._calls[0].correlation))
        return True

    def _expire(self) -> None:
        if not self._close():
            return
        self._cancel_calls()
        error = DeadlineError("the cloud did not answer in time")
        self._uplink.learn(error, self._sent_at)
        self._on_outcome(error)

    def _cancel_calls(self) -> None:
        for call in self._calls:
            call.cancel()

    def _close(self) -> bool:
        """True for the one who may decide the outcome."""
        with self._lock:
            was_open, self._open = self._open, False
        if was_open:
            for alarm in self._alarms:
                alarm.cancel()
        return was_open
