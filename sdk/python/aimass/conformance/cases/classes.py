"""The classification extension."""

from __future__ import annotations

import re

from aimass.conformance.connection import Reply, expect
from aimass.conformance.lab import Lab, refused
from aimass.conformance.suite import Section
from aimass.conformance.tensors import Input, Output, compose, read_answer

SECTION = Section("K", "Classification")
SCORES = [0.1, 0.7, -2.5, 0.2]
_FORM = re.compile(r"-?\d+\.\d{6}:\d+(:.+)?")


def _ask(lab: Lab, count: object, rows: int = 1, *, is_binary: bool = False) -> Reply:
    lab.needs("classification")
    model = lab.probe("identity_classes")
    wish = {"name": model.outputs[0].name, "parameters": {"classification": count, "binary_data": is_binary}}
    one = Input(model.inputs[0].name, "FP32", [rows, len(SCORES)], SCORES * rows)
    return lab.endpoint.post(f"{model.path}/infer", compose([one], outputs=[wish])[0])


def _output(lab: Lab, count: int, rows: int = 1, *, is_binary: bool = False) -> Output:
    output = read_answer(_ask(lab, count, rows, is_binary=is_binary)).only()
    expect(output.datatype == "BYTES", f"the datatype is {output.datatype}")
    return output


@SECTION.case("the best k classes come as texts value:index, best first, with six decimals")
def _(lab: Lab) -> None:
    texts = [one.decode() for one in _output(lab, 2).values]
    expect(all(_FORM.fullmatch(one) for one in texts), f"they are {texts}")
    expect([":".join(one.split(":")[:2]) for one in texts] == ["0.700000:1", "0.200000:3"], f"they are {texts}")


@SECTION.case("each row has its own k classes")
def _(lab: Lab) -> None:
    output = _output(lab, 2, rows=3)
    expect(output.shape == [3, 2], f"the shape is {output.shape}")
    expect(output.values[:2] * 3 == output.values, f"equal rows differ: {output.values}")


@SECTION.case("more classes than there are gives all of them")
def _(lab: Lab) -> None:
    output = _output(lab, 99)
    expect(output.shape == [1, 4], f"the shape is {output.shape}")
    expect(output.values[3].startswith(b"-2.500000:2"), f"the last is {output.values[3]!r}")


@SECTION.case("classes in binary form")
def _(lab: Lab) -> None:
    output = _output(lab, 1, is_binary=True)
    expect(output.is_binary and output.values[0].startswith(b"0.700000:1"), f"{output}")


@SECTION.case("a number of classes that is no number is refused", required=False)
def _(lab: Lab) -> None:
    refused(_ask(lab, "two"))
