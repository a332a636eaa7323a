"""``python -m course serve``: serve everything that is built, as a page for people and an API for programs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
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
"""Seconds that requests in flight may still take once the service is asked to stop."""
WAITING = 2048
"""Connections that may wait to be accepted."""
Text = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]


@dataclass(frozen=True)
class Serve:
    """Serve what is built: a page at /, the API beside it, its documentation at /docs.

    If the environment variable COURSE_API_TOKEN is set, everything but /health requires it: as a bearer token, or as
    the password in the browser's login box, with any user name.
    """

    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen on. With 0.0.0.0 other machines can connect: then set COURSE_API_TOKEN."""
    port: Annotated[int, tyro.conf.arg(metavar="NUMBER")] = 7860
    """Port to listen on; 0 for any free one."""
    catalogue: Annotated[str, tyro.conf.arg(metavar="SOURCE")] = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: Text = None
    """smoke, pocket or full. Default: the environment variable COURSE_PROFILE, else pocket."""
    origins: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ORIGIN ...", help_behavior_hint="")] = ()
    """Other sites whose pages may call the API (CORS), such as https://shop.example; none by default."""
    hosts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Names of this host, besides localhost and its addresses; with a token, any name is accepted."""
    page: bool = True
    """Serve the page too; --no-page serves the API alone."""
    max_batch: Annotated[int, tyro.conf.arg(metavar="NUMBER")] = 64
    """Largest number of queries that are answered together; 1 answers them one by one."""
    embedding_cache: Annotated[int, tyro.conf.arg(metavar="NUMBER")] = 10_000
    """Number of texts whose vectors an encoder keeps in memory; 0 for none."""


def main(config: Serve) -> None:
    """Load what is built, once, and serve it until interrupted.

    Raises ``CourseError`` if the service's packages are not installed, or the address is taken or forbidden.
    """
    _check(config)
    listener = listen(config.host, config.port)  # first: if the port is taken, nobody waits for the models
    with ending_on_signals(), listener, tempfile.TemporaryDirectory(prefix="course-uploads-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        print(f"loading what is built of {config.catalogue} …", file=sys.stderr, flush=True)
        service = load_service(config)
        _tell_what_is_missing(service)
        run(service, config, listener)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """End the process with exit code 0 on SIGTERM and Ctrl-C, so that temporary folders are removed.

    While uvicorn serves, it handles the signals itself, and raises them again when it has stopped.
    """
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(sent, lambda *_: sys.exit(0)) for sent in signals]
    try:
        yield
    finally:
        for sent, handler in zip(signals, before, strict=True):
            signal.signal(sent, handler)


def load_service(config: Serve) -> Service:
    """Load everything that is built of the catalogue."""
    from course.service.service import Service
    from course.service.shop import load_shop

    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    shop, encoders = load_shop(catalogue, resolve_profile(config.profile), remember=config.embedding_cache)
    shop.warm_up()
    return Service(shop, encoders, max_batch=config.max_batch)


def application(service: Service, config: Serve) -> FastAPI:
    """Build the API and the page over a service."""
    from course.service.api import build_api

    app = build_api(service, token=os.environ.get(TOKEN) or None, origins=config.origins, hosts=config.hosts)
    if config.page:
        from course.service.page import mount_page

        mount_page(app, service)
    return app


def _check(config: Serve) -> None:
    if not 0 <= config.port <= 65_535:
        raise CourseError(f"serve: --port {config.port} is not a port; give a number from 0 to 65535.")
    if config.max_batch < 1 or config.embedding_cache < 0:
        raise CourseError("serve: --max-batch must be at least 1, and --embedding-cache at least 0.")
    needed = ["fastapi", "httptools", "uvicorn"] + (["gradio"] if config.page else [])
    for name in needed:
        if find_spec(name) is None:
            raise CourseError(f'serve: {name} is not installed. Install it with: pip install -e ".[demo]"')
    from course.service.guards import check

    check(os.environ.get(TOKEN) or None, config.origins)


def _tell_what_is_missing(service: Service) -> None:
    """Print what is missing: one line for each reason, not for each system."""
    if not service.systems:
        print("nothing is built yet: run make course", file=sys.stderr)
        return
    parts: dict[str, list[str]] = {}
    for part, what in service.missing.items():
        parts.setdefault(what, []).append(part)
    for what, names in parts.items():
        print(f"{', '.join(names)}: {what}", file=sys.stderr)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ``CourseError`` if the address is forbidden or taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # With TCP named, asyncio turns off Nagle's algorithm, which delays small answers by 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise _cannot_listen(host, port, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(WAITING)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from None
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> CourseError:
    reason = error.strerror or error
    return CourseError(
        f"serve: cannot listen on {host} port {port} ({reason}); give another with --port or --host "
        "(make demo ARGS='--port 7861')."
    )


def run(service: Service, config: Serve, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight are answered first."""
    import uvicorn

    from course.service.head_limit import HeadLimit
    from course.service.request_log import configure_logging

    configure_logging()
    app = application(service, config)
    settings = uvicorn.Config(
        app, http=HeadLimit, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE, server_header=False
    )
    shown = f"[{config.host}]" if ":" in config.host else config.host
    print(f"listening on http://{shown}:{listener.getsockname()[1]}", file=sys.stderr, flush=True)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Set the event that ends Gradio's long requests, one of which every open page holds."""
            for route in app.routes:
                page = getattr(getattr(route, "app", None), "page", None)  # behind its guard
                if page is not None:
                    page.stop_event.set()
            await super().shutdown(sockets)

    async def until_stopped() -> None:
        try:
            await Server(settings).serve(sockets=[listener])
        finally:
            await service.close()

    with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
        runner.run(until_stopped())
