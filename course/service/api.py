"""Build the HTTP API of the service for applications.

    api = build_api(service)        # a FastAPI application, its documentation at /docs

A handler reads the question, asks the service, and writes the answer. `schemas` defines what comes in and goes out,
`api_errors` what errors look like, `strict_input` what is refused unread.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response

from course.service import api_errors, docs_page, guards, rendering, schemas
from course.service.answers import LARGEST_PICTURE, UnknownProduct
from course.service.api_errors import WITH_BODY, documented
from course.service.filters import Filters
from course.service.strict_input import LARGEST_FIELD, StrictRoute

if TYPE_CHECKING:
    from course.service.service import Service

ABOUT = """Search, similar products, complete looks and categories, over everything that the course's chapters built.

Every error answers `{"error": "…"}`. Nothing that is sent is kept. A **score** orders the hits of one answer, higher is
better; `score_means` says what it measures. A **probability** is between 0 and 1; over all categories that were ranked,
probabilities add up to 1."""
SILENT = {"tracing": False, "metrics": False, "logs": False}
"""Settings of OpenTelemetry, which FastAPI uses if it is installed: off, so that questions stay here."""
HTML = {"text/html": {"schema": {"type": "string"}}}
JPEG = {"image/jpeg": {"schema": {"type": "string", "contentMediaType": "image/jpeg"}}}
PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp")
# Checked again after ten minutes, because another catalogue may then be served at the same address.
PICTURE_HEADERS = {"Cache-Control": "private, max-age=600"}
MAP_HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
}
"""Added to the policy in the page itself, which lists the digests of its script and style. Opened alone, the map is
isolated as in its frame on the service's page: its script cannot reach anything else on this site."""


def build_api(
    service: Service, *, token: str | None = None, origins: Sequence[str] = (), hosts: Sequence[str] = ()
) -> FastAPI:
    """Build the application without the page.

    token: required by everything but /health, if given. origins: web sites whose pages may ask, besides the service's
    own. hosts: further names of this host, see `guards`.
    """
    api = FastAPI(
        title="Product search course", version="1", description=ABOUT, docs_url=None, redoc_url=None, telemetry=SILENT
    )
    router = APIRouter(route_class=StrictRoute, generate_unique_id_function=lambda route: route.name)
    _add_shop(router, service)
    _add_search(router, service)
    _add_pictures(router, service)
    _add_results(router, service)
    api.include_router(router)
    docs_page.install(api)
    api_errors.install(api)
    guards.install(api, token=token, origins=origins, hosts=hosts)
    generated = api.openapi
    api.openapi = lambda: _completed(generated(), service, token)
    return api


def _json(value: Any) -> Response:
    return Response(rendering.render(value), media_type="application/json")


def _add_shop(router: APIRouter, service: Service) -> None:
    @router.get("/health", tags=["service"], response_model=schemas.Health, responses=documented())
    async def health() -> Response:
        """Report that the service answers, and how busy it is. Needs no token."""
        return _json(service.health())

    @router.get("/index-info", tags=["service"], response_model=schemas.IndexInfo, responses=documented())
    async def index_info() -> Response:
        """Report what is served: the catalogue, the systems that search it, their runs, and what is not built."""
        return _json(service.index_info())

    # An id may contain slashes. It is looked up, and never part of a path on disk.
    @router.get(
        "/products/{product_id:path}", tags=["products"], response_model=schemas.Product, responses=documented(404)
    )
    async def product(product_id: schemas.ProductId) -> Response:
        """Return one product."""
        return _json(rendering.product(service.product(product_id)))

    @router.get(
        "/images/{product_id:path}",
        tags=["products"],
        response_class=Response,
        responses=documented(404)
        | {200: {"description": "A JPEG.", "content": JPEG}, 304: {"description": "What `If-None-Match` names."}},
    )
    async def image(request: Request, product_id: schemas.ProductId, side: schemas.Side = 384) -> Response:
        """Return the picture of a product, made anew, in the next size that is large enough."""
        content = await service.thumbnail(product_id, side)
        headers = PICTURE_HEADERS | {"ETag": f'"{sha256(content).hexdigest()[:32]}"'}
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)


def _add_search(router: APIRouter, service: Service) -> None:
    @router.post("/search", tags=["search"], response_model=schemas.SearchAnswer, responses=documented(*WITH_BODY))
    async def search(question: schemas.SearchQuestion) -> Response:
        """Find the best products for a text. If none fits the filters there are no hits, and `note` says so."""
        filters = Filters(**vars(question.filters))
        found = await service.search(question.query, k=question.k, system=question.system, filters=filters)
        return _json(rendering.answer(found))

    @router.get("/similar", tags=["search"], response_model=schemas.SearchAnswer, responses=documented(404, 503))
    async def similar(item_id: schemas.ItemId, k: schemas.Count = 10) -> Response:
        """Find the products most like one, in text and picture together, without the product itself."""
        return _json(rendering.answer(await service.similar(item_id, k=k)))

    @router.get("/complete-look", tags=["search"], response_model=schemas.LookAnswer, responses=documented(404, 503))
    async def complete_look(
        context_ids: schemas.ContextIds,
        gap_category: schemas.GapCategory = None,
        k: schemas.Count = 5,
        pool: schemas.Pool = 100,
        use_mmr: schemas.UseMMR = True,
        mmr_lambda: schemas.Lambda = 0.7,
    ) -> Response:
        """Find products that go with all of the given ones, which are never among them."""
        found = await service.complete_look(
            _ids(service, context_ids),
            gap_category=gap_category,
            k=k,
            pool=pool,
            use_mmr=use_mmr,
            mmr_lambda=mmr_lambda,
        )
        return _json(rendering.answer(found))


def _add_pictures(router: APIRouter, service: Service) -> None:
    limits = {"max_files": 1, "max_fields": schemas.MOST_CANDIDATES + 3, "max_part_size": LARGEST_FIELD}
    form: dict[str, Any] = {"form_limits": limits, "responses": documented(*WITH_BODY)}

    @router.post("/search/image", tags=["search"], response_model=schemas.PictureAnswer, **form)
    async def search_image(picture: schemas.Picture, k: schemas.FormCount = 10) -> Response:
        """Find the products that look most like a picture, and the categories that it seems to show."""
        return _json(rendering.picture_answer(await service.search_picture(await _content(picture), k=k)))

    @router.post("/categories", tags=["categories"], response_model=schemas.CategoryAnswer, **form)
    async def categories(
        title: schemas.Title = None,
        description: schemas.Description = None,
        picture: schemas.PictureIfAny = None,
        candidates: schemas.Candidates = (),
        k: schemas.CategoryCount = 10,
    ) -> Response:
        """Rank the categories of a product by its text, its picture or both; one of them is needed."""
        content = None if picture is None else await _content(picture)
        found = await service.categories(
            title=title, description=description, picture=content, candidates=candidates, k=k
        )
        return _json(rendering.category_answer(found))


def _add_results(router: APIRouter, service: Service) -> None:
    @router.get("/scoreboard", tags=["results"], response_model=schemas.Scoreboard, responses=documented(503))
    async def scoreboard() -> Response:
        """Return what every chapter's systems reached, with 95% intervals."""
        board = await run_in_threadpool(service.scoreboard)
        rows = board.to_json(orient="records", double_precision=12)
        return Response(f'{{"rows":{rows}}}', media_type="application/json")

    @router.get(
        "/constellation",
        tags=["results"],
        response_class=Response,
        responses=documented(503) | {200: {"description": "A page of its own.", "content": HTML}},
    )
    async def constellation() -> Response:
        """Return the map of all products as one page."""
        return HTMLResponse(await run_in_threadpool(service.constellation), headers=MAP_HEADERS)


async def _content(picture: UploadFile) -> bytes:
    if (picture.size or 0) > LARGEST_PICTURE:
        raise HTTPException(413, f"The picture is too large; send at most {LARGEST_PICTURE // 2**20} MB.")
    return await picture.read()


def _ids(service: Service, values: Sequence[str]) -> list[str]:
    """Return ids that were given one by one or separated by commas; a comma inside a product's id does not split it."""
    found: list[str] = []
    for value in values:
        try:
            found.append(service.product(value).product_id)
        except UnknownProduct:
            found += filter(None, (part.strip() for part in value.split(",")))
    return found


def _completed(document: dict[str, Any], service: Service, token: str | None) -> dict[str, Any]:
    """Complete the generated document with what only the running service knows or FastAPI cannot express."""
    parts = document["components"]["schemas"]
    parts["Error"] = schemas.Error.model_json_schema()
    named = [{"type": "string", "enum": list(service.systems)}] if service.systems else []
    parts["SearchQuestion"]["properties"]["system"]["anyOf"] = [*named, {"type": "null"}]
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        for parameter in operation.get("parameters", ()):
            parameter["schema"] = _without_null(parameter["schema"])
    for path in ("/search/image", "/categories"):
        body = document["paths"][path]["post"]["requestBody"]
        form = body["content"]["multipart/form-data"]
        fields = parts[form["schema"]["$ref"].rpartition("/")[2]]
        fields["properties"] = {name: _without_null(one) for name, one in fields["properties"].items()}
        fields["additionalProperties"], body["required"] = False, True
        form["encoding"] = {"picture": {"contentType": ", ".join(PICTURE_TYPES)}}
    parts["Body_categories"]["anyOf"] = [{"required": [name]} for name in ("title", "description", "picture")]
    if token is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        document["paths"]["/health"]["get"]["security"] = []
    return document


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Remove null from a schema: an address and a form cannot say null, but leave a field out."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return {**{key: schema[key] for key in schema if key != "anyOf"}, **kinds[0]} if len(kinds) == 1 else schema
