"""What an examination is asked for and what it finds: the values that cross between the cloud and its child process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from aimass.errors import FrameError
from aimass.wire.tensor import Datatype, TensorSpec

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """How much one examination may take. Memory is address space: libraries alone map about 1 GiB of it."""

    max_model_bytes: int = 2048 * MIB
    memory_bytes: int = 6144 * MIB
    """Parsed, checked and loaded once by the engine, a model needs about four times its file's size."""
    cpu_s: int = 120
    wall_s: float = 180.0
    golden_file_bytes: int = 16 * MIB
    golden_vectors: int = 3
    niceness: int = 10


@dataclass(frozen=True, slots=True)
class Job:
    """One examination: ``main_file`` and its companions lie in ``folder``; ``golden_file`` is written beside them."""

    folder: str
    main_file: str
    files: tuple[str, ...]
    model: str
    golden_file: str
    limits: BuildLimits = field(default_factory=BuildLimits)
    is_archive: bool = False
    """Take ``main_file`` apart instead of examining it."""

    def to_json(self) -> str:
        """The job as one line for the child."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The inverse of :meth:`to_json`."""
        raw = json.loads(text)
        return cls(**{**raw, "files": tuple(raw["files"]), "limits": BuildLimits(**raw["limits"])})


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far another engine's answer may lie from the golden one."""

    rtol: float
    atol: float


@dataclass(frozen=True, slots=True)
class Findings:
    """What the checker learned about a good model.

    ``tolerance`` is None where no golden vectors could be made; ``golden_skipped`` then says why.
    ``batching_refused`` says why requests must not be put together ("" = they may).
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    opset: int
    producer: str
    external_files: tuple[str, ...]
    tolerance: Tolerance | None
    golden_skipped: str
    batching_refused: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the pipe."""
        out: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        out["inputs"] = [_spec_to_list(spec) for spec in self.inputs]
        out["outputs"] = [_spec_to_list(spec) for spec in self.outputs]
        out["tolerance"] = None if self.tolerance is None else [self.tolerance.rtol, self.tolerance.atol]
        return out

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Findings:
        """The inverse of :meth:`to_dict`.

        Raises:
            FrameError: the child wrote something else; a model that took the child over may try.
        """
        try:
            tolerance = raw["tolerance"]
            return cls(
                inputs=tuple(_spec_from_list(item) for item in raw["inputs"]),
                outputs=tuple(_spec_from_list(item) for item in raw["outputs"]),
                precision=str(raw["precision"]),
                opset=int(raw["opset"]),
                producer=str(raw["producer"]),
                external_files=tuple(str(name) for name in raw["external_files"]),
                tolerance=None if tolerance is None else Tolerance(float(tolerance[0]), float(tolerance[1])),
                golden_skipped=str(raw["golden_skipped"]),
                batching_refused=str(raw["batching_refused"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            raise FrameError(f"the checker's findings cannot be read: {exc}") from exc


def _spec_to_list(spec: TensorSpec) -> list[Any]:
    return [spec.name, str(spec.datatype), list(spec.shape)]


def _spec_from_list(item: list[Any]) -> TensorSpec:
    name, datatype, shape = item
    return TensorSpec(str(name), Datatype(datatype), tuple(int(dim) for dim in shape))
