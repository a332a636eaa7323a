"""The service's benchmark on made-up services: what is asked, what counts as the same answer, what ends it."""

from __future__ import annotations

import asyncio
import json
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import CourseError
from course import bench
from course.bench import BENCHMARKS, FIELDS
from course.benchmarks import service as benchmark
from course.benchmarks import service_process
from course.benchmarks.load_client import Exchange, Load
from course.benchmarks.service import DEFAULTS, ROUNDING, agree, in_turn, measured, recombined
from course.benchmarks.service_process import serving
from course.serve import Serve

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_server.py"))))

QUERIES = [f"shade{at} thing{at} for person{at}" for at in range(30)]
LISTENING = "import sys; print('listening on http://127.0.0.1:80', file=sys.stderr, flush=True);"
SMALL = replace(DEFAULTS, systems=("words", "vectors"), requests=24, clients=4, rounds=3, visits=6)


class MadeUpService:
    """Answers every search with hits made of its text; `change` may make something else of them."""

    def __init__(self, largest: int, change: Callable[[str, list], Any] = lambda query, hits: hits) -> None:
        self.largest, self.change, self.searches = largest, change, []

    async def answer(self, asked: Any, writer: asyncio.StreamWriter) -> None:
        if asked.path == "/search":
            search = json.loads(asked.body)
            self.searches.append(search)
            ranked = [(f"{search['query']} {rank}", 1.0 - rank / 10) for rank in range(search["k"])]
            hits = self.change(search["query"], ranked)
            found = {"hits": [{"product": {"product_id": one}, "score": score} for one, score in hits or ()]}
            status = "200 OK" if hits is not None else "503 Service Unavailable"
        else:
            status, found = "200 OK", {"/health": self.health, "/index-info": self.index_info}[asked.path]()
        writer.write(tiny.whole(json.dumps(found).encode(), status))

    def health(self) -> dict[str, int]:
        asked = len(self.searches)
        return {"searches": asked, "batches": asked, "largest_batch": self.largest}

    def index_info(self) -> dict[str, Any]:
        return {"systems": [{"name": "vectors"}, {"name": "words"}], "missing": {"trees": "not built: run it"}}


def between(ours: MadeUpService, peer: MadeUpService, ask: Callable) -> Any:
    """`await ask(url, url)`, with both services there."""

    async def run() -> Any:
        async with AsyncExitStack() as running:
            urls = [(await running.enter_async_context(tiny.server(one.answer)))[0] for one in (ours, peer)]
            return await ask(*urls)

    return asyncio.run(run())


def test_searches_are_halves_of_queries_and_all_different():
    made = recombined(QUERIES, 40, seed=3)
    assert len(set(made)) == 40 and not set(made) & set(QUERIES)
    firsts, seconds = ({tuple(query.split()[part]) for query in QUERIES} for part in (slice(2), slice(2, None)))
    for search in made:
        words = search.split()
        assert tuple(words[:2]) in firsts and tuple(words[2:]) in seconds
    assert recombined(QUERIES, 40, seed=3) == made != recombined(QUERIES, 40, seed=4)


@pytest.mark.parametrize("queries", [[], ["one"], ["red mug", "red lamp"], QUERIES])
def test_too_few_queries_are_refused(queries):
    with pytest.raises(CourseError, match=rf"{len(queries)} queries do not give 1,000 different searches"):
        recombined(queries, 1000, seed=0)


@given(
    true=st.lists(st.floats(-1, 1), min_size=1, max_size=30),
    scale=st.sampled_from([0.1, 1.0, 20.0]),
    k=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=200, deadline=None)
def test_rounding_is_no_disagreement(true, scale, k, seed):
    """Scores that are moved by less than half the margin: whatever that does to the order, and to who just makes it."""
    scores = scale * np.array(true)
    rng = np.random.default_rng(seed)

    def moved() -> list[tuple[str, float]]:
        noisy = scores + rng.uniform(-0.45, 0.45, len(scores)) * ROUNDING * max(1.0, scores.max() - ROUNDING * scale)
        best = np.argsort(-noisy, kind="stable")[:k]
        return [(f"p{at}", float(noisy[at])) for at in best]

    one, other = moved(), moved()
    assert agree(one, other) and agree(other, one) and agree(one, one)


ANSWER = [("a", 0.9), ("b", 0.5), ("c", 0.1)]


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        ([], False),
        (ANSWER[:2], False),
        ([("a", 0.9), ("b", 0.5), ("d", 0.1)], True),
        ([("a", 0.9), ("b", 0.5), ("d", 0.1 + 1.5 * ROUNDING)], False),
        ([("a", 0.9), ("d", 0.5), ("c", 0.1)], False),
        ([("a", 0.9), ("b", 0.5 + 1.5 * ROUNDING), ("c", 0.1)], False),
        ([("b", 0.9), ("a", 0.5), ("c", 0.1)], False),
    ],
)
def test_another_answer_is_a_disagreement(other, alike):
    assert agree(ANSWER, other) is agree(other, ANSWER) is alike
    assert agree([], [])


def test_a_large_score_may_round_more():
    one, other = ([("a", 100.0), ("b", low)] for low in (50.0, 50.0 + 75 * ROUNDING))
    assert agree(one, other) and not agree(one[1:], other[1:])


def test_of_trees_more_than_half_of_the_products_are_asked():
    for shared, alike in ((0, False), (2, False), (3, True), (4, True)):
        other = [*((name, 7.0) for name in "dcba"[:shared]), *((f"new {at}", 8.0) for at in range(4 - shared))]
        assert agree([(name, 1.0) for name in "abcd"], other, smooth=False) is alike
    assert not agree(ANSWER, ANSWER[:2], smooth=False) and agree([], [], smooth=False)


def test_only_what_is_smooth_is_held_to_its_scores():
    def step(query: str, hits: list) -> list:
        return [(product_id, score + 3) for product_id, score in hits]

    for system in (*DEFAULTS.systems, "two towers + Rocchio"):
        services, rounds = (MadeUpService(9), MadeUpService(1, step)), [[{"query": "a", "k": 3, "system": system}]]
        if system in benchmark.SMOOTH:
            with pytest.raises(CourseError, match="not answered alike"):
                between(*services, lambda *urls, rounds=rounds: in_turn(*urls, rounds, 1))
        else:
            between(*services, lambda *urls, rounds=rounds: in_turn(*urls, rounds, 1))


def test_both_are_asked_the_same_in_turn():
    asked: list[tuple[str, str]] = []

    def note(name: str) -> Callable:
        return lambda query, hits: asked.append((name, query)) or hits

    ours, peer = MadeUpService(9, note("ours")), MadeUpService(1, note("peer"))
    rounds = [[{"query": f"{part} {number}", "k": 3, "system": "BM25"} for number in range(4)] for part in "abc"]
    loads = between(ours, peer, lambda *urls: in_turn(*urls, rounds, 2))
    turns = list(dict.fromkeys((name, query[0]) for name, query in asked))
    assert turns == [("ours", "a"), ("peer", "a"), ("peer", "b"), ("ours", "b"), ("ours", "c"), ("peer", "c")]
    for service, own in zip((ours, peer), loads, strict=True):
        assert [len(load.answered) for load in own] == [4, 4, 4]
        assert sorted(map(str, service.searches)) == sorted(map(str, chain.from_iterable(rounds)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda query, hits: None,
            r"1 of 4 searches failed; {'query': 'a 2', 'k': 3, .*}: status 503, {\"hits\": \[\]}",
        ),
        (lambda query, hits: hits[:2], r"{'query': 'a 2', 'k': 3, .*} is not answered alike"),
        (lambda query, hits: [(f"{one}!", score) for one, score in hits], "is not answered alike"),
    ],
)
@pytest.mark.parametrize("at", [0, 1])
def test_an_error_and_a_wrong_answer_end_it(change, message, at):
    services = [MadeUpService(9), MadeUpService(1)]
    services[at].change = lambda query, hits: change(query, hits) if query == "a 2" else hits
    searches = [{"query": f"a {number}", "k": 3, "system": "BM25"} for number in range(4)]
    with pytest.raises(CourseError, match=message):
        between(*services, lambda *urls: in_turn(*urls, [searches], 2))


def test_the_rows(capsys):
    ours, peer = MadeUpService(9), MadeUpService(1)
    rows = between(ours, peer, lambda *urls: measured(*urls, QUERIES, replace(SMALL, systems=("words", "trees"))))
    assert [row["name"] for row in rows] == ["service, words", "service, words, a lone visitor"]
    assert [row["unit"] for row in rows] == ["searches/s", "ms, median"]
    for row in rows:
        assert set(FIELDS) < set(row) and json.loads(json.dumps(row)) == row
        assert min(row["our_value"], row["peer_value"], row["ratio"]) > 0
        assert row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    assert "24 different searches by 4 clients in 3 rounds" in rows[0]["note"]
    assert "same products in the same order in 30 of 30 answers" in rows[0]["note"]
    assert "6 different searches" in rows[1]["note"]
    out = capsys.readouterr().out
    assert out.startswith("trees: not built: run it\nservice, words (24 different searches")
    assert out.count("p50") == out.count("p95") == out.count("p99") == 4


def test_every_search_is_asked_of_either_once():
    ours, peer = MadeUpService(9), MadeUpService(1)
    between(ours, peer, lambda *urls: measured(*urls, QUERIES, SMALL))
    for service in (ours, peer):
        texts = [search["query"] for search in service.searches]
        assert len(texts) == len(set(texts)) == 2 * (benchmark.WARM_UP + 24 + 6)
        assert {search["system"] for search in service.searches} == {"words", "vectors"}
        assert {search["k"] for search in service.searches} == {benchmark.HITS}


def test_a_slow_system_gets_fewer_searches(capsys):
    config = replace(SMALL, systems=("words",), requests=60, visits=30, clients=2, seconds=1e-9)
    between(MadeUpService(9), MadeUpService(1), lambda *urls: measured(*urls, QUERIES, config))
    out = capsys.readouterr().out
    assert "(4 different searches by 2 clients in 2 rounds" in out and "(2 different searches, one after" in out


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(CourseError, match="none of trees, leaves is built; build them with: make course"):
        config = replace(SMALL, systems=("trees", "leaves"))
        between(MadeUpService(9), MadeUpService(1), lambda *urls: measured(*urls, QUERIES, config))
    with pytest.raises(CourseError, match="the one-by-one service answered 2 searches together"):
        between(MadeUpService(9), MadeUpService(2), lambda *urls: measured(*urls, QUERIES, SMALL))


def test_figures_are_medians_and_percentiles():
    def load(rate: float, *seconds: float) -> Load:
        exchanges = [Exchange(number, 200, one, b"") for number, one in enumerate(seconds)]
        return Load(exchanges, len(seconds) / rate)

    ours = [load(30, 0.1, 0.2), load(90, 0.3, 0.4), load(60, 0.5)]
    peer = [load(10, 1.0), load(10, 2.0), load(40, 3.0)]
    row = benchmark._crowd_row("words", ours, peer, "")
    assert (row["our_value"], row["peer_value"], row["ratio"]) == (60.0, 10.0, 6.0)
    assert (row["p50_ms"], row["p99_ms"], row["peer_p50_ms"]) == (300.0, 496.0, 2000.0)
    lone = benchmark._lone_row("words", ours, peer, "")
    assert (lone["our_value"], lone["peer_value"], lone["ratio"]) == (300.0, 2000.0, 0.15)


@pytest.mark.parametrize("size", [1, 64])
def test_the_service_takes_the_flags(size):
    assert BENCHMARKS["service"] == "course.benchmarks.service:main"
    python, module, course, serve, *flags = benchmark.command(size)
    assert [python, module, course, serve] == [sys.executable, "-m", "course", "serve"]
    expected = Serve(port=0, max_batch=size, embedding_cache=0, page=False)
    assert tyro.cli(Serve, args=flags) == expected and expected.host == "127.0.0.1"


def test_a_process_is_there_until_the_end(monkeypatch):
    monkeypatch.setenv("COURSE_API_TOKEN", "secret")
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    script = "import os, time; print(sorted(name for name in os.environ if 'COURSE_' in name), flush=True);"
    with serving([sys.executable, "-c", f"{script}{LISTENING}time.sleep(600)"]) as running:
        assert running.url == "http://127.0.0.1:80" and running.process.poll() is None
        printed = running.log.read_text()
        assert "COURSE_PROFILE" in printed and "COURSE_API_TOKEN" not in printed
    assert running.process.returncode == -signal.SIGTERM and not running.log.exists()


def test_a_process_that_does_not_stop_is_killed(monkeypatch):
    monkeypatch.setattr(service_process, "LONGEST_STOP", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    with serving([sys.executable, "-c", f"{deaf}{LISTENING}time.sleep(600)"]) as running:
        pass
    assert running.process.returncode == -signal.SIGKILL


def test_a_process_that_does_not_listen_is_an_error(monkeypatch):
    started: list[subprocess.Popen] = []
    monkeypatch.setattr(
        service_process, "stop", lambda process, stop=service_process.stop: started.append(stop(process))
    )
    with pytest.raises(CourseError, match=r"ended before it listened, with code 3:\nno catalogue$"):
        serving([sys.executable, "-c", "import sys; print('no catalogue'); sys.exit(3)"]).__enter__()
    with pytest.raises(CourseError, match=r"did not listen within 0\.3 s:"):
        serving([sys.executable, "-c", "import time; time.sleep(600)"], longest_start=0.3).__enter__()
    assert started == [3, -signal.SIGTERM]


def test_what_was_measured_is_printed_when_the_next_cannot_run(monkeypatch, capsys):
    def measured() -> list[dict[str, Any]]:
        return [dict(zip(FIELDS, ("a", "x", "y", "docs/s", 30.0, 10.0, 3.0), strict=True))]

    def refused() -> None:
        raise CourseError("no system is built")

    modules = {"made_up_benchmark": SimpleNamespace(measured=measured, refused=refused)}
    monkeypatch.setattr(bench, "import_module", modules.__getitem__)
    monkeypatch.setattr(bench, "BENCHMARKS", {name: f"made_up_benchmark:{name}" for name in ("measured", "refused")})
    for as_json in (True, False):
        with pytest.raises(CourseError, match="no system is built"):
            bench.main(bench.Bench(json=as_json))
        out = capsys.readouterr().out
        assert [row["name"] for row in json.loads(out)] == ["a"] if as_json else "3.00x" in out
