"""How much may be sent to the service, and for how long; what is left over is dropped unread."""

from __future__ import annotations

import asyncio

from fastapi import Response
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from course.service.answers import LARGEST_PICTURE
from course.service.api_errors import error

LARGEST_FORM = LARGEST_PICTURE + 2**20
"""Bytes of a multipart body: a picture, and the fields beside it."""
LARGEST_BODY = 2**18
"""Bytes of any other: a question in JSON, or what the page sends of itself."""
BODY_SECONDS = 60.0
"""For a body to arrive in."""
LINGER_SECONDS, LINGER_BYTES = 5.0, 64 * 2**20
"""How long, and how much, is still listened to behind an answer that did not wait for the body's end."""


class BodyLimit:
    """Refuses a body that is too large (413) or too slow (408), by the length it announces, else by counting.

    Whoever still sends when the answer is ready, whatever the answer, gets to read it: it goes out at once, the rest
    is received and dropped for a while, and then the connection is closed.
    """

    def __init__(
        self, app: ASGIApp, seconds: float = BODY_SECONDS, linger: tuple[float, int] = (LINGER_SECONDS, LINGER_BYTES)
    ) -> None:
        self.app, self.seconds, self.linger = app, seconds, linger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        length = headers.get(b"content-length", b"0")
        if length == b"0" and b"transfer-encoding" not in headers:
            await self.app(scope, receive, send)
            return
        is_form = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        body = _Body(receive, send, LARGEST_FORM if is_form else LARGEST_BODY, self.seconds, self.linger)
        if int(length) > body.most:
            body.refusal = body.too_large()
        else:
            try:
                await self.app(scope, body.receive, body.send)
            except Exception:
                if body.refusal is None or body.answering:
                    raise
        if body.refusal is not None and not body.answering:
            refusal, body.refusal = body.refusal, None
            await refusal(scope, receive, body.send)


class _Body:
    """The body of one request on its way in, and the answer on its way out.

    Once there is a `refusal`, whatever the application answers instead is not sent.
    """

    def __init__(self, receive: Receive, send: Send, most: int, seconds: float, linger: tuple[float, int]) -> None:
        self._receive, self._send, self.most, self.linger = receive, send, most, linger
        self.seconds, self.deadline = seconds, asyncio.get_running_loop().time() + seconds
        self.size = 0
        self.ended = self.answering = False
        self.refusal: Response | None = None

    def too_large(self) -> Response:
        return error(413, f"The request is too large; at most {self.most:,} bytes are taken here.")

    async def receive(self) -> Message:
        """The next part. What ends a body early is raised as an error of its form: after that, and no other, do
        Starlette's and Gradio's readers of forms remove what they have written."""
        if self.ended:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self.deadline):
                message = await self._receive()
        except TimeoutError:
            self.refusal = error(408, f"The request did not arrive within {self.seconds:g} seconds.")
            raise MultiPartException("too slow") from None
        self.size += len(message.get("body", b""))
        if self.size > self.most:
            self.refusal = self.too_large()
            raise MultiPartException("too large")
        self.ended = not message.get("more_body", False)
        if message["type"] == "http.disconnect" and not self.answering:
            raise MultiPartException("the client left")
        return message

    async def send(self, message: Message) -> None:
        if self.refusal is not None and not self.answering:
            return
        self.answering = True
        if self.ended:
            await self._send(message)
        elif message["type"] == "http.response.start":
            await self._send({**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]})
        elif message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._drop_the_rest()
            await self._send({"type": "http.response.body"})

    async def _drop_the_rest(self) -> None:
        seconds, most = self.linger
        dropped = 0
        try:
            async with asyncio.timeout(seconds):
                while not self.ended and dropped <= most:
                    message = await self._receive()
                    dropped += len(message.get("body", b""))
                    self.ended = not message.get("more_body", False)
        except TimeoutError:
            pass
