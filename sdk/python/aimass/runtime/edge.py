"""Running on this device: one request on the caller's thread, or several together along dimension 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aimass.engine.base import Arrays, Cancel
from aimass.errors import CancelledError, DeadlineError, EngineRunError
from aimass.runtime.answer import Answer
from aimass.runtime.loaded import LoadedModel
from aimass.runtime.settings import RuntimeSettings
from aimass.runtime.table import ModelTable
from aimass.runtime.watchdog import Alarm, Watchdog
from aimass.wire.messages import InferRequest


@dataclass(frozen=True, slots=True)
class Work:
    """A request and its times.

    Attributes:
        request: what is asked.
        started: when it was asked, in the runtime's clock.
        budget_s: how long after that it must be answered.
    """

    request: InferRequest
    started: float
    budget_s: float

    @property
    def deadline(self) -> float:
        """When it must be answered."""
        return self.started + self.budget_s


class Edge:
    """Runs requests on the models of this device.

    Args:
        table: the loaded models.
        watchdog: stops runs that go on for too long.
        settings: how long that is, and what answers are marked with.
        clock: seconds.
    """

    def __init__(
        self, table: ModelTable, watchdog: Watchdog, settings: RuntimeSettings, clock: Callable[[], float]
    ) -> None:
        self._table = table
        self._watchdog = watchdog
        self._clock = clock
        self._patience = 1.0 + settings.overrun
        self._served_by = settings.served_by

    def run(
        self,
        request: InferRequest,
        started: float,
        budget_s: float,
        cancel: Cancel | None = None,
    ) -> Answer:
        """Answer on this thread; a late answer is marked so.

        The times are separate arguments and not a `Work`, because this is the path whose overhead is counted in
        microseconds.

        Raises:
            ModelNotFoundError: the model is not loaded (any more).
            InputError: the request does not fit it.
            EngineRunError: the engine failed.
            DeadlineError: the run was stopped, long past its deadline.
            CancelledError: `cancel` was set.
        """
        model = self._table.enter(request.model, request.version)
        if model is None:
            raise self._table.missing(request.model, request.version)
        alarm: Alarm | None = None
        compute_s: float | None = None
        clock = self._clock
        try:
            feeds = model.check.feeds(request)
            begun = clock()
            if 2 * model.p95_s > budget_s - (begun - started):
                cancel = cancel or Cancel()
                alarm = self._watchdog.at(started + budget_s * self._patience, cancel.set)
            arrays = model.session.run(feeds, request.outputs or model.outputs, cancel)
            ended = clock()
            compute_s = ended - begun
        except CancelledError as exc:
            if alarm is None or alarm.is_live:
                raise
            raise DeadlineError(f"stopped: model '{model.name}' was still running past its deadline") from exc
        finally:
            if alarm is not None:
                alarm.cancel()
            model.leave(compute_s)
        return self._answer(model, arrays, started, begun, ended, budget_s)

    def run_together(self, works: Sequence[Work], cancel: Cancel) -> list[Answer]:
        """Answer requests of the same model, shapes and outputs with one run.

        Cost: one copy of all inputs; outputs are views into the batch's arrays.

        Raises:
            ModelNotFoundError, InputError, EngineRunError, CancelledError: as `run`, for all of them.
        """
        first = works[0].request
        model = self._table.enter(first.model, first.version)
        if model is None:
            raise self._table.missing(first.model, first.version)
        try:
            fed = [model.check.feeds(work.request) for work in works]
            feeds = {name: np.concatenate([one[name] for one in fed]) for name in fed[0]}
            rows = [next(iter(one.values())).shape[0] for one in fed]
            begun = self._clock()
            arrays = model.session.run(feeds, first.outputs or model.outputs, cancel)
            ended = self._clock()
        finally:
            model.leave()
        return [
            self._answer(model, part, work.started, begun, ended, work.budget_s)
            for work, part in zip(works, _split(arrays, rows), strict=True)
        ]

    def _answer(
        self,
        model: LoadedModel,
        arrays: Arrays,
        started: float,
        begun: float,
        ended: float,
        budget_s: float,
    ) -> Answer:
        total_s = ended - started
        return Answer(
            arrays,
            model.name,
            model.version,
            self._served_by,
            False,  # whether something better was wanted is for the flight to say
            total_s > budget_s,
            model.engine,
            {"queue": (begun - started) * 1e3, "compute": (ended - begun) * 1e3, "total": total_s * 1e3},
            model.datatypes,
        )


def _split(arrays: Arrays, rows: Sequence[int]) -> list[Arrays]:
    """Each request's rows of every output."""
    total = sum(rows)
    for name, array in arrays.items():
        if not array.ndim or array.shape[0] != total:
            raise EngineRunError(f"output '{name}' of a batch of {total} has shape {array.shape}")
    parts = []
    start = 0
    for count in rows:
        parts.append({name: array[start : start + count] for name, array in arrays.items()})
        start += count
    return parts
