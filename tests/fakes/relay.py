"""A TCP relay between a client and a server that can be told to deliver nothing, to be slow, or to hang up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine
from typing import Any


class Relay:
    """Listens on a free loopback port and passes bytes on, in a thread of its own.

    Example:
        with Relay("127.0.0.1", broker.port) as relay:
            transport = MqttTransport("gw-1", "localhost", relay.port, tls)
            relay.stall()      # connections stay open, nothing arrives in either direction
            relay.cut()        # every connection is reset, new ones are hung up on
            relay.resume()     # as if nothing had been; what a stall held back is delivered first
    """

    def __init__(self, host: str, port: int, *, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.accepted = 0
        self._target = (host, port)
        self._refusing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.bytes_up = 0
        self.bytes_down = 0
        self._loop = asyncio.new_event_loop()
        self._flow = asyncio.Event()
        self._flow.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def stall(self) -> None:
        """Deliver nothing any more; connections stay open and new ones are accepted, but are dead too."""
        self._do(self._set(flows=False))

    def resume(self) -> None:
        """Deliver and accept again, first what was held back."""
        self._do(self._set(flows=True))

    def cut(self) -> None:
        """Reset every connection, and hang up on new ones until `resume`."""
        self._do(self._cut())

    def close(self) -> None:
        """Stop and free everything."""
        if not self._ended.is_set():
            self._ended.set()
            self._do(self._stop())
            self._thread.join(5)

    def _do(self, job: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(job, self._loop).result(5)

    async def _set(self, *, flows: bool) -> None:
        if flows:
            self._refusing = False
            self._flow.set()
        else:
            self._flow.clear()

    async def _cut(self) -> None:
        self._refusing = True
        for writer in tuple(self._writers):
            sock = writer.get_extra_info("socket")
            if sock is not None and not writer.is_closing():
                # Linger zero makes the close a reset, as a crashed peer or a firewall does it.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    async def _stop(self) -> None:
        await self._cut()
        self._server.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.call_soon(self._loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._accept, sock=self._listener))
        self._loop.run_forever()
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            if self._refusing:
                raise ConnectionRefusedError
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        try:
            await asyncio.gather(self._pump(reader, up_writer, up=True), self._pump(up_reader, writer, up=False))
        except asyncio.CancelledError:
            pass  # closing: asyncio's stream server would log it as a fault
        finally:
            self._writers -= {writer, up_writer}
            for end in (writer, up_writer):
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(256 * 1024):
                await self._flow.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if up:
                    self.bytes_up += len(piece)
                else:
                    self.bytes_down += len(piece)
                writer.write(piece)
                await writer.drain()
            writer.close()
