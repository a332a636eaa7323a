"""A running service and what nobody should send it: each gets a 4xx with a reason, and memory stays flat."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from Linux"),
]
FLAT = 64 * 2**20
"""Bytes that the server may take for a moment while it refuses things."""
PATIENCE = 120.0
MB = 2**20


@dataclass
class Server:
    """A service in a process of its own."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self, field: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def requests(self) -> list[dict]:
        """Of the log; between its lines stand gradio's own, which are no JSON."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        assert not [line for line in lines if "exception" in line]
        return [line for line in lines if "status" in line]


@pytest.fixture(scope="module")
def server(toy_script, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    log = folder / "stderr"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    with log.open("w") as stderr:
        command = [sys.executable, str(toy_script), str(folder), "0", "page"]
        process = subprocess.Popen(command, stderr=stderr, env=environment)
    try:
        until = time.monotonic() + PATIENCE
        while not (said := re.search(r"^listening on \S+:(\d+)\n", log.read_text(), re.MULTILINE)):
            assert process.poll() is None and time.monotonic() < until, "the service did not start"
            time.sleep(0.05)
        server = Server(process, int(said[1]), log)
        upload(server, saved(Image.new("RGB", (1200, 900), "red"), "JPEG"))  # whatever is made ready at first use
        search(server, "red mug")
        httpx.get(server.url, timeout=60)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(autouse=True)
def _flat_and_well(server) -> Iterator[None]:
    """After every test the server is as large as before, answers, and has failed at nothing."""
    server.forget_peak()
    before, seen = server.memory("VmRSS"), len(server.requests())
    yield
    assert server.memory("VmHWM") - before < FLAT
    assert search(server, "red mug").json()["hits"]
    assert all(line["status"] is None or line["status"] < 500 for line in server.requests()[seen:])


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def search(server: Server, query: str, **fields) -> httpx.Response:
    return httpx.post(f"{server.url}/search", json={"query": query, **fields}, timeout=60)


def upload(server: Server, data: bytes, path: str = "/search/image") -> httpx.Response:
    return httpx.post(server.url + path, files={"picture": ("picture.jpg", data, "image/jpeg")}, timeout=60)


def refused(answer: httpx.Response, *statuses: int) -> str:
    """The reason that an answer gives."""
    assert answer.status_code in statuses, answer.text
    assert list(answer.json()) == ["error"] and answer.json()["error"]
    return answer.json()["error"]


def talk(server: Server, *parts: bytes | Iterable[bytes], finish: bool = False) -> tuple[int, bytes]:
    """Send bytes as they are, until the server stops listening, and read to the end: (status, all that came).

    finish: end the sending side, and then wait for the other.
    """
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        try:
            for part in parts:
                for piece in [part] if isinstance(part, bytes) else part:
                    connection.sendall(piece)
            if finish:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough
        try:
            while piece := connection.recv(65_536):
                received += piece
        except ConnectionResetError:
            pass
    return int(received.split(b" ", 2)[1]) if received else 0, received


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(64 * MB)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + pixels + chunk(b"IEND", b"")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8))
WORDS = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(MB - 1), 9))
FILES: dict[str, Callable[[], bytes]] = {
    "bomb": lambda: png(20_000, 20_000),
    "small bomb": lambda: saved(Image.new("1", (16_000, 16_000)), "PNG"),
    "bomb of words": lambda: png(8, 8, *[WORDS] * 5_000),
    "comments": lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 2_000_000,
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "gif and page": lambda: b"GIF89a/*<html><script>alert(1)</script>*/",
    "zip and picture": lambda: b"PK\3\4" + saved(NOISE, "JPEG"),
    "truncated": lambda: saved(NOISE, "JPEG")[:5_000],
    "empty": lambda: b"",
    "postscript": lambda: saved(NOISE, "EPS"),
    "ten megabytes of nothing": lambda: bytes(10 * MB),
}


@pytest.mark.parametrize("path", ["/search/image", "/categories"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_safe_picture(server, name, path):
    assert "picture" in refused(upload(server, FILES[name](), path), 415, 422)


def test_a_polyglot_is_only_the_picture_in_it(server):
    clean = saved(NOISE, "JPEG")
    found = [upload(server, data).json() for data in (clean, clean + b"PK\3\4<?php system($_GET[0]); ?>" * 1_000)]
    assert found[0]["hits"] and found[0] == found[1]


@pytest.mark.parametrize("path", ["/search/image", "/categories", "/search", "/nowhere", "/gradio_api/upload"])
def test_fifty_megabytes(server, path):
    head = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}

    def streamed() -> Iterator[bytes]:
        yield head
        for _ in range(50):
            yield bytes(MB)

    before = time.monotonic()
    for content in (head + bytes(50 * MB), streamed()):
        answer = httpx.post(server.url + path, content=content, headers=kind, timeout=60)
        announced = isinstance(content, bytes)
        takes_files = path in ("/search/image", "/categories", "/gradio_api/upload")
        refused(answer, *([413] if announced or takes_files else [404, 415]))
        assert answer.headers["connection"] == "close"
    assert time.monotonic() - before < 30


def test_a_megabyte_of_query(server):
    assert "too large" in refused(search(server, "x" * MB), 413)
    assert "2000" in refused(search(server, "x" * 2_001), 422).replace(",", "")
    assert "too large" in refused(search(server, "mug", filters={"brand": "x" * MB}), 413)
    status, answer = talk(server, b"GET /similar?item_id=", b"x" * MB, b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status in (0, 400) and not answer.startswith(b"HTTP/1.1 5")


@pytest.mark.parametrize("query", ["", "   ", "red\0mug", "\x1b[31mred", "red\x08mug", "\x7f", "\ud800"])
def test_empty_queries_and_control_characters(server, query):
    answer = httpx.post(
        f"{server.url}/search",
        content=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    refused(answer, 422)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"query":' * 20_000, b"\xff\xfe", b'{"query": "a"', b"NaN", b"1e999999"]
)
def test_bodies_that_are_no_question(server, body):
    answer = httpx.post(f"{server.url}/search", content=body, headers={"Content-Type": "application/json"}, timeout=60)
    refused(answer, 422)


@pytest.mark.parametrize("k", [0, -1, 10**9, 10**400])
def test_numbers_of_products(server, k):
    refused(search(server, "mug", k=k), 422)
    refused(httpx.get(f"{server.url}/similar?item_id=p0001&k={k}", timeout=60), 422)


TRAVERSALS = [
    "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "//etc/passwd",
    "..\\..\\windows\\win.ini", "%5c..%5c..", "%00", "p0001%00.jpg", "p0001/../p0002", "..;/", "%ff%fe",
    "%c0%ae%c0%ae/etc/passwd", "%252e%252e%252fetc%252fpasswd", "file:///etc/passwd", "~root/.ssh/id_rsa",
    "%0d%0aSet-Cookie:%20a=b",
]  # fmt: skip


@pytest.mark.parametrize("where", ["/images/", "/products/", "/docs/", "/"])
@pytest.mark.parametrize("way", TRAVERSALS)
def test_ways_out_of_the_catalogue(server, where, way):
    """By hand: a client would tidy the path."""
    request = f"GET {where}{way} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    status, answer = talk(server, request.encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status in (404, 422) and list(json.loads(body)) == ["error"]
    assert b"root:" not in body and b"set-cookie" not in head.lower()


HEAD = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BROKEN = {
    "a nought in a header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: a\0b\r\n\r\n",
    "a control character in the address": b"GET /he\x01alth HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "another's host": b"GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    "no length": HEAD + b"Content-Length: many\r\n\r\n",
    "a length below nought": HEAD + b"Content-Length: -1\r\n\r\n",
    "a length without end": HEAD + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a chunk that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk without end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 100 + b"\r\n",
    "another coding": HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n",
    "one header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 400_000,
    "many headers": b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: a\r\n" * 50_000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_request(server, name):
    """A server that closes while more is on its way may take its own answer with it: then nothing came."""
    status, answer = talk(server, BROKEN[name])
    flood = len(BROKEN[name]) > 100_000
    assert (400 <= status < 500 and len(answer.partition(b"\r\n\r\n")[2]) > 10) or (flood and status == 0)


@pytest.mark.parametrize("kind", [b"application/json", b"multipart/form-data; boundary=x"])
@pytest.mark.parametrize("path", [b"/search", b"/search/image", b"/health", b"/nowhere"])
def test_chunks_without_end(server, path, kind):
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1_000 * MB:
            sent += 65_536
            yield b"10000\r\n" + bytes(65_536) + b"\r\n"

    seen = len(server.requests())
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
    talk(server, head % (path, kind), chunks())
    assert sent < 200 * MB, "the connection was closed"
    until = time.monotonic() + 30
    while len(logged := server.requests()[seen:]) < 1:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert [line["status"] in (404, 405, 413, 415, 422) for line in logged] == [True]


def test_bodies_that_stop_half_way_keep_nobody_else_waiting(server):
    half = HEAD + b'Content-Length: 100\r\n\r\n{"query": "red'
    waiting = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(100)]
    try:
        for connection in waiting:
            connection.sendall(half)
        started = time.monotonic()
        assert search(server, "red mug").status_code == 200
        assert time.monotonic() - started < 10
    finally:
        for connection in waiting:
            connection.close()
    assert talk(server, half, finish=True)[0] in (0, 400)
    assert talk(server, b"GET /hea", finish=True)[0] in (0, 400)


# the page: what a visitor could send by hand in place of it


def page_files(server: Server) -> list[Path]:
    """What lies in the folder of uploads."""
    return [path for path in (server.log.parent / "uploads").rglob("*") if path.is_file()]


def press(server: Server, config: dict, target: str, values: dict[str, object], event_data: object = None) -> str:
    """Ask for what the page does on an event, such as "Search.click", with these values by label: gradio's last word
    on it, as JSON. Values that are not given are those of the untouched page."""
    parts = {part["id"]: part for part in config["components"]}

    def is_it(dependency: dict) -> bool:
        return any(target == f"{_name_of(parts[block])}.{event}" for block, event in dependency["targets"] if block)

    asked = next(dependency for dependency in config["dependencies"] if is_it(dependency))
    data = [values.get(_name_of(parts[one]), parts[one]["props"].get("value")) for one in asked["inputs"]]
    session = os.urandom(6).hex()
    body = {"data": data, "fn_index": asked["id"], "session_hash": session, "event_data": event_data}
    joined = httpx.post(f"{server.url}/gradio_api/queue/join", json=body, timeout=60)
    assert joined.status_code == 200, joined.text
    with httpx.stream("GET", f"{server.url}/gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        return next(line for line in stream.iter_lines() if '"process_completed"' in line)


def _name_of(part: dict) -> str:
    props = part.get("props", {})
    return str(props.get("label") or props.get("value") or "")


@pytest.fixture(scope="module")
def config(server) -> dict:
    return httpx.get(f"{server.url}/config", timeout=60).json()


QUERY = "What are you looking for?"
NAMED = ["/etc/hostname", "/proc/self/environ", "https://example.org/a.png", "http://127.0.0.1:9/a.png"]


@pytest.mark.parametrize("wanted", NAMED)
@pytest.mark.parametrize(
    ("target", "box"),
    [
        ("Search.click", QUERY),
        ("Search.click", "Category"),
        ("Find similar products.click", "A picture"),
        ("Rank categories.click", "Picture (optional)"),
        ("Rank categories.click", "Title"),
    ],
)
def test_the_page_takes_no_file_that_was_not_uploaded(server, config, target, box, wanted):
    named = {"path": wanted, "url": wanted, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    before = page_files(server)
    for value in (named, [named], {"a": named}):
        said = press(server, config, target, {QUERY: "mug", box: value})
        assert '"success":false' in said.replace(" ", "")
    assert page_files(server) == before


def test_what_was_uploaded_is_taken(server, config):
    content = saved(NOISE, "PNG")
    sent = httpx.post(f"{server.url}/gradio_api/upload", files={"files": ("a.png", content)}, timeout=60)
    (path,) = sent.json()
    assert httpx.get(f"{server.url}/gradio_api/file={path}", timeout=60).content == content
    named = {"path": path, "meta": {"_type": "gradio.FileData"}}
    said = press(server, config, "Find similar products.click", {"A picture": named})
    assert '"success":true' in said.replace(" ", "") and 'class=\\"card' in said


@pytest.mark.parametrize("value", [None, 3, [], {}, "\0", "x" * 10_000])
def test_values_that_are_no_query_are_answered(server, config, value):
    said = press(server, config, "Search.click", {QUERY: value})
    assert '"process_completed"' in said and "Traceback" not in said


GRADIO = [
    ("GET", "/gradio_api/deep_link?session_hash=a"), ("GET", "/gradio_api/file=/etc/passwd"),
    ("GET", "/gradio_api/file=https://example.org/a.png"), ("GET", "/gradio_api/file%3d%2fetc%2fpasswd"),
    ("GET", "/gradio_api/proxy=https://example.org/"), ("POST", "/gradio_api/component_server"),
    ("POST", "/gradio_api/run/predict"), ("POST", "/gradio_api/call/search"), ("GET", "/gradio_api/info"),
    ("GET", "/monitoring"), ("POST", "/login"), ("GET", "/assets/..%2f..%2f..%2froutes.py"),
    ("GET", "/static/%2e%2e/%2e%2e/routes.py"), ("GET", "/gradio_api/custom_component/a/client/b/c.js"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "address"), GRADIO)
def test_addresses_of_gradio_that_no_page_needs(server, method, address):
    status, answer = talk(
        server, f"{method} {address} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    assert status == 404 and list(json.loads(answer.partition(b"\r\n\r\n")[2])) == ["error"]


def test_a_saved_session_is_not_loaded(server):
    plain, asked = (httpx.get(f"{server.url}/{query}", timeout=60) for query in ("", "?deep_link=aaaa&page=none"))
    assert plain.status_code == asked.status_code == 200 and 'deep_link_state":"invalid' not in asked.text
