"""The load client against a tiny server of asyncio's own: what arrives is recorded as it was, what does not as lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import runpy
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course.benchmarks import load_client
from course.benchmarks.load_client import Connection, Exchange, Load, message, percentiles, run_load

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_server.py"))))
Asked, server, whole = tiny.Asked, tiny.server, tiny.whole
Answerer = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


async def echo(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(whole(asked.path.encode()))


def loaded(answer: Answerer, paths: Iterable[str], **options: Any) -> tuple[Load, list[Asked]]:
    """Get every path from a server that answers so, by one client unless more are asked for."""

    async def run() -> tuple[Load, list[Asked]]:
        async with server(answer) as (url, asked):
            load = await run_load(url, (message(url, "GET", path) for path in paths), **({"clients": 1} | options))
            return load, asked

    return asyncio.run(run())


def test_a_connection_is_kept_and_every_body_recorded():
    load, asked = loaded(echo, [f"/{number}" for number in range(5)])
    assert [(one.number, one.status, one.body, one.error) for one in load.exchanges] == [
        (number, 200, b"/%d" % number, "") for number in range(5)
    ]
    assert {request.connection for request in asked} == {0}
    assert 0 < sum(one.seconds for one in load.exchanges) <= load.seconds
    assert load.rate == pytest.approx(5 / load.seconds)


def test_a_question_is_sent_as_json():
    async def run() -> tuple[str, Asked]:
        async with server(echo) as (url, asked):
            await run_load(url, [message(url, "POST", "/search", {"query": "théière ☕", "k": 3})], clients=1)
            return url, asked[0]

    url, asked = asyncio.run(run())
    assert asked.start == "POST /search HTTP/1.1" and asked.fields["host"] == url.removeprefix("http://")
    assert asked.fields["content-type"] == "application/json"
    assert json.loads(asked.body) == {"query": "théière ☕", "k": 3}


def test_so_many_ask_at_once_and_each_message_goes_out_once():
    async def run() -> tuple[Load, list[Asked]]:
        together = asyncio.Barrier(8)

        async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await together.wait()
            await echo(asked, writer)

        async with server(answer) as (url, asked):
            messages = (message(url, "GET", f"/{number}") for number in range(24))
            return await run_load(url, messages, clients=8, patience=5), asked

    load, asked = asyncio.run(run())
    assert all(one.body == b"/%d" % one.number for one in load.answered)
    assert sorted(one.number for one in load.answered) == list(range(24))
    assert sorted(request.path for request in asked) == sorted(f"/{number}" for number in range(24))
    assert {request.connection for request in asked} == set(range(8))


@given(
    answers=st.lists(st.lists(st.binary(min_size=1, max_size=40), max_size=5), min_size=1, max_size=4),
    piece=st.integers(1, 30),
    trailer=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_chunks_are_put_together(answers, piece, trailer):
    """However the network cuts them; the next answer on the connection begins where the last one ended."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        chunks = answers[int(asked.path[1:])]
        framed = b"".join(b"%x;name=value\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
        end = b"0\r\nDigest: none\r\n\r\n" if trailer else b"0\r\n\r\n"
        sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + end
        for start in range(0, len(sent), piece):
            writer.write(sent[start : start + piece])
            await asyncio.sleep(0)

    load, asked = loaded(answer, [f"/{number}" for number in range(len(answers))])
    assert [one.body for one in load.exchanges] == [b"".join(chunks) for chunks in answers]
    assert {request.connection for request in asked} == {0}


def test_any_status_is_an_answer():
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path == "/empty":
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            writer.write(whole(b"no", "503 Service Unavailable", "Retry-After: 1"))

    load, asked = loaded(answer, ["/empty", "/busy"])
    assert [(one.status, one.body, one.error) for one in load.exchanges] == [(204, b"", ""), (503, b"no", "")]
    assert load.answered == load.exchanges and {request.connection for request in asked} == {0}


@pytest.mark.parametrize("field", ["Connection: close", "connection: Close"])
def test_a_connection_that_the_server_closes_is_opened_anew(field):
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(asked.path.encode(), "200 OK", field))
        writer.close()

    load, asked = loaded(answer, ["/0", "/1"])
    assert [one.body for one in load.exchanges] == [b"/0", b"/1"]
    assert [request.connection for request in asked] == [0, 1]


BROKEN_OFF = {
    "before the answer": b"",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "before the body": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
    "in the body": whole(b"whole body")[:-1],
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    "before the last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
}


@pytest.mark.parametrize("sent", BROKEN_OFF.values(), ids=BROKEN_OFF)
def test_an_answer_that_breaks_off_is_lost_and_not_asked_again(sent):
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path == "/lost":
            writer.write(sent)
            writer.close()
        else:
            await echo(asked, writer)

    load, asked = loaded(answer, ["/0", "/lost", "/2"])
    assert [(one.status, one.body) for one in load.exchanges] == [(200, b"/0"), (None, b""), (200, b"/2")]
    assert load.exchanges[1].error.startswith(load_client.LOST)
    assert [request.path for request in asked] == ["/0", "/lost", "/2"]


MALFORMED = {
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
    "no length": b"HTTP/1.1 200 OK\r\n\r\nsomething",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "a chunk longer than it says": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "a chunk without a size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n",
    "an endless head": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_answer_is_none(sent):
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await echo(asked, writer) if asked.path == "/good" else writer.write(sent)

    load, asked = loaded(answer, ["/bad", "/good"], patience=5)
    assert load.exchanges[0].status is None and load.exchanges[0].error.startswith(load_client.MALFORMED)
    assert load.exchanges[1].body == b"/good" and [request.connection for request in asked] == [0, 1]


def test_a_late_answer_is_not_taken_for_the_next():
    """The first answer is sent, on its connection, when the second request has come."""
    held: list[tuple[Asked, asyncio.StreamWriter]] = []

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        held.append((asked, writer))
        if asked.path == "/second":
            for request, connection in held:
                await echo(request, connection)

    load, _ = loaded(answer, ["/first", "/second"], patience=0.2)
    assert [(one.status, one.body) for one in load.exchanges] == [(None, b""), (200, b"/second")]
    assert load.exchanges[0].error.startswith(load_client.LATE) and load.exchanges[0].seconds >= 0.2


def test_a_server_that_is_down_is_not_besieged():
    async def run() -> Load:
        async with server(echo) as (url, _):
            pass
        return await run_load(url, itertools.repeat(message(url, "GET", "/")), clients=2, seconds=0.1)

    load = asyncio.run(run())
    assert not load.answered and load.rate == 0 and 2 <= len(load.exchanges) <= 2 * (1 + 0.1 / load_client.PAUSE)
    assert all(one.error.startswith(load_client.LOST) for one in load.exchanges)


def test_endless_messages_end_with_the_time():
    load, _ = loaded(echo, (f"/{number}" for number in itertools.count()), clients=3, seconds=0.1)
    assert load.seconds >= 0.1 and len(load.exchanges) >= 3
    assert sorted(one.number for one in load.exchanges) == list(range(len(load.exchanges)))


def test_a_client_that_is_stopped_leaves_no_connection():
    async def run() -> None:
        left = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            load.cancel()
            assert await reader.read() == b""
            left.set()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
            url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            load = asyncio.create_task(run_load(url, [message(url, "GET", "/")], clients=1))
            with pytest.raises(asyncio.CancelledError):
                await load
            async with asyncio.timeout(5):
                await left.wait()

    asyncio.run(run())


def test_a_closed_connection_opens_again():
    async def run() -> tuple[list[Exchange], list[Asked]]:
        async with server(echo) as (url, asked):
            connection, made = Connection(url), []
            for number in range(2):
                made.append(await connection.exchange(number, message(url, "GET", f"/{number}")))
                connection.close()
            return made, asked

    made, asked = asyncio.run(run())
    assert [one.body for one in made] == [b"/0", b"/1"] and [request.connection for request in asked] == [0, 1]


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=50), st.lists(st.floats(0, 100), max_size=4))
def test_percentiles_are_those_of_the_answered(drawn, percents):
    exchanges = [Exchange(0, 200 if whole else None, seconds, b"") for whole, seconds in drawn]
    answered = [seconds for whole, seconds in drawn if whole]
    got = percentiles(exchanges, *percents)
    if answered:
        np.testing.assert_allclose(got, [np.percentile(answered, percent) for percent in percents])
    else:
        assert len(got) == len(percents) and all(map(math.isnan, got))
