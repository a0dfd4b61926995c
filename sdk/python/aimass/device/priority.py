"""Bulk work gives way to requests: threads that carry, digest and load models run with less priority.

A model of 200 MB keeps a core busy for seconds with decryption and digests. A thread that has just been woken by a
request then waits for its turn, at every hop of the request's way. With less priority the bulk work is put aside at
once, and gets the time that nobody else wants.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

BULK_NICENESS = 10


def give_way() -> None:
    """Lower the priority of the calling thread, and of the processes that it starts. Not reversible.

    Only Linux has priorities for single threads; elsewhere nothing happens.
    """
    how = os.environ.get("AIM_X", "nice")
    if how == "none":
        return
    if how == "idle":
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
        return
    if sys.platform == "linux":
        ours = os.getpriority(os.PRIO_PROCESS, os.getpid())
        with contextlib.suppress(OSError):  # a sandbox may forbid it; the work is done all the same
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(ours + BULK_NICENESS, 19))
