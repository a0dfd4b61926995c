import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from aimass.cli import reaper
from aimass.cli.process import Process, is_running, kill_pid
from aimass.cli.waiting import wait_until

pytestmark = pytest.mark.integration

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
OBEDIENT = "import time; print('up', flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {OBEDIENT!r}]); time.sleep(60)"


@pytest.fixture
def mark() -> Iterator[str]:
    mark = uuid.uuid4().hex
    yield mark
    assert reaper.end_all(mark) == []


def process(tmp_path: Path, mark: str, code: str) -> Process:
    env = {**os.environ, reaper.VARIABLE: mark}
    return Process("p", [sys.executable, "-c", code], log=tmp_path / "p.log", env=env)


def started(one: Process) -> Process:
    one.start()
    wait_until(lambda: "up" in one.tail(), timeout_s=10, what="the process to speak")
    return one


def test_stop_asks_first_and_kills_the_stubborn(tmp_path: Path, mark: str) -> None:
    polite = started(process(tmp_path / "a", mark, OBEDIENT))
    polite.stop()
    assert polite.exit_code == -signal.SIGTERM
    stubborn = started(process(tmp_path / "b", mark, STUBBORN))
    stubborn.stop(timeout_s=0.2)
    assert stubborn.exit_code == -signal.SIGKILL


def test_a_killed_process_can_be_started_again(tmp_path: Path, mark: str) -> None:
    one = started(process(tmp_path, mark, OBEDIENT))
    first = one.pid
    one.kill()
    assert not one.alive
    one.start()
    assert one.alive
    assert one.pid != first
    one.kill()


def test_a_frozen_process_is_alive_and_goes_on_after_thawing(tmp_path: Path, mark: str) -> None:
    one = started(process(tmp_path, mark, OBEDIENT))
    one.freeze()
    wait_until(lambda: Path(f"/proc/{one.pid}/stat").read_text().split()[2] == "T", timeout_s=5, what="the freeze")
    assert one.alive
    one.thaw()
    one.stop()
    assert one.exit_code == -signal.SIGTERM


def test_somebody_elses_child_is_killed_by_id(tmp_path: Path, mark: str) -> None:
    parent = process(tmp_path, mark, PARENT)
    parent.start()
    wait_until(lambda: len(reaper.marked(mark)) == 2, timeout_s=10, what="the grandchild")
    (grandchild,) = set(reaper.marked(mark)) - {parent.pid}
    kill_pid(grandchild)
    assert not is_running(grandchild)
    assert parent.alive
    parent.kill()


def test_the_reaper_ends_children_and_grandchildren_of_an_owner_that_was_killed(tmp_path: Path, mark: str) -> None:
    parent = process(tmp_path, mark, PARENT)
    parent.start()
    wait_until(lambda: len(reaper.marked(mark)) == 2, timeout_s=10, what="the grandchild")
    watch = subprocess.Popen([sys.executable, "-I", reaper.__file__, mark], stdin=subprocess.PIPE)
    assert watch.stdin is not None
    watch.stdin.close()  # what the kernel does when the owner dies
    assert watch.wait(10) == 0
    assert reaper.marked(mark) == []
    assert not parent.alive
