"""The API: what an application asks of the service, over HTTP.

    api = build_api(service)        # a FastAPI application, its documentation at /docs

A handler reads what was asked, asks the service, and writes the answer; what may come in and go out is in `schemas`,
what errors look like in `api_errors`, what is refused unread in `strict_input`.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response

from course.service import answers, api_errors, docs_page, guards, schemas
from course.service.answers import LARGEST_PICTURE, UnknownProduct
from course.service.api_errors import WITH_BODY, documented
from course.service.strict_input import LARGEST_FIELD, StrictRoute

if TYPE_CHECKING:
    from course.service.service import Service

ABOUT = """Search, similar products, complete looks and categories, over everything that the course's chapters built.

Every error answers `{"error": "…"}`. Nothing that is sent is kept. A **score** orders the hits of one answer, higher is
better; `score_means` says what it measures. A **probability** is between 0 and 1 and adds up to 1 over all categories
that were ranked."""
SILENT = {"tracing": False, "metrics": False, "logs": False}
"""Of OpenTelemetry, which FastAPI uses where it is installed: what is asked goes nowhere else."""
HTML = {"text/html": {"schema": {"type": "string"}}}
JPEG = {"image/jpeg": {"schema": {"type": "string", "contentMediaType": "image/jpeg"}}}
PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp")
# Revalidated after ten minutes: another catalogue may then be served at the same address.
PICTURE_HEADERS = {"Cache-Control": "private, max-age=600"}
MAP_HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
}
"""Beside the policy in the page itself, which names the digests of its script and style. Opened alone the map is shut
in as in its frame on the service's page: its script reaches nothing of this site's."""


def build_api(
    service: Service, *, token: str | None = None, origins: Sequence[str] = (), hosts: Sequence[str] = ()
) -> FastAPI:
    """The application without the page. token: what everything but /health needs, if given. origins: the web sites
    whose pages may ask, beside the service's own. hosts: further names of this host, see `guards`."""
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
    return Response(schemas.render(value), media_type="application/json")


def _add_shop(router: APIRouter, service: Service) -> None:
    @router.get("/health", tags=["service"], response_model=schemas.Health, responses=documented())
    async def health() -> Response:
        """Whether the service answers, and how busy it is. Needs no token."""
        return _json(service.health())

    @router.get("/index-info", tags=["service"], response_model=schemas.IndexInfo, responses=documented())
    async def index_info() -> Response:
        """What is served: the catalogue, who can search it, from which runs, and what is not built."""
        return _json(service.index_info())

    # An id may hold slashes. It is looked up, and never part of a path on disk.
    @router.get(
        "/products/{product_id:path}", tags=["products"], response_model=schemas.Product, responses=documented(404)
    )
    async def product(product_id: schemas.ProductId) -> Response:
        """One product."""
        return _json(schemas.product(service.product(product_id)))

    @router.get(
        "/images/{product_id:path}",
        tags=["products"],
        response_class=Response,
        responses=documented(404)
        | {200: {"description": "A JPEG.", "content": JPEG}, 304: {"description": "What `If-None-Match` names."}},
    )
    async def image(request: Request, product_id: schemas.ProductId, side: schemas.Side = 384) -> Response:
        """The picture of a product, made anew, in the next size that is large enough."""
        content = await service.thumbnail(product_id, side)
        headers = PICTURE_HEADERS | {"ETag": f'"{sha256(content).hexdigest()[:32]}"'}
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)


def _add_search(router: APIRouter, service: Service) -> None:
    @router.post("/search", tags=["search"], response_model=schemas.SearchAnswer, responses=documented(*WITH_BODY))
    async def search(question: schemas.SearchQuestion) -> Response:
        """The best products for a text. If none fits the filters there are no hits, and `note` says so."""
        filters = answers.Filters(**vars(question.filters))
        found = await service.search(question.query, k=question.k, system=question.system, filters=filters)
        return _json(schemas.answer(found))

    @router.get("/similar", tags=["search"], response_model=schemas.SearchAnswer, responses=documented(404, 503))
    async def similar(item_id: schemas.ItemId, k: schemas.Count = 10) -> Response:
        """The products most like one, in text and picture together; never the product itself."""
        return _json(schemas.answer(await service.similar(item_id, k=k)))

    @router.get("/complete-look", tags=["search"], response_model=schemas.LookAnswer, responses=documented(404, 503))
    async def complete_look(
        context_ids: schemas.ContextIds,
        gap_category: schemas.GapCategory = None,
        k: schemas.Count = 5,
        pool: schemas.Pool = 100,
        use_mmr: schemas.UseMMR = True,
        mmr_lambda: schemas.Lambda = 0.7,
    ) -> Response:
        """Products that go with all of some others, which are never among them."""
        found = await service.complete_look(
            _ids(service, context_ids),
            gap_category=gap_category,
            k=k,
            pool=pool,
            use_mmr=use_mmr,
            mmr_lambda=mmr_lambda,
        )
        return _json(schemas.answer(found))


def _add_pictures(router: APIRouter, service: Service) -> None:
    limits = {"max_files": 1, "max_fields": schemas.MOST_CANDIDATES + 3, "max_part_size": LARGEST_FIELD}
    form: dict[str, Any] = {"form_limits": limits, "responses": documented(*WITH_BODY)}

    @router.post("/search/image", tags=["search"], response_model=schemas.PictureAnswer, **form)
    async def search_image(picture: schemas.Picture, k: schemas.FormCount = 10) -> Response:
        """The products that look most like a picture, and what it seems to show."""
        return _json(schemas.picture_answer(await service.search_picture(await _content(picture), k=k)))

    @router.post("/categories", tags=["categories"], response_model=schemas.CategoryAnswer, **form)
    async def categories(
        title: schemas.Title = None,
        description: schemas.Description = None,
        picture: schemas.PictureIfAny = None,
        candidates: schemas.Candidates = (),
        k: schemas.CategoryCount = 10,
    ) -> Response:
        """The categories where a product may belong, from its text, its picture or both; one of them is needed."""
        content = None if picture is None else await _content(picture)
        found = await service.categories(
            title=title, description=description, picture=content, candidates=candidates, k=k
        )
        return _json(schemas.category_answer(found))


def _add_results(router: APIRouter, service: Service) -> None:
    @router.get("/scoreboard", tags=["results"], response_model=schemas.Scoreboard, responses=documented(503))
    async def scoreboard() -> Response:
        """What every chapter's systems reached, with 95% intervals."""
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
        """The map of all products as one page."""
        return HTMLResponse(await run_in_threadpool(service.constellation), headers=MAP_HEADERS)


async def _content(picture: UploadFile) -> bytes:
    if (picture.size or 0) > LARGEST_PICTURE:
        raise HTTPException(413, f"The picture is too large; send at most {LARGEST_PICTURE // 2**20} MB.")
    return await picture.read()


def _ids(service: Service, values: Sequence[str]) -> list[str]:
    """Ids given one by one or with commas between; a comma in the id of a product does not part it."""
    found: list[str] = []
    for value in values:
        try:
            found.append(service.product(value).product_id)
        except UnknownProduct:
            found += filter(None, (part.strip() for part in value.split(",")))
    return found


def _completed(document: dict[str, Any], service: Service, token: str | None) -> dict[str, Any]:
    """The generated document, and what only the running service knows or FastAPI has no words for."""
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
    """Neither an address nor a form can say null: what may be null may be left out."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return {**{key: schema[key] for key in schema if key != "anyOf"}, **kinds[0]} if len(kinds) == 1 else schema
