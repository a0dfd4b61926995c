"""The child process that examines one model: ``python -P -m aimass_cloud.build.child``.

Reads one job as a JSON line from standard input, answers with one JSON line on standard output and ends. Before it
looks at the file it gives up what it does not need: address space, processor time, file size, descriptors, priority,
the network, and life beyond its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

from aimass.errors import AimassError
from aimass_cloud.build.findings import BuildLimits, Job

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
MAX_FILES = 128


def main() -> int:
    """Examine the job on standard input."""
    out = _private_answer_pipe()
    job = Job.from_json(sys.stdin.readline())
    restrict(job.limits, max_file_bytes=job.limits.max_model_bytes if job.is_archive else job.limits.golden_file_bytes)
    os.write(out, (json.dumps(_answer(job)) + "\n").encode())
    return 0


def restrict(limits: BuildLimits, *, max_file_bytes: int) -> None:
    """Give up what an examination does not need. Not reversible."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Best effort: containers often forbid user namespaces, and the other limits hold without it.
    libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    os.nice(limits.niceness)
    for what, bound in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_FSIZE, max_file_bytes + (1 << 20)),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (bound, bound))


def _private_answer_pipe() -> int:
    """Standard output for the answer alone: what libraries print goes to standard error."""
    out = os.dup(1)
    os.dup2(2, 1)
    return out


def _answer(job: Job) -> dict[str, Any]:
    try:
        if job.is_archive:
            from aimass_cloud.build.unpack import unpack_here

            return {"unpacked": unpack_here(job)}
        from aimass_cloud.build.examine import examine_here

        return {"findings": examine_here(job).to_dict()}
    except AimassError as exc:
        return {"error": {"message": exc.message, "hint": exc.hint, "reason": exc.details.get("reason", "")}}
    except (MemoryError, RecursionError) as exc:
        return {"error": {"message": str(exc), "hint": "", "reason": "memory"}}
    except Exception as exc:  # noqa: BLE001  whatever a hostile file makes a library raise ends in one named error
        reason = "memory" if "bad_alloc" in str(exc) or "allocat" in str(exc) else "crash"
        return {"error": {"message": f"{type(exc).__name__}: {str(exc)[:300]}", "hint": "", "reason": reason}}


if __name__ == "__main__":
    sys.exit(main())
