"""Inference with JSON in and out."""

from __future__ import annotations

import json
from typing import Any

from aimass.conformance.connection import Reply, Skipped, expect
from aimass.conformance.lab import Lab, value_of
from aimass.conformance.suite import Section
from aimass.conformance.tensors import compose, read_answer

SECTION = Section("I", "Inference, JSON")
VALUES = [1.5, -2.0, 0.0, 3.25]


def _ask(lab: Lab, headers: dict[str, str] | None = None, **top: Any) -> Reply:
    model = lab.identity()
    body, _ = compose([value_of(model, VALUES)], **top)
    return lab.endpoint.post(f"{model.path}/infer", body, headers)


def _fields(lab: Lab, **top: Any) -> dict[str, Any]:
    answer = read_answer(_ask(lab, **top))
    expect(answer.only().values == VALUES, f"the values came back as {answer.only().values}")
    return answer.fields


@SECTION.case("values go in and come back, with no Content-Type on the request (tritonclient sends none)")
def _(lab: Lab) -> None:
    _fields(lab)


@SECTION.case("the Content-Type of a request does not matter")
def _(lab: Lab) -> None:
    for kind in ("application/json", "application/octet-stream", "application/x-www-form-urlencoded"):
        read_answer(_ask(lab, {"Content-Type": kind}))


@SECTION.case("a JSON answer has the Content-Type application/json")
def _(lab: Lab) -> None:
    kind = _ask(lab).headers.get("content-type", "")
    expect(kind.partition(";")[0] == "application/json", f"it is {kind!r}")


@SECTION.case("the response names the model")
def _(lab: Lab) -> None:
    expect(_fields(lab)["model_name"] == lab.identity().name, "it names another")


@SECTION.case("model_version is a text")
def _(lab: Lab) -> None:
    version = _fields(lab).get("model_version", "")
    expect(type(version) is str, f"it is {version!r}")


@SECTION.case("an id comes back")
def _(lab: Lab) -> None:
    expect(_fields(lab, id="request 42")["id"] == "request 42", "it does not")


@SECTION.case("an id that was not sent does not come back")
def _(lab: Lab) -> None:
    expect("id" not in _fields(lab), "there is an id")


@SECTION.case("no key of the response is null")
def _(lab: Lab) -> None:
    fields = _fields(lab)
    empty = [key for one in (fields, *fields["outputs"]) for key, value in one.items() if value is None]
    expect(not empty, f"null: {', '.join(empty)}")


@SECTION.case("model_name in the body is passed over (the kserve client sends it)")
def _(lab: Lab) -> None:
    _fields(lab, model_name=lab.identity().name)


@SECTION.case("unknown keys at the top are passed over")
def _(lab: Lab) -> None:
    _fields(lab, unheard_of={"a": [1, None]}, x=3)


@SECTION.case("optional keys that are null are absent", required=False)
def _(lab: Lab) -> None:
    _fields(lab, parameters=None, outputs=None)


@SECTION.case("nested data is taken row by row, and comes back flat")
def _(lab: Lab) -> None:
    rows = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
    inputs = [
        {"name": name, "shape": [2, 4], "datatype": "FP32", "data": rows if name == "A" else [0.0] * 8} for name in "AB"
    ]
    body = json.dumps({"inputs": inputs}).encode()
    answer = read_answer(lab.endpoint.post(f"{lab.probe('add_sub').path}/infer", body))
    total = {one.name: one.values for one in answer.outputs}["SUM"]
    expect(total == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], f"SUM is {total}")


@SECTION.case("without a list of outputs all come back, with their shapes")
def _(lab: Lab) -> None:
    answer = lab.infer(lab.probe("add_sub"), lab.pair())
    found = {one.name: (one.shape, one.values) for one in answer.outputs}
    wanted = {"SUM": ([1, 4], [11.0, 22.0, 33.0, 44.0]), "DIFFERENCE": ([1, 4], [9.0, 18.0, 27.0, 36.0])}
    expect(found == wanted, f"they are {found}")


@SECTION.case("only the outputs asked for come back")
def _(lab: Lab) -> None:
    answer = lab.infer(lab.probe("add_sub"), lab.pair(), outputs=[{"name": "DIFFERENCE"}])
    expect([one.name for one in answer.outputs] == ["DIFFERENCE"], f"{[one.name for one in answer.outputs]}")


@SECTION.case("outputs in another order than the model's have the right values")
def _(lab: Lab) -> None:
    for order in (["SUM", "DIFFERENCE"], ["DIFFERENCE", "SUM"]):
        answer = lab.infer(lab.probe("add_sub"), lab.pair(), outputs=[{"name": one} for one in order])
        values = {one.name: one.values[0] for one in answer.outputs}
        expect(values == {"SUM": 11.0, "DIFFERENCE": 9.0}, f"asked {order}: {values}")


@SECTION.case("inputs are known by name, not by place")
def _(lab: Lab) -> None:
    answer = lab.infer(lab.probe("add_sub"), lab.pair()[::-1], outputs=[{"name": "DIFFERENCE"}])
    expect(answer.only().values[0] == 9.0, f"DIFFERENCE begins with {answer.only().values[0]}")


@SECTION.case("several rows in one request")
def _(lab: Lab) -> None:
    first = lab.pair()[0]
    inputs = [type(first)(one.name, "FP32", [3, 4], [*one.values, *one.values, *one.values]) for one in lab.pair()]
    answer = lab.infer(lab.probe("add_sub"), inputs, outputs=[{"name": "SUM"}])
    expect(answer.only().shape == [3, 4], f"the shape is {answer.only().shape}")
    expect(answer.only().values == [11.0, 22.0, 33.0, 44.0] * 3, f"{answer.only().values}")


@SECTION.case("inference with a version in the path, which the response then names")
def _(lab: Lab) -> None:
    model = lab.identity()
    if not model.versions:
        raise Skipped("the metadata lists no versions")
    body, _ = compose([value_of(model, VALUES)])
    answer = read_answer(lab.endpoint.post(f"{model.path}/versions/{model.versions[0]}/infer", body))
    expect(answer.fields["model_version"] == model.versions[0], f"it names {answer.fields['model_version']!r}")


@SECTION.case("a tensor without elements is legal")
def _(lab: Lab) -> None:
    output = lab.infer(lab.identity(), [value_of(lab.identity(), [])]).only()
    expect(output.shape == [0] and output.values == [], f"{output.shape} {output.values}")


@SECTION.case("a body sent in chunks, without a length")
def _(lab: Lab) -> None:
    body, _ = compose([value_of(lab.identity(), VALUES)])
    answer = read_answer(lab.endpoint.call("POST", f"{lab.identity().path}/infer", body, is_chunked=True))
    expect(answer.only().values == VALUES, f"{answer.only().values}")
