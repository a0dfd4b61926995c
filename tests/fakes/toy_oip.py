"""A small server of the Open Inference Protocol that shares no code with ours, and has the faults a test asks for.

It serves `identity_fp32`: FP32 [-1] in, the same out.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import struct
import threading
from collections.abc import Iterator
from typing import Any

NAME = "identity_fp32"
FRAMING = "Inference-Header-Content-Length"


class Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Toy(http.server.BaseHTTPRequestHandler):
    """One request; the faults are the server's."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one write for an answer: two would each wait for the other side's acknowledgement
    server: ToyServer

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, *_: Any) -> None:
        pass

    def has(self, fault: str) -> bool:
        return fault in self.server.faults

    def _answer(self, make: Any) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        headers: dict[str, str] = {"Content-Type": "application/json"}
        try:
            status, answer, more = make(body)
            headers.update(more)
        except Refused as exc:
            key = "detail" if self.has("detail") else "error"
            status, answer = exc.status, json.dumps({key: str(exc)}).encode()
            if self.has("charset"):
                headers["Content-Type"] += "; charset=utf-8"
        except Exception as exc:  # noqa: BLE001 - a toy
            status = 500 if self.has("crashes") else 400
            answer = json.dumps({"error": repr(exc)}).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def _get(self, _: bytes) -> tuple[int, bytes, dict[str, str]]:
        port = {"datatype": "FP32", "shape": [-1]}
        found: dict[str, Any] = {
            "/v2": {"name": "toy", "version": "1", "extensions": ["binary_tensor_data"]},
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": True},
            f"/v2/models/{NAME}/ready": {"name": NAME, "ready": True},
            f"/v2/models/{NAME}": {
                "name": NAME,
                "platform": "toy",
                "inputs": [{"name": "x", **port}],
                "outputs": [{"name": "y", **port}],
            },
        }
        if self.path == f"/v2/models/{NAME}/infer":
            raise Refused(405, "use POST")
        if self.path not in found:
            raise Refused(404, "not found")
        if self.has("empty health") and "/health/" in self.path:
            return 200, b"", {}
        return 200, json.dumps(found[self.path]).encode(), {}

    def _post(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if self.path.startswith("/v2/health"):
            raise Refused(405, "use GET")
        if self.path != f"/v2/models/{NAME}/infer":
            raise Refused(404, "not found")
        kind = self.headers.get("Content-Type", "")
        if self.has("wants a type") and not kind:
            raise Refused(415, "no Content-Type")
        framing = self.headers.get(FRAMING)
        if framing is not None and self.has("looks at the type") and kind != "application/octet-stream":
            framing = None
        split = len(body) if framing is None else int(framing)
        if split < 0 or split > len(body):
            raise Refused(400, "framing")
        fields, tail = json.loads(body[:split]), body[split:]
        values = self._input(fields, tail)
        return self._written(fields, values)

    def _input(self, fields: dict[str, Any], tail: bytes) -> list[float]:
        (entry,) = fields["inputs"]
        size = (entry.get("parameters") or {}).get("binary_data_size")
        if size is None:
            values = entry["data"]
        else:
            if len(tail) != size and not (self.has("keeps no count") and len(tail) > size):
                raise Refused(400, "size")
            values = list(struct.unpack(f"<{size // 4}f", tail[:size]))
        ok = entry["datatype"] == "FP32" and entry["name"] == "x" and [len(values)] == entry["shape"]
        if not ok or not all(isinstance(one, int | float) for one in values):
            raise Refused(400, "the input does not fit")
        return [float(one) for one in values]

    def _written(self, fields: dict[str, Any], values: list[float]) -> tuple[int, bytes, dict[str, str]]:
        output: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": [len(values)]}
        answer: dict[str, Any] = {"model_name": NAME, "model_version": 1 if self.has("number") else "1"}
        if self.has("nulls") or "id" in fields:
            answer["id"] = fields.get("id")
        answer["outputs"] = [output]
        wishes = [(one.get("parameters") or {}).get("binary_data") for one in fields.get("outputs") or [{}]]
        default = (fields.get("parameters") or {}).get("binary_data_output", False)
        is_binary = default if wishes[0] is None or self.has("one wish") else wishes[0]
        if not is_binary:
            output["data"] = self._numbers(values)
            return 200, json.dumps(answer).encode(), {}
        raw = struct.pack(f"<{len(values)}f", *values)
        output["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps(answer).encode()
        return 200, head + raw, {FRAMING: str(len(head)), "Content-Type": "application/octet-stream"}

    def _numbers(self, values: list[float]) -> list[Any]:
        if self.has("rounds"):
            return [round(one, 4) for one in values]
        if self.has("no NaN"):
            return [one if one - one == 0 else None for one in values]
        return values


class ToyServer(http.server.ThreadingHTTPServer):
    """Serves until the context ends."""

    daemon_threads = True

    def __init__(self, *faults: str) -> None:
        super().__init__(("127.0.0.1", 0), Toy)
        self.faults = frozenset(faults)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


@contextlib.contextmanager
def toy(*faults: str) -> Iterator[ToyServer]:
    """A running toy with these faults."""
    with ToyServer(*faults) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
