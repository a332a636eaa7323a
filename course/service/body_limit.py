"""Limit how much may be sent to the service, by one request and by all, and for how long; drop the rest unread."""

from __future__ import annotations

import asyncio

from fastapi import Response
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from course.service.answers import LARGEST_PICTURE
from course.service.api_errors import RETRY_AFTER, error

LARGEST_FORM = LARGEST_PICTURE + 2**20
"""Bytes of a multipart body: a picture, and the fields beside it."""
LARGEST_BODY = 2**18
"""Bytes of any other body: a question in JSON, or what the page sends by itself."""
MOST_AT_ONCE = 2**28
"""Bytes of all bodies that arrived and are not answered yet; they are kept in memory."""
BODY_SECONDS = 60.0
"""Seconds in which a body must arrive."""
LINGER_SECONDS, LINGER_BYTES = 5.0, 64 * 2**20
"""Limits on what is still received after an answer that did not wait for the end of the body."""


class BodyLimit:
    """Refuse a body that is too large (413), too slow (408) or one too many (503, to be sent again a little later).

    Its announced length counts, else the bytes that arrive. Of all bodies together only bytes that arrived count, in
    `held`, until the application is done with them: announcing much and sending nothing takes no room from others.

    A client that still sends when the answer is ready can read it: the answer goes out at once, the rest of the body is
    received and dropped for a while, and then the connection is closed.
    """

    def __init__(
        self,
        app: ASGIApp,
        seconds: float = BODY_SECONDS,
        linger: tuple[float, int] = (LINGER_SECONDS, LINGER_BYTES),
        most_at_once: int = MOST_AT_ONCE,
    ) -> None:
        self.app, self.seconds, self.linger, self.most_at_once = app, seconds, linger, most_at_once
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        length = headers.get(b"content-length", b"0")
        if length == b"0" and b"transfer-encoding" not in headers:
            await self.app(scope, receive, send)
            return
        is_form = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        body = _Body(self, receive, send, LARGEST_FORM if is_form else LARGEST_BODY)
        body.refusal = body.too_much(int(length))
        if body.refusal is None:
            try:
                await self.app(scope, body.receive, body.send)
            except Exception:
                if body.refusal is None or body.answering:
                    raise
            finally:
                self.held -= body.size
        if body.refusal is not None and not body.answering:
            refusal, body.refusal = body.refusal, None
            await refusal(scope, receive, body.send)


class _Body:
    """The body of one request on its way in, and the answer on its way out.

    Once there is a `refusal`, the application's answer is not sent.
    """

    def __init__(self, limit: BodyLimit, receive: Receive, send: Send, most: int) -> None:
        self.limit, self.most, self._receive, self._send = limit, most, receive, send
        self.deadline = asyncio.get_running_loop().time() + limit.seconds
        self.size = 0
        self.ended = self.answering = False
        self.refusal: Response | None = None

    def too_much(self, coming: int) -> Response | None:
        """Return the refusal if `coming` more bytes are too many, for this body or for all together; else None."""
        if self.size + coming > self.most:
            return error(413, f"The request is too large; at most {self.most:,} bytes are taken here.")
        if self.limit.held + coming > self.limit.most_at_once:
            return error(503, "Too much is being sent to this service at once; send it again later.", RETRY_AFTER)
        return None

    async def receive(self) -> Message:
        """Return the next part of the body.

        What ends a body early is raised as `MultiPartException`, the only error after which the form readers of
        Starlette and Gradio remove the files they have written.
        """
        if self.ended:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self.deadline):
                message = await self._receive()
        except TimeoutError:
            self.refusal = error(408, f"The request did not arrive within {self.limit.seconds:g} seconds.")
            raise MultiPartException("too slow") from None
        part = len(message.get("body", b""))
        self.refusal = self.refusal or self.too_much(part)
        if self.refusal is not None:
            raise MultiPartException("too much")
        self.size += part
        self.limit.held += part
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
        seconds, most = self.limit.linger
        dropped = 0
        try:
            async with asyncio.timeout(seconds):
                while not self.ended and dropped <= most:
                    message = await self._receive()
                    dropped += len(message.get("body", b""))
                    self.ended = not message.get("more_body", False)
        except TimeoutError:
            pass
