"""Receiving an upload: the event loop takes the stream apart, a thread stores and digests it, memory stays constant.

One after the other, and with rests: an upload takes a share of one core (see `aimass.device.pace`), because requests
that are offloaded meanwhile need the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from aimass.device.pace import Pace
from aimass.errors import AimassError, CancelledError, FrameTooLargeError, InputError, OverloadError
from aimass_cloud.api.multipart import Event, PartBegin, PartData, PartEnd, read_parts
from aimass_cloud.usecases.models import Models
from aimass_cloud.usecases.package import MAX_FORM_BYTES, UploadForm
from aimass_cloud.usecases.upload import Upload

AT_ONCE = 8
PIECE_BYTES = 128 * 1024
"""Handed from loop to thread at once: work of half a millisecond."""
FORM_OVERHEAD_BYTES = 1 << 20
DRAIN_BYTES = 64 << 20
DRAIN_S = 5.0

Result = TypeVar("Result")


class Receivers:
    """The threads that store uploads; a few, so that uploads cannot take all of the cloud."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload")
        self._busy = 0

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """One of the places; on the event loop only.

        Raises:
            OverloadError: all are taken.
        """
        if self._busy >= AT_ONCE:
            raise OverloadError(f"{AT_ONCE} uploads are under way", hint="send it again in a minute", retry_after_s=30)
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run blocking work on one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Let go of the threads; work under way is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Stop:
    """The last thing in a pipe: an end, or the reason why there is none."""

    reason: AimassError | None = None


class _Pipe:
    """Pieces of one file on their way from the event loop to a thread, one at a time.

    Args:
        store: takes the pieces from this pipe, on a thread.
        receivers: the threads.
    """

    def __init__(self, store: Callable[[_Pipe], None], receivers: Receivers) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[bytes | _Stop] = queue.SimpleQueue()
        self._gathered = bytearray()
        self._pace = Pace()
        self._store_s = 0.0
        self._is_stored = asyncio.Event()
        self._work = asyncio.ensure_future(receivers.run(lambda: store(self)))
        self._work.add_done_callback(lambda _: self._is_stored.set())

    async def put(self, data: bytes) -> None:
        """On the loop: pass bytes on and rest; raises what the thread raised."""
        self._gathered += data
        if len(self._gathered) >= PIECE_BYTES:
            await self._flush()

    async def end(self) -> None:
        """On the loop: the file is complete; returns when it is stored."""
        await self._flush()
        self._queue.put(_Stop())
        await self._work

    async def abort(self, reason: AimassError) -> None:
        """On the loop: there will be no more; the thread ends, whatever it raises then is known already."""
        self._queue.put(_Stop(reason))
        with contextlib.suppress(AimassError):
            await self._work

    def __iter__(self) -> Iterator[bytes]:
        """On the thread: the pieces."""
        while True:
            piece = self._queue.get()
            if isinstance(piece, _Stop):
                if piece.reason is not None:
                    raise piece.reason
                return
            began_s = time.thread_time()
            yield piece
            self._store_s = time.thread_time() - began_s  # whoever asks for the next has stored this one
            self._loop.call_soon_threadsafe(self._is_stored.set)

    async def _flush(self) -> None:
        piece, self._gathered = bytes(self._gathered), bytearray()
        if not self._work.done():
            self._is_stored.clear()
            self._queue.put(piece)
            await self._is_stored.wait()
        if self._work.done():
            self._work.result()
        await asyncio.sleep(self._pace.rest_s(self._store_s))


class _Reception:
    """One request's parts going where they belong."""

    def __init__(self, upload: Upload, receivers: Receivers, file_field: str) -> None:
        self._upload = upload
        self._receivers = receivers
        self._file_field = file_field
        self._pipe: _Pipe | None = None
        self._field = ""
        self._text = bytearray()
        self._has_model = False
        self.form = UploadForm()

    async def take(self, event: Event) -> None:
        match event:
            case PartBegin(name, None):
                self._field, self._text = name, bytearray()
            case PartBegin(name, str() as file_name) if name == "manifest":
                self._field, self._text = name, bytearray()
            case PartBegin(name, str() as file_name):
                await self._begin_file(name, file_name)
            case PartData(data) if self._pipe is not None:
                await self._pipe.put(data)
            case PartData(data):
                self._text += data
                if len(self._text) > MAX_FORM_BYTES:
                    raise InputError(f"field {self._field[:50]!r} is too long", hint="send files with a file name")
            case PartEnd() if self._pipe is not None:
                pipe, self._pipe = self._pipe, None
                await pipe.end()
            case PartEnd():
                self._take_field(self._field, bytes(self._text))

    async def abort(self, reason: AimassError) -> None:
        if self._pipe is not None:
            await self._pipe.abort(reason)
            self._pipe = None

    async def _begin_file(self, name: str, file_name: str) -> None:
        if not self._has_model and name != self._file_field:
            hint = f"send the model as field {self._file_field!r}, before further files"
            raise InputError(f"the first file is field {name[:50]!r}", hint=hint)
        self._has_model = True
        plain = file_name.replace("\\", "/").rsplit("/", 1)[-1]
        self._pipe = _Pipe(lambda pieces: self._upload.receive(plain, pieces), self._receivers)

    def _take_field(self, name: str, raw: bytes) -> None:
        if name == "manifest":
            self.form = UploadForm.from_json(raw).or_else(self.form)
        elif name == "name":
            self.form = replace(self.form, name=raw.decode("utf-8", "replace").strip())
        else:
            raise InputError(f"the form has an unknown field {name[:50]!r}", hint="known are: manifest, name and files")


async def receive(
    request: Request, models: Models, upload: Upload, receivers: Receivers, file_field: str
) -> UploadForm:
    """Store the files of a multipart request; what its fields say about the model.

    Raises:
        FrameTooLargeError: above the limit; what still arrives is thrown away for a moment, so that the caller reads
            the answer instead of a broken connection.
        InputError: not a form, or one with other fields.
        NoSpaceError: the disk is full.
        CancelledError: the caller went away.
    """
    reception = _Reception(upload, receivers, file_field)
    try:
        _check_length(request, models.max_upload_bytes)
        async for event in read_parts(request):
            await reception.take(event)
    except ClientDisconnect as exc:
        gone = CancelledError("the caller went away in the middle of the upload")
        await reception.abort(gone)
        raise gone from exc
    except AimassError as exc:
        await reception.abort(exc)
        await _drain(request)
        raise
    return reception.form


def _check_length(request: Request, limit_bytes: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes + FORM_OVERHEAD_BYTES:
        message = f"the upload has {declared} bytes, the limit is {limit_bytes}"
        hint = "quantize the model, or raise uploads.max_model_bytes"
        raise FrameTooLargeError(message, hint=hint, size_bytes=int(declared), limit_bytes=limit_bytes)


async def _drain(request: Request) -> None:
    left = DRAIN_BYTES
    with contextlib.suppress(ClientDisconnect, TimeoutError, RuntimeError):  # it was read to its end, or went away
        async with asyncio.timeout(DRAIN_S):
            async for chunk in request.stream():
                left -= len(chunk)
                if left < 0:
                    return
