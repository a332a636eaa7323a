"""The documentation without a network: what it is made of, and in a real browser a question tried out on it."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.testclient import TestClient

from common.errors import CourseError
from course.benchmarks.constellation import browser
from course.service.api import build_api


@pytest.fixture
def address(service) -> Iterator[str]:
    """The service behind a real server on loopback."""
    settings = uvicorn.Config(build_api(service), log_config=None, lifespan="off")
    server = uvicorn.Server(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_the_page_is_made_of_this_service_alone(service):
    client = TestClient(build_api(service), base_url="http://localhost")
    page = client.get("/docs")
    assert not re.search(r"https?:", page.text) and "<script>" not in page.text
    assert "script-src 'self';" in page.headers["content-security-policy"]
    for part in re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text):
        assert client.get(f"/{part}").status_code == 200, part
    assert client.get("/docs/redoc.standalone.js").status_code == 404
    assert client.get("/openapi.json").json()["info"]["title"] == "Product search course"


@pytest.mark.slow
def test_a_question_is_tried_out_in_a_browser(address):
    heard = []
    try:
        with browser() as chromium:
            page = chromium.new_page()
            page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: heard.append(f"error: {error}"))
            page.on("request", lambda request: heard.append(request.url))
            page.goto(f"{address}/docs")
            page.get_by_text("/search", exact=True).click()
            page.get_by_role("button", name="Execute").click()
            answer = page.locator(".live-responses-table .response .highlight-code").first
            answer.wait_for()
            assert '"hits"' in answer.inner_text()
    except CourseError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{error} The documentation is not tested without it.")
        pytest.skip(str(error))
    assert [line for line in heard if not line.startswith((address, "data:"))] == []
