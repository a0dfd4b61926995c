"""A model as operators and tensors: who reads what, what depends on the inputs, and what matters for the outputs.

An operator with bodies (If, Loop, Scan) is one operator here: it reads its inputs and every outer name that its bodies
use, at any depth. Leaving those names out is how extraction by inputs alone loses weights without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # comes with onnx, has no types
from onnx import GraphProto, ModelProto, NodeProto

from aimass.errors import ModelInvalidError

#: Operators that give something else each time. What one side drew, the other cannot draw again.
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of the graph.

    Attributes:
        node: as in the model.
        reads: names it needs: its inputs, and the outer names of its bodies.
        writes: names it makes.
    """

    node: NodeProto
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def is_opaque(self) -> bool:
        """Whether it has bodies."""
        return any(True for _ in bodies(self.node))


@dataclass(frozen=True, slots=True)
class GraphView:
    """What the analysis needs of a model.

    Attributes:
        model: as it was given; never changed.
        inputs: true inputs, without initializers that are listed as inputs.
        outputs: in the model's order.
        initializers: names of all constants that lie in the model.
        steps: all operators, in the model's order, which is a topological one.
        data: names of tensors that depend on an input, the inputs included.
        useful: indices of operators that depend on an input and lead to an output.
        constant: name -> index of the operator, for tensors computed from constants alone.
    """

    model: ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: frozenset[str]
    steps: tuple[Step, ...]
    data: frozenset[str]
    useful: tuple[int, ...]
    constant: dict[str, int]

    def reads(self, index: int) -> tuple[str, ...]:
        """Those names an operator reads that depend on an input."""
        return tuple(name for name in self.steps[index].reads if name in self.data)

    def readers(self) -> dict[str, list[int]]:
        """Useful operators by the data they read."""
        found: dict[str, list[int]] = {name: [] for name in self.data}
        for index in self.useful:
            for name in self.reads(index):
                found[name].append(index)
        return found

    def random(self) -> str:
        """The first operator that draws random numbers; empty when there is none."""
        nodes = [self.steps[index].node for index in self.useful]
        nodes += [node for function in self.model.functions for node in function.node]
        return next((node.op_type for node in every_node(nodes) if _is_random(node)), "")


def read_model(model: ModelProto | bytes | Path) -> ModelProto:
    """A model from memory, bytes or a file; weights in other files are loaded with the file.

    Raises:
        ModelInvalidError: no readable ONNX.
    """
    if isinstance(model, ModelProto):
        return model
    try:
        read = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as exc:
        raise ModelInvalidError(f"cannot be read as ONNX: {exc}") from exc
    if not read.HasField("graph"):
        raise ModelInvalidError("there is no graph in it")
    return read


def view_of(model: ModelProto) -> GraphView:
    """The view of a model.

    Raises:
        ModelInvalidError: an operator reads what nobody makes, or two make the same name.
    """
    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    initializers |= {tensor.values.name for tensor in graph.sparse_initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in initializers)
    steps = tuple(Step(node, outer_reads(node), tuple(filter(None, node.output))) for node in graph.node)
    known, data, constant = initializers | set(inputs), set(inputs), dict[str, int]()
    for index, step in enumerate(steps):
        unknown = [name for name in step.reads if name not in known]
        if unknown or not known.isdisjoint(step.writes):
            problem = f"reads {unknown[0]!r}, which nobody made before" if unknown else "makes a name that exists"
            raise ModelInvalidError(f"operator {step.node.name or step.node.op_type!r} {problem}")
        known.update(step.writes)
        if data.isdisjoint(step.reads):
            constant.update(dict.fromkeys(step.writes, index))
        else:
            data.update(step.writes)
    outputs = tuple(value.name for value in graph.output)
    if not known.issuperset(outputs):
        raise ModelInvalidError("an output is made by no operator")
    useful = _leading_to(steps, outputs, data)
    return GraphView(model, inputs, outputs, frozenset(initializers), steps, frozenset(data), useful, constant)


def outer_reads(node: NodeProto) -> tuple[str, ...]:
    """Names a node needs: its inputs, and what its bodies use from outside of them."""
    names = dict.fromkeys(filter(None, node.input))
    for body in bodies(node):
        names.update(dict.fromkeys(_free_names(body)))
    return tuple(names)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def every_node(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """These nodes, and those in their bodies at any depth."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from every_node(body.node)


def ancestors(view: GraphView, name: str) -> set[int]:
    """Useful operators that a tensor depends on, its own maker included."""
    return set(_leading_to(view.steps, (name,), view.data))


def _leading_to(steps: tuple[Step, ...], names: Iterable[str], data: set[str] | frozenset[str]) -> tuple[int, ...]:
    wanted, found = set(names), []
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        if not wanted.isdisjoint(step.writes) and data.issuperset(step.writes):
            wanted.update(step.reads)
            found.append(index)
    return tuple(reversed(found))


def _free_names(graph: GraphProto) -> list[str]:
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    free: dict[str, None] = {}
    for node in graph.node:
        free.update(dict.fromkeys(name for name in outer_reads(node) if name not in known))
        known.update(node.output)
    free.update(dict.fromkeys(value.name for value in graph.output if value.name not in known))
    return list(free)


def _is_random(node: NodeProto) -> bool:
    trains = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
    return (
        node.op_type in _RANDOM or trains or (node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2]))
    )
