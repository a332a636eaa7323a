"""An HTTP server of a few lines, for what asks one: it answers as each test says, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple


class Asked(NamedTuple):
    """A request as the server read it. connection: from 0, in the order in which they were opened."""

    connection: int
    start: str
    fields: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.start.split()[1]


@asynccontextmanager
async def server(
    answer: Callable[[Asked, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[str, list[Asked]]]:
    """Yield its address and the requests it got. `answer` writes what it likes; closing the writer ends the
    connection."""
    asked: list[Asked] = []
    connections = itertools.count()
    open_ones: dict[asyncio.Task, asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = next(connections)
        open_ones[asyncio.current_task()] = writer
        try:
            while not writer.is_closing():
                start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
                fields = dict(line.split(": ", 1) for line in lines)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                asked.append(Asked(connection, start, fields, body))
                await answer(asked[-1], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        try:
            yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", asked
        finally:
            for writer in open_ones.values():
                writer.close()
            if open_ones:
                await asyncio.wait(open_ones, timeout=1)


def whole(body: bytes, status: str = "200 OK", *fields: str) -> bytes:
    """An answer of known length."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]).encode() + body
