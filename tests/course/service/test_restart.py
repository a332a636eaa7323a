"""A service that is killed, restarted and stopped under load answers no request wrongly, and none halfway."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from course.benchmarks.load_client import LOST, Connection, Exchange, Load, message, run_load
from course.benchmarks.service import hits_of
from course.benchmarks.service_process import ServiceProcess, serving
from course.service.service import Service

CLIENTS = 16
A_FEW_SECONDS = 8
QUESTIONS = [
    {
        "query": f"{('red', 'blue', 'white')[number % 3]} mug {number} word{number}",
        "k": 1 + number % 9,
        "system": system,
    }
    for number in range(60)
    for system in ("BM25", "MiniLM")
]
"""The answers are all different: product 7 is called "... 7", and is found first or scores like no other."""

GATED = """
import runpy, sys, time
from pathlib import Path
from course import serve

script, folder = Path(sys.argv[1]), Path(sys.argv[2])

class Gated:
    def __init__(self, searcher):
        self.searcher = searcher

    def search(self, *asked, **options):
        while not (folder / "open").exists():
            time.sleep(0.01)
        return self.searcher.search(*asked, **options)

service = runpy.run_path(str(script))["toy_service"](folder / "toy")
service.shop.systems["BM25"] = Gated(service.shop.systems["BM25"])
config = serve.Serve(port=0, page=False)
with serve.ending_on_signals(), serve.listen(config.host, config.port) as listener:
    serve.run(service, config, listener)
"""


def asked_of(url: str, numbers: Sequence[int]) -> list[bytes]:
    return [message(url, "POST", "/search", QUESTIONS[number]) for number in numbers]


def check_answers(exchanges: Sequence[Exchange], service: Service) -> None:
    """Every answer is what the searcher itself says, asked for this question alone."""
    expected = []
    for asked in QUESTIONS:
        expected.append(service.shop.systems[asked["system"]].search([asked["query"]], asked["k"]).row(0))
    assert len(set(map(str, expected))) == len(QUESTIONS), "an answer to another question could pass for the right one"
    for told in exchanges:
        assert told.status == 200, told.body
        number = told.number % len(QUESTIONS)
        assert json.loads(told.body)["system"] == QUESTIONS[number]["system"]
        names, scores = zip(*hits_of(told), strict=True)
        true_names, true_scores = zip(*expected[number], strict=True)
        assert names == true_names and scores == pytest.approx(true_scores, abs=1e-5), QUESTIONS[number]


async def exchange(url: str, number: int, request: bytes) -> Exchange:
    with closing(Connection(url)) as connection:
        return await connection.exchange(number, request)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await true():
            await asyncio.sleep(0.01)


class Crowd:
    """Clients that ask on and on, whether the service is there or not, until they are told to go."""

    def __init__(self, url: str) -> None:
        self.taken, self.gone = 0, False
        self.load = asyncio.create_task(run_load(url, self._messages(url), clients=CLIENTS, patience=30))

    def _messages(self, url: str) -> Iterator[bytes]:
        every = asked_of(url, range(len(QUESTIONS)))
        while not self.gone:
            self.taken += 1
            yield every[(self.taken - 1) % len(every)]

    async def ask_more(self, questions: int) -> int:
        """Wait until that many more are asked; the number of the first of them."""
        first = self.taken
        while self.taken < first + questions:
            assert not self.load.done()
            await asyncio.sleep(0.01)
        return first


async def killed_and_stopped(start: Callable[[int], ServiceProcess]) -> tuple[Load, list[int], subprocess.Popen, float]:
    """The load of a service killed twice and then asked to stop; where each of its lives begins; the last process and
    the seconds it took to end."""
    running = await asyncio.to_thread(start, 0)
    port = int(running.url.rpartition(":")[2])
    crowd, lives = Crowd(running.url), []
    for _ in range(2):
        lives.append(await crowd.ask_more(20 * CLIENTS))
        running.process.kill()
        await asyncio.to_thread(running.process.wait)
        running = await asyncio.to_thread(start, port)
    lives.append(await crowd.ask_more(20 * CLIENTS))
    began = time.monotonic()
    running.process.terminate()
    await asyncio.to_thread(running.process.wait, 60)
    took = time.monotonic() - began
    crowd.gone = True
    return await crowd.load, lives, running.process, took


@pytest.mark.slow
def test_no_request_is_answered_wrongly_when_the_service_is_killed_and_stopped(toy_script, toy_service, tmp_path):
    folders = itertools.count()
    with ExitStack() as processes:

        def start(port: int) -> ServiceProcess:
            command = [sys.executable, str(toy_script), str(tmp_path / f"life{next(folders)}"), str(port)]
            return processes.enter_context(serving(command))

        load, lives, last, took = asyncio.run(killed_and_stopped(start))
    check_answers(load.answered, toy_service(tmp_path / "twin"))
    lost = [one for one in load.exchanges if one.status is None]
    assert {one.error.partition(":")[0] for one in lost} == {LOST}
    for first, last_one in itertools.pairwise([*lives, len(load.exchanges)]):
        answered = sum(first <= one.number < last_one for one in load.answered)
        assert answered >= 10 * CLIENTS, "a life in which nobody was answered shows nothing"
        assert any(first <= one.number < last_one for one in lost), "it ended while it was asked"
    assert last.returncode == 0 and took < A_FEW_SECONDS


async def stopped_while_it_computes(running: ServiceProcess, gate: Path) -> tuple[list[Exchange], bool, float]:
    """What those are told whose questions are taken up or wait when the service is asked to stop; whether any was told
    before it had computed; the seconds from there on to its end."""
    numbers = [number for number, question in enumerate(QUESTIONS) if question["system"] == "BM25"][:CLIENTS]
    requests = zip(numbers, asked_of(running.url, numbers), strict=True)
    exchanges = [asyncio.create_task(exchange(running.url, *request)) for request in requests]
    health = message(running.url, "GET", "/health")

    async def all_wait_but_the_first() -> bool:
        return json.loads((await exchange(running.url, 0, health)).body)["waiting"] == CLIENTS - 1

    async def nobody_is_let_in() -> bool:
        return (await exchange(running.url, 0, health)).status is None

    await until(all_wait_but_the_first)
    running.process.terminate()
    await until(nobody_is_let_in)
    early = any(one.done() for one in exchanges)
    began = time.monotonic()
    gate.touch()
    told = await asyncio.gather(*exchanges)
    await asyncio.to_thread(running.process.wait, 60)
    return told, early, time.monotonic() - began


@pytest.mark.slow
def test_requests_in_flight_are_answered_before_the_end(toy_script, toy_service, tmp_path):
    command: list[Any] = [sys.executable, "-c", GATED, str(toy_script), str(tmp_path)]
    with serving(command) as running:
        told, early, took = asyncio.run(stopped_while_it_computes(running, tmp_path / "open"))
        log = running.log.read_text()
    assert not early and len(told) == CLIENTS
    check_answers(told, toy_service(tmp_path / "twin"))
    assert running.process.returncode == 0 and took < A_FEW_SECONDS, log


@pytest.mark.slow
def test_an_open_page_does_not_keep_the_service_from_ending(toy_script, tmp_path):
    """Every page that is open holds a request that has no end by itself."""
    with serving([sys.executable, str(toy_script), str(tmp_path / "toy"), "0", "page"]) as running:
        with urllib.request.urlopen(f"{running.url}/gradio_api/heartbeat/visitor", timeout=30) as held:
            assert held.readline()
            running.process.terminate()
            began = time.monotonic()
            code = running.process.wait(60)
        log = running.log.read_text()
    assert code == 0 and time.monotonic() - began < A_FEW_SECONDS, log
    assert "Traceback" not in log
