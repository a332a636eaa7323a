"""Every operation against the service that it asks, and every bad input its error."""

from __future__ import annotations

import io
import logging
import re
import tempfile
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient

from common.errors import CourseError, MissingArtifact
from course.service import rendering, schemas
from course.service.answers import (
    LARGEST_PICTURE,
    MOST_CATEGORIES,
    Answer,
    Hit,
    NotBuilt,
    Overloaded,
    Product,
    UnknownProduct,
    UnusablePicture,
)
from course.service.api import build_api
from course.service.filters import Filters

JSON = {"content-type": "application/json"}
LOOK = "/complete-look?context_ids=p0001"


@pytest.fixture(scope="module")
def service(toy_service, tmp_path_factory):
    return toy_service(tmp_path_factory.mktemp("api") / "toy")


@pytest.fixture(scope="module")
def client(service) -> Iterator[TestClient]:
    """One event loop for all requests, as a server has."""
    with opened(build_api(service)) as asked:
        yield asked


@pytest.fixture(scope="module")
def picture(client) -> bytes:
    return client.get("/images/p0001").content


class Told:
    """A service that answers or fails as it is told, and remembers what it was asked."""

    systems = ("one",)

    def __init__(self, answer: object = None, products: tuple[str, ...] = ()) -> None:
        self.answer, self.products, self.asked = answer, products, []

    async def search(self, query: object, **options: object) -> Answer:
        self.asked.append((query, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def complete_look(self, context_ids: list[str], **options: object) -> Answer:
        return await self.search(context_ids, **options)

    def product(self, product_id: str) -> Product:
        if product_id not in self.products:
            raise UnknownProduct("There is no such product.")
        return made(product_id)


def made(product_id: str, **facts: object) -> Product:
    nothing = dict.fromkeys(("title", "description", "brand", "colour", "material", "price", "category_path"))
    return Product(product_id=product_id, **(nothing | {"attributes": {}, "has_image": True} | facts))


def told(answer: object = None, **options: object) -> TestClient:
    return opened(build_api(Told(answer, **options)))


def opened(app: Starlette) -> TestClient:
    return TestClient(app, base_url="http://localhost")


def error_of(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    return answer.json()["error"]


# what is answered


def test_answers_are_what_their_schemas_say(client, picture):
    text = {"title": (None, "Red mug"), "k": (None, "2")}
    asked = [
        (schemas.Health, client.get("/health")),
        (schemas.IndexInfo, client.get("/index-info")),
        (schemas.Product, client.get("/products/p0001")),
        (schemas.SearchAnswer, client.post("/search", json={"query": "red mug", "k": 3})),
        (schemas.SearchAnswer, client.get("/similar?item_id=p0001&k=3")),
        (schemas.LookAnswer, client.get(LOOK)),
        (schemas.PictureAnswer, client.post("/search/image", files={"picture": picture}, data={"k": "3"})),
        (schemas.CategoryAnswer, client.post("/categories", files=text)),
        (schemas.Scoreboard, client.get("/scoreboard")),
    ]
    for model, answer in asked:
        assert answer.status_code == 200, answer.text
        read = model.model_validate_json(answer.content, strict=True)
        assert read.model_dump(mode="json") == answer.json()  # nothing is missing, nothing goes undocumented


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({"query": "red mug"}, {}),
        ({"query": "kettle\n\tblue", "k": 3, "system": "BM25"}, {"k": 3, "system": "BM25"}),
        ({"query": "lamp", "k": 2.0, "system": None, "filters": {}}, {"k": 2}),
        (
            {"query": "red", "filters": {"category": "Home", "brand": None, "price_min": 1, "price_max": 30.5}},
            {"filters": Filters(category="Home", price_min=1.0, price_max=30.5)},
        ),
        ({"query": "red", "filters": {"brand": "corbo", "colour": "RED"}}, {"filters": Filters(None, "corbo", "RED")}),
    ],
)
def test_a_search_is_the_services(client, service, body, options):
    expected = client.portal.call(partial(service.search, body["query"], **options))
    assert expected.hits
    assert client.post("/search", json=body).json() == rendering.answer(expected)


def test_pictures_and_texts_reach_the_service_whole(client, service, picture):
    files = [("title", (None, "Mug")), ("candidates", (None, "B > b")), ("candidates", (None, "A"))]
    options = {"title": "Mug", "description": None, "candidates": ["B > b", "A"], "picture": picture, "k": 1}
    expected = client.portal.call(partial(service.categories, **options))
    answer = client.post("/categories", files=[*files, ("picture", ("x.txt", picture, "text/plain"))], data={"k": 1})
    assert answer.json() == rendering.category_answer(expected)
    found = client.post("/search/image", files={"picture": ("../../x.exe", picture, "text/plain")}, data={"k": "4"})
    assert found.json() == rendering.picture_answer(client.portal.call(partial(service.search_picture, picture, k=4)))


def test_categories_have_a_limit_of_their_own(client):
    def asked(k: int):
        return client.post("/categories", files={"title": (None, "Mug"), "k": (None, str(k))})

    limit = client.get("/openapi.json").json()["components"]["schemas"]["Body_categories"]["properties"]["k"]
    assert (limit["minimum"], limit["maximum"]) == (1, MOST_CATEGORIES)
    assert asked(MOST_CATEGORIES).status_code == 200
    assert error_of(asked(MOST_CATEGORIES + 1), 422) == f"k: must be at most {MOST_CATEGORIES}."


def test_filters_that_nothing_passes_answer_without_hits_and_say_so(client):
    answer = client.post("/search", json={"query": "red mug", "filters": {"brand": "nobody"}})
    assert answer.status_code == 200 and answer.json()["hits"] == []
    assert "No product fits the filters" in answer.json()["note"]


def test_an_item_is_never_its_own_neighbour(client):
    hits = client.get("/similar", params={"item_id": "p0001", "k": 100}).json()["hits"]
    assert len(hits) == 59 and "p0001" not in [hit["product"]["product_id"] for hit in hits]


@pytest.mark.parametrize(
    "ids",
    ["context_ids=a&context_ids=b&context_ids=c,d", "context_ids=a,%20b,&context_ids=c%2Cd", "context_ids=a,b,c%2Cd"],
)
def test_context_ids_come_repeated_or_with_commas_between(ids):
    service = Told(Answer([], "look", "chance"), products=("a", "b", "c,d"))
    answer = opened(build_api(service)).get(f"/complete-look?{ids}&use_mmr=false&pool=7&gap_category=Home")
    assert answer.json() == {"hits": [], "system": "look", "score_means": "chance", "note": ""}
    asked, options = service.asked[0]
    assert asked == (["a", "b", "c,d"] if "&" in ids else ["a", "b", "c", "d"])
    assert options == {"gap_category": "Home", "k": 5, "pool": 7, "use_mmr": False, "mmr_lambda": 0.7}


def test_an_id_may_hold_anything_printable_and_is_quoted_in_links():
    strange = "a/b c,?#é"
    service = Told(Answer([Hit(1, 0.5, made(strange))], "one", "points"), products=(strange,))
    client = opened(build_api(service))
    link = client.post("/search", json={"query": "x"}).json()["hits"][0]["product"]["image"]
    assert client.get(link.replace("/images/", "/products/", 1)).json()["product_id"] == strange


def test_catalogue_texts_leave_as_they_are(client, toy):
    product = client.get(f"/products/{toy['HOSTILE']}")
    assert product.json()["title"] == '<img src=x onerror="alert(1)"> <b>mug</b>'
    assert product.headers["content-type"] == "application/json"
    assert rendering.render({"title": "\ud800 é"}) == b'{"title":"\\ud800 \\u00e9"}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        rendering.render({"score": float("nan")})


def test_a_picture_comes_once_and_then_from_the_browsers_memory(client, toy):
    first = client.get("/images/p0001?side=64")
    assert max(Image.open(io.BytesIO(first.content)).size) == 96 and first.headers["content-type"] == "image/jpeg"
    assert first.headers["cache-control"] == "private, max-age=600"
    known = {"if-none-match": f'"other", W/{first.headers["etag"]}'}
    again = client.get("/images/p0001?side=64", headers=known)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert client.get("/images/p0001?side=97", headers=known).status_code == 200
    assert "has no picture" in error_of(client.get(f"/images/{toy['UNPICTURED']}"), 404)


def test_the_map_is_a_page_that_keeps_its_own_policy(client):
    page = client.get("/constellation")
    assert page.headers["content-type"].startswith("text/html") and "a toy map" in page.text
    policy = page.headers["content-security-policy"].split("; ")
    assert "sandbox allow-scripts" in policy  # opened alone it is as shut in as in its frame
    assert not any(rule.startswith("script-src") for rule in policy)  # the page itself names its script


# what is refused


def test_with_a_token_everything_in_the_document_asks_for_it_but_health(service):
    client = opened(build_api(service, token="s3cret"))
    bearer, basic = {"Authorization": "Bearer s3cret"}, ("anybody", "s3cret")
    paths = client.get("/openapi.json", headers=bearer).json()["paths"]
    addresses = [(name, path.replace("{product_id}", "p0001")) for path, names in paths.items() for name in names]
    for method, address in [*addresses, ("get", "/openapi.json"), ("get", "/docs")]:
        if address == "/health":
            assert client.request(method, address).status_code == 200
            continue
        for wrong in ({}, {"headers": {"Authorization": "Bearer s3cre"}}, {"auth": ("s3cret", "")}):
            assert "token" in error_of(client.request(method, address, **wrong), 401), address
        for right in ({"headers": bearer}, {"auth": basic}):
            status = client.request(method, address, **right).status_code
            assert status in (200, 415, 422), address  # 415, 422: let in, but nothing is asked
    assert len(addresses) > 8


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"query": "a", "k": 0}', "k: must be at least 1."),
        (b'{"query": "a", "k": -1}', "k: must be at least 1."),
        (b'{"query": "a", "k": 1000000000}', "k: must be at most 100."),
        (b'{"query": "a", "k": 2.5}', "k: must be a whole number."),
        (b'{"query": "a", "k": "5"}', "k: must be a whole number."),
        (b'{"query": "a", "k": true}', "k: must be a whole number."),
        (b'{"query": "a", "k": Infinity}', "k: must be a whole number."),
        (b'{"query": "a", "k": 1' + b"0" * 5000 + b"}", "the body: is not JSON."),
        (b'{"query": "a", "sytem": "BM25"}', "sytem: there is no such field here."),
        (b'{"query": "a", "system": "bm25"}', "There is no system 'bm25'; there are: BM25, MiniLM."),
        (b'{"query": "a", "filters": {"size": 3}}', "filters.size: there is no such field here."),
        (b'{"query": "a", "filters": {"price_min": NaN}}', "filters.price_min: must be a finite number."),
        (b'{"query": "a", "filters": {"price_max": Infinity}}', "filters.price_max: must be a finite number."),
        (b'{"query": "a", "filters": {"price_max": 1e999}}', "filters.price_max: must be a finite number."),
        (b'{"query": "a", "filters": {"price_min": -1}}', "filters.price_min: must be at least 0.0."),
        (b'{"query": "a", "filters": {"price_max": "9"}}', "filters.price_max: must be a number."),
        (
            b'{"query": "a", "filters": {"price_min": 2, "price_max": 1}}',
            "filters: price_min is larger than price_max.",
        ),
        (
            b'{"query": "a", "filters": {"brand": "a\\u0007"}}',
            "filters.brand: must say something, without control characters.",
        ),
        (b'{"query": "a", "filters": []}', "filters: must be a JSON object."),
        (b'{"query": "  \\t\\n"}', "query: must say something, without control characters."),
        (b'{"query": "a\\u0000b"}', "query: must say something, without control characters."),
        (b'{"query": "a\\u0085b"}', "query: must say something, without control characters."),
        (b'{"query": "\\ud83d"}', "query: must be Unicode text, without half of a surrogate pair."),
        (b'{"query": "' + b"a" * 2001 + b'"}', "query: may have at most 2000 characters."),
        (b'{"query": 5}', "query: must be text."),
        (b'{"query": null}', "query: must be text."),
        (b"{}", "query: is missing."),
        (b"[]", "the body: must be a JSON object."),
        (b'"query"', "the body: must be a JSON object."),
        (b"", "the body: is missing."),
        (b'{"query": "a"', "the body: is not JSON."),
        (b'{"query": "\xff"}', "the body: is not JSON."),
        ('{"query": "a"}'.encode("utf-16"), "the body: is not JSON."),
        (b"[" * 100_000, "the body: is not JSON."),
    ],
)
def test_a_search_that_makes_no_sense_says_why(client, body, reason):
    assert error_of(client.post("/search", content=body, headers=JSON), 422) == reason


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/similar", "item_id: is missing."),
        ("/similar?item_id=p0001&k=0", "k: must be at least 1."),
        ("/similar?item_id=p0001&k=1e9", "k: must be a whole number."),
        ("/similar?item_id=p0001&k=1000000000", "k: must be at most 100."),
        ("/similar?item_id=p0001&k=1&k=2", "k: may be given only once."),
        ("/similar?item_id=p%00", "item_id: must say something, without control characters."),
        (f"/similar?item_id={'x' * 201}", "item_id: may have at most 200 characters."),
        ("/health?verbose=1", "verbose: there is no such field here."),
        (
            "/scoreboard?a=1&b=2&c=3&d=4&e=5",
            "a: there is no such field here. b: there is no such field here. "
            "c: there is no such field here. And 2 more.",
        ),
        ("/images/p0001?side=0", "side: must be at least 32."),
        ("/images/p0001?side=99999", "side: must be at most 1024."),
        ("/complete-look", "context_ids: is missing."),
        ("/complete-look?context_ids=,%20,", "context_ids.0: must say something, without control characters."),
        ("/complete-look?" + "context_ids=p0001&" * 51, "context_ids: may have at most 50 entries."),
        (f"/complete-look?context_ids={'p,' * 51}", "The context has 51 products; give at most 50."),
        (f"{LOOK}&mmr_lambda=1.1", "mmr_lambda: must be at most 1.0."),
        (f"{LOOK}&mmr_lambda=nan", "mmr_lambda: must be at most 1.0."),
        (f"{LOOK}&use_mmr=maybe", "use_mmr: must be true or false."),
        (f"{LOOK}&pool=1001", "pool: must be at most 1000."),
        (f"{LOOK}&k=9&pool=3", "k is at least 1 and at most the pool, mmr_lambda between 0 and 1."),
        ("/products/a%00b", "product_id: must say something, without control characters."),
        (f"/products/{'x' * 201}", "product_id: may have at most 200 characters."),
    ],
)
def test_an_address_that_makes_no_sense_says_why(client, address, reason):
    assert error_of(client.get(address), 422) == reason


@pytest.mark.parametrize(
    "unknown",
    [
        "p9999",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/etc/passwd",
        "..%5c..%5cboot.ini",
        "p0001/",
        "p0001%2f..%2fp0001",
        "",
    ],
)
@pytest.mark.parametrize("part", ["products", "images"])
def test_what_is_no_id_is_an_unknown_product(client, part, unknown):
    assert "There is no product" in error_of(client.get(f"/{part}/{unknown}"), 404)


@pytest.mark.parametrize("address", ["/similar?item_id=../p0001", "/complete-look?context_ids=p0001,p9999"])
def test_unknown_products_in_questions_are_not_found(client, address):
    assert "There is no product" in error_of(client.get(address), 404)


@given(name=st.text(min_size=1, max_size=300), value=st.text(max_size=300))
@settings(max_examples=40, deadline=None)
def test_at_most_80_characters_of_what_was_sent_come_back(client, name, value):
    bodies = [{"query": "a", name: value}, {"query": "a", "system": value + "!" * 100}, {"query": value + "\0" * 100}]
    for body in bodies:
        answer = client.post("/search", json=body)
        if answer.status_code == 200:  # the name of a field that there is
            continue
        said = error_of(answer, 422)
        for sent in (name, value):
            assert not any(sent[at : at + 81] in said for at in range(len(sent) - 80))


def test_addresses_and_methods_that_there_are_not_answer_alike(client):
    assert error_of(client.get("/nothing"), 404) == "There is nothing at this address; see /docs."
    refused = client.delete("/search")
    assert error_of(refused, 405) == "This address takes another method; see /docs."
    assert refused.headers["allow"] == "POST"


def test_what_is_mounted_behind_does_not_answer_for_the_api(service):
    api = build_api(service)

    async def page(scope, receive, send):
        await PlainTextResponse("a page")(scope, receive, send)

    api.mount("/", page)
    behind = opened(Starlette(routes=[Mount("/under", api)]))
    assert behind.get("/under/").text == behind.get("/under/nothing").text == "a page"
    assert error_of(behind.delete("/under/search"), 405) and error_of(behind.put("/under/products/p0001"), 405)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_question_of_another_content_type_is_refused(client, kind):
    answer = client.post("/search", content=b'{"query": "a"}', headers={"content-type": kind})
    assert error_of(answer, 415).startswith("Send the question as application/json")
    form = client.post("/categories", content=b"title=mug", headers={"content-type": kind})
    assert error_of(form, 422 if kind.startswith("multipart") else 415)


@pytest.mark.parametrize(
    ("files", "status", "reason"),
    [
        ({"picture": b"<svg onload=alert(1)>"}, 415, "SVG"),
        ({"picture": ("x.png", b"GIF89a;<?php", "image/png")}, 415, "cannot be used"),
        ({"picture": b""}, 415, "empty"),
        ({"picture": (None, b"text")}, 422, "picture: must be a file."),
        ({"file": b"x"}, 422, "file: there is no such field here."),
        ({"k": (None, b"3")}, 422, "picture: is missing."),
        ({"picture": b"x", "k": (None, b"0")}, 422, "k: must be at least 1."),
        ([("picture", b"x"), ("picture", b"y")], 422, "Too many files"),
        ([("picture", b"x"), ("k", (None, b"1")), ("k", (None, b"2"))], 422, "k: may be given only once."),
        ({"picture": b"x", "k": (None, b"1" * 200_000)}, 422, "maximum size"),
        ({"picture": bytes(LARGEST_PICTURE)}, 415, "cannot be used"),
        ({"picture": bytes(LARGEST_PICTURE + 1)}, 413, "at most 10 MB"),
    ],
)
def test_an_upload_that_cannot_be_used_says_why(client, files, status, reason):
    assert reason in error_of(client.post("/search/image", files=files), status)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({"description": "a\x07"}, "description: must say something, without control characters."),
        ({"title": "a" * 501}, "title: may have at most 500 characters."),
        ({"description": "a" * 20_001}, "description: may have at most 20000 characters."),
        ({"title": "a", "candidates": ["A"] * 501}, "candidates: may have at most 500 entries."),
        (
            {"title": "a", "candidates": ["A", "\x1b[2J"]},
            "candidates.1: must say something, without control characters.",
        ),
        ({"k": "3"}, "Nothing is given; give a title, a description or a picture of the product."),
        ({"title": "a", "k": "51"}, "k: must be at most 50."),
        ({"titel": "a"}, "titel: there is no such field here."),
    ],
)
def test_categories_of_nothing_sensible_say_why(client, texts, reason):
    listed = {name: value if isinstance(value, list) else [value] for name, value in texts.items()}
    parts = [(name, (None, value)) for name, values in listed.items() for value in values]
    assert error_of(client.post("/categories", files=parts), 422) == reason


def test_an_upload_stays_in_memory(client, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    large = io.BytesIO()
    Image.fromarray(noise).save(large, "PNG")
    assert large.tell() > 2 * 2**20

    def refuse(*_, **__):
        raise AssertionError("a file was opened")

    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    answer = client.post("/search/image", files={"picture": large.getvalue()}, data={"k": "1"})
    assert len(answer.json()["hits"]) == 1


# what fails


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (CourseError("That makes no sense."), 422),
        (UnknownProduct("There is no such product."), 404),
        (UnusablePicture("It is animated."), 415),
        (NotBuilt("not built: run python -m chapter02_two_tower.reindex"), 503),
        (Overloaded("Too many questions wait."), 503),
        (MissingArtifact("Something is gone."), 422),
    ],
)
def test_what_a_person_can_put_right_is_said_as_it_is(failure, status):
    answer = told(failure).post("/search", json={"query": "a"})
    assert error_of(answer, status) == str(failure)
    assert answer.headers.get("retry-after") == ("1" if isinstance(failure, Overloaded) else None)


def test_what_nobody_foresaw_goes_to_the_log_and_not_to_the_client(caplog):
    with caplog.at_level(logging.ERROR):
        answer = told(KeyError("secret")).post("/search", json={"query": "a"})
    said = error_of(answer, 500)
    request_id = re.fullmatch(r"internal error; request id (\S+)", said)[1]
    assert answer.headers["x-request-id"] == request_id and answer.headers["x-content-type-options"] == "nosniff"
    (line,) = caplog.records
    assert request_id in line.getMessage() and isinstance(line.exc_info[1], KeyError)
    assert "secret" not in said


def test_what_is_not_built_says_what_to_run(empty_service, picture):
    client = opened(build_api(empty_service))
    run = "not built: run python -m chapter01_baseline.reindex"
    answers = [
        client.post("/search", json={"query": "a"}),
        client.post("/search", json={"query": "a", "system": "BM25"}),
        client.post("/search/image", files={"picture": picture}),
        client.get("/similar?item_id=p0001"),
        client.get(LOOK),
        client.post("/categories", files={"title": (None, "mug")}),
        client.get("/scoreboard"),
        client.get("/constellation"),
    ]
    assert all(run in error_of(answer, 503) and "retry-after" not in answer.headers for answer in answers)
    assert client.get("/index-info").json()["missing"] and client.get("/products/p0001").status_code == 200
