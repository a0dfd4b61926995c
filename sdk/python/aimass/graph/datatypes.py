"""ONNX element types as datatypes of the wire; what is missing here has no place on it."""

from __future__ import annotations

import onnx

from aimass.wire.tensor import Datatype

DATATYPES = {
    onnx.TensorProto.BOOL: Datatype.BOOL,
    onnx.TensorProto.UINT8: Datatype.UINT8,
    onnx.TensorProto.UINT16: Datatype.UINT16,
    onnx.TensorProto.UINT32: Datatype.UINT32,
    onnx.TensorProto.UINT64: Datatype.UINT64,
    onnx.TensorProto.INT8: Datatype.INT8,
    onnx.TensorProto.INT16: Datatype.INT16,
    onnx.TensorProto.INT32: Datatype.INT32,
    onnx.TensorProto.INT64: Datatype.INT64,
    onnx.TensorProto.FLOAT16: Datatype.FP16,
    onnx.TensorProto.BFLOAT16: Datatype.BF16,
    onnx.TensorProto.FLOAT: Datatype.FP32,
    onnx.TensorProto.DOUBLE: Datatype.FP64,
    onnx.TensorProto.STRING: Datatype.BYTES,
}
