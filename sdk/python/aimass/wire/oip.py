"""Messages <-> the Open Inference Protocol's binary-tensor form: a JSON header, then raw tensors.

What we send has every tensor in binary form unless the asking side wants JSON; what we read may mix both. Over HTTP
the header's length stands in ``Inference-Header-Content-Length``, over MQTT in a preamble (``aimass.wire.frame``).

Nothing is allocated for a declared size before that many bytes were seen to be there, and binary tensors are views
into the received message. Coded tensors (``aimass.wire.codec``) are the exception on both counts: they are bounded by
the size an uncoded message may have.

Source: Open Inference Protocol, REST and binary tensor data extension; ``sdk/spec/WIRE.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aimass.errors import FrameError, FrameTooLargeError, TensorError
from aimass.wire.codec import Codec, decode_tensor, encode_tensor
from aimass.wire.header import check_parameters, list_of, parameters_of, read_json, text_of, write_json
from aimass.wire.messages import MAX_MESSAGE_CHARS, ErrorReply, InferRequest, InferResponse
from aimass.wire.tensor import Buffer, Datatype, Tensor, element_count, tensor_from_bytes, tensor_to_bytes
from aimass.wire.values import tensor_from_values, tensor_to_values

Part = bytes | memoryview
Codecs = Mapping[str, Codec]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts.

    Attributes:
        max_header_bytes: the JSON part.
        max_message_bytes: header and tensors together; 64 MiB as in Triton. What the coded tensors of a message
            decode to has the same bound.
        max_tensors: inputs or outputs of one message.
        max_dims: dimensions of one tensor.
        max_nesting: lists and objects within one another; 100 as in Triton.
        max_strings: BYTES elements of one message; each costs some 50 bytes of memory besides its own.
    """

    max_header_bytes: int = 1 << 20
    max_message_bytes: int = 64 << 20
    max_tensors: int = 256
    max_dims: int = 16
    max_nesting: int = 100
    max_strings: int = 1 << 20


DEFAULT_LIMITS = Limits()


def encode_request(request: InferRequest, codecs: Codecs | None = None) -> tuple[bytes, list[Part]]:
    """The header and the tensors of a request, all of them binary.

    Args:
        request: what to send.
        codecs: how to code inputs, by name; the others go as they are.

    Raises:
        WireError: a parameter or a tensor's data cannot be sent.
    """
    fields: dict[str, Any] = {"model_name": request.model}
    if request.version:
        fields["model_version"] = request.version
    if request.id:
        fields["id"] = request.id
    _put_parameters(fields, request.parameters)
    fields["inputs"], parts = _encode_tensors(request.inputs, lambda _: True, codecs)
    if request.outputs:
        fields["outputs"] = [{"name": name} for name in request.outputs]
    return write_json(fields), parts


def decode_request(
    header: Buffer,
    body: Buffer = b"",
    *,
    model: str | None = None,
    version: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> InferRequest:
    """The request in a header and the tensor bytes after it.

    Args:
        header: the JSON part; the whole body where there is no binary part.
        body: what follows it.
        model: from the path; without it the header's ``model_name`` counts.
        version: from the path; without it the header's ``model_version`` counts.
        limits: what is accepted.

    Raises:
        WireError: the bytes are not a request; nothing else is ever raised.
    """
    _check_total(len(header) + len(body), limits)
    return request_from_fields(read_header(header, limits), body, model=model, version=version, limits=limits)


def read_header(header: Buffer, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """The JSON part as plain values, for a door that also has to look at ``wants_binary``.

    Raises:
        WireError: not a JSON object within the limits.
    """
    return read_json(header, max_bytes=limits.max_header_bytes, max_nesting=limits.max_nesting)


def request_from_fields(
    fields: Mapping[str, Any],
    body: Buffer = b"",
    *,
    model: str | None = None,
    version: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> InferRequest:
    """As ``decode_request``, with the header read already."""
    # WIRE-2.9
    named = text_of(fields, "model_name") if model is None else model
    if not named:
        raise FrameError("the request names no model", hint="name it in the path or in 'model_name'")
    if fields.get("inputs") is None:
        raise FrameError("the request has no 'inputs'")
    return InferRequest(
        model=named,
        inputs=_Reader(body, limits).tensors(fields, "inputs"),
        version=text_of(fields, "model_version") if version is None else version,
        id=text_of(fields, "id"),
        outputs=_wanted(fields, limits),
        parameters=parameters_of(fields),
    )


def wants_binary(fields: Mapping[str, Any], name: str) -> bool:
    """Whether the asking side wants this output in binary form.

    Args:
        fields: the request's header (``read_header``).
        name: the output.

    Raises:
        FrameError: a wish is not a truth value.
    """
    # WIRE-2.6: the output's own wish wins over the request's; without any, JSON
    wish: Any = parameters_of(fields).get("binary_data_output", False)
    for output in list_of(fields, "outputs"):
        if output.get("name") == name:
            wish = parameters_of(output).get("binary_data", wish)
    if type(wish) is not bool:
        raise FrameError("'binary_data' and 'binary_data_output' are true or false")
    return wish


def encode_response(
    response: InferResponse, *, binary: Callable[[str], bool] | bool = True, codecs: Codecs | None = None
) -> tuple[bytes, list[Part]]:
    """The header and the tensors of a response.

    Args:
        response: what to send.
        binary: which outputs go in binary form: all, none, or asked by name.
        codecs: how to code outputs that go in binary form, by name; the others go as they are.

    Raises:
        WireError: a parameter or a tensor cannot be sent in the form asked for.
    """
    choose = binary if callable(binary) else (lambda _: bool(binary))
    fields: dict[str, Any] = {"id": response.id} if response.id else {}
    fields["model_name"] = response.model
    fields["model_version"] = response.version
    _put_parameters(fields, response.parameters)
    fields["outputs"], parts = _encode_tensors(response.outputs, choose, codecs)
    return write_json(fields), parts


def decode_response(header: Buffer, body: Buffer = b"", limits: Limits = DEFAULT_LIMITS) -> InferResponse | ErrorReply:
    """The response, or the error the other side sent in its place.

    Raises:
        WireError: the bytes are neither; nothing else is ever raised.
    """
    _check_total(len(header) + len(body), limits)
    fields = read_header(header, limits)
    if fields.get("error") is not None:
        return _error_reply(fields, body)
    if fields.get("outputs") is None:
        raise FrameError("the response has neither 'outputs' nor 'error'")
    return InferResponse(
        model=text_of(fields, "model_name"),
        version=text_of(fields, "model_version"),
        outputs=_Reader(body, limits).tensors(fields, "outputs"),
        id=text_of(fields, "id"),
        parameters=parameters_of(fields),
    )


def encode_error(reply: ErrorReply) -> bytes:
    """The error object, which any OIP client can show."""
    # WIRE-2.7
    parameters: dict[str, Any] = {"code": reply.code, "retryable": reply.retryable}
    if reply.hint:
        parameters["hint"] = reply.hint[:MAX_MESSAGE_CHARS]
    return write_json({"error": reply.message[:MAX_MESSAGE_CHARS], "parameters": parameters})


class _Reader:
    """Walks over the tensors of one message and the bytes behind its header."""

    def __init__(self, body: Buffer, limits: Limits) -> None:
        self._body = memoryview(body)
        self._limits = limits
        self._offset = 0
        self._strings = 0
        self._decoded_bytes = 0

    def tensors(self, fields: Mapping[str, Any], key: str) -> tuple[Tensor, ...]:
        """All tensors under the key; they use up the body exactly."""
        entries = list_of(fields, key)
        if len(entries) > self._limits.max_tensors:  # WIRE-5.1
            raise FrameTooLargeError(f"{len(entries)} tensors in {key!r}, at most {self._limits.max_tensors}")
        tensors = tuple(self._tensor(entry, is_only=len(entries) == 1) for entry in entries)
        if self._offset != len(self._body):  # WIRE-2.4
            raise FrameError(f"{len(self._body) - self._offset} bytes are left after the last tensor")
        names = {tensor.name for tensor in tensors}
        if len(names) != len(tensors):
            raise TensorError(f"a name occurs twice in {key!r}")
        return tensors

    def _tensor(self, entry: dict[str, Any], *, is_only: bool) -> Tensor:
        name = text_of(entry, "name", what="a tensor")
        if not name:
            raise TensorError("a tensor has no name")
        datatype = _datatype(name, entry.get("datatype"))
        shape = self._shape(name, entry.get("shape"))
        self._count(name, datatype, shape)
        parameters = parameters_of(entry)
        if "shared_memory_region" in parameters:  # WIRE-3.6
            raise TensorError(f"tensor {name!r}: shared memory is not offered", hint="send the tensor itself")
        size = parameters.get("binary_data_size")
        data = entry.get("data")
        if data is not None:
            if size is not None or "codec" in parameters:
                raise TensorError(f"tensor {name!r} has 'data', and beside it 'binary_data_size' or a codec")
            return tensor_from_values(name, datatype, shape, data)
        if size is None and is_only:
            size = len(self._body)  # WIRE-2.8
        raw = self._take(name, size)
        if "codec" in parameters:
            return self._decoded(name, datatype, shape, parameters, raw)
        return tensor_from_bytes(name, datatype, shape, raw)

    def _decoded(
        self, name: str, datatype: Datatype, shape: tuple[int, ...], parameters: Mapping[str, Any], raw: memoryview
    ) -> Tensor:
        # WIRE-6.8: one budget for all coded tensors of a message
        left = self._limits.max_message_bytes - self._decoded_bytes
        tensor = decode_tensor(name, datatype, shape, parameters, raw, max_bytes=left)
        self._decoded_bytes += tensor.nbytes
        return tensor

    def _take(self, name: str, size: Any) -> memoryview:
        # WIRE-2.4
        if type(size) is not int or size < 0:
            raise TensorError(f"tensor {name!r} has neither 'data' nor a valid 'binary_data_size'")
        end = self._offset + size
        if end > len(self._body):
            missing = end - len(self._body)
            raise FrameError(f"tensor {name[:100]!r} declares {size} bytes, {missing} of them are missing")
        view = self._body[self._offset : end]
        self._offset = end
        return view

    def _shape(self, name: str, shape: Any) -> tuple[int, ...]:
        # WIRE-3.2
        if type(shape) is not list or not set(map(type, shape)) <= {int}:
            raise TensorError(f"tensor {name!r}: the shape must be a list of whole numbers")
        if len(shape) > self._limits.max_dims:
            raise TensorError(f"tensor {name!r} has {len(shape)} dimensions, at most {self._limits.max_dims}")
        return tuple(shape)

    def _count(self, name: str, datatype: Datatype, shape: tuple[int, ...]) -> None:
        # WIRE-3.3, WIRE-5.3: an element of a few bytes becomes an object of fifty, so BYTES have a bound of their own
        elements = element_count(name, datatype, shape)
        if datatype is Datatype.BYTES:
            self._strings += elements
            if self._strings > self._limits.max_strings:
                limit = self._limits.max_strings
                raise FrameTooLargeError(f"more than {limit} BYTES elements", size=self._strings, limit=limit)


def _encode_tensors(
    tensors: Sequence[Tensor], binary: Callable[[str], bool], codecs: Codecs | None
) -> tuple[list[dict[str, Any]], list[Part]]:
    entries: list[dict[str, Any]] = []
    parts: list[Part] = []
    for tensor in tensors:
        entry: dict[str, Any] = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype.value}
        if binary(tensor.name):
            codec = codecs.get(tensor.name) if codecs else None
            if codec is None:
                part = tensor_to_bytes(tensor)
                entry["parameters"] = {"binary_data_size": len(part)}
            else:
                parameters, part = encode_tensor(tensor, codec)
                entry["parameters"] = {"binary_data_size": len(part), **parameters}
            parts.append(part)
        else:
            entry["data"] = tensor_to_values(tensor)
        entries.append(entry)
    return entries, parts


def _put_parameters(fields: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    if parameters:
        check_parameters(parameters)
        fields["parameters"] = dict(parameters)


def _check_total(size_bytes: int, limits: Limits) -> None:
    if size_bytes > limits.max_message_bytes:  # WIRE-5.1
        message = f"message of {size_bytes} bytes, at most {limits.max_message_bytes}"
        raise FrameTooLargeError(message, size_bytes=size_bytes, limit_bytes=limits.max_message_bytes)


def _datatype(name: str, value: Any) -> Datatype:
    try:
        return Datatype(value)
    except ValueError as exc:
        raise TensorError(f"tensor {name!r}: datatype {str(value)[:40]!r} is unknown") from exc


def _wanted(fields: Mapping[str, Any], limits: Limits) -> tuple[str, ...]:
    entries = list_of(fields, "outputs")
    if len(entries) > limits.max_tensors:
        raise FrameTooLargeError(f"{len(entries)} outputs asked for, at most {limits.max_tensors}")
    names = tuple(text_of(entry, "name", what="an output") for entry in entries)
    if "" in names or len(set(names)) != len(names):
        raise FrameError("an output asked for has no name, or is asked for twice")
    return names


def _error_reply(fields: Mapping[str, Any], body: Buffer) -> ErrorReply:
    # WIRE-2.7: only 'error' is sure to be there; other servers send nothing else
    message = fields["error"]
    if type(message) is not str or len(body):
        raise FrameError("'error' must be a text, and no tensors follow it")
    parameters = parameters_of(fields)
    code, retryable, hint = (parameters.get(key) for key in ("code", "retryable", "hint"))
    return ErrorReply(
        message=message[:MAX_MESSAGE_CHARS],
        code=code[:100] if isinstance(code, str) and code else "internal",
        retryable=retryable is True,
        hint=hint[:MAX_MESSAGE_CHARS] if isinstance(hint, str) else "",
    )
