"""Log every request, and everything else, as one line of JSON on standard error.

A line is ASCII with all control characters escaped, so that nothing in an address or a header can forge a second line
or control a terminal. It says where a request went and how it ended, but not what was asked: no query string, no body,
no credentials, and for an address with a route only the route (`/products/{product_id}`).
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from time import perf_counter

from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
LONGEST_PATH, LONGEST_METHOD, LONGEST_CLIENT = 200, 20, 64
"""Characters that are logged of an address without a route, a method and a client's address: anyone can invent them."""

log = logging.getLogger(__name__)
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class RequestLog:
    """Log each request when its answer has ended. This ASGI middleware is the outermost one.

    `client` is the address that connected. If that is this machine, uvicorn takes it for a proxy, and `client` is what
    its X-Forwarded-For claims.

    The request's id is that of a valid `X-Request-ID`, else a new one. It is in the answer's header, in
    ``scope["state"]["request_id"]``, and in every line that is logged while the request is answered.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, path = perf_counter(), scope["path"]
        status: int | None = None  # stays None if the client leaves before there is an answer
        sent = 0
        request_id = _id_of(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id
        _request_id.set(request_id)  # not reset: the server logs the end of the request later, in the same task

        async def counted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (HEADER, request_id.encode())]}
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except Exception:
            status = 500
            raise
        finally:
            if log.isEnabledFor(logging.INFO):
                line = {
                    "request_id": request_id,
                    "method": scope["method"][:LONGEST_METHOD],
                    "path": _route(scope) or path[:LONGEST_PATH],
                    "status": status,
                    "ms": round((perf_counter() - started) * 1000, 1),
                    "bytes": sent,
                    "client": scope["client"][0][:LONGEST_CLIENT] if scope.get("client") else None,
                }
                log.info("request", extra={"request": line})


class JsonLines(logging.Formatter):
    """Format a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger, and the request's fields or the message with request id and traceback."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if (request := getattr(record, "request", None)) is not None:
            return json.dumps(line | request)
        line["message"] = record.getMessage()
        if (request_id := _request_id.get()) is not None:
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging() -> None:
    """Send all logs and Python warnings to standard error as JSON; of other packages, only warnings and errors.

    This replaces any earlier configuration. Run uvicorn with ``log_config=None``, or it configures its own logs again.
    Its access log is off, because it would contain queries.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("course", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.INFO)
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
    logging.captureWarnings(True)


def _id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    given = next((value for name, value in headers if name == HEADER), b"")
    return given.decode() if VALID_ID.fullmatch(given) else secrets.token_hex(8)


def _route(scope: Scope) -> str:
    """Return the route's template with the prefix it is mounted at; empty without a route."""
    route = scope.get("route")
    path = "" if isinstance(route, Mount) else getattr(route, "path", "")
    return path and scope.get("root_path", "") + path
