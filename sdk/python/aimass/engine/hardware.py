"""What of a machine decides how fast a model runs on it: the key under which a measurement is kept.

Two devices with the same fingerprint may share what one of them has measured. A new driver changes the fingerprint, so
that the measurement is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aimass.errors import FrameError

_CPU_NAMES = ("model name", "Hardware", "CPU part", "Model", "uarch")  # x86, older ARM, ARM, boards, RISC-V
_CPU_FLAGS = ("flags", "Features", "isa")
_KERNEL_GPUS = ("i915", "xe", "intel_vpu", "amdgpu", "panfrost", "rknpu")  # drivers whose version is the kernel's


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine as an engine sees it.

    Attributes:
        arch: as ``platform.machine()``.
        cpu: what the processor calls itself.
        cpu_flags: digest of its instruction set extensions.
        cores: logical processors this process may use.
        drivers: versions of the drivers for anything but the processor.
    """

    arch: str
    cpu: str
    cpu_flags: str
    cores: int
    drivers: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """32 hex digits; equal for equal machines."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Hardware:
        """The inverse of :meth:`to_dict`.

        Raises:
            FrameError: something else.
        """
        try:
            return cls(
                arch=str(raw["arch"]),
                cpu=str(raw["cpu"]),
                cpu_flags=str(raw["cpu_flags"]),
                cores=int(raw["cores"]),
                drivers={str(name): str(version) for name, version in raw["drivers"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise FrameError(f"a description of hardware cannot be read: {exc!r}") from exc


def read_hardware(root: Path = Path("/")) -> Hardware:
    """This machine.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    facts = _cpu_facts(root / "proc" / "cpuinfo")
    name = next((facts[key] for key in _CPU_NAMES if facts.get(key)), platform.processor() or "unknown")
    flags = next((facts[key] for key in _CPU_FLAGS if facts.get(key)), "")
    return Hardware(
        arch=platform.machine(),
        cpu=name,
        cpu_flags=hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:16],
        cores=_cores(),
        drivers=_drivers(root),
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # a container may have fewer than the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_facts(path: Path) -> dict[str, str]:
    """The first processor's lines; big.LITTLE machines differ further down, but always in the same way."""
    facts: dict[str, str] = {}
    for line in _text(path).splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip(), value.strip())
    return facts


def _drivers(root: Path) -> dict[str, str]:
    found = {}
    nvidia = re.search(r"Kernel Module[^\d]*([\d.]+)", _text(root / "proc" / "driver" / "nvidia" / "version"))
    if nvidia:
        found["nvidia"] = nvidia[1]
    for name in _KERNEL_GPUS:
        if (root / "sys" / "module" / name).is_dir():
            found[name] = platform.release()
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
