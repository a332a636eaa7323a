"""Guard the service: who may ask, from where, how much they may send, and what a browser may do with the answer.

These are plain ASGI middlewares around both the API and the page. From the outside in:

- `RequestLog` (`request_log`) and `SecurityHeaders`: on every answer, refusals included.
- CORS: closed except for the given origins.
- `BodyLimit` (`body_limit`; 413, 408, 503): stops a large body, or too many together, before it is stored.
- `KnownSites` (421, 403): without a token, no other site's page may reach the service through a visitor's browser.
- `TokenCheck` (401): if there is a token.

A refusal is `{"error": "<one sentence>"}`, as every error of the API is.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address

from fastapi import FastAPI, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import CourseError
from course.service.api_errors import error
from course.service.body_limit import BodyLimit
from course.service.request_log import RequestLog

FREE = "/health"
CHALLENGES = (b'Bearer realm="course"', b'Basic realm="course", charset="UTF-8"')
READING = ("GET", "HEAD", "OPTIONS")
NO_SUCH_NAME = (
    "This service does not know that name: ask for it by its address, as localhost, or start it with --hosts NAME."
)
ORIGIN = re.compile(r"\*|https?://[^/\s]+")

PAGE_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio has inline scripts in its pages, and its HTML component turns templates into functions.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
).encode()
"""Policy for HTML without one of its own: it may use this service, and no other host."""
DATA_POLICY = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
"""Policy for everything else, which is not a page, even if a browser is tricked into showing it as one."""


def check(token: str | None, origins: Sequence[str] = ()) -> None:
    """Raise CourseError for a token that a header cannot carry, and for an origin that no browser would send."""
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise CourseError(f"The origin {origin!r} is not written as https://shop.example, without a path or slash.")
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise CourseError("The API token must consist of visible ASCII characters, without spaces; set another.")


def install(app: FastAPI, *, token: str | None, origins: Sequence[str] = (), hosts: Sequence[str] = ()) -> None:
    """Put the guards, and the log of requests, around everything that `app` serves or mounts.

    token: required by everything but GET /health; None: nothing is required. origins: sites whose pages may use the
    API, as browsers write them (`https://shop.example`), or "*". hosts: names of the service besides localhost, without
    ports; with a token, names are not checked. Raises as `check` does.
    """
    check(token, origins)
    if token is not None:
        app.add_middleware(TokenCheck, token=token)
    app.add_middleware(KnownSites, origins=origins, hosts=hosts, any_host=token is not None)
    app.add_middleware(BodyLimit)
    # Needed without origins too, and as this class: if Gradio finds no CORSMiddleware around it, it adds its own, which
    # admits any site that asks by a name other than localhost.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
        expose_headers=["Retry-After", "X-Request-ID"],
    )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestLog)


class TokenCheck:
    """Require a token: `Authorization: Bearer TOKEN`, or Basic with any name and the token as the password.

    A browser asks its user for the latter, and then sends it with every request of the page.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_free(scope) or hmac.compare_digest(_password(scope), self.token):
            await self.app(scope, receive, send)
            return
        refusal = error(401, "The token is missing or wrong; send it as a bearer token, or as a password.")
        refusal.raw_headers += [(b"www-authenticate", challenge) for challenge in CHALLENGES]
        await refusal(scope, receive, send)


class KnownSites:
    """Refuse what other sites' pages make a visitor's browser send to a service without a token.

    - A site can point its own name at any address that the visitor's browser reaches, such as 127.0.0.1, and then read
      all answers as those of its own site (DNS rebinding). So requests must name the service by an IP address, which
      cannot be pointed elsewhere, as localhost, or by one of `hosts`. Which of its addresses is used does not matter: a
      container never sees the loopback address at which it is published.
    - An upload lies on this disk even if the page cannot read its answer. So a request that a browser marks as sent by
      another site must come from one of `origins`, unless it only reads.
    - There are no web sockets here, to which CORS would not apply.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str], hosts: Sequence[str], any_host: bool) -> None:
        self.app, self.any_host = app, any_host
        self.hosts = frozenset(host.lower() for host in hosts)
        self.any_origin, self.origins = "*" in origins, frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if not self.any_host:
            name = _name(headers.get(b"host", b"").decode("latin-1"))
            if not (_cannot_be_rebound(name) or name in self.hosts):
                return error(421, NO_SUCH_NAME)
        from_elsewhere = headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")
        known = self.any_origin or headers.get(b"origin") in self.origins
        if from_elsewhere and not known and scope["method"] not in READING:
            return error(403, "The page of another site asks; the service must be started with its origin.")
        return None


class SecurityHeaders:
    """Tell browsers what they may do with an answer. An answer's own policy is kept."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                kinds = {name.lower(): value for name, value in given}
                given += [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
                if b"content-security-policy" not in kinds:
                    is_page = kinds.get(b"content-type", b"").startswith(b"text/html")
                    given.append((b"content-security-policy", PAGE_POLICY if is_page else DATA_POLICY))
                message = {**message, "headers": given}
            await send(message)

        await self.app(scope, receive, guarded)


def _is_free(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD") and scope["path"].removeprefix(scope.get("root_path", "")) == FREE


def _password(scope: Scope) -> bytes:
    """Return the token that the request carries; empty without one."""
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, rest = given.partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() == b"basic":
        try:
            return b64decode(rest.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            pass
    return b""


def _name(host: str) -> str:
    """Return the name in a Host header, without port, final dot and the brackets of an IPv6 address."""
    found = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::\d*)?", host)
    return (found[1] or found[2] or "").lower().removesuffix(".") if found else ""


@lru_cache(maxsize=256)
def _cannot_be_rebound(name: str) -> bool:
    """Tell whether no name server resolves it: an IP address, or a name that browsers know as loopback."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
