"""Repository, statistics and configuration: tried where the server advertises them."""

from __future__ import annotations

import json
from typing import Any

from aimass.conformance.connection import Reply, Skipped, expect
from aimass.conformance.lab import Lab, Model, refused, value_of
from aimass.conformance.suite import Section

SECTION = Section("X", "Repository, statistics, config")
_INDEX = "/v2/repository/index"
_STATES = ("READY", "UNAVAILABLE", "LOADING", "UNLOADING", "UNKNOWN")


def _index(lab: Lab, body: bytes | None = b"") -> list[dict[str, Any]]:
    lab.needs("model_repository")
    reply = lab.endpoint.call("POST", _INDEX, body)
    expect(reply.status == 200, f"status {reply.status}")
    rows = reply.json()
    expect(type(rows) is list and all(type(row) is dict for row in rows), "it is no list of objects")
    return list(rows)


def _verb(lab: Lab, name: str, verb: str, body: bytes = b"") -> Reply:
    lab.needs("model_repository")
    reply = lab.endpoint.post(f"/v2/repository/models/{name}/{verb}", body)
    if reply.status in (403, 501, 503):
        raise Skipped(f"the server offers no {verb} here (status {reply.status})")
    return reply


@SECTION.case("the repository index, asked with neither body nor length")
def _(lab: Lab) -> None:
    expect(any(row["name"] == lab.any().name for row in _index(lab, None)), f"{lab.any().name} is not in it")


@SECTION.case("the repository index, asked with an empty object")
def _(lab: Lab) -> None:
    expect(len(_index(lab, b"{}")) > 0, "it is empty")


@SECTION.case("each row of the index has name, version and a known state")
def _(lab: Lab) -> None:
    for row in _index(lab):
        expect(type(row["name"]) is str and type(row.get("version", "")) is str, f"name or version: {row}")
        expect(row.get("state", "READY") in _STATES, f"the state is {row['state']!r}")
        expect(row.get("reason") != "", "an empty reason is left out, not sent")


@SECTION.case("the index of what is ready has nothing else in it")
def _(lab: Lab) -> None:
    states = {row.get("state") for row in _index(lab, b'{"ready": true}')}
    expect(states <= {"READY"}, f"it has {states}")


@SECTION.case("GET of the index is 405")
def _(lab: Lab) -> None:
    lab.needs("model_repository")
    refused(lab.endpoint.get(_INDEX), 405)


@SECTION.case("loading an unknown model is refused")
def _(lab: Lab) -> None:
    refused(_verb(lab, "no_such_model_1f0c", "load"))


@SECTION.case("loading a model file out of the request, without a configuration, is refused")
def _(lab: Lab) -> None:
    lab.needs("model_repository")
    body = json.dumps({"parameters": {"file:1/model.onnx": "AAAA"}}).encode()
    refused(lab.endpoint.post("/v2/repository/models/no_such_model_1f0c/load", body), 400, 403, 404, 501, 503)


@SECTION.case("unloading an unknown model is fine")
def _(lab: Lab) -> None:
    reply = _verb(lab, "no_such_model_1f0c", "unload")
    expect(reply.status == 200, f"status {reply.status}")


@SECTION.case("a model that is unloaded does not answer, and does once it is loaded again")
def _(lab: Lab) -> None:
    model = lab.probe("identity_reload")
    expect(_verb(lab, model.name, "unload").status == 200, "it cannot be unloaded")
    try:
        expect(lab.endpoint.get(f"{model.path}/ready").status != 200, "it is ready though it was unloaded")
        refused(lab.post(model, [value_of(model, [1.0])]), 400, 404, 503)
    finally:
        loaded = _verb(lab, model.name, "load", b"{}")
    expect(loaded.status == 200, f"loading it: status {loaded.status}")
    expect(lab.infer(model, [value_of(model, [1.0])]).only().values == [1.0], "it answers something else")


def _stats(lab: Lab, path: str) -> list[dict[str, Any]]:
    lab.needs("statistics")
    reply = lab.endpoint.get(path)
    expect(reply.status == 200, f"status {reply.status}")
    return list(reply.fields()["model_stats"])


def _successes(lab: Lab, model: Model) -> int:
    return sum(row["inference_stats"]["success"]["count"] for row in _stats(lab, f"{model.path}/stats"))


@SECTION.case("statistics of a model grow by its inferences")
def _(lab: Lab) -> None:
    model = lab.identity()
    before = _successes(lab, model)
    for _ in range(3):
        lab.infer(model, [value_of(model, [1.0])])
    expect(_successes(lab, model) >= before + 3, "they do not")


@SECTION.case("statistics have counts and times of each stage")
def _(lab: Lab) -> None:
    row = _stats(lab, f"{lab.any().path}/stats")[0]
    expect(row["name"] == lab.any().name and type(row["version"]) is str, f"{row}")
    for key in ("last_inference", "inference_count", "execution_count"):
        expect(type(row[key]) is int, f"{key} is {row[key]!r}")
    for stage in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        entry = row["inference_stats"][stage]
        expect(type(entry["count"]) is int and type(entry["ns"]) is int, f"{stage} is {entry}")


@SECTION.case("statistics of all models")
def _(lab: Lab) -> None:
    expect({row["name"] for row in _stats(lab, "/v2/models/stats")} >= {lab.any().name}, "a model is missing")


@SECTION.case("statistics of an unknown model are refused")
def _(lab: Lab) -> None:
    lab.needs("statistics")
    refused(lab.endpoint.get("/v2/models/no_such_model_1f0c/stats"))


def _config(lab: Lab, tail: str = "/config") -> dict[str, Any]:
    lab.needs("model_configuration")
    reply = lab.endpoint.get(lab.any().path + tail)
    expect(reply.status == 200, f"status {reply.status}")
    return reply.fields()


@SECTION.case("the configuration of a model has its name, inputs and outputs in Triton's words")
def _(lab: Lab) -> None:
    fields, model = _config(lab), lab.any()
    expect(fields["name"] == model.name, f"name is {fields['name']!r}")
    for key, ports in (("input", model.inputs), ("output", model.outputs)):
        wanted = [(one.name, "TYPE_" + one.datatype.replace("BYTES", "STRING")) for one in ports]
        found = [(one["name"], one["data_type"]) for one in fields[key]]
        expect(found == wanted, f"{key} is {found}")


@SECTION.case("dims of the configuration and max_batch_size agree with the shapes of the metadata")
def _(lab: Lab) -> None:
    fields, model = _config(lab), lab.any()
    batch = [-1] if fields.get("max_batch_size", 0) > 0 else []
    found = [[*batch, *map(int, one["dims"])] for one in fields["input"]]
    expect(found == [list(one.shape) for one in model.inputs], f"they are {found}")


@SECTION.case("the configuration of one version")
def _(lab: Lab) -> None:
    if not lab.any().versions:
        raise Skipped("the metadata lists no versions")
    expect(_config(lab, f"/versions/{lab.any().versions[0]}/config")["name"] == lab.any().name, "another name")
