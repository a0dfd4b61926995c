"""Request parameters: those with a meaning, and those without."""

from __future__ import annotations

from typing import Any

from aimass.conformance.connection import expect
from aimass.conformance.lab import Lab, refused, value_of
from aimass.conformance.suite import Run, Section

SECTION = Section("P", "Parameters")
VALUES = [1.0, 2.0]


def _taking(parameters: dict[str, Any]) -> Run:
    def run(lab: Lab) -> None:
        output = lab.infer(lab.identity(), [value_of(lab.identity(), VALUES)], parameters=parameters).only()
        expect(output.values == VALUES, f"the values came back as {output.values}")

    return run


def _refusing(parameters: dict[str, Any]) -> Run:
    def run(lab: Lab) -> None:
        refused(lab.post(lab.identity(), [value_of(lab.identity(), VALUES)], parameters=parameters))

    return run


_TAKEN: dict[str, dict[str, Any]] = {
    "timeout in whole microseconds": {"timeout": 10_000_000},
    "timeout 0, which means none": {"timeout": 0},
    "timeout as a double": {"timeout": 10_000_000.0},
    "timeout as the largest uint64": {"timeout": 2**64 - 1},
    "priority as a whole number": {"priority": 1},
    "priority as the largest uint64": {"priority": 2**64 - 1},
    "sequence_id 0 and its marks, as clients send them unasked": {
        "sequence_id": 0, "sequence_start": False, "sequence_end": False
    },
    "unknown parameters of every kind": {"a": "text", "b": 7, "c": 0.5, "d": True},
    "no parameters in the object": {},
}  # fmt: skip
_WRONG: dict[str, dict[str, Any]] = {
    "a parameter that is an object": {"a": {"b": 1}},
    "a parameter that is a list": {"a": [1]},
    "timeout that is a text": {"timeout": "soon"},
    "timeout that is negative": {"timeout": -1},
    "binary_data_output that is no truth value": {"binary_data_output": "yes"},
    "a name that begins with triton_": {"triton_enable_something": 1},
}

for _what, _given in _TAKEN.items():
    SECTION.add(f"{_what} is taken", _taking(_given))
for _what, _given in _WRONG.items():
    SECTION.add(f"{_what} is refused", _refusing(_given), required=False)


@SECTION.case("unknown parameters of an input and of an output are passed over")
def _(lab: Lab) -> None:
    model = lab.identity()
    wish = {"name": model.outputs[0].name, "parameters": {"unheard_of": 1}}
    output = lab.infer(
        model, [value_of(model, VALUES, more={"parameters": {"unheard_of": "x"}})], outputs=[wish]
    ).only()
    expect(output.values == VALUES, f"the values came back as {output.values}")
