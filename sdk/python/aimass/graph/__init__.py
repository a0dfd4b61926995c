"""Graphs: where a model can be cut, and the consecutive segments it falls into there.

    view        operators and tensors; bodies of If and Loop as part of their operator
    separator   tensors that alone separate the graph, by one walk over live tensors
    fusion      tensors inside operators that engines fuse, where no cut should be
    shape       types and sizes; models with dynamic sizes fixed      work      arithmetic before a cut, as a guess
    cut         find_cuts: the 2 to 6 cuts worth offering, or the reason why there is none
    segment     extract_segments: the model as consecutive models
    chain       segments run in a row, and the proof that this equals the whole

Pure but for ``save_segments``. This package and the cloud's build module are the only places that may import ``onnx``;
it needs the extra ``build``. Nothing here runs a model: ``chain`` takes loaded sessions.
"""

from aimass.graph.chain import ChainCheck, check_chain, run_chain
from aimass.graph.cut import Cut, CutReport, NoCut, NoCutKind, find_cuts
from aimass.graph.segment import extract_segments, save_segments
from aimass.graph.shape import fix_shapes

__all__ = [
    "ChainCheck",
    "Cut",
    "CutReport",
    "NoCut",
    "NoCutKind",
    "check_chain",
    "extract_segments",
    "find_cuts",
    "fix_shapes",
    "run_chain",
    "save_segments",
]
