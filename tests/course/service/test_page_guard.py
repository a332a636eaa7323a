"""What of the page's addresses is let through, how everything else is refused, and how much uploads may take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient

from course.service import api_errors, page_guard
from course.service.page_guard import LEAST_HELD, PageGuard, held


@pytest.fixture
def uploads(tmp_path) -> Path:
    """The folder of uploads, with one in it."""
    (tmp_path / "uploads" / "0a1b").mkdir(parents=True)
    (tmp_path / "uploads" / "0a1b" / "a picture.png").write_bytes(b"picture")
    return tmp_path / "uploads"


@pytest.fixture
def client(uploads) -> TestClient:
    """An application with one route of its own, behind it a guard and a page that echoes what it is asked."""
    app, inner = FastAPI(), FastAPI(openapi_url=None)
    api_errors.install(app)

    @app.post("/search")
    async def search() -> str:
        return "found"

    @inner.get("/assets/missing.js")
    async def missing() -> PlainTextResponse:
        return PlainTextResponse("no such file", 404)

    @inner.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "DELETE"])
    async def echo(request: Request) -> dict[str, str]:
        return {"path": request.scope["path"], "query": request.url.query}

    app.router.routes.append(Mount("", PageGuard(inner, uploads, list(app.router.routes))))
    return TestClient(app)


def reason(answer) -> str:
    assert list(answer.json()) == ["error"]
    return answer.json()["error"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("address", [*page_guard.ADDRESSES, "/assets/a/b.js", "/static/x.svg"])
def test_what_the_page_uses_is_let_through_by_its_method(client, address, method):
    allowed = page_guard.ADDRESSES.get(address, page_guard.READ)
    answer = client.request(method, address)
    assert answer.status_code == (200 if method in allowed else 405)
    if method not in allowed:
        assert answer.headers["allow"] == ", ".join(allowed)


def test_a_query_reaches_the_page_only_where_it_is_needed(client):
    asked = "?deep_link=abc&page=x"
    for address in ("/", "/config"):
        assert client.get(address + asked).json() == {"path": address, "query": ""}
    assert client.get("/gradio_api/queue/data?session_hash=a").json()["query"] == "session_hash=a"


def test_an_upload_is_shown_and_no_other_file(client, uploads):
    shown = uploads / "0a1b" / "a picture.png"
    answer = client.get(f"/gradio_api/file={quote(str(shown))}")
    assert answer.status_code == 200 and answer.json()["path"] == f"/gradio_api/file={shown}"


ELSEWHERE: list[Callable[[Path], str]] = [
    lambda uploads: "/etc/passwd",
    lambda uploads: "https://example.org/a.png",
    lambda uploads: "http:/example.org/a.png",
    lambda uploads: "file:///etc/passwd",
    lambda uploads: f"{uploads}/../secret",
    lambda uploads: f"{uploads}/0a1b/%2e%2e/%2e%2e/secret",
    lambda uploads: f"{uploads}-of-another/a.png",
    lambda uploads: f"/{uploads}/0a1b/a.png",
    lambda uploads: f"{uploads}//0a1b/a.png",
    lambda uploads: f"{uploads}/0a1b\\..\\a.png",
    lambda uploads: f"{uploads}/0a1b/a%00.png",
    lambda uploads: f"%20{uploads}/0a1b/a.png",
    lambda uploads: "",
]


@pytest.mark.parametrize("made", ELSEWHERE)
def test_files_elsewhere_are_not_there(client, uploads, made):
    assert "nothing at this address" in reason(client.get(f"/gradio_api/file={made(uploads).replace('..', '%2E%2E')}"))


REFUSED = [
    "/nowhere", "/login", "/logout", "/monitoring", "/monitoring/summary", "/robots.txt", "/pwa_icon", "/svelte/x.js",
    "/config/", "//config", "/./config", "/%2e%2e/config", "/assets/", "/assets/../config", "/assets/%2e%2e/config",
    "/assets//x", "/static/..%5c..%5cx", "/gradio_api", "/gradio_api/", "/gradio_api/info", "/gradio_api/openapi.json",
    "/gradio_api/deep_link", "/gradio_api/%64eep_link", "/gradio_api//deep_link", "/gradio_api/heartbeat/../deep_link",
    "/gradio_api/heartbeat/%2e%2e/deep_link", "/gradio_api/file/etc/passwd", "/gradio_api/FILE=/etc/passwd",
    "/gradio_api/proxy=http://localhost/", "/gradio_api/component_server", "/gradio_api/run/predict",
    "/gradio_api/api/predict", "/gradio_api/call/search", "/gradio_api/call/v2/search", "/gradio_api/queue/status",
    "/gradio_api/custom_component/x/client/y/z.js", "/gradio_api/stream/x", "/gradio_api/process_recording",
    "/gradio_api/vibe-edit", "/gradio_api/runs", "/gradio_api/token", "/gradio_api/app_id", "/gradio_api/dev/reload",
    "/gradio_api/upload/", "/gradio_api/mcp", "/dev/reload",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("address", REFUSED)
def test_everything_else_is_not_there(client, address, method):
    written = quote(unquote(address), safe="").replace(".", "%2E")  # or the client would tidy it
    answer = client.request(method, f"http://testserver/{written[3:]}")
    if method == "POST" and answer.status_code == 405:
        assert address.startswith(("/assets/", "/static/")), "a folder to be read"
    else:
        assert answer.status_code == 404
    assert reason(answer)


def test_routes_before_the_page_keep_their_say(client):
    assert client.post("/search").json() == "found"
    wrong = client.get("/search")
    assert wrong.status_code == 405 and wrong.headers["allow"] == "POST" and "method" in reason(wrong)


def test_what_the_page_does_not_find_is_told_in_one_shape(client):
    answer = client.get("/assets/missing.js")
    assert answer.status_code == 404 and "nothing at this address" in reason(answer)


def test_no_upload_is_taken_while_too_much_is_held(client, uploads, monkeypatch):
    assert client.post("/gradio_api/upload").status_code == 200
    monkeypatch.setattr(page_guard, "MOST_HELD", 3 * LEAST_HELD)
    for name in ("a", "b", "c"):
        (uploads / "0a1b" / name).touch()
    answer = client.post("/gradio_api/upload")
    assert answer.status_code == 503 and "try again later" in reason(answer) and answer.headers["retry-after"]
    assert client.get("/").status_code == 200, "everything else goes on"
    (uploads / "0a1b" / "c").unlink()
    assert client.post("/gradio_api/upload").status_code == 200


def test_what_is_held_is_counted_and_what_was_forgotten_deleted(uploads, monkeypatch):
    (uploads / "part").write_bytes(bytes(3 * LEAST_HELD))
    (uploads / "empty").mkdir()
    assert held(uploads) == 4 * LEAST_HELD, "small files count as larger ones"
    now = time.time()
    monkeypatch.setattr(page_guard.time, "time", lambda: now + page_guard.HOUR + 60)
    assert held(uploads) == LEAST_HELD
    assert sorted(os.listdir(uploads)) == ["0a1b"], "what gradio knows of is gradio's to delete"
    assert held(uploads / "none") == 0
