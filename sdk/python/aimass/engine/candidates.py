"""Who takes part in an auction: variants times engines times providers times thread counts."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aimass.engine.base import Engine
from aimass.engine.hardware import Hardware
from aimass.errors import FrameError
from aimass.package.manifest import Manifest, Platform, Variant

#: Raised when candidates are judged in another way, so that results of before are not used any more.
METHOD = 1

#: Computes on the processor, where the number of threads is ours to choose.
_ON_CPU = frozenset({"CPU", "XNNPACK", "OpenVINO:CPU"})
#: Goes by way of the network, or chooses anew at each load: nothing that can be pinned.
_NO_CANDIDATES = frozenset({"AUTO", "Azure"})


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """An engine on this machine: see the attributes of `Engine`. Known without having its library in this process."""

    name: str
    version: str
    formats: tuple[str, ...]
    providers: tuple[str, ...]

    @classmethod
    def of(cls, engine: Engine) -> EngineFacts:
        """The facts of an engine that is open."""
        return cls(engine.name, engine.version, tuple(engine.formats), tuple(engine.providers()))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a version here. ``threads``: those of one run; 0 where the engine chooses (not on a processor)."""

    variant: str
    engine: str
    provider: str
    threads: int

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.threads else ""
        return f"{self.variant} on {self.engine} {self.provider}{threads}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Candidate:
        """The inverse of :meth:`to_dict`.

        Raises:
            FrameError: something else.
        """
        try:
            return cls(str(raw["variant"]), str(raw["engine"]), str(raw["provider"]), int(raw["threads"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise FrameError(f"a candidate cannot be read: {exc!r}") from exc


def candidates_of(
    manifest: Manifest, engines: Sequence[EngineFacts], hardware: Hardware, *, first: Candidate | None = None
) -> tuple[Candidate, ...]:
    """All candidates, the likely winners first, so that an allowance that runs out has seen them.

    Args:
        manifest: whose variants.
        engines: what there is here.
        hardware: how many processors.
        first: what won on an equal device.
    """
    every: list[Candidate] = []
    for engine in engines:
        here = Platform(platform.system().lower(), hardware.arch, (engine.name,))
        for variant in manifest.variants:
            if variant.format in engine.formats and variant.platform.matches(here):
                every += _ways(variant, engine, hardware.cores)
    sizes = {variant.name: _size_bytes(manifest, variant) for variant in manifest.variants}
    return tuple(sorted(every, key=lambda candidate: (candidate != first, sizes[candidate.variant])))


def thread_counts(cores: int) -> tuple[int, ...]:
    """One, half of them (the physical ones where each has two threads), all of them."""
    return tuple(sorted({1, max(1, cores // 2), cores}))


def auction_key(package_sha256: str, engines: Sequence[EngineFacts], hardware: Hardware) -> str:
    """Under what a result is kept: 32 hex digits that change with the package, a library, a driver or the machine.

    Args:
        package_sha256: digest of the signed manifest.
        engines: what there is here.
        hardware: this machine.
    """
    libraries = sorted([engine.name, engine.version, *engine.providers] for engine in engines)
    text = json.dumps([METHOD, package_sha256, libraries, hardware.fingerprint])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _ways(variant: Variant, engine: EngineFacts, cores: int) -> Iterator[Candidate]:
    for provider in _providers(engine):
        for threads in thread_counts(cores) if provider in _ON_CPU else (0,):
            yield Candidate(variant.name, engine.name, provider, threads)


def _providers(engine: EngineFacts) -> Iterator[str]:
    for provider in engine.providers:
        if provider == "OpenVINO":  # as a provider of ONNX Runtime it has devices of its own, which it does not list
            yield from ("OpenVINO:CPU", "OpenVINO:GPU", "OpenVINO:NPU")
        elif provider not in _NO_CANDIDATES and not provider.endswith("ExecutionProvider"):  # one that we do not know
            yield provider


def _size_bytes(manifest: Manifest, variant: Variant) -> int:
    return sum(manifest.files[name].size_bytes for name in (variant.file, *variant.files))
