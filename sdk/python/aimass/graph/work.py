"""How much of a model's arithmetic lies before a tensor: for the eye and for a first guess, never for a deadline.

Multiply-adds for products, elements for everything else. What a cut really costs is measured on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from aimass.graph.shape import Known
from aimass.graph.view import GraphView, Step


def work_of(step: Step, sizes: Mapping[str, Known]) -> int:
    """Multiply-adds of an operator, as far as its shapes are known; at least 1."""
    made = _shape(sizes, step.writes[0] if step.writes else "")
    elements = math.prod(made)
    declared = [_shape(sizes, name) for name in step.node.input]
    match step.node.op_type:
        case "Conv" | "QLinearConv" | "ConvInteger" | "FusedConv":
            weight = declared[3] if step.node.op_type == "QLinearConv" and len(declared) > 3 else declared[1]
            return max(1, elements * math.prod(weight[1:]))
        case "ConvTranspose":
            return max(1, math.prod(declared[0]) * math.prod(declared[1][1:]))
        case "Gemm" | "MatMul" | "FusedGemm" | "MatMulInteger" | "QLinearMatMul":
            return max(1, elements * (declared[0][-1] if declared[0] else 1))
        case _:
            return max(1, elements)


def head_shares(view: GraphView, depth: Mapping[str, int], sizes: Mapping[str, Known], cuts: int) -> list[float]:
    """For each cut, the share of work before it.

    Args:
        view: the graph.
        depth: how many cuts each tensor depends on.
        sizes: types and shapes by name.
        cuts: how many there are.
    """
    by_segment = [0] * (cuts + 1)
    for index in view.useful:
        own = max(depth[name] for name in view.reads(index))
        by_segment[own] += work_of(view.steps[index], sizes)
    whole = max(1, sum(by_segment))
    return [sum(by_segment[: number + 1]) / whole for number in range(cuts)]


def _shape(sizes: Mapping[str, Known], name: str) -> tuple[int, ...]:
    """Sizes, with 1 for those that are unknown."""
    size = sizes.get(name)
    return tuple(max(1, dim) for dim in size.shape) if size is not None and size.shape else ()
