"""``multipart/form-data`` as a stream: parts in order, nothing kept but the piece that is passing through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from aimass.errors import InputError

MAX_PARTS = 200
HINT = "send multipart/form-data, e.g. curl -F file=@model.onnx"


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A part begins; ``file_name`` is None for plain fields."""

    name: str
    file_name: str | None


@dataclass(frozen=True, slots=True)
class PartData:
    """Bytes of the part that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part is complete."""


Event = PartBegin | PartData | PartEnd


@dataclass(slots=True)
class _Collector:
    """Turns the parser's callbacks into events."""

    events: list[Event] = field(default_factory=list)
    is_complete: bool = False
    parts: int = 0
    _name: bytes = b""
    _value: bytes = b""
    _headers: dict[bytes, bytes] = field(default_factory=dict)

    def on_part_begin(self) -> None:
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise InputError(f"the form has more than {MAX_PARTS} parts", hint=HINT)
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise InputError("a part of the form has no name", hint=HINT)
        file_name = options.get(b"filename")
        self.events.append(PartBegin(_text(options[b"name"]), None if file_name is None else _text(file_name)))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.events.append(PartData(data[start:end]))

    def on_part_end(self) -> None:
        self.events.append(PartEnd())

    def on_end(self) -> None:
        self.is_complete = True


async def read_parts(request: Request) -> AsyncIterator[Event]:
    """The parts of a request's form, as they arrive.

    Raises:
        InputError: not multipart, broken, or it ends in the middle.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise InputError("the upload is not multipart/form-data", hint=HINT)
    collector = _Collector()
    try:
        parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": collector.on_part_begin,
                "on_header_field": collector.on_header_field,
                "on_header_value": collector.on_header_value,
                "on_header_end": collector.on_header_end,
                "on_headers_finished": collector.on_headers_finished,
                "on_part_data": collector.on_part_data,
                "on_part_end": collector.on_part_end,
                "on_end": collector.on_end,
            },
        )
        async for chunk in request.stream():
            parser.write(chunk)
            events, collector.events = collector.events, []
            for event in events:
                yield event
        parser.finalize()
    except FormParserError as exc:
        raise InputError(f"the form is broken: {str(exc)[:200]}", hint=HINT) from exc
    if not collector.is_complete:
        raise InputError("the form ends in the middle", hint="the upload was interrupted; send it again")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
