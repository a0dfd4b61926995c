"""One request on its way to an answer, when more than the caller's own thread has a part in it.

The first valid answer wins, from the device or from the cloud; an error counts only when nobody else can answer:

    cloud answers           settled; the device's run is cancelled
    device answers          settled; the cloud's answer is still awaited, to judge the link, and dropped
    cloud fails             the device begins now, if it had not; settled with the error if it cannot or has failed
    device fails            wait for the cloud; settled with the error if there is none or it has failed
    give-up time            settled with DeadlineError, the device's run is cancelled
    caller takes it back    both are cancelled

Every arrow may come from another thread, in any order: each first asks the lock what is left to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace

from aimass.engine.base import Cancel
from aimass.errors import AimassError, CancelledError, DeadlineError, RemoteError
from aimass.runtime.answer import Answer
from aimass.runtime.edge import Edge, Work
from aimass.runtime.metrics import Metrics
from aimass.runtime.uplink import Outcome, SentCall, Uplink
from aimass.runtime.watchdog import Alarm, Watchdog
from aimass.wire.messages import InferResponse


class Flight:
    """See the module.

    Args:
        work: the request and its times.
        metrics: where its end is counted.
        clock: seconds.
        begin_edge: starts the device's run without blocking, or raises why it cannot; None when the model is not here.

    Attributes:
        future: what the caller waits for.
        cancel: stops the device's run.
        degraded: an answer of the device will be one that was not wanted first.
    """

    __slots__ = (
        "_alarms",
        "_begin_edge",
        "_clock",
        "_cloud_pending",
        "_edge_pending",
        "_lock",
        "_metrics",
        "_sent",
        "_settled",
        "_wanted",
        "cancel",
        "degraded",
        "future",
        "work",
    )

    def __init__(
        self,
        work: Work,
        metrics: Metrics,
        clock: Callable[[], float],
        begin_edge: Callable[[Flight], None] | None,
    ) -> None:
        self.work = work
        self.future: Future[Answer] = Future()
        self.cancel = Cancel()
        self.degraded = False
        self._metrics = metrics
        self._clock = clock
        self._begin_edge = begin_edge
        self._lock = threading.Lock()
        self._settled = False
        self._edge_pending = begin_edge is not None
        self._cloud_pending = False
        self._wanted: frozenset[str] = frozenset()
        self._sent: SentCall | None = None
        self._alarms: list[Alarm] = []

    @property
    def is_settled(self) -> bool:
        """The caller has an answer or an error, or went away."""
        return self._settled or self.future.cancelled()

    def ask_cloud(self, uplink: Uplink, wanted: Iterable[str]) -> None:
        """Send the request.

        Args:
            uplink: the way to the cloud.
            wanted: outputs that a valid answer must have.
        """
        self._cloud_pending = True
        self._wanted = frozenset(wanted)
        remaining_s = self.work.deadline - self._clock()
        self._sent = uplink.send(self.work.request, remaining_s, self._cloud_outcome, repeat=not self._edge_pending)
        if self.future.cancelled():
            self._sent.cancel()

    def watch(self, watchdog: Watchdog, give_up_at: float, edge_at: float | None) -> None:
        """Settle at `give_up_at` whatever happens, begin the device's run at `edge_at`, notice a caller's cancel."""
        self._alarms.append(watchdog.at(give_up_at, self.expire))
        if edge_at is not None:
            self._alarms.append(watchdog.at(edge_at, self.begin_edge))
        self.future.add_done_callback(self._on_done)

    def begin_edge(self) -> None:
        """Start the device's run, once; nothing happens when it is settled or has begun."""
        with self._lock:
            begin, self._begin_edge = self._begin_edge, None
            if begin is None or self._settled:
                return
        try:
            begin(self)
        except AimassError as exc:
            self.edge_failed(exc)

    def run_edge(self, edge: Edge) -> None:
        """The device's run, on this thread, unless it is not wanted any more."""
        if self.is_settled:
            return
        work = self.work
        try:
            answer = edge.run(work.request, work.started, work.budget_s, self.cancel)
        except AimassError as exc:
            self.edge_failed(exc)
        else:
            self.edge_answered(answer)

    def edge_answered(self, answer: Answer) -> None:
        """The device's run gave an answer."""
        if self.degraded:
            answer = replace(answer, degraded=True)
        if self._settle():
            self._count(answer)
            self._resolve(answer, None)

    def edge_failed(self, error: AimassError) -> None:
        """The device's run cannot give an answer."""
        with self._lock:
            self._edge_pending = False
            cloud_may_answer = self._cloud_pending
        if not cloud_may_answer:
            self._fail(error)

    def expire_if_late(self) -> bool:
        """Settle it if its deadline has passed: work that nobody waits for is not begun."""
        is_late = self._clock() >= self.work.deadline
        if is_late:
            self.expire()
        return is_late

    def expire(self) -> None:
        """The time is over."""
        self._fail(DeadlineError(f"no answer within {self.work.budget_s:.3f} s", budget_s=self.work.budget_s))
        self.cancel.set()

    def _cloud_outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, InferResponse):
            missing = self._wanted - {tensor.name for tensor in outcome.outputs}
            if not missing:
                self._cloud_answered(outcome)
                return
            outcome = RemoteError(f"the cloud's answer lacks the output '{min(missing)}'", remote_code="internal")
        with self._lock:
            self._cloud_pending = False
            self.degraded = True
            edge_may_answer = self._edge_pending
        if edge_may_answer:
            self.begin_edge()
        else:
            self._fail(outcome)

    def _cloud_answered(self, response: InferResponse) -> None:
        if not self._settle():
            return
        answer = cloud_answer(response, self.work, self._clock())
        self._metrics.add("offloaded")
        self._count(answer)
        self._resolve(answer, None)
        self.cancel.set()

    def _fail(self, error: AimassError) -> None:
        if self._settle():
            self._metrics.failed(self.work.request.model, error)
            self._resolve(None, error)

    def _settle(self) -> bool:
        """True for the one who may bring the outcome."""
        with self._lock:
            was_open, self._settled = not self._settled, True
        if was_open:
            for alarm in self._alarms:
                alarm.cancel()
        return was_open

    def _resolve(self, answer: Answer | None, error: AimassError | None) -> None:
        if not self.future.set_running_or_notify_cancel():
            return  # taken back at the last moment
        if error is not None:
            self.future.set_exception(error)
        elif answer is not None:
            self.future.set_result(answer)

    def _count(self, answer: Answer) -> None:
        self._metrics.answered(answer)
        if answer.degraded:
            self._metrics.add("fallbacks")

    def _on_done(self, future: Future[Answer]) -> None:
        if future.cancelled() and self._settle():
            self._metrics.failed(self.work.request.model, CancelledError("taken back by the caller"))
            self.cancel.set()
            if self._sent is not None:
                self._sent.cancel()


def cloud_answer(response: InferResponse, work: Work, now: float) -> Answer:
    """The cloud's answer as ours: total time is what passed here, link time what the cloud did not use."""
    answer = Answer.from_response(response)
    total_ms = (now - work.started) * 1e3
    timings_ms = {**answer.timings_ms, "total": total_ms}
    if "total" in answer.timings_ms:
        timings_ms["link"] = max(0.0, total_ms - answer.timings_ms["total"])
    return replace(answer, served_by="cloud", late=total_ms > work.budget_s * 1e3, timings_ms=timings_ms)
