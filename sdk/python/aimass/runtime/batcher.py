"""The bounded queue in front of a model, and one thread that empties it, running what fits together as one batch.

Only requests of the same version, outputs, datatypes and row shapes are put together, along dimension 0, and only when
the package says so. Requests that were settled while they waited (expired, taken back) are passed over. When a batch
fails its requests are run one by one, so that one bad request does not take others with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from aimass.engine.base import Cancel
from aimass.errors import AimassError, CancelledError, EngineRunError, OverloadError
from aimass.package.manifest import Batching
from aimass.runtime.edge import Edge
from aimass.runtime.flight import Flight
from aimass.runtime.metrics import Metrics
from aimass.runtime.watchdog import Watchdog
from aimass.wire.messages import InferRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    flight: Flight
    batching: Batching
    since: float
    like: Hashable  # equal for requests that may run together; None for one that must run alone
    rows: int


class Batcher:
    """Queue and thread of one model.

    Args:
        name: the model's.
        edge: what runs requests.
        watchdog: stops batches that nobody waits for any more.
        metrics: counts batches.
        max_queue: requests that may wait.
    """

    def __init__(self, name: str, edge: Edge, watchdog: Watchdog, metrics: Metrics, max_queue: int) -> None:
        self._edge = edge
        self._watchdog = watchdog
        self._metrics = metrics
        self._max_queue = max_queue
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"aimass-batcher-{name}", daemon=True)
        self._thread.start()

    def put(self, flight: Flight, batching: Batching) -> None:
        """Let a request wait for its turn.

        Raises:
            OverloadError: the queue is full.
            CancelledError: closed.
        """
        like, rows = _likeness(flight.work.request) if batching.max_batch > 1 else (None, 0)
        waiting = _Waiting(flight, batching, time.monotonic(), like, rows)
        with self._changed:
            if self._closed:
                raise CancelledError("the model is being unloaded")
            if len(self._queue) >= self._max_queue:
                self._queue = deque(one for one in self._queue if not one.flight.is_settled)
                if len(self._queue) >= self._max_queue:
                    raise OverloadError(f"{self._max_queue} requests are waiting already", limit=self._max_queue)
            self._queue.append(waiting)
            self._changed.notify()

    def close(self, drain_timeout_s: float) -> None:
        """Refuse what waits, let the run in progress finish within the time, end the thread."""
        with self._changed:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
            self._changed.notify()
        for waiting in left:
            waiting.flight.edge_failed(CancelledError("the model is being unloaded"))
        if self._thread is not threading.current_thread():
            self._thread.join(drain_timeout_s)

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._run([one.flight for one in batch])
            except Exception:
                # A supervisor: whatever a run does, the next requests must be served and these get an answer.
                log.exception("a batch failed in a way it should not")
                for one in batch:
                    one.flight.edge_failed(EngineRunError("the run failed inside; see the log"))

    def _next(self) -> list[_Waiting]:
        """The requests to run next, in the order they came; empty when closed."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return []
                self._changed.wait()
            first = self._queue.popleft()
            if first.like is None:
                return [first]
            batch = [first]
            run_at = first.since + first.batching.max_delay_ms / 1e3
            while not self._closed:
                self._take_alike(batch)
                wait_s = run_at - time.monotonic()
                if wait_s <= 0 or sum(one.rows for one in batch) >= first.batching.max_batch:
                    break
                self._changed.wait(wait_s)
            return batch

    def _take_alike(self, batch: list[_Waiting]) -> None:
        """Move what may run with the batch out of the queue, leaving the order of the others."""
        room = batch[0].batching.max_batch - sum(one.rows for one in batch)
        kept: deque[_Waiting] = deque()
        for one in self._queue:
            if one.like == batch[0].like and one.rows <= room and not one.flight.is_settled:
                batch.append(one)
                room -= one.rows
            else:
                kept.append(one)
        self._queue = kept

    def _run(self, flights: list[Flight]) -> None:
        live = [flight for flight in flights if not flight.is_settled and not flight.expire_if_late()]
        if len(live) > 1 and self._run_together(live):
            return
        for flight in live:
            flight.run_edge(self._edge)

    def _run_together(self, flights: list[Flight]) -> bool:
        """One run for all; False when it failed and each must be tried alone."""
        cancel = Cancel()
        alarm = self._watchdog.at(max(flight.work.deadline for flight in flights), cancel.set)
        try:
            answers = self._edge.run_together([flight.work for flight in flights], cancel)
        except AimassError as exc:
            if not cancel.is_set:
                log.warning("a batch of %d failed, running one by one: %s", len(flights), exc)
            return False
        finally:
            alarm.cancel()
        self._metrics.add("batches")
        for flight, answer in zip(flights, answers, strict=True):
            flight.edge_answered(answer)
        return True


def _likeness(request: InferRequest) -> tuple[Hashable, int]:
    """What must be equal for two requests to run together, and how many rows this one has."""
    rows = request.inputs[0].data.shape[0]
    if not rows or any(tensor.data.shape[0] != rows for tensor in request.inputs):
        return None, 0  # the engine shall say what it thinks of this
    alike = tuple((tensor.name, tensor.datatype, tensor.data.shape[1:]) for tensor in request.inputs)
    return (request.version, request.outputs, alike), rows
