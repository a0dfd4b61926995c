"""What a process has used, as Linux tells it; elsewhere only about this process itself."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time of all its threads so far, and memory that is resident now."""

    cpu_s: float = 0.0
    memory_bytes: int = 0


def usage_of(pid: int | None = None) -> Usage:
    """The usage of a process; nothing when it has ended or the system does not tell. ``None``: of this one.

    The process's peak is not asked for: on Linux a child begins with its parent's.
    """
    try:
        # The name in brackets may hold anything, brackets too; what follows the last one is numbers.
        text = Path("/proc/self/stat" if pid is None else f"/proc/{pid}/stat").read_text(errors="replace")
        fields = text.rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])  # utime, stime
        return Usage(ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, IndexError, ValueError, AttributeError):
        return Usage(time.process_time(), 0) if pid is None else Usage()
