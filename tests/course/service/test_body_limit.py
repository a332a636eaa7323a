"""The limit on bodies, by hand: parts come one by one, and who sends on, stops or leaves is answered or let go."""

from __future__ import annotations

import asyncio
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
        asyncio.run(app(self.scope, self.receive, self.send))
        return self

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
