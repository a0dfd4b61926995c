"""The server itself: metadata, health, paths and verbs."""

from __future__ import annotations

from aimass.conformance.connection import expect
from aimass.conformance.lab import Lab, refused
from aimass.conformance.suite import Section

SECTION = Section("S", "Server and health")


@SECTION.case("GET /v2 names the server, its version and its extensions")
def _(lab: Lab) -> None:
    fields = lab.endpoint.get("/v2").fields()
    expect(type(fields["name"]) is str and bool(fields["name"]), f"name is {fields['name']!r}")
    expect(type(fields["version"]) is str, f"version is {fields['version']!r}, not a text")
    expect(all(type(one) is str for one in fields["extensions"]), "extensions is not a list of texts")


@SECTION.case("GET /v2/ with a trailing slash answers too", required=False)
def _(lab: Lab) -> None:
    expect(lab.endpoint.get("/v2/").status == 200, "it does not")


@SECTION.case("metadata has the Content-Type application/json")
def _(lab: Lab) -> None:
    kind = lab.endpoint.get("/v2").headers.get("content-type", "")
    expect(kind.partition(";")[0] == "application/json", f"it is {kind!r}")


@SECTION.case("the server says it is live")
def _(lab: Lab) -> None:
    expect(lab.endpoint.get("/v2/health/live").status == 200, "it does not")


@SECTION.case("the server says it is ready")
def _(lab: Lab) -> None:
    expect(lab.endpoint.get("/v2/health/ready").status == 200, "it does not")


@SECTION.case("the live answer is JSON with live: true, which the kserve client parses")
def _(lab: Lab) -> None:
    expect(lab.endpoint.get("/v2/health/live").fields().get("live") is True, "live is not true")


@SECTION.case("the ready answer is JSON with ready: true, which the kserve client parses")
def _(lab: Lab) -> None:
    expect(lab.endpoint.get("/v2/health/ready").fields().get("ready") is True, "ready is not true")


@SECTION.case("an unknown path is 404 with an error object")
def _(lab: Lab) -> None:
    refused(lab.endpoint.get("/v2/no/such/path"), 404)


@SECTION.case("an unknown path beneath a model is 404 with an error object")
def _(lab: Lab) -> None:
    refused(lab.endpoint.get(f"{lab.any().path}/nonsense"), 404)


@SECTION.case("POST to a health path is 405 with an error object")
def _(lab: Lab) -> None:
    refused(lab.endpoint.post("/v2/health/live"), 405)


@SECTION.case("GET of an infer path is 405 with an error object")
def _(lab: Lab) -> None:
    refused(lab.endpoint.get(f"{lab.any().path}/infer"), 405)


@SECTION.case("a 405 says in Allow which verb is right", required=False)
def _(lab: Lab) -> None:
    allowed = lab.endpoint.get(f"{lab.any().path}/infer").headers.get("allow", "")
    expect("POST" in allowed, f"Allow is {allowed!r}")


@SECTION.case("binary_tensor_data is among the extensions", required=False)
def _(lab: Lab) -> None:
    expect("binary_tensor_data" in lab.extensions, f"they are {', '.join(sorted(lab.extensions)) or 'none'}")
