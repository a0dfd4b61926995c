"""Does a request fit a model? Asked on every call before anything is started; prepared once for a loaded version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from aimass.engine.base import Arrays
from aimass.errors import InputError
from aimass.wire.messages import InferRequest
from aimass.wire.tensor import Datatype, Tensor, TensorSpec


class InputCheck:
    """Turns a request's tensors into what a session is fed, or says what is wrong with them.

    Args:
        model: the name, for messages.
        inputs: what the model takes.
        outputs: what it gives.
    """

    __slots__ = ("_inputs", "_model", "_outputs", "_specs")

    def __init__(self, model: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._model = model
        self._specs = {spec.name: spec for spec in inputs}
        # Dimensions of fixed size as (axis, size); the others are not looked at again.
        self._inputs: dict[str, tuple[Datatype, int, tuple[tuple[int, int], ...]]] = {
            spec.name: (
                spec.datatype,
                len(spec.shape),
                tuple((axis, size) for axis, size in enumerate(spec.shape) if size >= 0),
            )
            for spec in inputs
        }
        self._outputs = frozenset(spec.name for spec in outputs)

    def feeds(self, request: InferRequest) -> Arrays:
        """The arrays by input name.

        Raises:
            InputError: names the input, what the model wants and what it got.
        """
        inputs = self._inputs
        feeds: Arrays = {}
        for tensor in request.inputs:
            known = inputs.get(tensor.name)
            if known is None:
                self._refuse_name(tensor.name)
            datatype, rank, fixed = known
            shape = tensor.data.shape
            if tensor.datatype is not datatype or len(shape) != rank:
                self._refuse(tensor)
            for axis, size in fixed:
                if shape[axis] != size:
                    self._refuse(tensor)
            feeds[tensor.name] = tensor.data
        if len(feeds) != len(inputs) or len(request.inputs) != len(inputs):
            self._refuse_count(request)
        if request.outputs and not self._outputs.issuperset(request.outputs):
            self._refuse_outputs(request)
        return feeds

    def _refuse_name(self, name: str) -> NoReturn:
        known = ", ".join(self._specs)
        raise InputError(
            f"model '{self._model}' has no input '{name[:100]}'", hint=f"its inputs are: {known}", input=name
        )

    def _refuse(self, tensor: Tensor) -> NoReturn:
        spec = self._specs[tensor.name]
        wanted = f"{spec.datatype} {_shape(spec.shape)}"
        got = f"{tensor.datatype} {_shape(tensor.data.shape)}"
        raise InputError(
            f"input '{tensor.name}' of model '{self._model}': wanted {wanted}, got {got}",
            input=tensor.name,
            wanted=wanted,
            got=got,
        )

    def _refuse_count(self, request: InferRequest) -> NoReturn:
        given = [tensor.name for tensor in request.inputs]
        missing = [name for name in self._inputs if name not in given]
        if missing:
            raise InputError(
                f"model '{self._model}': wanted inputs {', '.join(self._inputs)}; {', '.join(missing)} missing",
                input=missing[0],
                wanted=list(self._inputs),
                got=given,
            )
        raise InputError(f"model '{self._model}': an input is given twice", wanted=list(self._inputs), got=given)

    def _refuse_outputs(self, request: InferRequest) -> NoReturn:
        unknown = sorted(set(request.outputs) - self._outputs)
        raise InputError(
            f"model '{self._model}' has no output '{unknown[0][:100]}'",
            hint=f"its outputs are: {', '.join(sorted(self._outputs))}",
        )


def _shape(shape: Sequence[int]) -> str:
    return "[" + ", ".join("any" if size < 0 else str(size) for size in shape) + "]"
