"""A model as consecutive models: the first takes the inputs, each next one takes the tensor at which it was cut.

Each part carries what it needs and nothing else: operators, weights, functions, types, quantisation notes; names,
operator sets and metadata are those of the whole. Chains of constants are repeated where they are needed. An output of
the whole is an output of the part that makes it. A part that would read an original input again, or any tensor beside
its cut, is refused: such a part loads without complaint and computes the head a second time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto
from onnx.external_data_helper import uses_external_data

from aimass.errors import InputError, ModelInvalidError
from aimass.graph.cut import Cut
from aimass.graph.separator import depths, sweep
from aimass.graph.shape import inferred
from aimass.graph.view import GraphView, every_node, read_model, view_of

_CHECKED_BYTES = 1 << 30
_INLINE_BYTES = 1 << 30
_LEFT_OUT = frozenset({"graph", "functions", "ir_version", "training_info"})


def extract_segments(model: ModelProto | bytes | Path, cuts: Sequence[Cut | str]) -> list[ModelProto]:
    """The model as ``len(cuts) + 1`` consecutive models.

    Running them one after the other, each on the cut tensor of the one before, gives what the whole gives;
    ``aimass.graph.chain`` runs and proves that.

    Args:
        model: in memory, as bytes or a file; never changed. References to weights in other files stay references.
        cuts: tensors that alone separate the model, as ``find_cuts`` reports them, in any order.

    Raises:
        InputError: a cut is none; says what else would have to be sent.
        ModelInvalidError: no ONNX, or a part does not pass ONNX's own checks.
    """
    view = view_of(read_model(model))
    names = [cut if isinstance(cut, str) else cut.name for cut in cuts]
    separators = sweep(view).separators
    for name in names:
        if name not in separators or names.count(name) > 1:
            raise InputError(f"cannot cut at {name!r}: {_objection(view, name, names)}", hint="take a cut of find_cuts")
    ordered = [name for name in separators if name in names]
    types = _types(view, ordered)
    depth = depths(view, ordered)
    parts = [_Part(view, number, ordered, depth, types).build() for number in range(len(ordered) + 1)]
    for part in parts:
        _check(part)
    return parts


def save_segments(
    segments: Sequence[ModelProto], folder: Path, *, weights_from: Path | None = None
) -> list[list[Path]]:
    """Write segments as ``segment-0.onnx``, ...; those above 1 GiB with their own weights beside them.

    Args:
        segments: weights that they refer to are read into them.
        folder: exists.
        weights_from: the folder of the whole model, where references to its weights lead.

    Returns:
        the files of each segment, the model first.

    Raises:
        ModelInvalidError: weights in another file are asked for and not there.
        OSError: the disk.
    """
    written = []
    for number, segment in enumerate(segments):
        path = folder / f"segment-{number}.onnx"
        weights = folder / f"segment-{number}.data"
        if weights_from is not None:
            _load_weights(segment, weights_from)
        if _weight_bytes(segment) <= _INLINE_BYTES:
            onnx.save(segment, path)
            written.append([path])
        else:
            onnx.save(segment, path, save_as_external_data=True, location=weights.name, size_threshold=1024)
            written.append([path, weights])
    return written


class _Part:
    """One segment in the making."""

    def __init__(
        self, view: GraphView, number: int, cuts: list[str], depth: dict[str, int], types: dict[str, ValueInfoProto]
    ) -> None:
        self._view = view
        self._source = [] if number == 0 else [types[cuts[number - 1]]]
        self._target = [] if number == len(cuts) else [types[cuts[number]]]
        self._is_first, self._is_last = not self._source, not self._target
        self._steps = {index for index in view.useful if max(depth[name] for name in view.reads(index)) == number}
        self._made = {name for index in self._steps for name in view.steps[index].writes}
        self._given = {value.name for value in self._source} if self._source else set(view.inputs)
        self._constants: set[str] = set()

    def build(self) -> ModelProto:
        view, whole = self._view, self._view.model
        outputs = [value for value in whole.graph.output if self._owns(value.name)]
        outputs += [value for value in self._target if value.name not in {output.name for output in outputs}]
        needed = {name for index in self._steps for name in view.steps[index].reads}
        self._require(needed | {value.name for value in outputs})
        part = ModelProto(ir_version=max(4, whole.ir_version))  # from IR 4 on, constants are no inputs
        for field, value in whole.ListFields():
            if field.name in _LEFT_OUT:
                continue
            if isinstance(value, int | str):
                setattr(part, field.name, value)
            else:
                getattr(part, field.name).extend(value)
        graph = part.graph
        graph.name, graph.doc_string = whole.graph.name, whole.graph.doc_string
        graph.metadata_props.extend(whole.graph.metadata_props)
        graph.node.extend(view.steps[index].node for index in sorted(self._steps))
        graph.input.extend(self._source or [value for value in whole.graph.input if value.name in view.inputs])
        graph.output.extend(outputs)
        self._copy_constants(part)
        part.functions.extend(_functions(whole, graph.node))
        return part

    def _owns(self, name: str) -> bool:
        """Whether an output of the whole is made here: inputs handed through by the first, constants by the last."""
        if name in self._view.inputs:
            return self._is_first
        return name in self._made if name in self._view.data else self._is_last

    def _require(self, names: set[str]) -> None:
        """Add the constants that these names lead to; what then is left has no place here."""
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in self._made or name in self._given or name in self._constants:
                continue
            if name in self._view.constant:
                index = self._view.constant[name]
                self._steps.add(index)
                self._made.update(self._view.steps[index].writes)
                waiting.extend(self._view.steps[index].reads)
            elif name in self._view.initializers:
                self._constants.add(name)
            else:
                raise InputError(f"a part would also read {name!r}", hint="take a cut of find_cuts")

    def _copy_constants(self, part: ModelProto) -> None:
        whole, graph = self._view.model.graph, part.graph
        local = self._made | self._given | self._constants
        for note in whole.quantization_annotation:
            if note.tensor_name in local:
                graph.quantization_annotation.append(note)
                self._constants.update(entry.value for entry in note.quant_parameter_tensor_names)
        graph.initializer.extend(tensor for tensor in whole.initializer if tensor.name in self._constants)
        graph.sparse_initializer.extend(t for t in whole.sparse_initializer if t.values.name in self._constants)
        border = {value.name for value in (*graph.input, *graph.output)}
        inner = (local | self._constants) - border
        graph.value_info.extend(value for value in whole.value_info if value.name in inner)


def _types(view: GraphView, cuts: list[str]) -> dict[str, ValueInfoProto]:
    """The types of the cut tensors; what the model declares itself counts where inference knows nothing."""
    found = inferred(view)
    for name in cuts:
        if name not in found or not found[name].type.tensor_type.elem_type:
            raise InputError(f"cannot cut at {name!r}: its type cannot be told", hint="declare it in value_info")
    return {name: found[name] for name in cuts}


def _objection(view: GraphView, name: str, names: list[str]) -> str:
    if names.count(name) > 1:
        return "it is named twice"
    if name in view.inputs:
        return "it is an input"
    if name not in view.data:
        return "there is no such tensor that depends on an input"
    below, foreign, after = {name}, dict[str, None](), list[int]()
    for index in view.useful:
        if not below.isdisjoint(view.steps[index].reads):
            below.update(view.steps[index].writes)
            after.append(index)
    for index in after:
        foreign.update(dict.fromkeys(other for other in view.reads(index) if other not in below))
    if not after:
        return "nothing comes after it"
    if foreign:
        kinds = [f"input {other!r}" if other in view.inputs else repr(other) for other in foreign]
        return f"what comes after it also reads {', '.join(kinds[:4])}"
    return "only a side output depends on it"


def _functions(model: ModelProto, nodes: Sequence[NodeProto]) -> list[onnx.FunctionProto]:
    """The model's own functions that these nodes call, at any depth."""
    own = {(function.domain, function.name, function.overload): function for function in model.functions}
    called: set[tuple[str, str, str]] = set()
    waiting = list(nodes)
    while waiting:
        for node in every_node([waiting.pop()]):
            key = (node.domain, node.op_type, node.overload)
            if key in own and key not in called:
                called.add(key)
                waiting.extend(own[key].node)
    return [function for key, function in own.items() if key in called]


def _check(part: ModelProto) -> None:
    """ONNX's own checks, where they can be made: engines check again on loading."""
    if _weight_bytes(part) > _CHECKED_BYTES or any(map(uses_external_data, part.graph.initializer)):
        return  # the checker works on bytes, or looks for files that are elsewhere
    if not all(value.type.tensor_type.HasField("shape") for value in (*part.graph.input, *part.graph.output)):
        return  # engines take outputs of unknown rank, the checker does not
    try:
        onnx.checker.check_model(part)
    except (onnx.checker.ValidationError, ValueError) as exc:
        raise ModelInvalidError(f"a part does not pass ONNX's check: {str(exc).splitlines()[0]}") from exc


def _weight_bytes(model: ModelProto) -> int:
    return sum(len(tensor.raw_data) or 4 * math.prod(tensor.dims) for tensor in model.graph.initializer)


def _load_weights(segment: ModelProto, folder: Path) -> None:
    try:
        onnx.load_external_data_for_model(segment, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as exc:
        raise ModelInvalidError(f"its weights cannot be read: {exc}") from exc
