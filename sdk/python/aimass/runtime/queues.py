"""Where requests wait that do not run on their caller's thread: a queue for each model, and a pool of threads.

Both are bounded and refuse at once when full; both are made when the first request needs them.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from aimass.errors import EngineRunError, OverloadError
from aimass.runtime.batcher import Batcher
from aimass.runtime.edge import Edge
from aimass.runtime.flight import Flight
from aimass.runtime.metrics import Metrics
from aimass.runtime.settings import RuntimeSettings
from aimass.runtime.table import ModelTable
from aimass.runtime.watchdog import Watchdog

log = logging.getLogger(__name__)


class Queues:
    """The batchers of all models, and the threads of `infer_async`."""

    def __init__(
        self, edge: Edge, table: ModelTable, watchdog: Watchdog, metrics: Metrics, settings: RuntimeSettings
    ) -> None:
        self._edge = edge
        self._table = table
        self._watchdog = watchdog
        self._metrics = metrics
        self._settings = settings
        self._making = threading.Lock()
        self._batchers: dict[str, Batcher] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._pool_room = threading.BoundedSemaphore(settings.max_queue)

    def enqueue(self, flight: Flight) -> None:
        """Let a request wait in its model's queue.

        Raises:
            ModelNotFoundError: the model was unloaded.
            OverloadError: the queue is full.
        """
        request = flight.work.request
        model = self._table.find(request.model, request.version)
        if model is None:
            raise self._table.missing(request.model, request.version)
        batcher = self._batchers.get(model.name) or self._new_batcher(model.name)
        batcher.put(flight, model.batching)

    def into_pool(self, flight: Flight) -> None:
        """Let a request wait for a thread.

        Raises:
            OverloadError: too many do.
        """
        if not self._pool_room.acquire(blocking=False):
            raise OverloadError(f"{self._settings.max_queue} requests are waiting already")
        with self._making:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._settings.max_concurrency, thread_name_prefix="aimass-infer")
            self._pool.submit(self._run, flight)

    def close_model(self, name: str) -> None:
        """Refuse what waits for a model."""
        with self._making:
            batcher = self._batchers.pop(name, None)
        if batcher is not None:
            batcher.close(self._settings.drain_timeout_s)

    def close_models(self) -> None:
        """Refuse what waits for any model."""
        for name in list(self._batchers):
            self.close_model(name)

    def close_pool(self) -> None:
        """Finish what the threads have in hand, and end them."""
        with self._making:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    def _new_batcher(self, name: str) -> Batcher:
        with self._making:
            found = self._batchers.get(name)
            if found is None:
                found = Batcher(name, self._edge, self._watchdog, self._metrics, self._settings.max_queue)
                self._batchers[name] = found
            return found

    def _run(self, flight: Flight) -> None:
        try:
            flight.run_edge(self._edge)
        except Exception:
            # A supervisor: whatever a run does, its caller gets an answer and the thread goes on.
            log.exception("a run failed in a way it should not")
            flight.edge_failed(EngineRunError("the run failed inside; see the log"))
        finally:
            self._pool_room.release()
