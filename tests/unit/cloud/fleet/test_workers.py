"""Keeping a worker's process running: restart, end, and what it is told."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from aimass_cloud.fleet.workers import WorkerProcess
from tests.fakes.waiting import until

SLEEPER = "import sys, time; open(sys.argv[1], 'a').write(sys.stdin.readline()); time.sleep(60)"


def worker(code: str, path: Path) -> WorkerProcess:
    def command() -> tuple[Sequence[str], str]:
        return [sys.executable, "-c", code, str(path)], "token\n"

    return WorkerProcess("test", command, pauses=(0.01, 0.05))


def test_a_worker_that_dies_is_started_again_and_told_anew(tmp_path: Path) -> None:
    said = tmp_path / "said"
    process = worker(SLEEPER, said)
    process.start()
    try:
        until(lambda: said.exists() and said.read_text() == "token\n")
        pid = process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: said.read_text() == "token\ntoken\n")
        assert process.restarts == 1
    finally:
        process.stop()
    assert process.pid is None


def test_stopping_ends_it(tmp_path: Path) -> None:
    said = tmp_path / "said"
    process = worker(SLEEPER, said)
    process.start()
    until(lambda: said.exists() and said.read_text())
    process.stop()
    assert (process.pid, process.restarts) == (None, 0)


def test_a_command_that_cannot_be_made_is_tried_again() -> None:
    tries = 0

    def command() -> tuple[Sequence[str], str]:
        nonlocal tries
        tries += 1
        raise OSError("not yet")

    process = WorkerProcess("test", command, pauses=(0.01, 0.05))
    process.start()
    until(lambda: tries >= 3)
    process.stop()


def test_stopping_one_that_was_never_started_does_nothing() -> None:
    WorkerProcess("test", lambda: ([], "")).stop()
