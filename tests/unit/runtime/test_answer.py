from __future__ import annotations

import numpy as np

from aimass.runtime.answer import Answer
from aimass.wire.frame import pack_response, unpack_reply
from aimass.wire.messages import InferResponse
from aimass.wire.tensor import Datatype, Tensor

ANSWER = Answer(
    outputs={"y": np.array([[1.5, 2]], np.float32), "bits": np.array([0x3F80], np.uint16)},
    model="m",
    version="3",
    served_by="edge",
    degraded=True,
    late=True,
    engine="onnxruntime",
    timings_ms={"queue": 0.25, "compute": 1.5, "total": 2.0},
    datatypes={"y": Datatype.FP32, "bits": Datatype.BF16},
)


def test_says_on_the_wire_where_it_comes_from_and_how_long_it_took() -> None:
    response = ANSWER.to_response("id-1")
    assert response.id == "id-1"
    assert dict(response.parameters) == {
        "served_by": "edge",
        "degraded": True,
        "late": True,
        "engine": "onnxruntime",
        "t_queue_us": 250,
        "t_compute_us": 1500,
        "t_total_us": 2000,
    }


def test_keeps_datatypes_that_numpy_does_not_know() -> None:
    assert [tensor.datatype for tensor in ANSWER.to_response().outputs] == [Datatype.FP32, Datatype.BF16]


def test_comes_back_from_the_wire_as_it_was() -> None:
    reply = unpack_reply(pack_response(ANSWER.to_response()))
    assert isinstance(reply, InferResponse)
    back = Answer.from_response(reply)
    for name, array in ANSWER.outputs.items():
        np.testing.assert_array_equal(back.outputs[name], array)
    for word in ("model", "version", "served_by", "degraded", "late", "engine", "timings_ms", "datatypes"):
        assert getattr(back, word) == getattr(ANSWER, word), word


def test_parameters_that_make_no_sense_are_not_believed() -> None:
    strange = {"degraded": "yes", "late": 1, "t_total_us": "long", "t_link_us": 5.5}
    answer = Answer.from_response(InferResponse("m", "1", (Tensor.from_array("y", [1.0]),), parameters=strange))
    assert (answer.served_by, answer.degraded, answer.late) == ("cloud", False, False)
    assert answer.timings_ms == {"link": 0.0055}
