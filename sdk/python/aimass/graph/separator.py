"""Tensors that alone separate a graph: everything after one needs it, and nothing else from before it.

One walk over the operators that lead to the main output keeps the set of live tensors: made already, still to be read.
Whenever exactly one is live it is a separator; any topological order finds all of them, because every operator of that
part is either above or below a separator. Operators that serve other outputs only ("side branches") are then laid over:
one that reads from both sides of a separator forbids it; one that reads from before it simply belongs to the head, so
an output that is taken early does not forbid the cuts after it.

Source: research note on split computing, section 2.2; cost O(operators + edges).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aimass.graph.view import GraphView, ancestors


@dataclass(frozen=True, slots=True)
class Sweep:
    """What the walk found.

    Attributes:
        separators: names, in order from input to output.
        widest_need: the tensor that is live over the largest part of the operators, itself no separator.
        need_share: that part, 0 to 1.
        min_live: the smallest number of live tensors at any inner point; 0 for a single operator.
    """

    separators: tuple[str, ...]
    widest_need: str
    need_share: float
    min_live: int


def sweep(view: GraphView) -> Sweep:
    """All single-tensor separators on the way to the main output; inputs and that output are none."""
    main_output, main = main_part(view)
    waiting: dict[str, int] = {main_output: 1}
    for index in main:
        for name in view.reads(index):
            waiting[name] = waiting.get(name, 0) + 1
    live = {name for name in view.inputs if name in waiting}
    born = dict.fromkeys(live, 0)
    spans: dict[str, int] = {}
    found, widths = list[str](), list[int]()
    for at, index in enumerate(main):
        for name in view.reads(index):
            waiting[name] -= 1
            if not waiting[name]:
                live.discard(name)
                spans[name] = at - born[name]
        made = [name for name in view.steps[index].writes if name in waiting]
        live.update(made)
        born.update(dict.fromkeys(made, at + 1))
        if at + 1 < len(main):
            widths.append(len(live))
            if len(live) == 1 and live.isdisjoint(view.inputs):
                found.extend(live)
    need = max((name for name in spans if name not in found), key=spans.__getitem__, default="")
    share = spans.get(need, 0) / max(1, len(main) - 1)
    return Sweep(tuple(_unbridged(view, found)), need, share, min(widths, default=0))


def main_part(view: GraphView) -> tuple[str, list[int]]:
    """The output with most operators above it, and those operators in order."""
    best, most = "", set[int]()
    for name in view.outputs:
        if name in view.data and name not in view.inputs and len(above := ancestors(view, name)) > len(most):
            best, most = name, above
    return best, sorted(most)


def depths(view: GraphView, cuts: Sequence[str]) -> dict[str, int]:
    """For every tensor that depends on an input, how many of these cuts it depends on (a cut counts for itself).

    Args:
        view: the graph.
        cuts: separators from input to output.
    """
    order = {name: number + 1 for number, name in enumerate(cuts)}
    found = dict.fromkeys(view.inputs, 0)
    for index in view.useful:
        own = max(found[name] for name in view.reads(index))
        found.update((name, order.get(name, own)) for name in view.steps[index].writes)
    return found


def _unbridged(view: GraphView, found: list[str]) -> list[str]:
    """Those separators of the main part that no operator reads across."""
    depth = depths(view, found)
    crossed = [0] * (len(found) + 2)
    for index in view.useful:
        levels = [depth[name] for name in view.reads(index)]
        if min(levels) < max(levels):  # forbids every separator above the lowest level, up to the highest
            crossed[min(levels) + 1] += 1
            crossed[max(levels) + 1] -= 1
    running, kept = 0, list[str]()
    for number, name in enumerate(found, start=1):
        running += crossed[number]
        if not running:
            kept.append(name)
    return kept
