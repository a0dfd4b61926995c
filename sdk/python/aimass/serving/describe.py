"""A model in the words of the Open Inference Protocol: metadata, configuration, repository index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aimass.runtime.models import ModelInfo
from aimass.wire.tensor import Datatype, TensorSpec

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
_STATES = {"running": "READY", "draining": "UNLOADING"}


def metadata(info: ModelInfo, versions: Iterable[str]) -> dict[str, Any]:
    """Inputs and outputs; shapes have the batch dimension, -1 varies."""
    return {
        "name": info.name,
        "versions": list(versions),
        "platform": info.engine,
        "inputs": [_spec(one) for one in info.inputs],
        "outputs": [_spec(one) for one in info.outputs],
    }


def configuration(info: ModelInfo) -> dict[str, Any]:
    """As Triton writes it. `max_batch_size` is 0, which there means that `dims` are whole shapes, as ours are."""
    return {
        "name": info.name,
        "platform": info.engine,
        "backend": info.engine,
        "version_policy": {"specific": {"versions": [info.version]}},
        "max_batch_size": 0,
        "input": [_port(one) for one in info.inputs],
        "output": [_port(one) for one in info.outputs],
        "parameters": {
            "provider": {"string_value": info.provider},
            "variant": {"string_value": info.variant},
        },
    }


def index(
    running: Sequence[ModelInfo], installed: Iterable[tuple[str, int]], *, only_ready: bool
) -> list[dict[str, Any]]:
    """Every version that answers, and those that are only installed, by name and number."""
    rows = {(one.name, one.version): _STATES.get(one.state, "UNAVAILABLE") for one in running}
    for key in installed:
        rows.setdefault(key, "UNAVAILABLE")
    entries = []
    for (name, version), state in sorted(rows.items()):
        if only_ready and state != "READY":
            continue
        entry = {"name": name, "version": str(version), "state": state}
        if state == "UNAVAILABLE":
            entry["reason"] = "installed, not loaded"
        entries.append(entry)
    return entries


def _spec(one: TensorSpec) -> dict[str, Any]:
    return {"name": one.name, "datatype": one.datatype.value, "shape": list(one.shape)}


def _port(one: TensorSpec) -> dict[str, Any]:
    kind = "STRING" if one.datatype is Datatype.BYTES else one.datatype.value
    return {"name": one.name, "data_type": f"TYPE_{kind}", "dims": list(one.shape)}
