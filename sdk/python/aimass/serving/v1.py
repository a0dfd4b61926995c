"""TensorFlow Serving's REST and KServe V1 at the same paths, `/v1/models/...`, as a plain ASGI door.

Both have `GET /v1/models/{name}` and `:predict` with `instances`. Where they expect different objects the answer holds
both: TensorFlow Serving's clients read `model_version_status`, KServe's `name` and `ready`; the list of models also has
the `data` that clients of OpenAI's interface read. Labels, `:classify`, `:regress` and `:explain` have no counterpart
in the runtime and are answered by 404 and 501. Names and types of the inputs come from the loaded model, so a model
that only the cloud has can be asked through `/v2` alone.

Source: TensorFlow Serving, RESTful API; KServe, V1 protocol.
"""

from __future__ import annotations

import re
from typing import Any

from aimass.errors import InputError, ModelNotFoundError
from aimass.runtime.models import ModelInfo
from aimass.serving.asgi import UNSUPPORTED, Header, Receive, Refusal, Scope, Send, answering_errors, send_json
from aimass.serving.infer import INLINE_JSON_BYTES, INLINE_JSON_ELEMENTS, Inference, off_loop
from aimass.serving.paths import checked_version, no_such_path, path_segments, refuse_method
from aimass.serving.v1_values import columns_of, rows_of, tensors_from_columns, tensors_from_rows
from aimass.wire.header import read_json, write_json
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.tensor import Datatype, TensorSpec

SIGNATURE = "serving_default"
_LABEL = re.compile(r"[A-Za-z0-9_]+")
_VERBS_OF_OTHERS = frozenset({"classify", "regress", "explain"})
_DTYPES = {
    Datatype.BOOL: "DT_BOOL",
    Datatype.FP16: "DT_HALF",
    Datatype.BF16: "DT_BFLOAT16",
    Datatype.FP32: "DT_FLOAT",
    Datatype.FP64: "DT_DOUBLE",
    Datatype.BYTES: "DT_STRING",
}


class V1Door:
    """`/v1/models` over a runtime.

    Args:
        inference: runtime, bounds and counts, shared with the door for `/v2`.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._runtime = inference.runtime
        self._app = answering_errors(self._route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Plain ASGI."""
        await self._app(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        segments = path_segments(scope)
        if [one.lower() for one in segments[:2]] != ["v1", "models"]:
            raise no_such_path(scope)
        if len(segments) == 2:
            await self._describe(scope, send, "", "", "")
            return
        rest = segments[2:]
        rest[-1], colon, verb = rest[-1].partition(":")
        name, version, tail = _parsed(scope, rest)
        if colon and not tail:
            await self._call(scope, receive, send, verb.lower(), name, version)
        elif colon:
            raise no_such_path(scope)
        else:
            await self._describe(scope, send, name, version, tail)

    async def _describe(self, scope: Scope, send: Send, name: str, version: str, tail: str) -> None:
        if scope["method"] != "GET":
            await refuse_method(scope, send, "GET")
        elif not name:
            await send_json(send, _list(sorted({one.name for one in self._runtime.models()})))
        elif tail:
            await send_json(send, _metadata(self._runtime.model(name, version)))
        else:
            await send_json(send, self._status(name, version))

    def _status(self, name: str, version: str) -> dict[str, Any]:
        info = self._runtime.model(name, version)
        found = [info] if version else [one for one in self._runtime.models() if one.name == name]
        return {"name": info.name, "ready": True, "model_version_status": [_state(one) for one in found]}

    async def _call(self, scope: Scope, receive: Receive, send: Send, verb: str, name: str, version: str) -> None:
        if verb in _VERBS_OF_OTHERS:
            raise Refusal(InputError(f":{verb} is not offered here", hint="use :predict"), UNSUPPORTED)
        if verb != "predict":
            raise no_such_path(scope)
        if scope["method"] != "POST":
            await refuse_method(scope, send, "POST")
            return
        headers = dict(scope["headers"])
        hold = self._inference.intake.hold(headers)
        try:
            body = await self._inference.intake.read(headers, receive, hold)
            info = self._runtime.model(name, version)
            request, rows = await off_loop(len(body) > INLINE_JSON_BYTES, lambda: self._request(info, version, body))
            answer = await self._inference.ask(request, receive)
            response = answer.to_response()
            is_long = sum(one.data.size for one in response.outputs) > INLINE_JSON_ELEMENTS
            written = await off_loop(is_long, lambda: _written(response, rows))
            # The protocol has no place in its body for how an answer came about.
            marks: list[Header] = [(b"aimass-served-by", answer.served_by.encode("latin-1", "replace"))]
            if answer.degraded:
                marks.append((b"aimass-degraded", b"true"))
            await self._inference.send(headers, send, [written], extra=marks)
        finally:
            hold.release()

    def _request(self, info: ModelInfo, version: str, body: bytes) -> tuple[InferRequest, int | None]:
        """The request, and how many rows its answer must have; None for the column form."""
        settings = self._inference.settings
        fields = read_json(body, max_bytes=settings.max_json_bytes, max_nesting=settings.limits.max_nesting)
        signature = fields.get("signature_name") or SIGNATURE
        if signature != SIGNATURE:
            raise InputError(f"signature {str(signature)[:100]!r} is unknown", hint=f"leave it out, or {SIGNATURE}")
        if ("instances" in fields) is ("inputs" in fields):
            raise InputError("the request has exactly one of 'instances' (rows) and 'inputs' (columns)")
        if "instances" in fields:
            rows = fields["instances"]
            return InferRequest(info.name, tensors_from_rows(info, rows), version), len(rows)
        return InferRequest(info.name, tensors_from_columns(info, fields["inputs"]), version), None


def _parsed(scope: Scope, rest: list[str]) -> tuple[str, str, str]:
    """Model, version and "metadata" out of what follows `/v1/models/`.

    Raises:
        ModelNotFoundError: a label; there are none here.
        InputError: both a version and a label, or what cannot be a label.
    """
    tail = ""
    if len(rest) > 1 and rest[-1].lower() == "metadata":
        tail = rest.pop()
    words = [one.lower() for one in rest[1::2]]
    if len(rest) == 1 and rest[0]:
        return rest[0], "", tail
    if len(rest) % 2 == 0 or not rest[0] or not set(words) <= {"versions", "labels"}:
        raise no_such_path(scope)
    if len(rest) > 3:
        raise InputError("a version and a label cannot be asked for together")
    if words == ["labels"]:
        if not _LABEL.fullmatch(rest[2]):
            raise InputError("a label has letters, digits and underscores only")
        raise ModelNotFoundError(f"model '{rest[0][:100]}' has no version labelled '{rest[2][:100]}'")
    if not rest[2]:
        raise no_such_path(scope)
    return rest[0], checked_version(rest[2]), tail


def _written(response: InferResponse, rows: int | None) -> bytes:
    if rows is None:
        return write_json({"outputs": columns_of(response)})
    return write_json({"predictions": rows_of(response, rows)})


def _list(names: list[str]) -> dict[str, Any]:
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "aimass"} for name in names]
    return {"models": names, "object": "list", "data": data}


def _state(info: ModelInfo) -> dict[str, Any]:
    state = "AVAILABLE" if info.state == "running" else "UNLOADING"
    return {"version": str(info.version), "state": state, "status": {"error_code": "OK", "error_message": ""}}


def _metadata(info: ModelInfo) -> dict[str, Any]:
    signature = {
        "inputs": {one.name: _port(one) for one in info.inputs},
        "outputs": {one.name: _port(one) for one in info.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": info.name, "signature_name": "", "version": str(info.version)},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _port(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dtype": _DTYPES.get(spec.datatype, f"DT_{spec.datatype.value}"),
        "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in spec.shape], "unknown_rank": False},
    }
