"""The runtime: models that can be changed while they answer, and an answer for every request.

    runtime = Runtime([open_engine("onnxruntime")], remote=remote)
    runtime.load(folder, manifest)
    answer = runtime.infer(InferRequest("digits", (tensor,)), deadline_s=0.05)

Three ways in, the same rules behind them:

* ``infer`` runs on the caller's thread: no hand-over, a few microseconds above the engine's own call. A late answer is
  still given, marked ``late``.
* ``infer_async`` runs in a small pool of threads; cancelling the task takes the request back.
* ``submit`` waits in the model's bounded queue, where requests are put together into batches; it is settled at its
  deadline at the latest.

Which of device and cloud is asked, and when, is decided by ``aimass.placement.plan``; ``aimass.runtime.flight`` carries
out a plan that has the cloud in it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from aimass.engine.base import Engine
from aimass.errors import AimassError, DeadlineError, LinkDownError
from aimass.package.manifest import Manifest
from aimass.placement.breaker import CircuitBreaker
from aimass.placement.plan import Plan, decide
from aimass.placement.policy import Mode, Policy
from aimass.runtime.answer import Answer
from aimass.runtime.edge import Edge, Work
from aimass.runtime.flight import Flight
from aimass.runtime.loaded import LoadedModel
from aimass.runtime.loading import Loader
from aimass.runtime.metrics import Metrics
from aimass.runtime.models import ModelInfo
from aimass.runtime.queues import Queues
from aimass.runtime.remote import Remote
from aimass.runtime.settings import RuntimeSettings
from aimass.runtime.table import ModelTable
from aimass.runtime.uplink import Uplink
from aimass.runtime.watchdog import Watchdog
from aimass.wire.messages import InferRequest

__all__ = ["Runtime", "RuntimeSettings"]

_TOO_LATE = "the deadline had passed before the request was given"
_DEFAULTS = RuntimeSettings()


class Runtime:
    """Loads models and answers requests. All methods may be called from any thread.

    Args:
        engines: what can run models here.
        remote: the way to the cloud; None for a runtime that only answers by itself (a pool's worker).
        settings: bounds and habits.
        clock: seconds that never go back.

    Attributes:
        metrics: what happened to the requests.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        remote: Remote | None = None,
        settings: RuntimeSettings = _DEFAULTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = Metrics()
        self._settings = settings
        self._clock = clock
        self._loader = Loader(engines, settings.engine_order, settings.engine_options)
        self._table = ModelTable()
        self._watchdog = Watchdog(clock)
        self._edge = Edge(self._table, self._watchdog, settings, clock)
        breaker = CircuitBreaker(2, *settings.link_pauses_s)
        self._uplink = None if remote is None else Uplink(remote, self._watchdog, clock, breaker)
        self._loading = threading.Lock()
        self._queues = Queues(self._edge, self._table, self._watchdog, self.metrics, settings)

    @property
    def breaker_state(self) -> str:
        """``closed``, ``open`` or ``half_open``: whether the link to the cloud is used; empty without a remote."""
        return "" if self._uplink is None else self._uplink.breaker.state

    # --- models -------------------------------------------------------------------------------------------------

    def load(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        default: bool = True,
        prefer_engine: str | None = None,
        keep_old: bool = False,
    ) -> ModelInfo:
        """Load a version beside the one that answers, test it, let it answer, then close the one it replaces.

        No request is dropped and none waits: those in progress finish on the old version. Returns when it is closed.

        Args:
            folder: where the package is installed.
            manifest: what was signed about it.
            default: it answers requests that name no version, in the place of the former default.
            prefer_engine: try this engine first.
            keep_old: the former default stays loaded under its number.

        Raises:
            EngineMissingError, ModelLoadError, GoldenMismatchError, PackageError: it cannot answer here; whatever
                answered before still does.
        """
        with self._loading:
            fresh = self._loader.load(folder, manifest, prefer_engine)
            self.metrics.model(fresh.name)
            replaced = self._table.put(fresh, default=default, keep_old=keep_old)
        if replaced:
            self.metrics.add("swaps")
        self._close(replaced)
        return self._info(fresh)

    def make_default(self, name: str, version: int) -> None:
        """Let a loaded version answer requests that name none.

        Raises:
            ModelNotFoundError: it is not loaded.
        """
        self._table.make_default(name, str(version))

    def unload(self, name: str, version: int | None = None) -> None:
        """Stop answering for a version, or for all of a name, and give its memory back.

        Raises:
            ModelNotFoundError: it is not loaded.
        """
        wanted = None if version is None else str(version)
        taken = self._table.take(name, wanted)
        if not taken:
            raise self._table.missing(name, wanted or "")
        if not any(model.name == name for model in self._table.all()):
            self._queues.close_model(name)
        self._close(taken)

    def models(self) -> list[ModelInfo]:
        """Every version that answers here, by name and number."""
        return [self._info(model) for model in self._table.all()]

    def model(self, name: str, version: str = "") -> ModelInfo:
        """One of them; the default version when none is named.

        Raises:
            ModelNotFoundError: it is not loaded.
        """
        found = self._table.find(name, version)
        if found is None:
            raise self._table.missing(name, version)
        return self._info(found)

    # --- requests -----------------------------------------------------------------------------------------------

    def infer(
        self,
        request: InferRequest,
        *,
        deadline_s: float | None = None,
        policy: Policy = Policy.SAVING,
        mode: Mode = Mode.AUTO,
    ) -> Answer:
        """Answer on the caller's thread.

        Args:
            request: model and inputs.
            deadline_s: time left, from now.
            policy: how device and cloud share a request that both could answer.
            mode: which of them may.

        Returns:
            An answer; `late` when it came after its deadline, `degraded` when the cloud was wanted and did not answer.

        Raises:
            InputError: the inputs do not fit the model.
            ModelNotFoundError: nobody here or, as far as asked, in the cloud has the model.
            DeadlineError: nobody could answer in time.
            AimassError: why the only one who could answer did not.
        """
        started = self._clock()
        budget_s = self._settings.default_deadline_s if deadline_s is None else deadline_s
        if self._uplink is not None and mode is not Mode.EDGE:
            return self._infer_with_cloud(self._uplink, Work(request, started, budget_s), policy, mode)
        try:
            if budget_s <= 0:
                raise DeadlineError(_TOO_LATE)
            answer = self._edge.run(request, started, budget_s)
        except AimassError as exc:
            self.metrics.failed(request.model, exc)
            raise
        self.metrics.answered(answer)
        return answer

    def submit(
        self,
        request: InferRequest,
        *,
        deadline_s: float | None = None,
        policy: Policy = Policy.SAVING,
        mode: Mode = Mode.AUTO,
    ) -> Future[Answer]:
        """Answer through the model's queue, batched with others where the package allows it.

        The future is settled at the deadline at the latest; cancelling it takes the request back. Arguments as `infer`.

        Raises:
            OverloadError: the queue is full.
            InputError, ModelNotFoundError, LinkDownError: known at once; later errors are the future's.
        """
        work = self._work(request, deadline_s)
        return self._launch(work, policy, mode, self._queues.enqueue, give_up_at=work.deadline)

    async def infer_async(
        self,
        request: InferRequest,
        *,
        deadline_s: float | None = None,
        policy: Policy = Policy.SAVING,
        mode: Mode = Mode.AUTO,
    ) -> Answer:
        """As `infer`, without blocking the event loop. Cancelling the task takes the request back.

        Raises:
            OverloadError: too many are waiting.
            AimassError: as `infer`.
        """
        work = self._work(request, deadline_s)
        give_up_at = work.started + work.budget_s * (1.0 + self._settings.overrun)
        return await asyncio.wrap_future(self._launch(work, policy, mode, self._queues.into_pool, give_up_at))

    def close(self) -> None:
        """Refuse what waits, finish what runs, close every model and thread. A second call does nothing.

        A request that waits for the cloud then gets its DeadlineError at once.
        """
        self._queues.close_models()
        self._close(self._table.take_all())
        self._queues.close_pool()
        self._watchdog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------

    def _infer_with_cloud(self, uplink: Uplink, work: Work, policy: Policy, mode: Mode) -> Answer:
        turn = threading.Event()  # this thread may go on: it is its turn to run, or everything is over
        flight, plan, model = self._planned(work, policy, mode, lambda _: turn.set())
        flight.future.add_done_callback(lambda _: turn.set())
        if plan.remote:
            flight.ask_cloud(uplink, _wanted(work.request, model))
        if plan.edge_at_s is not None:
            turn.wait(work.started + plan.edge_at_s - self._clock())
            flight.run_edge(self._edge)
        return flight.future.result()

    def _launch(
        self, work: Work, policy: Policy, mode: Mode, begin_edge: Callable[[Flight], None], give_up_at: float
    ) -> Future[Answer]:
        flight, plan, model = self._planned(work, policy, mode, begin_edge)
        at_once = plan.edge_at_s is not None and plan.edge_at_s <= 0
        edge_at = None if plan.edge_at_s is None or at_once else work.started + plan.edge_at_s
        flight.watch(self._watchdog, give_up_at, edge_at)
        if plan.remote and self._uplink is not None:
            flight.ask_cloud(self._uplink, _wanted(work.request, model))
        if at_once:
            flight.begin_edge()
        if flight.future.done() and not flight.future.cancelled() and (error := flight.future.exception()) is not None:
            raise error
        return flight.future

    def _planned(
        self, work: Work, policy: Policy, mode: Mode, begin_edge: Callable[[Flight], None]
    ) -> tuple[Flight, Plan, LoadedModel | None]:
        """Check a request and decide where it runs; nothing has been started when this raises."""
        request = work.request
        model = self._table.find(request.model, request.version)
        uplink = self._uplink
        try:
            if work.budget_s <= 0:
                raise DeadlineError(_TOO_LATE)
            if model is not None:
                model.check.feeds(request)
            plan = decide(
                mode,
                policy,
                has_edge=model is not None,
                has_remote=uplink is not None and uplink.is_available,
                breaker_allows=lambda: uplink is not None and uplink.allows(),
                remaining_s=work.budget_s,
                edge_p95_s=0.0 if model is None else model.p95_s,
                margin_s=self._settings.margin_s,
            )
            if plan.edge_at_s is None and not plan.remote:
                raise self._nobody(request, mode)
        except AimassError as exc:
            self.metrics.failed(request.model, exc)
            raise
        flight = Flight(work, self.metrics, self._clock, begin_edge if plan.edge_at_s is not None else None)
        # When both begin at once the device's answer is as wanted as the cloud's, unless the cloud then fails.
        flight.degraded = plan.wanted_remote and not (plan.remote and plan.edge_at_s == 0)
        if plan.remote:
            self.metrics.add("asked_cloud")
        return flight, plan, model

    def _nobody(self, request: InferRequest, mode: Mode) -> AimassError:
        """Why neither device nor cloud can be asked."""
        if self._uplink is None or mode is Mode.EDGE:
            return self._table.missing(request.model, request.version)
        return LinkDownError(
            f"model '{request.model[:100]}' is not on this device, and there is no link to the cloud",
            hint="deploy the model to this device, or wait for the link",
        )

    def _work(self, request: InferRequest, deadline_s: float | None) -> Work:
        return Work(request, self._clock(), self._settings.default_deadline_s if deadline_s is None else deadline_s)

    def _info(self, model: LoadedModel) -> ModelInfo:
        return model.info(default=self._table.find(model.name, "") is model)

    def _close(self, models: Sequence[LoadedModel]) -> None:
        for model in models:
            model.close(self._settings.drain_timeout_s)


def _wanted(request: InferRequest, model: LoadedModel | None) -> Sequence[str]:
    """Outputs that an answer of the cloud must have to be valid."""
    return request.outputs or (() if model is None else model.outputs)
