"""Serve the page that documents the API and lets one try it: Swagger UI from an installed package, without a CDN."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content policy: scripts and styles come from this service alone, as files."""
ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}

# Addresses without a leading slash also work behind a proxy that adds a path in front.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API of the course</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
});
"""


def install(api: FastAPI) -> None:
    """Add the page to `api` at /docs."""
    folder = Path(str(files("fastapi_offline") / "static"))
    headers = {"Content-Security-Policy": POLICY}

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(PAGE, headers=headers)

    @api.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(START, media_type="text/javascript")

    def serve(name: str, media_type: str) -> None:
        @api.get(f"/docs/{name}", include_in_schema=False)
        async def asset() -> Response:
            return FileResponse(folder / name, media_type=media_type, headers={"Cache-Control": "max-age=86400"})

    for name, media_type in ASSETS.items():
        serve(name, media_type)
