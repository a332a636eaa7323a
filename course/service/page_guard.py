"""The guard around the mounted page: what of gradio's addresses a page needs, and none of the others.

gradio is made for more than a page: its addresses also call functions by name, save and load sessions, pass on what
other hosts answer, and hand out files. A visitor has no use for those, and whoever else has is not one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from course.service.api_errors import RETRY_AFTER

HOUR = 3600
MOST_HELD = 10**9
"""Bytes of uploads that are kept at once."""
LEAST_HELD = 2**16
"""Bytes that a file counts at least, so that a great many small ones are as few as they are slow to count."""

READ, WRITE = ("GET", "HEAD"), ("POST",)
UPLOAD = "/gradio_api/upload"
UNASKED = ("/", "/config")
"""Of these, gradio would take a page's name and a saved session from the query."""
ADDRESSES = {
    **dict.fromkeys(UNASKED, READ),
    "/theme.css": READ,
    "/favicon.ico": READ,
    "/manifest.json": READ,
    "/gradio_api/startup-events": READ,
    "/gradio_api/queue/data": READ,
    "/gradio_api/upload_progress": READ,
    "/gradio_api/queue/join": WRITE,
    "/gradio_api/cancel": WRITE,
    "/gradio_api/reset": WRITE,
    UPLOAD: WRITE,
}
FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
FILE = "/gradio_api/file="
"""Followed by the path of an upload: a visitor's box shows what it was given."""


class PageGuard:
    """Lets through what the page asks for; everything else is 404, or 405 where another method would do.

    page: gradio's application. uploads: the folder where it keeps uploads, for no other purpose. others: the routes
    before the page, which takes what none of them takes entirely, so that it must say whose method was the wrong one.
    Refusals are raised, for the application around the page to answer in its own words.
    """

    def __init__(self, page: ASGIApp, uploads: Path, others: Sequence[BaseRoute] = ()) -> None:
        self.page, self.uploads, self.others = page, uploads, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a web socket; there are none here
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        methods = self._methods(path)
        if not methods:
            self._refuse(scope)
        if scope["method"] not in methods:
            raise HTTPException(405, headers={"Allow": ", ".join(methods)})
        if path == UPLOAD and await asyncio.to_thread(held, self.uploads) > MOST_HELD:
            raise HTTPException(503, "Too many pictures were uploaded within the hour; try again later.", RETRY_AFTER)
        if path in UNASKED:
            scope = {**scope, "query_string": b""}
        await self._ask(scope, receive, send)

    def _methods(self, path: str) -> tuple[str, ...]:
        """The methods that a path, decoded, may be asked with; none for what the page does not use."""
        if path in ADDRESSES:
            return ADDRESSES[path]
        if path.startswith(FILE):
            wanted = path.removeprefix(FILE)
            inside = _is_plain(wanted) and PurePosixPath(wanted).is_relative_to(self.uploads)
            return READ if inside else ()
        return READ if path.startswith(FOLDERS) and _is_plain(path) else ()

    def _refuse(self, scope: Scope) -> None:
        allowed = {
            method
            for route in self.others
            if route.matches(scope)[0] is Match.PARTIAL
            for method in getattr(route, "methods", None) or ()
        }
        if allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(allowed))})
        raise HTTPException(404)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask gradio. What it does not find, or take, it would say in a shape of its own."""
        missed, in_our_words = 0, scope["method"] in READ or scope["path"].endswith(UPLOAD)

        async def seen(message: Message) -> None:
            nonlocal missed
            if in_our_words and message["type"] == "http.response.start" and message["status"] >= 400:
                missed = message["status"]
            if not missed:
                await send(message)

        await self.page(scope, receive, seen)
        if missed:
            raise HTTPException(missed)


def _is_plain(path: str) -> bool:
    """Whether it can only mean what it seems to: an absolute path without steps back, empty parts or NUL."""
    return path.startswith("/") and not ({"", ".", ".."} & set(path.split("/")[1:])) and not set(path) & {"\\", "\0"}


def held(uploads: Path) -> int:
    """Bytes of the files in the folder of uploads, each counted as `LEAST_HELD` at least.

    gradio deletes by itself what the page was given. This deletes what it forgets, an hour later: files that came in a
    field of another name, which it leaves beside the folders of the others, and folders that are empty.
    """
    total, old, top = 0, time.time() - HOUR, str(uploads)
    for place, _, names in os.walk(top, topdown=False):
        for name in names:
            path = os.path.join(place, name)
            with suppress(FileNotFoundError):
                status = os.lstat(path)
                if place == top and status.st_ctime < old:
                    os.remove(path)
                else:
                    total += max(status.st_size, LEAST_HELD)
        with suppress(OSError):  # not empty, or gone
            if place != top and os.lstat(place).st_mtime < old:
                os.rmdir(place)
    return total
