"""An audition's child whose engines misbehave, each in its own way; run as a program.

Engines: ``aborts`` (the process ends in native code), ``exits``, ``hangs``, ``hogs`` (takes memory for ever),
``babbles`` (prints to standard output), ``raises`` (an exception nobody foresaw), and ``good``.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from aimass.engine.audition import Audition, serve, step_back
from aimass.engine.onnx import OnnxEngine

MIB = 1 << 20


class BadEngine(OnnxEngine):
    """ONNX Runtime until it is told to load."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def load(self, path: Path, **how: Any) -> Any:
        match self.how:
            case "aborts":
                sys.stderr.write("terminate called after throwing an instance of 'std::bad_thing'\n")
                sys.stderr.flush()
                os.abort()
            case "exits":
                os._exit(3)
            case "hangs":
                threading.Event().wait()
            case "hogs":
                hoard = []
                while True:
                    hoard.append(np.ones(4 * MIB, np.uint8))
            case "babbles":
                sys.stdout.write('{"load_s": 0, "memory_bytes": 0}\n')
                sys.stdout.flush()
            case "raises":
                raise KeyError("nobody foresaw this")
        return super().load(path, **how)


if __name__ == "__main__":
    answers = os.dup(1)
    os.dup2(2, 1)
    step_back()
    serve(sys.stdin, answers, Audition(BadEngine))
