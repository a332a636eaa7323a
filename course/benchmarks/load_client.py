"""Put load on a service with a lean HTTP/1.1 client, because it shares the cores with the service that it measures.

The load is a closed loop: each client keeps a connection open and has one request on its way. Every request is recorded
with its status, its seconds and its body. None is sent twice: an incomplete answer is recorded and the connection is
closed, so that a late answer is never taken for that of the next request.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

LOST, LATE, MALFORMED = "connection lost", "no answer in time", "malformed answer"
"""How an error begins: the connection was refused or ended before the whole answer; the patience ended; the answer is
not HTTP/1.1 with a known length."""
PATIENCE = 60.0
PAUSE = 0.02
"""Seconds that a client waits after an error, because a service that is down refuses thousands of connections."""


class Exchange(NamedTuple):
    """A request and its answer.

    number: position of the request, from 0. status: None without a whole answer; `error` then says why. seconds: from
    the start, including a new connection if one was needed, to the last byte of the answer, or to the error.
    """

    number: int
    status: int | None
    seconds: float
    body: bytes
    error: str = ""


@dataclass(frozen=True)
class Load:
    """exchanges: in the order in which they ended. seconds: from the first request to the end of the last."""

    exchanges: list[Exchange]
    seconds: float

    @property
    def answered(self) -> list[Exchange]:
        """Return those with a whole answer, whatever its status."""
        return [exchange for exchange in self.exchanges if exchange.status is not None]

    @property
    def rate(self) -> float:
        """Return the answers a second."""
        return len(self.answered) / self.seconds


def percentiles(exchanges: Iterable[Exchange], *percents: float) -> list[float]:
    """Return these percentiles of the seconds of the answered exchanges, interpolated linearly; NaN without any."""
    seconds = [exchange.seconds for exchange in exchanges if exchange.status is not None]
    return np.percentile(seconds, percents).tolist() if seconds else [math.nan] * len(percents)


def message(url: str, method: str, path: str, value: Any = None) -> bytes:
    """Return the bytes of one request to the server at `url`, with `value` as JSON; make them before the load."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {urlsplit(url).netloc}", "accept: application/json"]
    body = b""
    if value is not None:
        body = json.dumps(value, ensure_ascii=False).encode()
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def run_load(
    url: str,
    messages: Iterable[bytes],
    *,
    clients: int = 64,
    seconds: float = math.inf,
    patience: float = PATIENCE,
) -> Load:
    """Send every message once, from `clients` connections to the server at `url` (http://host:port).

    messages: taken one by one as clients become free, so it may be endless. After `seconds` no more are taken.
    patience: seconds that a client waits for an answer.
    """
    waiting, exchanges = enumerate(messages), []
    start = time.perf_counter()

    async def client() -> None:
        with closing(Connection(url, patience)) as connection:
            while time.perf_counter() - start < seconds and (taken := next(waiting, None)) is not None:
                exchanges.append(await connection.exchange(*taken))
                if exchanges[-1].status is None:
                    await asyncio.sleep(PAUSE)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return Load(exchanges, time.perf_counter() - start)


class Connection:
    """One connection to the server at `url`, opened when needed and kept open for as long as the server allows."""

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        parts = urlsplit(url)
        self._address, self._patience = (parts.hostname, parts.port or 80), patience
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def exchange(self, number: int, request: bytes) -> Exchange:
        """Send `request` and wait for its answer; errors are recorded in the exchange."""
        status, body, error = None, b"", ""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._patience):
                status, body = await self._ask(request)
        except TimeoutError:
            error = f"{LATE}: {self._patience:g} s"
        except (OSError, EOFError) as lost:
            error = f"{LOST}: {lost or type(lost).__name__}"
        except (ValueError, asyncio.LimitOverrunError) as malformed:
            error = f"{MALFORMED}: {malformed}"
        if error:
            self.close()
        return Exchange(number, status, time.perf_counter() - began, body, error)

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._writer.write(request)
        await self._writer.drain()
        status, fields = _head(await self._reader.readuntil(b"\r\n\r\n"))
        body = await _body(self._reader, status, fields)
        if fields.get(b"connection", b"").lower() == b"close":
            self.close()
        return status, body

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def _head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    start, *lines = head[:-4].split(b"\r\n")
    version, _, rest = start.partition(b" ")
    if version != b"HTTP/1.1":
        raise ValueError(f"it begins with {start[:40]!r}")
    fields = (line.partition(b":") for line in lines)
    return int(rest[:3]), {name.lower(): value.strip() for name, _, value in fields}


async def _body(reader: asyncio.StreamReader, status: int, fields: dict[bytes, bytes]) -> bytes:
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        return await _chunks(reader)
    if b"content-length" in fields:
        return await reader.readexactly(int(fields[b"content-length"]))
    if status in (204, 304):
        return b""
    raise ValueError("it has neither a length nor chunks: nobody can tell whether it is whole")


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        chunk = await reader.readexactly(size + 2)
        if chunk[-2:] != b"\r\n":
            raise ValueError("a chunk is longer than it says")
        chunks.append(chunk[:-2])
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # a trailer
    return b"".join(chunks)
