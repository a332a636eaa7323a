"""Guard the mounted page: let through the gradio addresses that the page needs, and no others.

Gradio offers more than a page: its addresses also call functions by name, save and load sessions, relay answers of
other hosts, and hand out files. A visitor needs none of that.
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
"""Bytes that a file counts as at least, which bounds the number of small files, and so the time to count them."""

READ, WRITE = ("GET", "HEAD"), ("POST",)
UPLOAD = "/gradio_api/upload"
UNASKED = ("/", "/config")
"""Addresses whose query is dropped, because gradio would take a page's name and a saved session from it."""
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
"""Prefix of the path of an upload, which a visitor's box shows."""


class PageGuard:
    """Let through what the page needs; answer 404 to everything else, or 405 where another method is allowed.

    page: gradio's application. uploads: the folder in which it keeps uploads, and nothing else. others: the routes
    before the page. A request with the wrong method for one of them arrives here, and is answered with the right ones.
    Refusals are raised, for the application around the page to answer in its own format.
    """

    def __init__(self, page: ASGIApp, uploads: Path, others: Sequence[BaseRoute] = ()) -> None:
        self.page, self.uploads, self.others = page, uploads, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a web socket, which nothing here uses
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
        """Return the methods allowed on a decoded path; none for a path that the page does not use."""
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
        """Call gradio; raise its errors, which it would answer in a format of its own."""
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
    """Tell whether a path is absolute, without "..", empty parts, backslashes and NUL."""
    return path.startswith("/") and not ({"", ".", ".."} & set(path.split("/")[1:])) and not set(path) & {"\\", "\0"}


def held(uploads: Path) -> int:
    """Return the bytes of the files in the folder of uploads, each counted as at least `LEAST_HELD`.

    Gradio deletes what the page was given. This deletes after an hour what it forgets: files from a form field of
    another name, which it leaves beside the folders of the others, and empty folders.
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
