"""``python -m course serve``: one service over everything that is built, a page for people and an API for programs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from common.catalogue import load_catalogue
from common.errors import CourseError
from common.settings import resolve_profile

if TYPE_CHECKING:
    from fastapi import FastAPI

    from course.service.service import Service

TOKEN = "COURSE_API_TOKEN"
GRACE = 10
"""Seconds that requests in flight have to end in, once the service is asked to stop."""
WAITING = 2048
"""Connections that wait to be taken up."""
Text = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]


@dataclass(frozen=True)
class Serve:
    """Serve what is built: a page at /, the API beside it, its documentation at /docs.

    With the environment variable COURSE_API_TOKEN set, everything but /health asks for it: as a bearer token, or as the
    password (any user name) that a browser asks for.
    """

    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen on. 0.0.0.0 lets other machines in: then set COURSE_API_TOKEN."""
    port: Annotated[int, tyro.conf.arg(metavar="NUMBER")] = 7860
    """Port to listen on; 0 for any that is free."""
    catalogue: Annotated[str, tyro.conf.arg(metavar="SOURCE")] = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: Text = None
    """smoke, pocket or full. Default: the environment variable COURSE_PROFILE, else pocket."""
    origins: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ORIGIN ...", help_behavior_hint="")] = ()
    """Other sites whose pages may call the API (CORS), such as https://shop.example; none when left out."""
    hosts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Names, beside localhost, by which a proxy on this machine asks for the service."""
    page: bool = True
    """Whether to serve the page too; without it the API alone."""
    max_batch: Annotated[int, tyro.conf.arg(metavar="NUMBER")] = 64
    """Questions that are answered together at most; 1 answers them one by one."""
    embedding_cache: Annotated[int, tyro.conf.arg(metavar="NUMBER")] = 10_000
    """Texts an encoder remembers the vectors of; 0 for none."""


def main(config: Serve) -> None:
    """Load what is built, once, and serve it until interrupted.

    Raises ``CourseError`` if the service's packages are not installed, or the address cannot be listened on.
    """
    _check(config)
    listener = listen(config.host, config.port)  # first: whoever cannot have the port need not wait for the models
    with listener, tempfile.TemporaryDirectory(prefix="course-uploads-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        service = load_service(config)
        for part, what in service.missing.items():
            print(f"{part}: {what}", file=sys.stderr)
        run(service, config, listener)


def load_service(config: Serve) -> Service:
    """Everything that is built of the catalogue, loaded."""
    from course.service.service import Service
    from course.service.shop import load_shop

    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    shop, encoders = load_shop(catalogue, resolve_profile(config.profile), remember=config.embedding_cache)
    return Service(shop, encoders, max_batch=config.max_batch)


def application(service: Service, config: Serve) -> FastAPI:
    """API and page over a service."""
    from course.service.api import build_api

    app = build_api(service, token=os.environ.get(TOKEN) or None, origins=config.origins, hosts=config.hosts)
    if config.page:
        from course.service.page import mount_page

        mount_page(app, service)
    return app


def _check(config: Serve) -> None:
    if not 0 <= config.port <= 65_535:
        raise CourseError(f"serve: --port {config.port} is no port; give a number from 0 to 65535.")
    if config.max_batch < 1 or config.embedding_cache < 0:
        raise CourseError("serve: --max-batch is at least 1, and --embedding-cache at least 0.")
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise CourseError(f'serve: {error.name} is not installed. Install it with: pip install -e ".[demo]"') from None


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ``CourseError`` if that is forbidden or taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Named as TCP, or asyncio leaves Nagle's algorithm on, which holds small answers back for 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(WAITING)
    except OSError as error:
        reason = error.strerror or error
        raise CourseError(
            f"serve: cannot listen on {host} port {port} ({reason}); give another with --port or --host."
        ) from None
    return listener


def run(service: Service, config: Serve, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; what is being answered then is answered first.

    Ends with ``SystemExit(0)`` or ``KeyboardInterrupt``, so that temporary folders go with it.
    """
    import uvicorn

    from course.service.head_limit import HeadLimit
    from course.service.request_log import configure_logging

    configure_logging()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn sends it on when it has stopped
    app = application(service, config)
    settings = uvicorn.Config(
        app, http=HeadLimit, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE, server_header=False
    )
    shown = f"[{config.host}]" if ":" in config.host else config.host
    print(f"listening on http://{shown}:{listener.getsockname()[1]}", file=sys.stderr, flush=True)

    async def until_stopped() -> None:
        try:
            await uvicorn.Server(settings).serve(sockets=[listener])
        finally:
            await service.close()

    with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
        runner.run(until_stopped())
