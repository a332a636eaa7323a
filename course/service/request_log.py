"""One line of JSON for every request, and for everything else that is logged, on standard error.

A line is ASCII with all control characters escaped, so that nothing in an address or a header can forge a second line
or steer a terminal. Of a request it holds where it went and how it ended. What was asked is not logged: no query
string, no body, no credentials; and of an address that has a route the route (`/products/{product_id}`), not its parts.
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
"""Characters of an address that has no route, of a method and of a client's address, which anybody may make up."""

log = logging.getLogger(__name__)
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class RequestLog:
    """ASGI middleware, the outermost one: logs each request when its answer ended.

    `client` is who connected. If that was this machine, uvicorn takes it for a proxy and puts what its X-Forwarded-For
    claims in the place.

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
        status: int | None = None  # stays so if the client leaves before there is an answer
        sent = 0
        request_id = _id_of(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id
        _request_id.set(request_id)  # and left: the server still logs how it ended, in a task of the request's own

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
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """time (UTC), level, logger, and the request's fields or else the message, its request's id, its traceback."""
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
    """Send all logs, and warnings, to standard error as JSON: requests and the server's news, of others only warnings.

    Takes the place of whatever was configured. Run uvicorn with ``log_config=None``, or it configures its own logs
    again; its access log, in which queries would stand, is off.
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
    """The route's template, behind what it is mounted at; empty without one."""
    route = scope.get("route")
    path = "" if isinstance(route, Mount) else getattr(route, "path", "")
    return path and scope.get("root_path", "") + path
