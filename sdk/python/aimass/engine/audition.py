"""The child process of an auction: ``python -P -m aimass.engine.audition``. It tries one candidate out.

An engine is native code, and a model or a driver can end the process it is in. Here that process is this one, and the
agent only reads that it ended. Wishes come as JSON lines on standard input, each is answered by one JSON line on what
was standard output; whatever libraries print goes to standard error.

    {"do": "describe", "engine"}                       -> {"version", "formats", "providers"}
    {"do": "load", "engine", "provider", "threads",
     "path", "format", "golden", "rtol", "atol"}       -> {"load_s", "memory_bytes"}
    {"do": "time", "for_s", "max_runs"}                -> {"times_us", "memory_bytes"}
    any of them                                        -> {"error": {"code", "message"}}

It ends when its input does, or when the thread that started it does (on Linux the kernel sees to that).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aimass.engine import open_engine
from aimass.engine.base import Arrays, Engine, EngineOptions, Session
from aimass.engine.golden_check import check_golden, feeds_of, read_golden
from aimass.engine.usage import usage_of
from aimass.errors import AimassError, EngineRunError
from aimass.package.manifest import Golden

PR_SET_PDEATHSIG = 1
NICENESS = 5
"""Enough that a request never waits for an audition; on an idle machine it changes no measurement."""


class Audition:
    """What the child does with its wishes; one model at most is loaded.

    Args:
        open_named: gives an engine by its name.
    """

    def __init__(self, open_named: Callable[[str], Engine] = open_engine) -> None:
        self._open = open_named
        self._session: Session | None = None
        self._feeds: Arrays = {}
        self._memory_before = 0
        self._wishes = {"describe": self._describe, "load": self._load, "time": self._time}

    def answer(self, wish: dict[str, Any]) -> dict[str, Any]:
        """Fulfil one wish; failures are answers too."""
        try:
            return self._wishes[str(wish["do"])](wish)
        except AimassError as exc:
            return {"error": {"code": exc.code, "message": exc.message}}
        except Exception as exc:  # noqa: BLE001 - whatever a library raises strikes this candidate out, no more
            return {"error": {"code": EngineRunError.code, "message": f"{type(exc).__name__}: {str(exc)[:300]}"}}

    def _describe(self, wish: dict[str, Any]) -> dict[str, Any]:
        engine = self._open(wish["engine"])
        return {"version": engine.version, "formats": list(engine.formats), "providers": list(engine.providers())}

    def _load(self, wish: dict[str, Any]) -> dict[str, Any]:
        engine = self._open(wish["engine"])
        golden = Golden(Path(wish["golden"]).name, wish["rtol"], wish["atol"])
        pairs = read_golden(Path(wish["golden"]))
        self._feeds = feeds_of(pairs[0][0])
        self._memory_before = usage_of().memory_bytes  # with the library, which the agent has loaded anyway
        begun = time.perf_counter()
        options = EngineOptions(provider=wish["provider"], intra_threads=wish["threads"])
        self._session = engine.load(Path(wish["path"]), format=wish["format"], options=options)
        load_s = time.perf_counter() - begun
        check_golden(self._session, pairs, golden)
        return {"load_s": load_s, "memory_bytes": self._grown_bytes()}

    def _time(self, wish: dict[str, Any]) -> dict[str, Any]:
        if self._session is None:
            raise EngineRunError("nothing is loaded")
        times_ns: list[int] = []
        begun = now = time.perf_counter_ns()
        until = begun + int(wish["for_s"] * 1e9)
        while not times_ns or (now < until and len(times_ns) < wish["max_runs"]):
            before = time.perf_counter_ns()
            self._session.run(self._feeds)
            now = time.perf_counter_ns()
            times_ns.append(now - before)
        return {"times_us": [ns / 1000 for ns in times_ns], "memory_bytes": self._grown_bytes()}

    def _grown_bytes(self) -> int:
        return max(0, usage_of().memory_bytes - self._memory_before)


def serve(wishes: Iterable[str], out: int, audition: Audition) -> None:
    """Answer wishes until there are no more.

    Args:
        wishes: lines of JSON.
        out: descriptor for the answers.
        audition: fulfils them.
    """
    for line in wishes:
        reply = (json.dumps(audition.answer(json.loads(line))) + "\n").encode()
        while reply:
            reply = reply[os.write(out, reply) :]


def step_back() -> None:
    """Let everything else on this machine go first: processor, memory, and the parent's end."""
    os.nice(NICENESS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # When memory runs out the kernel shall end this process, never the agent. Some containers forbid to say so.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> int:
    """The child's whole life."""
    out = os.dup(1)
    os.dup2(2, 1)
    step_back()
    serve(sys.stdin, out, Audition())
    return 0


if __name__ == "__main__":
    sys.exit(main())
