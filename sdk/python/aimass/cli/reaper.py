"""Ends what a stack started when the stack itself can no longer do it (it was killed, or the machine's memory ran out).

A stack gives each of its processes an environment variable with a value of its own; all their children inherit it. The
reaper is a process that reads its standard input until the stack closes it, by its own will or by dying, and then ends
every process that carries the mark. Run as a plain file, so that it costs no imports: ``python -I reaper.py MARK``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

VARIABLE = "AIMASS_STACK_MARK"
MAX_ROUNDS = 100


def marked(mark: str) -> list[int]:
    """The processes of this user that carry the mark, without this one."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def end_all(mark: str) -> list[int]:
    """SIGKILL everything marked, again until nothing is left (a supervisor may have started another one meanwhile).

    Returns:
        What could not be ended.
    """
    left = marked(mark)
    for _ in range(MAX_ROUNDS):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        left = marked(mark)
        if not left:
            break
        time.sleep(0.02)
    return left


def main() -> int:
    """Wait for the stack to go, then tidy up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # these reach the whole terminal; the stack decides, we follow
    sys.stdin.buffer.read()
    return 1 if end_all(sys.argv[1]) else 0


if __name__ == "__main__":
    sys.exit(main())
