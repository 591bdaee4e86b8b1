"""A TCP proxy on loopback, through which a worker talks to its server until somebody cuts the wire."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

Wire = Literal["open", "drop", "half-open", "refuse"]
"""``drop``: nothing gets through either way, and nobody is told. ``half-open``: what the worker says arrives, the
answers are lost. ``refuse``: new connections are reset at once."""

CHUNK = 1 << 16


class Proxy:
    """Passes on what comes, or does not."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._wire: Wire = "open"
        self._mended = asyncio.Event()
        self._mended.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._pipes: set[asyncio.Task[None]] = set()
        self.delay = 0.0
        self.lost = 0
        """Pieces that were kept back while the wire was cut."""
        self.address = ""

    def cut(self, wire: Wire) -> None:
        """Cuts the wire, or mends it with ``open``."""
        self._wire = wire
        if wire == "open":
            self._mended.set()
        else:
            self._mended.clear()

    def reset(self) -> None:
        """Resets every connection that is there; new ones are welcome."""
        for writer in self._writers:
            with suppress(OSError, AttributeError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a worker's."""
        if self._wire == "refuse":
            writer.transport.abort()
            return
        with suppress(OSError):
            there, back = await asyncio.open_connection(*self._target)
            self._writers |= {writer, back}
            pipes = [
                asyncio.create_task(self._pipe(reader, back, answers=False)),
                asyncio.create_task(self._pipe(there, writer, answers=True)),
            ]
            self._pipes.update(pipes)
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
            for pipe in pipes:
                pipe.cancel()
            self._pipes.difference_update(pipes)
            for each in (writer, back):
                self._writers.discard(each)
                each.transport.abort()
            return
        writer.transport.abort()

    def stop(self) -> None:
        """Ends every connection."""
        for pipe in self._pipes:
            pipe.cancel()
        for writer in self._writers:
            writer.transport.abort()

    async def _pipe(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with suppress(OSError):
            while piece := await source.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self._wire == "drop" or (self._wire == "half-open" and answers):
                    self.lost += 1
                    # As a network that came back: what was kept back never arrives, and the
                    # connection is of no use any more.
                    await self._mended.wait()
                    return
                sink.write(piece)
                await sink.drain()


@asynccontextmanager
async def proxy(host: str, port: int) -> AsyncIterator[Proxy]:
    """A proxy before that server, until the end of the block."""
    made = Proxy((host, port))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        made.stop()
