"""The limit on bodies, by hand: parts come one by one, and who sends on, stops or leaves is answered or let go."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest
from fastapi import Response
from starlette.formparsers import MultiPartException

from course.service.body_limit import LARGEST_BODY, BodyLimit


async def forever() -> dict:
    return await asyncio.Event().wait()


class Client:
    """One request by hand: its body's parts are given out one by one, then nothing more comes, or the client leaves."""

    def __init__(self, *bodies: bytes, length: int | None = None, leaves: bool = False) -> None:
        headers = [(b"content-length", str(length).encode())] if length is not None else [(b"transfer-encoding", b"x")]
        self.scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
        self.messages = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
        if leaves:
            self.messages.append({"type": "http.disconnect"})
        self.sent: list[dict] = []

    async def receive(self) -> dict:
        return self.messages.pop(0) if self.messages else await forever()

    async def send(self, message: dict) -> None:
        self.sent.append({**message, "unread": len(self.messages)})

    def ask(self, app: Callable) -> Client:
        asyncio.run(self.asks(app))
        return self

    async def asks(self, app: Callable) -> None:
        await app(self.scope, self.receive, self.send)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def closes(self) -> bool:
        return (b"connection", b"close") in self.sent[0]["headers"]


async def refuse_unread(scope: dict, receive: Callable, send: Callable) -> None:
    await Response("no", 404)(scope, receive, send)


def reader(seen: list[BaseException], answer: bool = True) -> Callable:
    """An application that reads all, whatever it is told, and answers 200 nevertheless."""

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        try:
            while (await receive()).get("more_body", False):
                pass
        except Exception as error:
            seen.append(error)
        if answer:
            await Response("fine")(scope, receive, send)

    return app


def test_whoever_still_sends_reads_the_answer_before_the_connection_closes():
    client = Client(*[bytes(10_000)] * 50).ask(BodyLimit(refuse_unread, linger=(0.05, 10**9)))
    assert client.status == 404 and client.closes
    assert [message["unread"] for message in client.sent] == [50, 50, 0], "answered at once, then listened"
    assert [message.get("more_body") for message in client.sent] == [None, True, None]


def test_one_that_sends_without_end_is_not_listened_to_for_ever():
    client = Client(*[bytes(10_000)] * 50).ask(BodyLimit(refuse_unread, linger=(60, 100_000)))
    assert client.closes and len(client.messages) == 50 - 11
    started = time.monotonic()
    assert Client(b"x").ask(BodyLimit(refuse_unread, linger=(0.05, 10**9))).closes
    assert time.monotonic() - started < 10
    assert not Client(b"x", leaves=True).ask(BodyLimit(refuse_unread, linger=(60, 10**9))).messages


@pytest.mark.parametrize("answers", [True, False])
def test_a_body_that_does_not_come_in_time_is_a_408(answers):
    seen: list[BaseException] = []
    client = Client(b"x", length=100).ask(BodyLimit(reader(seen, answers), seconds=0.05, linger=(0.05, 10**9)))
    assert client.status == 408 and client.closes and b"0.05 seconds" in client.sent[1]["body"]
    assert [type(error) for error in seen] == [MultiPartException]


@pytest.mark.parametrize("answers", [True, False])
def test_one_byte_too_many_is_a_413_whatever_the_application_says(answers):
    seen: list[BaseException] = []
    client = Client(bytes(LARGEST_BODY), b"x", b"y").ask(BodyLimit(reader(seen, answers), linger=(0.05, 10**9)))
    assert client.status == 413 and [type(error) for error in seen] == [MultiPartException]


def test_a_length_too_large_is_refused_before_the_application_is_asked():
    seen: list[BaseException] = []
    client = Client(b"x", length=LARGEST_BODY + 1).ask(BodyLimit(reader(seen), linger=(0.05, 10**9)))
    assert client.status == 413 and client.closes and not seen


def test_a_client_that_leaves_makes_forms_clean_up():
    """Gradio's reader of forms removes its files after an error of the form, and after no other."""
    seen: list[BaseException] = []
    Client(b"x", length=100, leaves=True).ask(BodyLimit(reader(seen)))
    assert [type(error) for error in seen] == [MultiPartException]


def test_an_applications_own_error_stays_its_own():
    async def broken(scope: dict, receive: Callable, send: Callable) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Client(b"x").ask(BodyLimit(broken))


# all bodies together


NO_LINGER = (0.0, 0)


class Keeper:
    """An application that reads a whole body and then keeps it until it is told to answer."""

    def __init__(self) -> None:
        self.most = self.kept = 0
        self.answer = asyncio.Event()

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        size = 0
        try:
            more = True
            while more:
                message = await receive()
                more = message.get("more_body", False)
                size += len(message["body"])
                self.kept += len(message["body"])
                self.most = max(self.most, self.kept)
                await asyncio.sleep(0)
            await self.answer.wait()
        finally:
            self.kept -= size
        await Response("fine")(scope, receive, send)


def whole(size: int, parts: int = 8) -> Client:
    """A client that sends a body to its end."""
    client = Client(*[bytes(size // parts)] * parts)
    client.messages[-1]["more_body"] = False
    return client


@pytest.mark.parametrize("announced", [True, False])
def test_of_64_uploads_at_once_those_beyond_the_total_are_asked_to_come_again(announced):
    async def talk() -> None:
        keeper = Keeper()
        limit = BodyLimit(keeper, linger=NO_LINGER, most_at_once=100_000)
        clients = [whole(8_000) for _ in range(64)]
        for client in clients if announced else ():
            client.scope["headers"] = [(b"content-length", b"8000")]
        tasks = [asyncio.create_task(client.asks(limit)) for client in clients]
        while sum(map(asyncio.Task.done, tasks)) + keeper.kept // 8_000 < 64:
            await asyncio.sleep(0)
        assert limit.held == keeper.kept and 0 < keeper.most <= 100_000
        keeper.answer.set()
        await asyncio.gather(*tasks)
        statuses = [client.status for client in clients]
        assert set(statuses) == {200, 503} and statuses.count(200) == keeper.most // 8_000 == 12
        (refused, *_) = (client for client in clients if client.status == 503)
        assert (b"retry-after", b"1") in refused.sent[0]["headers"] and b'{"error":' in refused.sent[1]["body"]
        assert limit.held == 0
        again = whole(8_000)
        await again.asks(limit)
        assert again.status == 200

    asyncio.run(talk())


def test_who_announces_much_and_sends_nothing_takes_no_room():
    async def talk() -> None:
        keeper = Keeper()
        keeper.answer.set()
        limit = BodyLimit(keeper, most_at_once=100_000)
        silent = [asyncio.create_task(Client(length=90_000).asks(limit)) for _ in range(10)]
        await asyncio.sleep(0)
        sending = whole(80_000)
        await sending.asks(limit)
        assert sending.status == 200
        for task in silent:
            task.cancel()
        await asyncio.gather(*silent, return_exceptions=True)

    asyncio.run(talk())


def test_a_length_for_which_there_is_no_room_is_refused_before_the_application_is_asked():
    seen: list[BaseException] = []
    client = Client(b"x", length=1_001).ask(BodyLimit(reader(seen), linger=NO_LINGER, most_at_once=1_000))
    assert client.status == 503 and client.closes and not seen


@pytest.mark.parametrize("answers", [True, False])
def test_an_application_that_reads_on_after_a_refusal_answers_nobody(answers):
    async def stubborn(scope: dict, receive: Callable, send: Callable) -> None:
        for _ in range(3):
            with contextlib.suppress(MultiPartException):
                await receive()
        if answers:
            await Response("fine")(scope, receive, send)

    limit = BodyLimit(stubborn, linger=NO_LINGER, most_at_once=1_000)
    client = Client(bytes(900), bytes(900), b"y").ask(limit)
    assert client.status == 503 and limit.held == 0


async def crashes(scope: dict, receive: Callable, send: Callable) -> None:
    await receive()
    raise KeyError("mine")


async def answers_early(scope: dict, receive: Callable, send: Callable) -> None:
    await receive()
    await Response("enough")(scope, receive, send)


@pytest.mark.parametrize(
    ("app", "client"),
    [
        (reader([]), whole(800)),
        (reader([]), Client(bytes(800), leaves=True)),
        (reader([], answer=False), Client(bytes(800), leaves=True)),
        (reader([]), Client(bytes(800), length=900)),
        (reader([]), Client(bytes(800), bytes(800))),
        (reader([]), Client(bytes(800), bytes(LARGEST_BODY))),
        (answers_early, Client(bytes(800), bytes(800))),
        (crashes, Client(bytes(800))),
    ],
    ids=["whole", "left", "left unanswered", "too slow", "no room", "too large", "answered early", "crash"],
)
def test_the_room_of_a_body_is_free_again_however_its_request_ends(app, client):
    counted = []

    async def counting(scope: dict, receive: Callable, send: Callable) -> None:
        async def noted() -> dict:
            message = await receive()
            counted.append(limit.held)
            return message

        await app(scope, noted, send)

    limit = BodyLimit(counting, seconds=0.05, linger=NO_LINGER, most_at_once=1_000)
    with contextlib.suppress(KeyError):
        client.ask(limit)
    assert counted[0] >= 100 and limit.held == 0


def test_the_room_of_a_cancelled_request_is_free_again():
    async def talk() -> None:
        limit = BodyLimit(Keeper())
        task = asyncio.create_task(Client(bytes(800)).asks(limit))
        while not limit.held:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert limit.held == 0

    asyncio.run(talk())
