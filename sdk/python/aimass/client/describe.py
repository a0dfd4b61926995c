"""A model's description as plain values and back: what travels between the agent and its clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aimass.errors import FrameError
from aimass.runtime.models import ModelInfo
from aimass.wire.tensor import Datatype, TensorSpec


def model_to_dict(info: ModelInfo) -> dict[str, Any]:
    """A description as plain values."""
    return {
        "name": info.name,
        "version": info.version,
        "inputs": [_spec_to_dict(one) for one in info.inputs],
        "outputs": [_spec_to_dict(one) for one in info.outputs],
        "engine": info.engine,
        "provider": info.provider,
        "variant": info.variant,
        "labels": list(info.labels),
        "state": info.state,
        "default": info.default,
    }


def model_from_dict(values: Mapping[str, Any]) -> ModelInfo:
    """The description that `model_to_dict` wrote.

    Raises:
        FrameError: it was written by something else.
    """
    try:
        return ModelInfo(
            name=values["name"],
            version=values["version"],
            inputs=tuple(_spec_from_dict(one) for one in values["inputs"]),
            outputs=tuple(_spec_from_dict(one) for one in values["outputs"]),
            engine=values["engine"],
            provider=values["provider"],
            variant=values["variant"],
            labels=tuple(values["labels"]),
            state=values["state"],
            default=values["default"],
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise FrameError(f"not the description of a model: {exc!r}") from exc


def _spec_to_dict(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": list(spec.shape)}


def _spec_from_dict(values: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(values["name"], Datatype(values["datatype"]), tuple(int(one) for one in values["shape"]))
