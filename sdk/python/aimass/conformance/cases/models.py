"""Metadata and readiness of models; names and versions that do not exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aimass.conformance.connection import Skipped, expect
from aimass.conformance.lab import Lab, refused, value_of
from aimass.conformance.suite import Section
from aimass.conformance.tensors import EDGES, compose

SECTION = Section("M", "Models")
UNKNOWN = "/v2/models/no_such_model_1f0c"


@SECTION.case("metadata of a model has its name and platform")
def _(lab: Lab) -> None:
    model = lab.any()
    fields = lab.endpoint.get(model.path).fields()
    expect(fields["name"] == model.name, f"name is {fields['name']!r}")
    expect(type(fields["platform"]) is str, f"platform is {fields['platform']!r}")


@SECTION.case("versions are a list of texts")
def _(lab: Lab) -> None:
    versions = lab.endpoint.get(lab.any().path).fields().get("versions", [])
    expect(type(versions) is list and all(type(one) is str for one in versions), f"they are {versions!r}")


@SECTION.case("inputs are described by name, datatype and shape")
def _(lab: Lab) -> None:
    _check_ports(lab.endpoint.get(lab.any().path).fields()["inputs"])


@SECTION.case("outputs are described by name, datatype and shape")
def _(lab: Lab) -> None:
    _check_ports(lab.endpoint.get(lab.any().path).fields()["outputs"])


@SECTION.case("a dimension that varies is -1")
def _(lab: Lab) -> None:
    shape = lab.identity().inputs[0].shape
    expect(shape == (-1,), f"the probe's shape is {list(shape)}")


@SECTION.case("a model says it is ready")
def _(lab: Lab) -> None:
    expect(lab.endpoint.get(f"{lab.any().path}/ready").status == 200, "it does not")


@SECTION.case("the ready answer of a model is JSON with name and ready: true")
def _(lab: Lab) -> None:
    model = lab.any()
    fields = lab.endpoint.get(f"{model.path}/ready").fields()
    expect(fields.get("name") == model.name and fields.get("ready") is True, f"it is {fields}")


@SECTION.case("metadata of one version")
def _(lab: Lab) -> None:
    expect(lab.endpoint.get(_versioned(lab)).fields()["name"] == lab.any().name, "another name")


@SECTION.case("one version says it is ready")
def _(lab: Lab) -> None:
    expect(lab.endpoint.get(f"{_versioned(lab)}/ready").status == 200, "it does not")


@SECTION.case("metadata of an unknown model is 404")
def _(lab: Lab) -> None:
    refused(lab.endpoint.get(UNKNOWN), 404)


@SECTION.case("an unknown model is not ready, and its answer is an error object")
def _(lab: Lab) -> None:
    refused(lab.endpoint.get(f"{UNKNOWN}/ready"), 400, 404, 503)


@SECTION.case("inference with an unknown model is 404")
def _(lab: Lab) -> None:
    refused(lab.endpoint.post(f"{UNKNOWN}/infer", *_some(lab)), 404)


@SECTION.case("binary inference with an unknown model is 404 too")
def _(lab: Lab) -> None:
    refused(lab.endpoint.post(f"{UNKNOWN}/infer", *_some(lab, is_binary=True)), 404)


@SECTION.case("metadata of an unknown version is 404")
def _(lab: Lab) -> None:
    refused(lab.endpoint.get(f"{lab.any().path}/versions/987654"), 404)


@SECTION.case("inference with an unknown version is refused")
def _(lab: Lab) -> None:
    refused(lab.endpoint.post(f"{lab.identity().path}/versions/987654/infer", *_some(lab)), 400, 404)


@SECTION.case("a version that is no number is refused")
def _(lab: Lab) -> None:
    refused(lab.endpoint.get(f"{lab.any().path}/versions/latest"))


@SECTION.case("a percent-encoded letter in a model's name means that letter")
def _(lab: Lab) -> None:
    name = lab.any().name
    reply = lab.endpoint.get(f"/v2/models/%{ord(name[0]):02X}{name[1:]}")
    expect(reply.status == 200, f"status {reply.status}")


def _versioned(lab: Lab) -> str:
    model = lab.any()
    if not model.versions:
        raise Skipped("the metadata lists no versions")
    return f"{model.path}/versions/{model.versions[0]}"


def _some(lab: Lab, *, is_binary: bool = False) -> tuple[bytes, dict[str, str]]:
    return compose([value_of(lab.identity(), [1.0], is_binary=is_binary)])


def _check_ports(ports: Sequence[dict[str, Any]]) -> None:
    expect(len(ports) > 0, "there are none")
    for one in ports:
        expect(type(one["name"]) is str and one["datatype"] in EDGES, f"name or datatype: {one}")
        expect(all(type(size) is int for size in one["shape"]), f"the shape of {one['name']} is {one['shape']}")
