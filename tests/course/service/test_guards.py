"""The guards around a small application: who is let in, what is refused unread, what every answer says to a browser."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from common.errors import CourseError
from course.service import guards
from course.service.body_limit import LARGEST_BODY, LARGEST_FORM

TOKEN = "s3cret:with-colon"
ADDRESS = "http://127.0.0.1:7860"
SHOP = "https://shop.example"


def guarded(**options) -> FastAPI:
    app, page = FastAPI(), FastAPI()
    app.state.bodies = []

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.get("/own-policy")
    async def own_policy() -> Response:
        return HTMLResponse("x", headers={"Content-Security-Policy": "default-src 'none'"})

    @app.post("/take")
    async def take(request: Request) -> int:
        body = await request.body()
        app.state.bodies.append(len(body))
        return len(body)

    @app.post("/ignore")
    async def ignore() -> str:
        return "not read"

    @page.get("/")
    async def start() -> HTMLResponse:
        return HTMLResponse("<h1>page</h1>")

    @page.post("/upload")
    async def upload(request: Request) -> int:
        return await take(request)

    guards.install(app, **{"token": None, **options})
    app.mount("/", page)
    return app


def ask(app: Callable, method: str, path: str, *, base_url: str = ADDRESS, **options) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url) as client:
            return await client.request(method, path, **options)

    return asyncio.run(asked())


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer   {TOKEN} ", basic("", TOKEN), basic("ü", TOKEN)])
def test_the_token_opens_everything(given):
    app = guarded(token=TOKEN)
    for path in ("/", "/own-policy"):
        assert ask(app, "GET", path, headers={"Authorization": given}).status_code == 200


@pytest.mark.parametrize(
    "given",
    [None, "", TOKEN, "Bearer", "Bearer ", "Bearer " + TOKEN[:-1], f"Bearer {TOKEN}x", "Bearer " + TOKEN.upper(),
     basic(TOKEN, ""), basic("", ""), basic("user", TOKEN[:-1]), "Basic", "Basic !", "Basic w7w=",
     "Basic " + "A" * 5_000, f"Digest {TOKEN}", "Bearer \u00fc".encode("latin-1")],
)  # fmt: skip
def test_without_the_token_only_health_answers(given):
    app = guarded(token=TOKEN)
    headers = {} if given is None else {"Authorization": given}
    for method, path in [("GET", "/"), ("POST", "/take"), ("GET", "/nowhere"), ("POST", "/health"), ("GET", "/health/"),
                         ("OPTIONS", "/take"), ("GET", "//health")]:  # fmt: skip
        refused = ask(app, method, path, headers=headers)
        assert refused.status_code == 401 and list(refused.json()) == ["error"], path
        assert refused.headers.get_list("www-authenticate") == [
            'Bearer realm="course"',
            'Basic realm="course", charset="UTF-8"',
        ]
    assert ask(app, "GET", "/health", headers=headers).json() == "ok"
    assert app.state.bodies == []


def test_the_token_is_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    ask(guarded(token=TOKEN), "GET", "/", headers={"Authorization": "Bearer wrong"})
    assert compared == [(b"wrong", TOKEN.encode())]


@pytest.mark.parametrize("token", ["", " ", "with space", "grün", "a\nb"])
def test_a_token_that_no_header_carries_is_an_error(token):
    for refuse in (lambda: guarded(token=token), lambda: guards.check(token)):
        with pytest.raises(CourseError, match="visible ASCII"):
            refuse()


@pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/", "https://shop.example/path", "null", ""])
def test_an_origin_that_no_browser_sends_is_an_error(origin):
    for refuse in (lambda: guarded(origins=[SHOP, origin]), lambda: guards.check(None, [SHOP, origin])):
        with pytest.raises(CourseError, match="origin"):
            refuse()


def test_what_can_be_sent_passes_the_check():
    guards.check(None)
    guards.check(TOKEN, [SHOP, "http://localhost:3000", "*"])


def preflight(app: FastAPI, origin: str) -> httpx.Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST",
               "Access-Control-Request-Headers": "authorization, content-type"}  # fmt: skip
    return ask(app, "OPTIONS", "/take", headers=headers)


def allowed(answer: httpx.Response) -> str | None:
    return answer.headers.get("access-control-allow-origin")


@pytest.mark.parametrize("token", [None, TOKEN])
def test_cross_origin_is_closed_but_for_the_origins_given(token):
    closed, opened = guarded(token=token), guarded(token=token, origins=[SHOP])
    for app, origin in [(closed, SHOP), (closed, "null"), (opened, "https://other.example"), (opened, SHOP + ".evil")]:
        assert preflight(app, origin).status_code == 400 and allowed(preflight(app, origin)) is None
        assert allowed(ask(app, "GET", "/health", headers={"Origin": origin})) is None
    answer = preflight(opened, SHOP)
    assert answer.status_code == 200 and allowed(answer) == SHOP
    assert "access-control-allow-credentials" not in answer.headers
    for path in ("/health", "/", "/nowhere"):  # a refusal, too, can be read by who may ask
        assert allowed(ask(opened, "GET", path, headers={"Origin": SHOP})) == SHOP


OWN_ADDRESSES = (ADDRESS, "http://[::1]:7860", "http://172.17.0.2:7860", "http://192.0.2.1:7860")
"""Where a service is reached: on this machine, in a container, which is what it sees if its port is published on
127.0.0.1, and on a network."""


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "shop.localhost", "[::1]:7860", "127.8.9.1", "localhost.",
     "192.0.2.1:7860", "10.0.0.1", "[2001:db8::7]:7860", "[2001:DB8::7]", "[::ffff:127.0.0.1]:7860"],
)  # fmt: skip
@pytest.mark.parametrize("address", OWN_ADDRESSES)
def test_a_service_without_a_token_answers_to_localhost_and_addresses(host, address):
    assert ask(guarded(), "GET", "/health", headers={"Host": host}, base_url=address).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost", "",
     "[::1", "::1", "10.0.0.256", "10.0.1", "1.2.3.4.5", "localhost:80:80", "user@localhost"],
)  # fmt: skip
@pytest.mark.parametrize("address", OWN_ADDRESSES)
def test_a_service_without_a_token_refuses_another_sites_name(host, address):
    for path in ("/", "/health", "/nowhere"):
        refused = ask(guarded(), "GET", path, headers={"Host": host}, base_url=address)
        assert refused.status_code == 421 and "--hosts NAME" in refused.json()["error"]


@pytest.mark.parametrize("address", OWN_ADDRESSES)
def test_a_name_that_is_given_is_known_and_with_a_token_any_is(address):
    named, elsewhere = {"Host": "shop.example:7860"}, {"Host": "evil.example"}
    known = guarded(hosts=["Shop.Example"])
    assert ask(known, "GET", "/", headers=named, base_url=address).status_code == 200
    assert ask(known, "GET", "/", headers=elsewhere, base_url=address).status_code == 421
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(guarded(token=TOKEN), "GET", "/", headers=elsewhere | bearer, base_url=address).status_code == 200


@pytest.mark.parametrize(
    ("site", "origin", "origins", "status"),
    [
        ("same-origin", ADDRESS, [], 200),
        ("none", None, [], 200),
        (None, "https://evil.example", [], 200),  # no browser: it may send what it likes
        ("cross-site", "https://evil.example", [], 403),
        ("same-site", "http://127.0.0.1:3000", [], 403),
        ("cross-site", "null", [], 403),
        ("cross-site", None, [SHOP], 403),
        ("cross-site", SHOP, [SHOP], 200),
        ("cross-site", "https://evil.example", ["*"], 200),
    ],
)
def test_another_sites_page_may_not_send_unless_it_is_known(site, origin, origins, status):
    headers = {"Sec-Fetch-Site": site, "Origin": origin}
    headers = {name: value for name, value in headers.items() if value is not None}
    app = guarded(origins=origins)
    assert ask(app, "POST", "/take", content=b"x", headers=headers).status_code == status
    assert app.state.bodies == ([1] if status == 200 else [])
    assert ask(app, "GET", "/health", headers=headers).status_code == 200


def test_every_answer_tells_browsers_what_they_may_do():
    app = guarded(token=TOKEN)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    page = ask(app, "GET", "/", headers=bearer)
    refusals = [ask(app, "GET", "/"), ask(app, "POST", "/take", content=bytes(LARGEST_BODY + 1))]
    assert [refused.status_code for refused in refusals] == [401, 413]
    for answer in (page, *refusals, ask(app, "GET", "/health"), ask(app, "GET", "/nowhere", headers=bearer)):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"]
    policy = page.headers["content-security-policy"]
    assert {"object-src 'none'", "base-uri 'self'", "default-src 'self'"} <= set(policy.split("; "))
    assert refusals[0].headers["content-security-policy"].startswith("default-src 'none'")
    own = ask(app, "GET", "/own-policy", headers=bearer)
    assert own.headers.get_list("content-security-policy") == ["default-src 'none'"]


def test_web_sockets_are_refused():
    sent = []

    async def connect() -> None:
        async def send(message: dict) -> None:
            sent.append(message)

        await guarded()({"type": "websocket", "path": "/", "headers": []}, forever, send)

    asyncio.run(connect())
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def forever() -> dict:
    return await asyncio.Event().wait()


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


async def parts(total: int, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, total, size):
        yield bytes(min(size, total - start))


@pytest.mark.parametrize("path", ["/take", "/upload"])
@pytest.mark.parametrize(("headers", "most"), [({}, LARGEST_BODY), (FORM, LARGEST_FORM)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_have_so_many_bytes_and_no_more(path, headers, most, chunked):
    app = guarded()
    for size, status in [(most, 200), (most + 1, 413)]:
        content = parts(size) if chunked else bytes(size)
        answer = ask(app, "POST", path, content=content, headers=headers)
        assert answer.status_code == status
    assert answer.json() == {"error": f"The request is too large; at most {most:,} bytes are taken here."}
    assert app.state.bodies == [most]


def multipart(content: bytes) -> tuple[dict[str, str], Sequence[bytes]]:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    return FORM, [head + content, b"\r\n--x--\r\n"]


@pytest.fixture
def gradio_page(tmp_path, monkeypatch) -> FastAPI:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio

    app = FastAPI()
    guards.install(app, token=None)
    with gradio.Blocks(analytics_enabled=False) as page:
        gradio.Textbox()
    return gradio.mount_gradio_app(app, page, path="/", ssr_mode=False)


@pytest.mark.slow  # importing gradio
def test_gradios_own_addresses_are_guarded_and_leave_no_part_of_a_refused_upload(gradio_page, tmp_path):
    def files() -> list:
        return [path for path in tmp_path.rglob("*") if path.is_file()]

    headers, small = multipart(bytes(1_000))
    upload = "/gradio_api/upload"
    too_large = multipart(bytes(LARGEST_FORM))[1]

    async def streamed() -> AsyncIterator[bytes]:
        for start in range(0, len(too_large[0]), 65_536):
            yield too_large[0][start : start + 65_536]

    for content in (b"".join(too_large), streamed()):
        assert ask(gradio_page, "POST", upload, content=content, headers=headers).status_code == 413
        assert files() == []

    async def broken_off(scope: dict, receive: Callable, send: Callable) -> None:
        messages = iter([{"type": "http.request", "body": small[0], "more_body": True}])

        async def half() -> dict:
            return next(messages, {"type": "http.disconnect"})

        await gradio_page(scope, half, send)

    ask(broken_off, "POST", upload, content=b"".join(small), headers=headers)
    assert files() == []
    assert ask(gradio_page, "POST", upload, content=b"".join(small), headers=headers).status_code == 200
    assert len(files()) == 1
    for address in (ADDRESS, "http://192.0.2.1:7860"):
        answer = ask(gradio_page, "GET", "/config", headers={"Origin": "https://evil.example"}, base_url=address)
        assert (
            answer.status_code == 200
            and allowed(answer) is None
            and "access-control-allow-credentials" not in answer.headers
        )
