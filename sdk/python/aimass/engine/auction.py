"""Which variant, engine, provider and number of threads run a model best on this very device? They are tried out.

It cannot be predicted: one engine is ten times faster on a small perceptron, the other twice as fast on a small
network of convolutions. So every candidate is loaded in a process of its own, must answer the package's golden vectors,
and is timed. Then the best ones take turns until each has run long enough: a device gets warm, others use it, and what
is measured minutes apart cannot be compared.

An auction never costs the device its work. It holds still while the device is busy, and it ends when its allowance of
processor time is used up; whoever was not tried by then is struck out for that reason, and the result says that it is
not complete.

Example:
    >>> auction = Auction(describe_engines(("onnxruntime", "openvino"), pace), read_hardware())  # doctest: +SKIP
    >>> result = auction.run(folder, manifest, package_sha256)  # doctest: +SKIP
    >>> str(result.winner)  # doctest: +SKIP
    'int8 on openvino CPU, 2 threads'
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from aimass.engine.auction_result import AuctionResult, Trial
from aimass.engine.candidates import Candidate, EngineFacts, auction_key, candidates_of
from aimass.engine.hardware import Hardware
from aimass.engine.stage import Burst, ChildStage, Pace, Part, Stage
from aimass.errors import AimassError, CancelledError, EngineRunError
from aimass.package.manifest import Golden, Manifest, Variant

log = logging.getLogger(__name__)

OpenStage = Callable[[Pace, int], Stage]
GoldenOf = Callable[[Manifest, Variant], Golden | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How much one auction may take of the device.

    Attributes:
        cpu_s: processor time of all its children.
        work_s: time from its beginning to its end, without the pauses.
        memory_bytes: resident at once, the libraries of the engines included (about 100 MB for each finalist).
        candidate_s: to load one candidate; building an engine for an accelerator may take minutes.
        pause_s: how long it waits in all for a busy device.
    """

    cpu_s: float = 120.0
    work_s: float = 300.0
    memory_bytes: int = 1 << 30
    candidate_s: float = 60.0
    pause_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long is measured. The defaults tell candidates apart that differ by 3 % on a quiet machine.

    Attributes:
        warm_s: runs before measuring: caches, lazily made kernels, the processor's clock.
        screen_s: the first measurement of each.
        finalists: how many of the best take part in the second.
        close_share: but only those that are at most this much slower than the best.
        rounds: turns of each finalist.
        burst_s: one turn.
        max_runs: in one burst; more runs of a tiny model tell nothing more.
        tie_share: within this, fewer threads and less memory decide.
    """

    warm_s: float = 0.05
    screen_s: float = 0.25
    finalists: int = 4
    close_share: float = 0.5
    rounds: int = 10
    burst_s: float = 0.06
    max_runs: int = 1000
    tie_share: float = 0.01


def golden_of_package(manifest: Manifest, _variant: Variant) -> Golden | None:
    """The same vectors and tolerance for every variant."""
    return manifest.golden


class Auction:
    """Holds auctions on one machine.

    Args:
        engines: what there is here; see `aimass.engine.stage.describe_engines`.
        hardware: this machine.
        allowance: how much one auction may take.
        effort: how long is measured.
        busy: whether the device has something better to do now; asked 50 times a second.
        stopped: waits so many seconds and says whether to give up.
        golden_of: the vectors that a variant must answer.
        open_stage: where candidates play; tests put one without processes here.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        engines: Sequence[EngineFacts],
        hardware: Hardware,
        *,
        allowance: Allowance | None = None,
        effort: Effort | None = None,
        busy: Callable[[], bool] = lambda: False,
        stopped: Callable[[float], bool] | None = None,
        golden_of: GoldenOf = golden_of_package,
        open_stage: OpenStage = ChildStage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engines, self.hardware = tuple(engines), hardware
        self.allowance, self.effort = allowance or Allowance(), effort or Effort()
        self._busy, self._stopped, self._clock = busy, stopped or _sleep, clock
        self._golden_of, self._open_stage = golden_of, open_stage

    def key(self, package_sha256: str) -> str:
        """Under what this machine's result for a package is kept."""
        return auction_key(package_sha256, self.engines, self.hardware)

    def run(
        self, folder: Path, manifest: Manifest, package_sha256: str, *, first: Candidate | None = None
    ) -> AuctionResult:
        """Hold the auction for one package; blocks until it is decided.

        Args:
            folder: where the package is installed.
            manifest: what is in it.
            package_sha256: digest of the signed manifest.
            first: what won on an equal device; it is tried first.

        Raises:
            CancelledError: ``stopped`` said so. Nothing is left running.
        """
        pace = Pace(self._busy, self._stopped, self.allowance.pause_s, self._clock)
        candidates = candidates_of(manifest, self.engines, self.hardware, first=first)
        parts = {variant.name: self._part(folder, manifest, variant) for variant in manifest.variants}
        held = _Held(self.allowance, self.effort, pace, self._open_stage)
        try:
            trials = [held.screen(candidate, parts[candidate.variant]) for candidate in candidates]
            trials = held.finals(trials)
        finally:
            held.close()
        winner = _winner(trials, self.effort.tie_share)
        log.info("%s %d: %s wins of %d candidates", manifest.name, manifest.version, winner, len(trials))
        return AuctionResult(
            key=self.key(package_sha256),
            model=manifest.name,
            version=manifest.version,
            hardware=self.hardware,
            engines={engine.name: engine.version for engine in self.engines},
            trials=tuple(trials),
            winner=winner,
            cpu_s=held.cpu_s,
            work_s=pace.worked_s,
            paused_s=pace.paused_s,
        )

    def _part(self, folder: Path, manifest: Manifest, variant: Variant) -> Callable[[Candidate], Part] | None:
        golden = self._golden_of(manifest, variant)
        if golden is None:
            return None
        path, vectors = folder / variant.file, folder / golden.file
        return lambda candidate: Part(candidate, path, variant.format, vectors, golden.rtol, golden.atol)


@dataclass(slots=True)
class _Finalist:
    """A candidate that stays loaded for the second measurement."""

    trial: Trial
    stage: Stage
    times_us: list[float] = field(default_factory=list)
    turns: int = 0


class _Held:
    """One auction while it is held: what it has used, and who is still in."""

    def __init__(self, allowance: Allowance, effort: Effort, pace: Pace, open_stage: OpenStage) -> None:
        self._allowance, self._effort, self._pace, self._open_stage = allowance, effort, pace, open_stage
        self._finalists: list[_Finalist] = []
        self._closed_cpu_s = 0.0
        self._playing: Stage | None = None

    @property
    def cpu_s(self) -> float:
        """Processor time of all children so far."""
        live = [finalist.stage for finalist in self._finalists]
        if self._playing is not None:
            live.append(self._playing)
        return self._closed_cpu_s + sum(stage.usage().cpu_s for stage in live)

    def screen(self, candidate: Candidate, part: Callable[[Candidate], Part] | None) -> Trial:
        """Try one candidate out. The best so far stay loaded."""
        if part is None:
            return Trial(candidate, "the package has no golden vectors to check it with", "no_golden")
        while True:
            try:
                trial = self._try(part(candidate))
                break
            except CancelledError:
                raise
            except AimassError as exc:
                if exc.details.get("reason") == "memory" and self._finalists:  # perhaps not alone to blame
                    self._dismiss(self._finalists[-1:])
                    continue
                return _struck_out(candidate, exc)
            finally:
                self._close_playing()
        return trial

    def finals(self, trials: Sequence[Trial]) -> list[Trial]:
        """Let the best take turns; the trials with their better measurements."""
        self._dismiss_slow()
        by_candidate = {trial.candidate: trial for trial in trials}
        for _ in range(self._effort.rounds if len(self._finalists) > 1 else 0):
            for finalist in list(self._finalists):
                try:
                    burst = self._burst(finalist.stage, self._effort.burst_s)
                except CancelledError:
                    raise
                except AimassError as exc:
                    if exc.details.get("reason") in {"allowance", "busy"}:
                        return self._with_finals(by_candidate)  # what was measured until now still counts
                    by_candidate[finalist.trial.candidate] = _struck_out(finalist.trial.candidate, exc)
                    self._dismiss([finalist])
                    continue
                finalist.times_us += burst.times_us
                finalist.turns += 1
        return self._with_finals(by_candidate)

    def close(self) -> None:
        """End all children."""
        self._close_playing()
        self._dismiss(list(self._finalists))

    def _try(self, part: Part) -> Trial:
        self._check_allowance()
        kept_bytes = sum(finalist.stage.usage().memory_bytes for finalist in self._finalists)
        self._playing = stage = self._open_stage(self._pace, max(0, self._allowance.memory_bytes - kept_bytes))
        loaded = stage.load(part, self._allowance.candidate_s)
        self._burst(stage, self._effort.warm_s)
        burst = self._burst(stage, self._effort.screen_s)
        memory_bytes = max(burst.memory_bytes, loaded.memory_bytes)
        trial = _timed(Trial(part.candidate, load_s=loaded.load_s, memory_bytes=memory_bytes), burst.times_us)
        self._finalists.append(_Finalist(trial, stage))
        self._playing = None
        self._dismiss_slow()
        return trial

    def _burst(self, stage: Stage, for_s: float) -> Burst:
        while True:
            self._check_allowance()
            burst = stage.time(for_s, self._effort.max_runs, self._allowance.candidate_s)
            if not burst.is_disturbed:
                return burst

    def _check_allowance(self) -> None:
        allowance = self._allowance
        if self._pace.worked_s > allowance.work_s or self.cpu_s > allowance.cpu_s:
            what = f"{allowance.cpu_s:.0f} s of processor time, {allowance.work_s:.0f} s in all"
            raise EngineRunError(f"the auction's allowance was used up before ({what})", reason="allowance")

    def _dismiss_slow(self) -> None:
        self._finalists.sort(key=lambda finalist: finalist.trial.median_us)
        if self._finalists:
            bound_us = self._finalists[0].trial.median_us * (1 + self._effort.close_share)
            inside = [finalist for finalist in self._finalists if finalist.trial.median_us <= bound_us]
            self._dismiss(self._finalists[min(len(inside), self._effort.finalists) :])

    def _dismiss(self, finalists: Sequence[_Finalist]) -> None:
        for finalist in finalists:
            self._finalists.remove(finalist)
            self._close(finalist.stage)

    def _close_playing(self) -> None:
        if self._playing is not None:
            self._close(self._playing)
            self._playing = None

    def _close(self, stage: Stage) -> None:
        stage.close()
        self._closed_cpu_s += stage.usage().cpu_s

    def _with_finals(self, trials: dict[Candidate, Trial]) -> list[Trial]:
        for finalist in self._finalists:
            if finalist.turns:
                trials[finalist.trial.candidate] = _timed(finalist.trial, finalist.times_us, finalist.turns)
        return list(trials.values())


def _timed(trial: Trial, times_us: Sequence[float], turns: int = 0) -> Trial:
    ordered = sorted(times_us)
    p95_us = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return replace(trial, median_us=statistics.median(ordered), p95_us=p95_us, runs=len(ordered), turns=turns)


def _struck_out(candidate: Candidate, error: AimassError) -> Trial:
    log.info("%s is struck out: %s", candidate, error)
    return Trial(candidate, error.message, str(error.details.get("reason") or error.code))


def _winner(trials: Sequence[Trial], tie_share: float) -> Candidate | None:
    judged = [trial for trial in trials if not trial.code]
    # Between the two measurements the device may have become slower or faster: only one of them is compared.
    judged = [trial for trial in judged if trial.turns] or judged
    if not judged:
        return None
    bound_us = min(trial.median_us for trial in judged) * (1 + tie_share)
    equals = [trial for trial in judged if trial.median_us <= bound_us]
    return min(equals, key=lambda trial: (trial.candidate.threads, trial.memory_bytes)).candidate


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
