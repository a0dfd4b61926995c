"""What an auction found: values that are kept on the device, reported to the cloud, and shown as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aimass.engine.candidates import Candidate
from aimass.engine.hardware import Hardware
from aimass.errors import FrameError

#: Why a candidate was not judged at all: another auction may judge it.
UNDECIDED = frozenset({"allowance", "busy"})


@dataclass(frozen=True, slots=True)
class Trial:
    """How one candidate did.

    Attributes:
        candidate: who.
        struck_out: why it is out, for a person; empty when it is not.
        code: the same for a program: an error's code, or ``crash``, ``timeout``, ``memory``, ``no_golden``,
            ``allowance``, ``busy``.
        median_us: half of its runs took no longer.
        p95_us: 19 of 20 runs took no longer.
        runs: how many were measured.
        turns: in the second measurement, among the best; 0 for those that did not come so far.
        load_s: time to load it, drivers' compilers included.
        memory_bytes: what loading and running it added to a process that has the engine's library.
    """

    candidate: Candidate
    struck_out: str = ""
    code: str = ""
    median_us: float = 0.0
    p95_us: float = 0.0
    runs: int = 0
    turns: int = 0
    load_s: float = 0.0
    memory_bytes: int = 0

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Trial:
        """A trial from plain values; raises KeyError, TypeError, ValueError or FrameError."""
        return cls(
            candidate=Candidate.from_dict(raw["candidate"]),
            struck_out=str(raw["struck_out"]),
            code=str(raw["code"]),
            median_us=float(raw["median_us"]),
            p95_us=float(raw["p95_us"]),
            runs=int(raw["runs"]),
            turns=int(raw["turns"]),
            load_s=float(raw["load_s"]),
            memory_bytes=int(raw["memory_bytes"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuctionResult:
    """One auction.

    Attributes:
        key: see `aimass.engine.candidates.auction_key`.
        model: its name.
        version: its version.
        hardware: where it was held.
        engines: versions of the engines that took part.
        trials: every candidate, in the order they were tried.
        winner: the fastest that answers correctly; None when there is none.
        cpu_s: processor time of all children.
        work_s: time it took without the pauses.
        paused_s: time it waited because the device was busy.
    """

    key: str
    model: str
    version: int
    hardware: Hardware
    engines: Mapping[str, str]
    trials: tuple[Trial, ...]
    winner: Candidate | None
    cpu_s: float = 0.0
    work_s: float = 0.0
    paused_s: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether every candidate was judged. If not, the winner is the best so far, and to repeat it makes sense."""
        return not any(trial.code in UNDECIDED for trial in self.trials)

    @property
    def ranking(self) -> tuple[Trial, ...]:
        """Those that were not struck out: the ones of the second measurement before the others, the fastest first."""
        judged = (trial for trial in self.trials if not trial.code)
        return tuple(sorted(judged, key=lambda trial: (not trial.turns, trial.median_us)))

    def to_json(self) -> bytes:
        """As it is kept and reported."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> AuctionResult:
        """The inverse of :meth:`to_json`.

        Raises:
            FrameError: these bytes are something else; hold the auction again.
        """
        try:
            doc = json.loads(raw)
            return cls(
                key=str(doc["key"]),
                model=str(doc["model"]),
                version=int(doc["version"]),
                hardware=Hardware.from_dict(doc["hardware"]),
                engines={str(name): str(version) for name, version in doc["engines"].items()},
                trials=tuple(Trial.from_dict(item) for item in doc["trials"]),
                winner=None if doc["winner"] is None else Candidate.from_dict(doc["winner"]),
                cpu_s=float(doc["cpu_s"]),
                work_s=float(doc["work_s"]),
                paused_s=float(doc["paused_s"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            raise FrameError(f"an auction's result cannot be read: {exc!r}") from exc
