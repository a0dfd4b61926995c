"""Tensors that engines never write to memory, because they lie inside operators that are fused into one.

A cut there would split a kernel: measured, up to 5 % more time and 37 % more bytes, and on quantised models another
result. The patterns are those that ONNX Runtime and OpenVINO fuse: convolution or matrix product with batch norm, bias,
residual and activation; SiLU; GELU; layer norm; attention; quantise-dequantise around an operator.
"""

from __future__ import annotations

from aimass.graph.view import GraphView, Step

_PRODUCTS = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "FusedConv", "FusedGemm"}
)
_NORMS = frozenset({"BatchNormalization"})
_SIMPLE = {"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "HardSigmoid", "PRelu", "Softplus"}
_SMOOTH = {"HardSwish", "Softsign", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "ThresholdedRelu", "Mish", "Swish"}
_ACTIVATIONS = frozenset(_SIMPLE | _SMOOTH)
_MOVES = frozenset(
    {
        "Transpose",
        "Reshape",
        "Split",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Gather",
        "Cast",
        "Identity",
        "Dropout",
        "Expand",
    }
)
_SCALES = frozenset({"Add", "Sub", "Mul", "Div", "Where"})


def fused_tensors(view: GraphView) -> set[str]:
    """Names of tensors where no cut should be."""
    return _Fusion(view).found


class _Fusion:
    """One pass for chains, one look at each anchor of the larger patterns."""

    def __init__(self, view: GraphView) -> None:
        self._view = view
        self._readers = view.readers()
        self._maker = {name: view.steps[index] for index in view.useful for name in view.steps[index].writes}
        self._open: set[str] = set()
        self.found: set[str] = set()
        for index in view.useful:
            self._chain(view.steps[index])
        for index in view.useful:
            self._anchor(view.steps[index])

    def _chain(self, step: Step) -> None:
        """Product, then norm, bias, scale or residual in any number, then one activation; and Q-operator-DQ."""
        kind = step.node.op_type
        if kind == "DequantizeLinear":
            self.found.update(step.writes)  # cut before it: few bytes, and integer kernels stay whole
            return
        continues = False
        for name in self._data(step):
            if self._sole(name) is not step:
                continue
            if kind == "QuantizeLinear":
                self.found.add(name)
            elif name in self._open and self._extends(step):
                self.found.add(name)
                continues = continues or kind not in _ACTIVATIONS
        if continues or kind in _PRODUCTS:
            self._open.update(step.writes)

    def _extends(self, step: Step) -> bool:
        kind = step.node.op_type
        return self._is_scale(step, {"Mul", "Sub", "Div"}) or kind == "Add" or kind in _NORMS or kind in _ACTIVATIONS

    def _anchor(self, step: Step) -> None:
        kind = step.node.op_type
        if kind in {"Sigmoid", "HardSigmoid", "Clip"}:
            self._gate(step)
        elif kind in {"Erf", "Tanh"}:
            self._gelu(step)
        elif kind == "Sqrt":
            self._norm(step)
        elif kind == "Softmax":
            self._attention(step)

    def _gate(self, step: Step) -> None:
        # x * sigmoid(x), and x * clip(x + 3, 0, 6) / 6 where the sixth may come first or last
        [source] = self._data(step)[:1]
        shifted = self._maker.get(source)
        if step.node.op_type == "Clip" and shifted is not None and self._is_scale(shifted, {"Add"}):
            [source] = self._data(shifted)
        after = self._sole(step.writes[0])
        if after is not None and self._is_scale(after, {"Mul", "Div"}):
            after = self._sole(after.writes[0])
        if after is None or after.node.op_type != "Mul" or source not in after.reads:
            return
        if source in self._open and len(self._readers[source]) == 2:
            self.found.add(source)
        last = self._sole(after.writes[0])
        if step.node.op_type == "Clip" and last is not None and self._is_scale(last, {"Mul", "Div"}):
            self.found.add(after.writes[0])

    def _is_scale(self, step: Step, kinds: set[str]) -> bool:
        """Whether an operator combines one tensor with a constant."""
        return step.node.op_type in kinds and len(self._data(step)) == 1

    def _gelu(self, step: Step) -> None:
        # x * (1 + erf(...)) / 2, where the half may come first or last
        plus = self._sole(step.writes[0])
        if plus is None or not self._is_scale(plus, {"Add"}):
            return
        times = self._sole(plus.writes[0])
        if times is None or times.node.op_type != "Mul" or len(self._data(times)) != 2:
            return
        self.found.update((step.writes[0], plus.writes[0]))
        [source] = [name for name in self._data(times) if name != plus.writes[0]]
        halved = self._maker.get(source)
        if halved is not None and halved.node.op_type in _SCALES and source not in self._open:
            source = self._data(halved)[0]
        if source in self._open:
            self.found.add(source)
        after = self._sole(times.writes[0])
        if after is not None and self._is_scale(after, {"Mul", "Div"}):
            self.found.add(times.writes[0])

    def _norm(self, step: Step) -> None:
        # d / sqrt(mean(d^2) + e), d mostly x - mean(x); then the learned scale and bias
        after = self._sole(step.writes[0])
        if after is not None and after.node.op_type == "Reciprocal":
            step, after = after, self._sole(after.writes[0])
        if after is None or after.node.op_type not in {"Div", "Mul"} or len(self._data(after)) != 2:
            return
        for name in self._data(after):
            maker = self._maker.get(name)
            if maker is not None and maker.node.op_type == "Sub":
                self.found.add(name)
        for kind in ("Mul", "Add"):
            tail = self._sole(after.writes[0])
            if tail is not None and self._is_scale(tail, {kind}):
                self.found.add(after.writes[0])
                after = tail

    def _attention(self, step: Step) -> None:
        # softmax(q k^T / scale + mask) v, from the projections of q, k and v to that of the result
        values = self._sole(step.writes[0])
        while values is not None and values.node.op_type in _MOVES:
            values = self._sole(values.writes[0])
        if values is None or values.node.op_type != "MatMul":
            return
        scores = [self._walk_up(name, through=_SCALES | _MOVES) for name in self._data(step)]
        if not any(maker is not None and maker.node.op_type == "MatMul" for maker in scores):
            return
        for product in (values, *filter(None, scores)):
            for name in self._data(product):
                self._walk_up(name, through=_MOVES | _SCALES)
        after, name = self._sole(values.writes[0]), values.writes[0]
        passed = [name]
        while after is not None and after.node.op_type in _MOVES:
            name = after.writes[0]
            passed.append(name)
            after = self._sole(name)
        if after is not None and after.node.op_type in _PRODUCTS:
            self.found.update(passed)

    def _walk_up(self, name: str, *, through: frozenset[str]) -> Step | None:
        """Up along single data inputs to a product; all on the way is inside. None where the way ends elsewhere."""
        passed = []
        maker = self._maker.get(name)
        while maker is not None:
            passed.append(name)
            kind = maker.node.op_type
            if kind in _PRODUCTS:
                self.found.update(passed)
                return maker
            if kind not in through or len(self._data(maker)) != 1:
                return None
            [name] = self._data(maker)
            maker = self._maker.get(name)
        return None

    def _data(self, step: Step) -> list[str]:
        return [name for name in step.reads if name in self._view.data]

    def _sole(self, name: str) -> Step | None:
        """The one operator that reads a tensor; None where several do, or where it is an output of the model."""
        readers = self._readers.get(name, [])
        return self._view.steps[readers[0]] if len(readers) == 1 and name not in self._view.outputs else None
