"""The endpoint with what is known about it: extensions, models, and the probe models among them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from aimass.conformance.connection import Endpoint, Failed, Reply, Skipped, expect
from aimass.conformance.tensors import EDGES, Answer, Input, compose, read_answer

PROBES = (*(f"identity_{one.lower()}" for one in EDGES), "add_sub", "identity_classes", "identity_reload")


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as the metadata describes it."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the endpoint."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def path(self) -> str:
        """Its path beneath `/v2`."""
        return f"/v2/models/{quote(self.name, safe='')}"


class Lab:
    """What cases work with.

    Args:
        endpoint: where the server is.
        names: models to look at besides the probes and those of the repository index.
    """

    def __init__(self, endpoint: Endpoint, names: Iterable[str] = ()) -> None:
        self.endpoint = endpoint
        self._names = tuple(names)

    @functools.cached_property
    def extensions(self) -> frozenset[str]:
        """What the server says it can do beyond the core."""
        reply = self.endpoint.get("/v2")
        if reply.status != 200:
            return frozenset()
        found = reply.fields().get("extensions")
        return frozenset(map(str, found)) if isinstance(found, list) else frozenset()

    @functools.cached_property
    def models(self) -> dict[str, Model]:
        """Every model whose metadata can be read, by name."""
        names = dict.fromkeys((*self._names, *self._indexed(), *PROBES))
        found = {name: self._metadata(name) for name in names}
        return {name: model for name, model in found.items() if model is not None}

    def needs(self, extension: str) -> None:
        """Skips the case where the server does not claim the extension."""
        if extension not in self.extensions:
            raise Skipped(f"the server does not advertise {extension}")

    def probe(self, name: str) -> Model:
        """A probe model, or the case is skipped."""
        if name not in self.models:
            raise Skipped(f"there is no probe model {name}")
        return self.models[name]

    def identity(self, datatype: str = "FP32") -> Model:
        """The probe that gives back what it is given."""
        return self.probe(f"identity_{datatype.lower()}")

    def any(self) -> Model:
        """Some model; the most ordinary one there is."""
        if not self.models:
            raise Skipped("no model was found; name one with --model")
        return self.models.get("identity_fp32") or next(iter(self.models.values()))

    def infer(self, model: Model, inputs: Sequence[Input], **top: Any) -> Answer:
        """One inference that must succeed."""
        return read_answer(self.post(model, inputs, **top))

    def post(self, model: Model, inputs: Sequence[Input], **top: Any) -> Reply:
        """One inference, and whatever came back."""
        body, headers = compose(inputs, **top)
        return self.endpoint.post(f"{model.path}/infer", body, headers)

    def pair(self, *, is_binary: bool = False) -> list[Input]:
        """Inputs of the probe `add_sub`: its sum is 11, 22, 33, 44."""
        values = ([10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0])
        return [Input(name, "FP32", [1, 4], one, is_binary) for name, one in zip("AB", values, strict=True)]

    def _indexed(self) -> list[str]:
        try:
            reply = self.endpoint.post("/v2/repository/index")
            rows = reply.json() if reply.status == 200 else []
        except Failed:
            return []
        return [row["name"] for row in rows if isinstance(row, dict) and "name" in row] if type(rows) is list else []

    def _metadata(self, name: str) -> Model | None:
        reply = self.endpoint.get(f"/v2/models/{quote(name, safe='')}")
        if reply.status != 200:
            return None
        try:
            fields = reply.fields()
            inputs, outputs = (tuple(map(_port, fields[key])) for key in ("inputs", "outputs"))
            return Model(name, tuple(map(str, fields.get("versions") or ())), inputs, outputs)
        except (Failed, KeyError, TypeError, ValueError):
            return None  # the cases on metadata say what is wrong with it


def value_of(model: Model, values: Sequence[Any], *, is_binary: bool = False, **more: Any) -> Input:
    """These values as the only input of a model, as one dimension."""
    port = model.inputs[0]
    return Input(port.name, port.datatype, [len(values)], values, is_binary, **more)


def refused(reply: Reply, *statuses: int) -> str:
    """The error's text; the reply must be a 4xx (or one of these) with the protocol's error object."""
    is_right = reply.status in statuses if statuses else 400 <= reply.status < 500
    wanted = " or ".join(map(str, statuses)) or "4xx"
    expect(is_right, f"status {reply.status} in place of {wanted}: {reply.body[:120]!r}")
    text = reply.fields().get("error")
    expect(type(text) is str and bool(text), f"no text under 'error': {reply.body[:120]!r}")
    kind = reply.headers.get("content-type", "")
    expect(kind == "application/json", f"an error with Content-Type {kind!r}: the kserve client reads no message then")
    return str(text)


def _port(entry: dict[str, Any]) -> Port:
    return Port(entry["name"], entry["datatype"], tuple(int(one) for one in entry["shape"]))
