"""TensorFlow Serving's REST, and KServe V1 at the same paths: tried where the server has them."""

from __future__ import annotations

import base64
import json
from typing import Any

from aimass.conformance.connection import Reply, Skipped, expect
from aimass.conformance.lab import Lab, refused
from aimass.conformance.suite import Run, Section

SECTION = Section("V", "TF-Serving REST, KServe V1")


def _path(lab: Lab, name: str = "identity_fp32") -> str:
    path = f"/v1/models/{lab.probe(name).name}"
    if lab.endpoint.get(path).status != 200:
        raise Skipped("the server has no /v1/models")
    return path


def _predict(lab: Lab, fields: Any, name: str = "identity_fp32", headers: dict[str, str] | None = None) -> Reply:
    return lab.endpoint.post(f"{_path(lab, name)}:predict", json.dumps(fields).encode(), headers)


def _answered(lab: Lab, fields: Any, wanted: Any, name: str = "identity_fp32") -> None:
    reply = _predict(lab, fields, name)
    expect(reply.status == 200, f"status {reply.status}: {reply.body[:120]!r}")
    expect(reply.fields() == wanted, f"the answer is {reply.body[:160]!r}")


@SECTION.case("the list of models has `models`, and `data` for clients of the other kind")
def _(lab: Lab) -> None:
    _path(lab)
    fields = lab.endpoint.get("/v1/models").fields()
    expect("identity_fp32" in fields["models"], f"models is {fields['models']}")
    expect(fields["object"] == "list" and any(one["id"] == "identity_fp32" for one in fields["data"]), f"{fields}")


@SECTION.case("the status of a model lists its versions as AVAILABLE (TF-Serving)")
def _(lab: Lab) -> None:
    rows = lab.endpoint.get(_path(lab)).fields()["model_version_status"]
    expect(type(rows[0]["version"]) is str and rows[0]["state"] == "AVAILABLE", f"{rows}")
    expect(rows[0]["status"]["error_code"] == "OK", f"{rows}")


@SECTION.case("the status of a model has name and ready (KServe)")
def _(lab: Lab) -> None:
    fields = lab.endpoint.get(_path(lab)).fields()
    expect(fields["name"] == "identity_fp32" and fields["ready"] is True, f"{fields}")


@SECTION.case("the metadata of a model has its signature, sizes as texts")
def _(lab: Lab) -> None:
    fields = lab.endpoint.get(f"{_path(lab)}/metadata").fields()
    expect(fields["model_spec"]["name"] == "identity_fp32", f"{fields['model_spec']}")
    signature = fields["metadata"]["signature_def"]["signature_def"]["serving_default"]
    port = signature["inputs"][lab.identity().inputs[0].name]
    expect(port["dtype"] == "DT_FLOAT" and port["tensor_shape"]["dim"][0]["size"] == "-1", f"{port}")


@SECTION.case("rows of a model with one input are bare values")
def _(lab: Lab) -> None:
    _answered(lab, {"instances": [1.5, 2.5, 3.5]}, {"predictions": [1.5, 2.5, 3.5]})


@SECTION.case("rows of a model with one input may be objects")
def _(lab: Lab) -> None:
    name = lab.identity().inputs[0].name
    _answered(lab, {"instances": [{name: 1.5}, {name: 2.5}]}, {"predictions": [1.5, 2.5]})


@SECTION.case("rows of a model with several inputs are objects, and so are its predictions")
def _(lab: Lab) -> None:
    row = {"A": [10.0, 20.0, 30.0, 40.0], "B": [1.0, 2.0, 3.0, 4.0]}
    wanted = {"SUM": [11.0, 22.0, 33.0, 44.0], "DIFFERENCE": [9.0, 18.0, 27.0, 36.0]}
    _answered(lab, {"instances": [row, row]}, {"predictions": [wanted, wanted]}, "add_sub")


@SECTION.case("a column of a model with one input is a bare tensor")
def _(lab: Lab) -> None:
    _answered(lab, {"inputs": [1.5, 2.5]}, {"outputs": [1.5, 2.5]})


@SECTION.case("columns of a model with several inputs are an object, and so are its outputs")
def _(lab: Lab) -> None:
    columns = {"A": [[10.0, 20.0, 30.0, 40.0]], "B": [[1.0, 2.0, 3.0, 4.0]]}
    wanted = {"SUM": [[11.0, 22.0, 33.0, 44.0]], "DIFFERENCE": [[9.0, 18.0, 27.0, 36.0]]}
    _answered(lab, {"inputs": columns}, {"outputs": wanted}, "add_sub")


@SECTION.case("the usual signature_name is taken")
def _(lab: Lab) -> None:
    _answered(lab, {"signature_name": "serving_default", "instances": [1.0]}, {"predictions": [1.0]})


@SECTION.case("the request's Content-Type does not matter (curl sends that of forms)")
def _(lab: Lab) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    expect(_predict(lab, {"instances": [1.0]}, headers=kind).status == 200, "it does")


@SECTION.case("prediction with a version in the path")
def _(lab: Lab) -> None:
    model, path = lab.identity(), _path(lab)
    reply = lab.endpoint.post(f"{path}/versions/{model.versions[0]}:predict", b'{"instances": [1.0]}')
    expect(reply.status == 200 and reply.fields() == {"predictions": [1.0]}, f"{reply.body[:120]!r}")


@SECTION.case("texts are texts, and b64 objects are bytes")
def _(lab: Lab) -> None:
    coded = {"b64": base64.b64encode(b"two").decode()}
    _answered(lab, {"instances": ["one", coded]}, {"predictions": ["one", "two"]}, "identity_bytes")


@SECTION.case("NaN and Infinity are taken and written as these tokens")
def _(lab: Lab) -> None:
    reply = lab.endpoint.post(f"{_path(lab)}:predict", b'{"instances": [NaN, Infinity, -Infinity]}')
    expect(b"".join(reply.body.split()) == b'{"predictions":[NaN,Infinity,-Infinity]}', f"{reply.body[:120]!r}")


_WRONG: dict[str, Any] = {
    "both instances and inputs": {"instances": [1.0], "inputs": [1.0]},
    "neither instances nor inputs": {"signature_name": "serving_default"},
    "an empty list of instances": {"instances": []},
    "instances that are no list": {"instances": 1.0},
    "rows of different sizes": {"instances": [[1.0], [1.0, 2.0]]},
    "a text for a number": {"instances": ["one"]},
    "a body that is no object": [1.0],
}


def _refusal(fields: Any) -> Run:
    def run(lab: Lab) -> None:
        refused(_predict(lab, fields), 400)

    return run


for _what, _given in _WRONG.items():
    SECTION.add(f"{_what} is 400", _refusal(_given))


@SECTION.case("a row that lacks an input is 400")
def _(lab: Lab) -> None:
    refused(_predict(lab, {"instances": [{"A": [1.0] * 4}]}, "add_sub"), 400)


@SECTION.case("an unknown model is 404")
def _(lab: Lab) -> None:
    _path(lab)
    refused(lab.endpoint.post("/v1/models/no_such_model_1f0c:predict", b'{"instances": [1.0]}'), 404)
    refused(lab.endpoint.get("/v1/models/no_such_model_1f0c"), 404)


@SECTION.case("an unknown version is 404, and so is an unknown label")
def _(lab: Lab) -> None:
    for tail in ("versions/987654", "labels/no_such_label"):
        refused(lab.endpoint.post(f"{_path(lab)}/{tail}:predict", b'{"instances": [1.0]}'), 404)


@SECTION.case("a version together with a label is refused", required=False)
def _(lab: Lab) -> None:
    refused(lab.endpoint.post(f"{_path(lab)}/versions/1/labels/stable:predict", b'{"instances": [1.0]}'))


@SECTION.case("GET of :predict is 405", required=False)
def _(lab: Lab) -> None:
    refused(lab.endpoint.get(f"{_path(lab)}:predict"), 405)


@SECTION.case("the paths are known in capitals too", required=False)
def _(lab: Lab) -> None:
    path = _path(lab).replace("/v1/models/", "/V1/Models/")
    expect(lab.endpoint.get(path).status == 200, "they are not")
