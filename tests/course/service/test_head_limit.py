"""Heads of requests that do not end, or do not come: the connection is closed, and what came is not kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from fastapi import Request, Response

from course.service.head_limit import LONGEST_HEAD, REASON, HeadLimit

MB = 2**20


async def app(scope: dict, receive: Callable, send: Callable) -> None:
    body = await Request(scope, receive).body()
    await Response(f"{len(body)} bytes")(scope, receive, send)


def serving(talk: Callable[[int], Awaitable[None]], served: Callable = app) -> None:
    """Run `talk(port)` beside a server, which waits a minute for a next request."""

    async def both() -> None:
        config = uvicorn.Config(
            served, http=HeadLimit, lifespan="off", log_config=None, access_log=False, port=0, timeout_keep_alive=60
        )
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            await asyncio.wait_for(talk(server.servers[0].sockets[0].getsockname()[1]), 30)
        finally:
            server.should_exit = True
            await running

    asyncio.run(both())


async def exchange(port: int, *parts: bytes) -> tuple[int, bytes]:
    """Send, until the server hangs up, and read to the end: (bytes sent, all that came)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent, answer = 0, b""
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            sent += len(part)
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65_536):
            answer += piece
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return sent, answer


START = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n"


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (START, b"X-A: a\r\n" * 8_000),
        (START + b"X-A: ", b"a" * 65_536),
        (b"GET /?", b"a" * 65_536),
        (b"", b"a" * 65_536),
        (CHUNKED, b"X-A: a\r\n" * 8_000),
        (CHUNKED + b"X-A: ", b"a" * 65_536),
    ],
    ids=["headers", "a header", "an address", "a method", "headers behind a body", "a header behind a body"],
)
def test_a_head_without_end_is_hung_up_on(first, again):
    async def talk(port: int) -> None:
        sent, answer = await exchange(port, first, *[again] * 1_000)
        assert sent < 20 * MB, "of 60; what the system holds for the connection included"
        assert b"200 OK" not in answer

    serving(talk)


def test_the_reason_is_given_to_who_listens():
    async def talk(port: int) -> None:
        _, answer = await exchange(port, START + b"X-A: " + b"a" * LONGEST_HEAD)
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.endswith(REASON.encode())

    serving(talk)


def test_what_is_below_the_limit_passes_and_bodies_do_not_count():
    async def talk(port: int) -> None:
        filling = b"X-A: " + b"a" * (LONGEST_HEAD - 200) + b"\r\n"
        body = [b"8000\r\n" + bytes(0x8000) + b"\r\n"] * 32
        once = [START, filling, b"Transfer-Encoding: chunked\r\n\r\n", *body, b"0\r\n\r\n"]
        last = [START, filling, b"Content-Length: 0\r\nConnection: close\r\n\r\n"]
        _, answer = await exchange(port, *once, *last)
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert b"1048576 bytes" in answer and answer.endswith(b"\r\n0 bytes")

    serving(talk)


# in time

WHOLE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def short(monkeypatch) -> None:
    monkeypatch.setattr(HeadLimit, "seconds", 0.2)


@pytest.mark.parametrize(
    ("first", "answers"),
    [(b"", 0), (b"\r\n", 0), (b"G", 0), (START, 0), (START + b"X-A: ", 0), (WHOLE + b"\r\n", 1), (WHOLE + START, 1)],
    ids=["nothing", "an empty line", "a letter", "half", "half a header", "a next line", "half a next one"],
)
def test_who_does_not_end_a_head_is_hung_up_on(short, first, answers):
    async def talk(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if answers:
            writer.write(WHOLE)
            assert (await reader.readuntil(b"0 bytes")).startswith(b"HTTP/1.1 200 OK")
        writer.write(first.removeprefix(WHOLE))
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()

    serving(talk)


@pytest.mark.parametrize("before", [b"", WHOLE, WHOLE * 2], ids=["first", "second", "third"])
def test_a_head_letter_by_letter_has_no_more_time(short, before):
    """The next one begins in the very packet that ends the one before."""

    async def talk(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(before + START + b"X-A: ")

        async def trickle() -> None:
            while True:
                writer.write(b"a")
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 10)
        trickling.cancel()
        assert answer.count(b"200 OK") in (0, before.count(b"GET"))  # 0: what came last was lost with the connection
        writer.close()

    serving(talk)


def test_neither_bodies_nor_answers_nor_the_silence_between_requests_end_with_the_time_of_a_head(short):
    async def talk(port: int) -> None:
        async def time_passes() -> None:
            nothing, silent = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.wait_for(nothing.read(), 10)
            silent.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(START + b"Content-Length: 2\r\n\r\na")
        await time_passes()
        writer.write(b"b")
        await time_passes()
        answer.set()
        assert (await reader.readuntil(b"2 bytes")).startswith(b"HTTP/1.1 200 OK")
        await time_passes()
        writer.write(WHOLE)
        assert (await reader.readuntil(b"0 bytes")).startswith(b"HTTP/1.1 200 OK")
        writer.close()

    answer = asyncio.Event()

    async def slow(scope: dict, receive: Callable, send: Callable) -> None:
        body = await Request(scope, receive).body()
        await answer.wait()
        await Response(f"{len(body)} bytes")(scope, receive, send)

    serving(talk, slow)


def test_no_timer_is_left_behind(short):
    async def talk(port: int) -> None:
        made: list[HeadLimit] = []
        begun = HeadLimit.connection_made
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(HeadLimit, "connection_made", lambda self, pipe: made.append(self) or begun(self, pipe))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(WHOLE)
            await reader.readuntil(b"0 bytes")
            assert made[0]._timer is None
            writer.write(START)
            writer.close()
            while made[0] in made[0].connections:
                await asyncio.sleep(0.001)
        assert made[0]._timer is None

    serving(talk)
