"""The demo itself, as a newcomer runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aimass.cli.waiting import wait_until
from tests.e2e.steps import as_json

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def processes_naming(folder: Path) -> list[str]:
    """Command lines of running processes that name a folder."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = one.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


def demo(folder: Path) -> list[str]:
    return [sys.executable, "-c", "from aimass.cli import run; run()", "demo", "--json", "--keep", str(folder)]


def test_the_demo_keeps_every_promise_and_leaves_nothing_running(short_tmp: Path) -> None:
    folder = short_tmp / "demo"
    done = subprocess.run(
        demo(folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    result = as_json(done.stdout)
    assert result["requests"] == 2 * 2 * 2 * 450
    assert result["failed"] == 0
    assert result["accuracy"] >= 0.95
    assert result["offloaded"] > 0
    assert result["fallbacks"] > 0
    assert result["outbox_sent"] == result["outbox_stored"] == result["requests"]
    assert {(row["engine"], row["served_by"]) for row in result["rows"]} >= {
        ("onnxruntime", "edge"),
        ("openvino", "edge"),
    }
    assert processes_naming(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_demo_leaves_nothing_running(short_tmp: Path, number: signal.Signals) -> None:
    folder = short_tmp / "demo"
    # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt(folder, number)
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt(folder: Path, number: signal.Signals) -> None:
    with subprocess.Popen(demo(folder), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as running:
        agents = folder / "agents"
        wait_until(lambda: len(list(agents.glob("*/agent.sock"))) == 2, timeout_s=90, what="both agents")
        assert len(processes_naming(folder)) >= 5
        running.send_signal(number)
        running.communicate(timeout=60)
        assert running.returncode != 0
    wait_until(lambda: processes_naming(folder) == [], timeout_s=20, what="everything to be gone")
