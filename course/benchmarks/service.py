"""Measure searches a second of the service over HTTP: micro-batching beside one-by-one encoding.

Two processes of the real service, which differ only in `--max-batch` and have no cache of query vectors, get the same
searches round by round, in turn, so that other load on the machine affects both. The client, on the same machine, takes
its share of the cores from either. The latencies are those of the crowd. A lone visitor, who asks when nobody else
does, is measured too: micro-batching must not make them wait.

**Searches.** All are different, and none is a query of the catalogue, whose vectors may be on disk: each is the first
half of the words of one query and the second half of another's, drawn by a seed.

**Agreement.** A vector depends a little on the rest of its batch, by rounding. So two answers of a system that is
`SMOOTH` agree if they have equally many hits, the scores of a product in both differ by at most `ROUNDING` (of the
largest score, if that is above 1), and a product in only one of them scores at most that much above the last hit of the
other. Systems with trees or feedback turn rounding into steps: there, two answers agree if they share more than half of
their products. An error, or an answer that does not agree, ends the benchmark. The row says how many answers are the
same, product by product.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from chapter01_baseline.systems import BM25, MINILM
from chapter02_two_tower.systems import TWO_TOWERS
from chapter03_multimodal.systems import CLIP, TEXT_IMAGE
from chapter04_catalogue_reranker.systems import BEST as LEARNED_RANKER
from common.cli import run_step
from common.errors import CourseError
from course.benchmarks.load_client import Connection, Exchange, Load, message, percentiles, run_load
from course.benchmarks.service_process import serving

SOURCE = "pocket_shop"
SYSTEMS = (TWO_TOWERS, TEXT_IMAGE, LEARNED_RANKER)
BATCH = 64
WARM_UP = 32
HITS = 10
ROUNDING = 2**-6
"""Four steps of bfloat16 at 1. Encoders compute in bfloat16 where the processor does, and its rounding adds up over
their layers: among 2,001 texts, alone and in batches of 32, one moved a cosine of `text + image` by 0.0095, no other by
more than 0.0022."""
SMOOTH = (BM25, MINILM, TWO_TOWERS, CLIP, TEXT_IMAGE)
"""Systems whose scores change as little as the query's vector does."""
PERCENTS = (50, 95, 99)
DRAWS = 50
"""Pairs of queries that are drawn for each search that is needed, before giving up."""

Hits = list[tuple[str, float]]
Search = dict[str, Any]
"""The body of `POST /search`."""


@dataclass(frozen=True)
class ServiceBench:
    """Measure the service with micro-batching and without, side by side."""

    systems: tuple[str, ...] = SYSTEMS
    """Systems to ask; one that is not built is left out."""
    requests: int = 2000
    """Searches for each system; fewer if `seconds` are not enough."""
    clients: int = 64
    """Clients that ask at the same time."""
    rounds: int = 4
    """Parts into which the searches are cut; two where a part would have fewer searches than there are clients."""
    seconds: float = 40.0
    """Seconds that one-by-one encoding may take for the searches of one system, estimated from its warm-up; the lone
    visitor adds a quarter."""
    visits: int = 100
    """Searches of the lone visitor for each system, limited in the same way."""
    seed: int = 0
    """Seed of the searches."""


DEFAULTS = ServiceBench()


def main(config: ServiceBench = DEFAULTS) -> list[dict[str, Any]]:
    """Measure on what is built of the pocket shop, and print the figures as they come.

    Returns two rows a system. The first: name, ours, peer, unit, our_value and peer_value (searches a second, medians
    over the rounds), ratio (of the medians), p50_ms, p95_ms, p99_ms and peer_… (over all searches), note. The second
    is the same for a lone visitor, in milliseconds (medians over the searches): there, a ratio of 1 is the goal.
    Raises CourseError if no system is built, if there are too few queries, or as the module says.
    """
    from common.catalogue import load_catalogue

    queries = load_catalogue(SOURCE).queries["query"].tolist()
    with ExitStack() as running:
        ours, peer = (running.enter_context(serving(command(size))).url for size in (BATCH, 1))
        return asyncio.run(measured(ours, peer, queries, config))


def command(max_batch: int) -> list[str]:
    """Return the command that starts the service, without the page, which is not measured."""
    flags = ["--port", "0", "--max-batch", str(max_batch), "--embedding-cache", "0", "--no-page"]
    return [sys.executable, "-m", "course", "serve", "--catalogue", SOURCE, *flags]


async def measured(ours: str, peer: str, queries: Sequence[str], config: ServiceBench) -> list[dict[str, Any]]:
    """Return the rows of `main` for two running services, given by their addresses."""
    systems = await built(ours, config.systems)
    needed = WARM_UP + config.requests + config.visits
    searches = iter(recombined(queries, needed * len(systems), config.seed))
    rows = []
    for system in systems:
        asked = [{"query": next(searches), "k": HITS, "system": system} for _ in range(needed)]
        rows += await _rows_of(system, ours, peer, asked, config)
    return rows


async def built(url: str, systems: Sequence[str]) -> list[str]:
    """Return those of `systems` that the service has; raises CourseError if it has none."""
    info = await _get(url, "/index-info")
    served = {system["name"] for system in info["systems"]}
    for system in systems:
        if system not in served:
            print(f"{system}: {info['missing'].get(system, 'there is no such system')}")
    if served.isdisjoint(systems):
        raise CourseError(f"bench service: none of {', '.join(systems)} is built; build them with: make course")
    return [system for system in systems if system in served]


def recombined(queries: Sequence[str], count: int, seed: int) -> list[str]:
    """Make `count` different searches, none among `queries`, of about the same length: see the module.

    Raises CourseError if so many pairs of queries do not give them.
    """
    rng, known, made = np.random.default_rng(seed), set(queries), {}
    words = [query.split() for query in queries]
    for one, other in rng.integers(0, max(len(words), 1), (DRAWS * count, 2)) if words else ():
        first, second = words[one], words[other]
        search = " ".join(first[: (len(first) + 1) // 2] + second[len(second) // 2 :])
        if search not in known:
            made[search] = None
        if len(made) == count:
            return list(made)
    raise CourseError(f"bench service: {len(words)} queries do not give {count:,} different searches; ask for fewer.")


async def _rows_of(
    system: str, ours: str, peer: str, searches: list[Search], config: ServiceBench
) -> list[dict[str, Any]]:
    warm_up, crowd, alone = np.split(np.array(searches, dtype=object), [WARM_UP, WARM_UP + config.requests])
    rate = await _warmed_up(ours, peer, warm_up, config.clients)
    crowd = crowd[: max(2 * config.clients, int(rate * config.seconds))]
    alone = alone[: max(2, int(rate * config.seconds / 4))]
    rounds = config.rounds if len(crowd) >= config.rounds * config.clients else 2
    before = await _get(ours, "/health")
    crowds = await in_turn(ours, peer, [crowd[at::rounds].tolist() for at in range(rounds)], config.clients)
    after = await _get(ours, "/health")
    visits = await in_turn(ours, peer, [alone[at::2].tolist() for at in range(2)], 1)
    if (largest := (await _get(peer, "/health"))["largest_batch"]) != 1:
        raise CourseError(f"bench service: the one-by-one service answered {largest} searches together.")
    batch = (after["searches"] - before["searches"]) / (after["batches"] - before["batches"])
    same = same_products(*crowds) + same_products(*visits)
    both = len(crowd) + len(alone)
    note = f"{len(crowd):,} different searches by {config.clients} clients in {rounds} rounds, mean batch {batch:.1f}"
    agreed = f"same products in the same order in {same:,} of {both:,} answers, all agree"
    rows = [
        _crowd_row(system, *crowds, f"{note}; {agreed}"),
        _lone_row(system, *visits, f"{len(alone):,} different searches, one after the other"),
    ]
    for row in rows:
        _tell(row)
    return rows


async def _warmed_up(ours: str, peer: str, searches: np.ndarray, clients: int) -> float:
    """Ask both, so that models are loaded and batches have their size; return the peer's searches a second."""
    await in_turn(ours, peer, [searches[: WARM_UP // 2].tolist()], clients)
    _, (load,) = await in_turn(ours, peer, [searches[WARM_UP // 2 :].tolist()], clients)
    return load.rate


async def in_turn(
    ours: str, peer: str, rounds: Sequence[Sequence[Search]], clients: int
) -> tuple[list[Load], list[Load]]:
    """Ask both for the searches of every round, ours first, then the peer first, and so on; return a load per round.

    Raises CourseError for an error, and for answers that do not agree.
    """
    loads: dict[str, list[Load]] = {ours: [], peer: []}
    for number, searches in enumerate(rounds):
        for url in (ours, peer) if number % 2 == 0 else (peer, ours):
            messages = [message(url, "POST", "/search", search) for search in searches]
            loads[url].append(await run_load(url, messages, clients=clients))
            _check_answered(loads[url][-1], searches)
        for one, other in _pairs(loads[ours][-1], loads[peer][-1]):
            if not agree(hits_of(one), hits_of(other), smooth=searches[one.number]["system"] in SMOOTH):
                raise CourseError(
                    f"bench service: {searches[one.number]} is not answered alike:\n{hits_of(one)}\n{hits_of(other)}"
                )
    return loads[ours], loads[peer]


def agree(one: Hits, other: Hits, *, smooth: bool = True) -> bool:
    """Tell whether two answers are the same up to rounding: see the module."""
    if len(one) != len(other):
        return False
    if not one:
        return True
    scores, others = dict(one), dict(other)
    if not smooth:
        return len(scores.keys() & others.keys()) > len(one) / 2
    margin = ROUNDING * max(1.0, *(abs(score) for _, score in one + other))
    last, other_last = min(scores.values()), min(others.values())
    both = scores.keys() & others.keys()
    return (
        all(abs(scores[product] - others[product]) <= margin for product in both)
        and all(scores[product] <= other_last + margin for product in scores.keys() - both)
        and all(others[product] <= last + margin for product in others.keys() - both)
    )


def hits_of(exchange: Exchange) -> Hits:
    """Return (product id, score) of the answer to a search, the best first."""
    return [(hit["product"]["product_id"], hit["score"]) for hit in json.loads(exchange.body)["hits"]]


def same_products(ours: Sequence[Load], peer: Sequence[Load]) -> int:
    """Count the answers of both that have the same products in the same order."""
    pairs = chain.from_iterable(map(_pairs, ours, peer))
    return sum([name for name, _ in hits_of(one)] == [name for name, _ in hits_of(other)] for one, other in pairs)


def _pairs(one: Load, other: Load) -> list[tuple[Exchange, Exchange]]:
    by_number = (sorted(load.exchanges, key=lambda exchange: exchange.number) for load in (one, other))
    return list(zip(*by_number, strict=True))


def _check_answered(load: Load, searches: Sequence[Search]) -> None:
    failed = [exchange for exchange in load.exchanges if exchange.status != 200]
    if failed:
        first = failed[0]
        why = first.error or f"status {first.status}, {first.body[:200].decode(errors='replace')}"
        raise CourseError(
            f"bench service: {len(failed)} of {len(searches)} searches failed; {searches[first.number]}: {why}"
        )


def _crowd_row(system: str, ours: Sequence[Load], peer: Sequence[Load], note: str) -> dict[str, Any]:
    our_rate, peer_rate = (float(np.median([load.rate for load in loads])) for loads in (ours, peer))
    return {
        "name": f"service, {system}",
        "ours": f"micro-batches of up to {BATCH}",
        "peer": "one by one",
        "unit": "searches/s",
        "our_value": round(our_rate, 1),
        "peer_value": round(peer_rate, 1),
        "ratio": round(our_rate / peer_rate, 2),
        **_latencies("", ours),
        **_latencies("peer_", peer),
        "note": note,
    }


def _lone_row(system: str, ours: Sequence[Load], peer: Sequence[Load], note: str) -> dict[str, Any]:
    row = _crowd_row(system, ours, peer, note)
    (our_ms,), (peer_ms,) = (_milliseconds(loads, 50) for loads in (ours, peer))
    figures = {"our_value": round(our_ms, 1), "peer_value": round(peer_ms, 1), "ratio": round(our_ms / peer_ms, 2)}
    return row | {"name": f"service, {system}, a lone visitor", "unit": "ms, median"} | figures


def _latencies(prefix: str, loads: Sequence[Load]) -> dict[str, float]:
    found = _milliseconds(loads, *PERCENTS)
    return {f"{prefix}p{percent}_ms": round(ms, 1) for percent, ms in zip(PERCENTS, found, strict=True)}


def _milliseconds(loads: Sequence[Load], *percents: float) -> list[float]:
    exchanges = chain.from_iterable(load.exchanges for load in loads)
    return [1000 * seconds for seconds in percentiles(exchanges, *percents)]


def _tell(row: dict[str, Any]) -> None:
    print(f"{row['name']} ({row['note']})")
    for side, value, prefix in (("ours", "our_value", ""), ("peer", "peer_value", "peer_")):
        latencies = ", ".join(f"p{percent} {row[f'{prefix}p{percent}_ms']:,.1f} ms" for percent in PERCENTS)
        print(f"  {row[side]:24} {row[value]:8,.1f} {row['unit']}; {latencies}")
    print(f"  {row['ratio']:.2f} times")


async def _get(url: str, path: str) -> dict[str, Any]:
    with closing(Connection(url)) as connection:
        exchange = await connection.exchange(0, message(url, "GET", path))
    if exchange.status != 200:
        raise CourseError(f"bench service: {path} gave {exchange.error or exchange.status}")
    return json.loads(exchange.body)


if __name__ == "__main__":
    run_step(main)
