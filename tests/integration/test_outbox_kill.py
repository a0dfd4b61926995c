"""The outbox under SIGKILL: what append() returned for is there, whatever moment the process died in."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aimass.device.outbox import Outbox
from tests.fakes.record_store import RecordStore

pytestmark = pytest.mark.integration

# Three threads append as fast as they can and say each number after append() returned; a fourth one acknowledges.
CHILD = textwrap.dedent("""
    import os, sys, threading
    from pathlib import Path
    from aimass.device.outbox import Outbox, StreamLimits

    outbox = Outbox(Path(sys.argv[1]), default_limits=StreamLimits(max_kept_rows=20))
    first = int(sys.argv[2])

    def append(worker):
        n = 0
        while True:
            value = first + worker * 1_000_000 + n
            seq = outbox.append("events", "reading", {"n": value})
            os.write(1, f"{seq} {value}\\n".encode())  # one write, so a kill never tears a line that is read
            n += 1

    def acknowledge():
        while True:
            pending = outbox.read("events", outbox.acked("events"), max_records=5)
            if len(pending) == 5:
                outbox.acknowledge("events", outbox.stream_id, pending[2].seq, 1000)
                os.write(1, f"acked {pending[2].seq}\\n".encode())

    for worker in range(3):
        threading.Thread(target=append, args=(worker,)).start()
    threading.Thread(target=acknowledge).start()
""")


def run_and_kill(path: Path, first: int, after_lines: int) -> list[str]:
    """Start the child, kill it after it has said so much, and give back all that it said."""
    command = [sys.executable, "-c", CHILD, str(path), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(after_lines)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        assert child.wait(10) == -signal.SIGKILL
    return [line for line in lines if line.endswith("\n")]


def test_nothing_that_was_taken_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    rng = random.Random(7)
    said: dict[int, int] = {}
    acked, stream_ids = 0, set()
    for round_ in range(6):
        for line in run_and_kill(path, round_ * 10_000_000, rng.randint(20, 200)):
            left, right = line.split()
            if left == "acked":
                acked = max(acked, int(right))
            else:
                assert int(left) not in said, "a number was given twice"
                said[int(left)] = int(right)
        outbox = Outbox(path)
        stream_ids.add(outbox.stream_id)
        assert outbox.acked("events") >= acked, "an acknowledgement was forgotten"
        rows = outbox.read("events", outbox.acked("events"), max_records=100_000, max_bytes=1 << 30)
        assert [row.seq for row in rows] == list(
            range(outbox.acked("events") + 1, outbox.acked("events") + len(rows) + 1)
        )
        there = {row.seq: json.loads(row.data)["n"] for row in rows}
        for seq, value in said.items():
            if seq > outbox.acked("events"):
                assert there[seq] == value
        counters = outbox.counters("events")
        assert counters.appended == counters.acked + counters.pending
        assert counters.appended >= len(said)
        outbox.close()
    assert len(stream_ids) == 1


def test_what_a_killed_process_owed_reaches_the_cloud_once(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    said = {int(line.split()[0]) for line in run_and_kill(path, 0, 150) if not line.startswith("acked")}
    outbox, cloud = Outbox(path), RecordStore()
    cloud.positions["events", outbox.stream_id] = already = outbox.acked("events")
    while outbox.pending():
        rows = outbox.read("events", outbox.acked("events"), max_records=50)
        payload = json.dumps({"stream_id": outbox.stream_id, "records": [json.loads(row.to_json()) for row in rows]})
        outbox.acknowledge(**json.loads(cloud.take("events", payload.encode())))
    stored = [row["seq"] for row in cloud.stored]
    assert stored == sorted(set(stored))
    assert {seq for seq in said if seq > already} <= set(stored)
    outbox.close()
