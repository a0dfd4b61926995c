"""The other end of the upload benchmark: sends one model. It stands for another machine, so it takes only idle time.

AIMASS_BENCH_KEY=... python -m tests.bench.upload_sender URL CA FILE NAME
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    from aimass.cli.cloud_api import CloudApi

    url, ca, file, name = sys.argv[1:]
    with CloudApi(url, os.environ["AIMASS_BENCH_KEY"], ca=Path(ca)) as api:
        api.push_model(Path(file), name)
