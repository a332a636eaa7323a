"""`python -m course serve`: what it refuses before anything is loaded, and how it ends."""

from __future__ import annotations

import socket

import pytest

from common.errors import CourseError
from course import serve


def test_a_taken_port_is_refused_before_the_models_are_loaded(monkeypatch):
    monkeypatch.setattr(serve, "load_service", lambda config: pytest.fail("loaded for nothing"))
    with serve.listen("127.0.0.1", 0) as taken, pytest.raises(CourseError, match="cannot listen on 127"):
        serve.main(serve.Serve(port=taken.getsockname()[1]))
    with pytest.raises(CourseError, match="--host"):
        serve.main(serve.Serve(host="203.0.113.1", port=0))  # an address that no machine has


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"port": -1}, "--port -1"),
        ({"port": 65_536}, "--port"),
        ({"max_batch": 0}, "--max-batch"),
        ({"embedding_cache": -1}, "--embedding-cache"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(CourseError, match=words):
        serve.main(serve.Serve(**settings))


def test_small_answers_are_not_held_back():
    """asyncio switches Nagle's algorithm off only for sockets that say they are TCP's."""
    with serve.listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
        assert listener.getsockname()[1] > 0


def test_what_is_missing_is_named(monkeypatch):
    import builtins

    def without(name, *rest, real=builtins.__import__, **named):
        if name == "fastapi":
            raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CourseError, match=r"fastapi is not installed.*\[demo\]"):
        serve.main(serve.Serve())
