"""Random graphs, and the search for separators that tries every tensor."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import ModelProto

from aimass.graph.separator import main_part
from aimass.graph.view import view_of
from tests.unit.graph.graph_models import Builder


@st.composite
def random_models(draw: st.DrawFn) -> ModelProto:
    """Graphs over [2, 3] tensors: any wiring, constants, operators with two results, dead ends, many outputs."""
    b = Builder()
    inputs = ["in_a", "in_b"][: draw(st.integers(1, 2))]
    names = [*inputs, b.weight(2, 3)]
    for _ in range(draw(st.integers(1, 12))):
        # mostly what was made last, or nothing would ever separate anything
        pick = st.sampled_from(names[-2:]) | st.sampled_from(names)
        kind = draw(st.sampled_from(["Tanh", "Relu", "Add", "Add", "Split"]))
        if kind == "Add":
            names.append(b.op("Add", draw(pick), draw(pick)))
        elif kind == "Split":
            both = b.op("Split", b.op("Concat", draw(pick), draw(pick), axis=1), outputs=2, axis=1)
            names += [both, both[:-1] + "1"]
        else:
            names.append(b.op(kind, draw(pick)))
    made = [name for node in b.nodes for name in node.output if "concat" not in name]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return b.model({name: [2, 3] for name in inputs}, outputs)


def separators_by_trying(model: ModelProto) -> set[str]:
    """Tensors above the main output such that all that depends on them reads nothing else from before them."""
    view = view_of(model)
    main_output, _ = main_part(view)
    found = set()
    for name in view.data - set(view.inputs):
        below = {name}
        for index in view.useful:
            if not below.isdisjoint(view.steps[index].reads):
                below.update(view.steps[index].writes)
        after = [index for index in view.useful if not below.isdisjoint(view.reads(index))]
        if main_output in below - {name} and all(below.issuperset(view.reads(index)) for index in after):
            found.add(name)
    return found


def feeds_for(model: ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for the inputs, dynamic sizes as 2."""
    dice = np.random.default_rng(seed)
    feeds = {}
    for name in view_of(model).inputs:
        [value] = [value for value in model.graph.input if value.name == name]
        tensor = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else 2 for dim in tensor.shape.dim]
        dtype = np.float16 if tensor.elem_type == 10 else np.float32
        feeds[name] = dice.standard_normal(shape).astype(dtype)
    return feeds
