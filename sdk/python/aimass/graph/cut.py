"""The cuts of a model that are worth offering, or the reason why there is none.

A cut is one tensor that alone separates the graph (``separator``), that engines write to memory anyway (``fusion``) and
that takes fewer bytes on the link than every earlier one and than the input: if each operator is at least as fast in
the cloud as on the device, a cut that is not smaller than an earlier one only makes the device compute more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from onnx import ModelProto

from aimass.graph.fusion import fused_tensors
from aimass.graph.separator import Sweep, depths, main_part, sweep
from aimass.graph.shape import Known, Shapes, constant_sizes, default_shapes, inferred, known
from aimass.graph.view import GraphView, every_node, read_model, view_of
from aimass.graph.work import head_shares
from aimass.wire.tensor import Datatype

MAX_CUTS = 6

#: Bytes on the link for each element of a float or byte tensor: 8-bit codes after zstd, measured on activations.
_CODED_BYTES = 0.67
_FLOATS = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})
_BYTES = frozenset({Datatype.UINT8, Datatype.INT8})


class NoCutKind(StrEnum):
    """Why a model has no useful cut."""

    SINGLE_OPERATOR = "single_operator"
    CONTROL_FLOW = "control_flow"
    RANDOM = "random"
    LATE_INPUT = "late_input"
    NO_SEPARATOR = "no_separator"
    FUSED = "fused"
    UNTYPED = "untyped"
    DYNAMIC_SHAPE = "dynamic_shape"
    NOT_SMALLER = "not_smaller"


@dataclass(frozen=True, slots=True)
class NoCut:
    """Why a model has no useful cut.

    Attributes:
        kind: for programs.
        reason: one sentence for a person, with the names and numbers of this model.
    """

    kind: NoCutKind
    reason: str


@dataclass(frozen=True, slots=True)
class Cut:
    """One tensor at which a model can be cut.

    Attributes:
        name: of the tensor.
        datatype: of its elements.
        shape: for the sample shapes.
        native_bytes: its bytes as they are.
        coded_bytes: a guess of its bytes on the link, coded; the same measure for all cuts of a model.
        head_share: part of the arithmetic before it, 0 to 1.
        is_fused: whether engines keep it inside a fused operator; such cuts are possible and not offered.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    native_bytes: int
    coded_bytes: int
    head_share: float
    is_fused: bool


@dataclass(frozen=True, slots=True)
class CutReport:
    """What a model can be cut into.

    Attributes:
        cuts: those to offer, from input to output; each smaller than all before it.
        separators: all tensors that alone separate the graph and whose size is known, the offered ones among them.
        input_bytes: what the input takes on the link, against which cuts are measured.
        no_cut: why ``cuts`` is empty; None when it is not.
    """

    cuts: tuple[Cut, ...]
    separators: tuple[Cut, ...]
    input_bytes: int
    no_cut: NoCut | None


def find_cuts(
    model: ModelProto | bytes | Path,
    *,
    sample_shapes: Shapes | None = None,
    input_bytes: int | None = None,
    max_cuts: int = MAX_CUTS,
) -> CutReport:
    """The cuts of a model that are worth offering.

    Args:
        model: in memory, as bytes or a file; never changed.
        sample_shapes: typical sizes of inputs that are dynamic, to compute bytes with; the cuts hold for all sizes.
            Without it a dynamic first dimension counts as a batch of one.
        input_bytes: what the inputs take on the link; one byte an element for floats (a picture) when left out.
        max_cuts: how many to offer at most; those that gain least over the one before are left out.

    Returns:
        the cuts, or the reason why there is none.

    Raises:
        ModelInvalidError: no ONNX, or it contradicts itself.
        InputError: a sample shape does not fit the model.

    Example:
        >>> report = find_cuts(Path("model.onnx"))          # doctest: +SKIP
        >>> [cut.name for cut in report.cuts]               # doctest: +SKIP
        ['pool1', 'fire6/squeeze']
    """
    view = view_of(read_model(model))
    shapes = {**default_shapes(view), **(sample_shapes or {})}
    sizes = {name: known(value) for name, value in inferred(view, shapes).items()} | constant_sizes(view)
    baseline = _input_bytes(view, sizes) if input_bytes is None else input_bytes
    if kind := view.random():
        reason = f"operator {kind} draws random numbers, so two halves would not repeat what the whole does"
        return CutReport((), (), baseline, NoCut(NoCutKind.RANDOM, reason))
    walked = sweep(view)
    cuts = _sized(view, walked.separators, sizes)
    offered = _thinned(_record_minima(cuts, baseline), max_cuts)
    no_cut = None if offered else _why_not(view, walked, cuts, sizes, baseline)
    return CutReport(tuple(offered), tuple(cuts), baseline, no_cut)


def coded_bytes(size: Known) -> int | None:
    """A guess of what a tensor takes on the link; None where a size is unknown or the wire has no such tensors."""
    if size.elements is None or size.datatype is None or size.datatype is Datatype.BYTES:
        return None
    each = _CODED_BYTES if size.datatype in _FLOATS | _BYTES else size.datatype.item_bytes
    return max(1, round(size.elements * each))


def _sized(view: GraphView, names: tuple[str, ...], sizes: Mapping[str, Known]) -> list[Cut]:
    fused = fused_tensors(view)
    shares = head_shares(view, depths(view, names), sizes, len(names))
    cuts = []
    for name, share in zip(names, shares, strict=True):
        size = sizes.get(name, Known(None, None))
        coded = coded_bytes(size)
        if coded is not None and size.datatype is not None and size.shape is not None and size.elements is not None:
            native = size.elements * size.datatype.item_bytes
            cuts.append(Cut(name, size.datatype, size.shape, native, coded, share, name in fused))
    return cuts


def _record_minima(cuts: list[Cut], baseline: int) -> list[Cut]:
    best, kept = baseline, []
    for cut in cuts:
        if not cut.is_fused and cut.coded_bytes < best:
            best = cut.coded_bytes
            kept.append(cut)
    return kept


def _thinned(cuts: list[Cut], most: int) -> list[Cut]:
    """Without those that gain least over the one before; the smallest of all stays."""
    kept = list(cuts)
    while len(kept) > max(1, most):
        ratios = [after.coded_bytes / before.coded_bytes for before, after in pairwise(kept)]
        least = ratios.index(max(ratios))
        del kept[least if least + 2 == len(kept) else least + 1]
    return kept


def _input_bytes(view: GraphView, sizes: Mapping[str, Known]) -> int:
    """One byte an element for floats, because pictures and sound come as bytes or shorts; others as they are."""
    whole = 0
    for name in view.inputs:
        size = sizes.get(name, Known(None, None))
        each = 1 if size.datatype is None or size.datatype in _FLOATS else max(1, size.datatype.item_bytes)
        whole += (size.elements or 0) * each
    return whole


def _why_not(view: GraphView, walked: Sweep, cuts: list[Cut], sizes: Mapping[str, Known], baseline: int) -> NoCut:
    if not walked.separators:
        return _why_no_separator(view, walked)
    if not cuts:
        return _why_no_size(view, walked.separators, sizes)
    free = [cut for cut in cuts if not cut.is_fused]
    if not free:
        reason = f"all {len(cuts)} tensors that would separate the model lie inside operators that engines fuse"
        return NoCut(NoCutKind.FUSED, reason)
    if not baseline:
        return _needs_samples(view, sizes)
    least = min(free, key=lambda cut: cut.coded_bytes)
    reason = (
        f"no inner tensor is smaller than the input ({baseline} bytes); the smallest is {least.name!r} "
        f"with about {least.coded_bytes} bytes: send the input itself, or compute on the device"
    )
    return NoCut(NoCutKind.NOT_SMALLER, reason)


def _why_no_separator(view: GraphView, walked: Sweep) -> NoCut:
    _, main = main_part(view)
    steps = [view.steps[index] for index in main]
    if opaque := [step for step in steps if step.is_opaque]:
        inside = max(opaque, key=lambda step: sum(1 for _ in every_node([step.node])))
        count, whole = (sum(1 for _ in every_node(nodes)) for nodes in ([inside.node], [step.node for step in steps]))
        if 2 * count > whole:
            reason = f"{count - 1} of {whole} operators are inside one {inside.node.op_type}, which cannot be cut"
            return NoCut(NoCutKind.CONTROL_FLOW, reason)
    if len(steps) < 2:
        return NoCut(NoCutKind.SINGLE_OPERATOR, "there are not two operators on the way from the inputs to an output")
    if walked.need_share > 0.5 and walked.widest_need in view.inputs:
        reason = (
            f"input {walked.widest_need!r} is read again after {walked.need_share:.0%} of the operators, "
            f"so the second half would need it beside the activation"
        )
        return NoCut(NoCutKind.LATE_INPUT, reason)
    reason = (
        f"at every point at least {max(2, walked.min_live)} tensors are needed later; "
        f"{walked.widest_need!r} is needed over {walked.need_share:.0%} of the operators"
    )
    return NoCut(NoCutKind.NO_SEPARATOR, reason)


def _why_no_size(view: GraphView, names: tuple[str, ...], sizes: Mapping[str, Known]) -> NoCut:
    found = [sizes.get(name, Known(None, None)) for name in names]
    if all(size.datatype is None or size.datatype is Datatype.BYTES for size in found):
        reason = f"the types of the {len(names)} tensors that would separate the model cannot be told, or do not travel"
        return NoCut(NoCutKind.UNTYPED, reason)
    return _needs_samples(view, sizes)


def _needs_samples(view: GraphView, sizes: Mapping[str, Known]) -> NoCut:
    dynamic = [name for name in view.inputs if sizes.get(name, Known(None, None)).elements is None]
    named = ", ".join(dynamic) or ", ".join(view.inputs)
    return NoCut(NoCutKind.DYNAMIC_SHAPE, f"sizes are not known: give sample shapes for {named}")
