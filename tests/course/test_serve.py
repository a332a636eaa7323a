"""`python -m course serve`: what it refuses before anything is loaded, and how it ends."""

from __future__ import annotations

import socket
from types import SimpleNamespace

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


@pytest.mark.parametrize(("missing", "page"), [("fastapi", False), ("httptools", False), ("gradio", True)])
def test_what_is_missing_is_named(monkeypatch, missing, page):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(CourseError, match=rf"{missing} is not installed.*\[demo\]"):
        serve.main(serve.Serve(page=page))


def test_a_token_that_no_header_can_carry_is_refused_before_the_models_are_loaded(monkeypatch):
    monkeypatch.setattr(serve, "load_service", lambda config: pytest.fail("loaded for nothing"))
    monkeypatch.setenv(serve.TOKEN, "two words")
    with pytest.raises(CourseError, match="token"):
        serve.main(serve.Serve(port=0))
    monkeypatch.delenv(serve.TOKEN)
    with pytest.raises(CourseError, match="origin"):
        serve.main(serve.Serve(port=0, origins=("shop.example",)))


def test_what_is_not_built_is_told_by_reason(capsys):
    serve._tell_what_is_missing(SimpleNamespace(systems=[], missing={"a": "not built: run x"}))
    assert capsys.readouterr().err == "nothing is built yet: run make course\n"
    missing = {"a": "not built: run x", "b": "not built: run y", "c": "not built: run x"}
    serve._tell_what_is_missing(SimpleNamespace(systems=["BM25"], missing=missing))
    assert capsys.readouterr().err == "a, c: not built: run x\nb: not built: run y\n"
