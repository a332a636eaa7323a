"""The log: one line of JSON a request, with nothing in it that was asked, whatever a request is made of."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from course.service.request_log import (
    HEADER,
    LONGEST_CLIENT,
    LONGEST_METHOD,
    LONGEST_PATH,
    RequestLog,
    configure_logging,
)

FIELDS = ["time", "level", "logger", "request_id", "method", "path", "status", "ms", "bytes", "client"]


class Stream(io.StringIO):
    """Standard error, as lines of JSON."""

    def lines(self) -> list[dict]:
        text = self.getvalue()
        assert text.isascii() and all(sign.isprintable() for sign in text.replace("\n", ""))
        return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.fixture
def stderr(monkeypatch) -> Iterator[Stream]:
    """What is logged, by `configure_logging`; afterwards all logging is as it was."""
    root, names = logging.getLogger(), ["course", "uvicorn", "uvicorn.access"]
    handlers, level = root.handlers[:], root.level
    loggers = {name: (logging.getLogger(name), dict(vars(logging.getLogger(name)))) for name in names}
    stream = Stream()
    monkeypatch.setattr("sys.stderr", stream)
    root.handlers = []  # or `force` would close those of the test runner
    configure_logging()
    yield stream
    logging.captureWarnings(False)
    root.handlers = handlers
    root.setLevel(level)
    for logger, state in loggers.values():
        logger.handlers, logger.propagate = state["handlers"], state["propagate"]
        logger.setLevel(state["level"])


def api() -> FastAPI:
    app, inner = FastAPI(), FastAPI()

    @app.get("/products/{product_id:path}")
    async def product(product_id: str) -> Response:
        logging.getLogger("course.test").warning("looked up")
        await asyncio.sleep(0)
        return Response(product_id)

    @app.get("/parts")
    async def parts() -> StreamingResponse:
        return StreamingResponse(iter([b"four", b"more"]))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("first line\nsecond line \x1b[31m")

    @inner.get("/{name}")
    async def within(name: str) -> str:
        return name

    app.mount("/page", inner)
    app.add_middleware(RequestLog)
    return app


async def ask(
    app: Callable,
    path: str,
    *headers: tuple[bytes, bytes],
    method: str = "GET",
    query: bytes = b"",
    client: str = "192.0.2.7",
) -> dict:
    """The start of the answer, {} if there was none; what the application raises is raised by the server's own log."""
    sent, body = [], [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict:
        return body.pop() if body else await asyncio.Event().wait()

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "root_path": "",
        "query_string": query,
        "headers": list(headers),
        "client": (client, 50_000),
        "server": ("127.0.0.1", 80),
    }
    with suppress(RuntimeError):
        await app(scope, receive, send)
    return sent[0] if sent else {}


def asked(app: Callable, path: str, *headers: tuple[bytes, bytes], **options) -> dict:
    return asyncio.run(ask(app, path, *headers, **options))


def test_a_request_is_one_line_that_says_where_it_went_and_how_it_ended(stderr):
    start = asked(api(), "/parts", query=b"q=a+secret+wish")
    (line,) = stderr.lines()
    assert list(line) == FIELDS
    assert line["logger"] == "course.service.request_log" and line["level"] == "info"
    assert {"method": "GET", "path": "/parts", "status": 200, "bytes": 8, "client": "192.0.2.7"}.items() <= line.items()
    assert line["time"].endswith("+00:00") and 0 <= line["ms"] < 10_000
    assert dict(start["headers"])[HEADER].decode() == line["request_id"]
    assert "secret" not in stderr.getvalue()


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/products/a secret", "/products/{product_id:path}"),
        ("/page/within", "/page/{name}"),
        ("/page/no/where", "/page/no/where"),
        ("/nowhere", "/nowhere"),
        ("/" + "x" * 5_000, "/" + "x" * (LONGEST_PATH - 1)),
    ],
)
def test_a_path_is_its_route_and_only_without_one_itself(stderr, path, logged):
    asked(api(), path)
    assert stderr.lines()[-1]["path"] == logged


def test_of_what_a_proxy_claims_the_client_to_be_so_much_is_logged_and_no_more(stderr):
    app = ProxyHeadersMiddleware(api())
    for claimed in ("203.0.113.9", "x" * 5_000, "a\x1b[31m"):
        asked(app, "/parts", (b"x-forwarded-for", claimed.encode()), client="127.0.0.1")
    assert [line["client"] for line in stderr.lines()] == ["203.0.113.9", "x" * LONGEST_CLIENT, "a\x1b[31m"]


def test_a_valid_id_is_kept_and_any_other_replaced(stderr):
    app = api()
    good = b"client-7.A_b"
    assert dict(asked(app, "/parts", (HEADER, good))["headers"])[HEADER] == good
    bad = [b"", b"a b", b"x" * 65, b"a\nb", b'"', "ü".encode(), b"a\r\nSet-Cookie: b", b"id\n"]
    made = [dict(asked(app, "/parts", (HEADER, one))["headers"])[HEADER] for one in bad]
    assert len(set(made)) == len(bad) and all(len(one) == 16 and one.isalnum() for one in made)
    assert [line["request_id"].encode() for line in stderr.lines()] == [good, *made]


def test_what_is_logged_meanwhile_carries_the_id_of_its_own_request(stderr):
    async def many() -> None:
        app = api()
        tasks = [asyncio.create_task(ask(app, "/products/x", (HEADER, b"id-%d" % one))) for one in range(20)]
        await asyncio.gather(*tasks)

    asyncio.run(many())
    lines = stderr.lines()
    warned = [line["request_id"] for line in lines if line["logger"] == "course.test"]
    assert warned == [f"id-{one}" for one in range(20)] and len(lines) == 40


def test_a_crash_is_a_500_and_its_traceback_one_line(stderr):
    app = api()
    crashed = {}

    async def server(scope: dict, receive: Callable, send: Callable) -> None:
        try:
            await app(scope, receive, send)
        except RuntimeError as error:
            crashed["error"] = error
            logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)

    asked(server, "/broken", (HEADER, b"mine"))
    request, told = stderr.lines()
    assert "error" in crashed
    assert (request["status"], request["path"], request["request_id"]) == (500, "/broken", "mine")
    assert told["request_id"] == "mine" and "second line \x1b[31m" in told["exception"]


def test_a_request_without_an_answer_has_no_status(stderr):
    async def silent(scope: dict, receive: Callable, send: Callable) -> None:
        pass

    asked(RequestLog(silent), "/x")
    assert stderr.lines()[0]["status"] is None


def test_other_logs_and_warnings_are_lines_too_and_the_access_log_is_silent(stderr):
    logging.getLogger("uvicorn.access").info("GET /similar?q=a+secret")
    logging.getLogger("uvicorn.access").error("GET /similar?q=a+secret")
    logging.getLogger("httpx").info("chatter")
    logging.getLogger("uvicorn.error").info("Started\n{}", extra={})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("mind\nthe gap", stacklevel=1)
    started, warned = stderr.lines()
    assert started["message"] == "Started\n{}" and "request_id" not in started
    assert warned["logger"] == "py.warnings" and "mind\nthe gap" in warned["message"]


@settings(max_examples=100, deadline=None)
@given(
    path=st.text(max_size=300).map(lambda text: "/nowhere/" + text),
    method=st.text(min_size=1, max_size=40),
    given_id=st.binary(max_size=80),
)
def test_nothing_in_a_request_can_make_a_second_line(path, method, given_id):
    stream, handler = Stream(), logging.StreamHandler()
    from course.service.request_log import JsonLines, log

    handler.setStream(stream)
    handler.setFormatter(JsonLines())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        asked(RequestLog(nothing_here), path, (HEADER, given_id), method=method)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    (line,) = stream.lines()
    assert line["path"] == path[:LONGEST_PATH] and line["method"] == method[:LONGEST_METHOD]


async def nothing_here(scope: dict, receive: Callable, send: Callable) -> None:
    await Response(status_code=404)(scope, receive, send)
