"""What a caller may know about a loaded model."""

from __future__ import annotations

from dataclasses import dataclass

from aimass.wire.tensor import TensorSpec


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One version of a model that answers here.

    Attributes:
        name: the model's.
        version: its version.
        inputs: what it takes.
        outputs: what it gives.
        engine: the engine that runs it.
        provider: where that engine computes.
        variant: the build that was chosen for this machine.
        labels: names of the classes, in the order of the output.
        state: ``running``, or ``draining`` once another version took its place.
        default: it answers requests that name no version.
    """

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    engine: str
    provider: str
    variant: str
    labels: tuple[str, ...] = ()
    state: str = "running"
    default: bool = True
