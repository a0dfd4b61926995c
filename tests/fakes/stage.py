"""An auction's stage without processes: candidates take as long as the test says, on a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aimass.engine.stage import Burst, Loaded, Pace, Part
from aimass.engine.usage import Usage
from aimass.errors import AimassError, EngineRunError

MIB = 1 << 20


class Clock:
    """Seconds that pass only when something takes time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Act:
    """How a candidate behaves.

    Attributes:
        run_us: of its runs in the first measurement.
        final_us: in the second one, when it differs.
        load_error: loading ends in it.
        final_error: its first turn in the second measurement ends in it.
        memory_bytes: resident while it is loaded.
        disturbed: so many of its bursts are disturbed.
    """

    run_us: float = 100.0
    final_us: float | None = None
    load_error: AimassError | None = None
    final_error: AimassError | None = None
    memory_bytes: int = 10 * MIB
    disturbed: int = 0


@dataclass
class Theatre:
    """Opens stages, and remembers them.

    Args:
        acts: by ``str(candidate)``; the others are alike.
    """

    acts: Mapping[str, Act] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    stages: list[FakeStage] = field(default_factory=list)

    def __call__(self, pace: Pace, max_memory_bytes: int) -> FakeStage:
        stage = FakeStage(self, pace, max_memory_bytes)
        self.stages.append(stage)
        return stage

    @property
    def played(self) -> list[str]:
        """Candidates in the order they were loaded."""
        return [str(stage.part.candidate) for stage in self.stages if stage.part is not None]

    @property
    def open(self) -> Sequence[FakeStage]:
        """Stages that nobody closed."""
        return [stage for stage in self.stages if not stage.is_closed]


class FakeStage:
    """Takes time on the theatre's clock; bursts after the second are the second measurement."""

    def __init__(self, theatre: Theatre, pace: Pace, max_memory_bytes: int) -> None:
        self._theatre, self._pace, self._max_memory_bytes = theatre, pace, max_memory_bytes
        self.part: Part | None = None
        self.bursts = 0
        self.is_closed = False
        self._cpu_s = 0.0
        self._act = Act()

    def load(self, part: Part, timeout_s: float) -> Loaded:
        self._pace.wait_until_idle()
        self.part = part
        self._act = self._theatre.acts.get(str(part.candidate), Act())
        self._take(1.0)
        if self._act.load_error is not None:
            raise self._act.load_error
        if self._act.memory_bytes > self._max_memory_bytes:
            raise EngineRunError("too much", reason="memory")
        return Loaded(1.0, self._act.memory_bytes)

    def time(self, for_s: float, max_runs: int, timeout_s: float) -> Burst:
        self._pace.wait_until_idle()
        self.bursts += 1
        act = self._act
        if act.disturbed:
            act.disturbed -= 1
            return Burst((1e6,), act.memory_bytes, is_disturbed=True)
        if self.bursts > 2 and act.final_error is not None:
            raise act.final_error
        run_us = act.final_us if self.bursts > 2 and act.final_us is not None else act.run_us
        self._take(for_s)
        return Burst((run_us, run_us, run_us), act.memory_bytes)

    def usage(self) -> Usage:
        return Usage(self._cpu_s, 0 if self.is_closed or self.part is None else self._act.memory_bytes)

    def close(self) -> None:
        self.is_closed = True

    def _take(self, seconds: float) -> None:
        self._cpu_s += seconds
        self._theatre.clock.now_s += seconds


def seldom(every: int) -> Callable[[], bool]:
    """True at each so-many-th question."""
    asked = 0

    def is_busy() -> bool:
        nonlocal asked
        asked += 1
        return asked % every == 0

    return is_busy
