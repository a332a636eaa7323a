"""What the service loads: all that is built, from runs of one moment, each encoder once."""

from __future__ import annotations

import asyncio
import json
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from chapter01_baseline import choose, reindex, systems
from chapter03_multimodal.outfits import complete_look
from chapter03_multimodal.outfits.complete_look import LookFinder
from chapter03_multimodal.outfits.embeddings import ItemEmbeddings
from chapter03_multimodal.outfits.head import CompatibilityHead
from chapter03_multimodal.outfits.pairs import ItemFacts
from common import encoders
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.devices import choose_placement
from common.errors import CourseError, MissingArtifact
from common.scoreboard import COLUMNS, save_scoreboard
from course.service import shop as module
from course.service.answers import GOES_WITH, GOES_WITH_BY_COSINE
from course.service.service import Service
from course.service.shop import (
    CONSTELLATION,
    LOOK,
    PICTURE,
    RANKING,
    SCOREBOARD,
    SIMILAR,
    gap_categories,
    load_shop,
    look_choices,
    products_of,
)


@pytest.fixture
def catalogue(tmp_path, artifacts_root, monkeypatch) -> Catalogue:
    """40 products and judged queries, saved, without a picture."""
    monkeypatch.setattr(encoders, "choose_placement", lambda engine="auto": choose_placement("torch"))
    things = ("mug", "lamp", "rug", "vase")
    products = pd.DataFrame(
        {
            "product_id": [f"p{number}" for number in range(40)],
            "title": [f"{things[number % 4]} number {number}" for number in range(40)],
            "price": [None if number == 3 else number + 0.5 for number in range(40)],
            "attributes": [json.dumps({"size": number}) for number in range(40)],
        }
    )
    queries = [
        (f"q{at}", thing, "category", split)
        for at, (thing, split) in enumerate(zip(things, ["val"] * 3 + ["test"], strict=True))
    ]
    judged = [(query, f"p{number}", 3) for query, thing, *_ in queries for number in range(things.index(thing), 40, 4)]
    return Catalogue.from_tables(
        "small",
        products=products,
        queries=pd.DataFrame(queries, columns=["query_id", "query", "kind", "split"]),
        judgements=pd.DataFrame(judged, columns=["query_id", "product_id", "grade"]),
    ).save(tmp_path / "small")


def build_chapter_1(catalogue: Catalogue) -> None:
    source = str(catalogue.folder)
    reindex.main(reindex.ReindexConfig(catalogue=source))
    choose.main(choose.ChooseConfig(catalogue=source))


def evaluated(catalogue: Catalogue, value: float) -> None:
    """A run of chapter 1's evaluation that reached so much."""
    with Artifacts.for_catalogue(catalogue).new_run(module.CHAPTERS[0], "evaluate", config={"value": value}) as folder:
        row = dict.fromkeys(COLUMNS, "x") | {
            "value": value,
            "ci_low": 0.0,
            "ci_high": 1.0,
            "n_queries": 1,
            "seconds": 0.1,
        }
        save_scoreboard(folder, pd.DataFrame([row]))


def test_where_nothing_is_built_everything_says_what_to_run(catalogue):
    shop, shared = load_shop(catalogue)
    assert shop.systems == shop.runs == {} and len(shared) == 0
    assert shop.missing["BM25"] == "not built: run python -m chapter01_baseline.reindex"
    assert shop.missing["two towers"].startswith("not built: run python -m chapter0")
    assert {PICTURE, SIMILAR, LOOK, RANKING, SCOREBOARD, CONSTELLATION, "learned ranker"} <= {*shop.missing}
    assert all(words.startswith("not built: run ") for words in shop.missing.values())
    assert [shop.pictures, shop.classify, shop.similar, shop.look, shop.rank, shop.board, shop.map_page] == [None] * 7


def test_what_is_built_is_served_beside_what_is_not(catalogue):
    build_chapter_1(catalogue)
    shop, shared = load_shop(catalogue)
    first = [
        "BM25",
        "BM25 + RM3",
        "MiniLM",
        "MiniLM + Rocchio",
        "reciprocal rank fusion",
        "fusion",
        "fusion + feedback",
    ]
    assert [*shop.systems] == first
    assert shop.missing["reranked fusion"] == "not built: run python -m course run --chapters 1"
    assert {*shop.chapters.values()} == {"chapter01_baseline"}
    assert {*shop.runs} == {"chapter01_baseline/reindex", "chapter01_baseline/choose"}
    assert len(shared) == 1  # however many searchers ask with MiniLM
    for searcher in shop.systems.values():
        assert searcher.search(["lamp"], 3).row(0)
    searches = shared.hits + shared.misses
    assert shared.misses == 1 and searches > 1


def test_a_run_that_ends_while_the_shop_loads_is_not_mixed_in(catalogue, monkeypatch):
    build_chapter_1(catalogue)
    evaluated(catalogue, 0.4)
    before, load = Artifacts.for_catalogue(catalogue).runs, systems.systems

    def another_run_meanwhile(artifacts, loaded):
        made = load(artifacts, loaded)
        reindex.main(reindex.ReindexConfig(catalogue=str(catalogue.folder), ef_search=33))
        evaluated(catalogue, 0.9)
        return made

    monkeypatch.setattr(systems, "systems", another_run_meanwhile)
    shop, _ = load_shop(catalogue)
    assert shop.runs == before != Artifacts.for_catalogue(catalogue).runs
    assert "BM25" in shop.systems
    assert shop.board["value"].tolist() == [0.4]
    assert load_shop(catalogue)[0].board["value"].tolist() == [0.9]


@pytest.mark.parametrize(("scorer", "measures"), [("pair", GOES_WITH), ("cosine", GOES_WITH_BY_COSINE)])
def test_the_scores_of_a_look_are_those_of_its_head(catalogue, monkeypatch, scorer, measures):
    vectors = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    embeddings = ItemEmbeddings(vectors, catalogue.products["product_id"].tolist(), "toy", pd.DataFrame())
    head = CompatibilityHead(4, 4, hidden=4, scorer=scorer)
    finder = LookFinder.build(head, embeddings, ItemFacts.of(catalogue.products))
    monkeypatch.setattr(complete_look, "load_look_finder", lambda *_: finder)
    service = Service(*load_shop(catalogue))
    assert asyncio.run(service.complete_look(["p1"])).score_means == service.shop.look_means == measures


def test_errors_become_commands():
    missing = MissingArtifact("chapter: no step yet.\nMake it with: python -m chapter.step")
    assert module._what_to_run(missing) == "not built: run python -m chapter.step"
    stale = CourseError("chapter: of another encoder.\nBuild it again with: python -m chapter.step")
    assert module._what_to_run(stale) == "out of date: run python -m chapter.step"
    assert module._what_to_run(MissingArtifact("what?")) == "not built: run make course"
    assert module._what_to_run(ValueError("no JSON\nat all")) == "cannot be read (no JSON): run make course"
    assert module._what_to_run(OSError()) == "cannot be read (OSError): run make course"


def test_a_run_that_was_damaged_does_not_keep_the_rest_from_working(catalogue):
    build_chapter_1(catalogue)
    evaluated(catalogue, 0.4)
    artifacts = Artifacts.for_catalogue(catalogue)
    (artifacts.current(module.CHAPTERS[0], "evaluate").path / "scoreboard.parquet").write_bytes(b"no table")
    shop, _ = load_shop(catalogue)
    assert "BM25" in shop.systems and shop.board is None
    assert shop.missing[SCOREBOARD].startswith("cannot be read (")
    (artifacts.current(module.CHAPTERS[0], "reindex").path / "embeddings.npy").unlink()
    assert load_shop(catalogue)[0].missing["BM25"].startswith("cannot be read (")


def test_products_as_they_are_shown(catalogue):
    products = products_of(catalogue)
    assert len(products) == 40
    assert products["p3"].price is None and products["p4"].price == 4.5
    assert products["p7"].attributes == {"size": 7} and products["p7"].brand is None
    assert not products["p7"].has_image
    assert not any(
        isinstance(value, float) and np.isnan(value) for one in products.values() for value in vars(one).values()
    )


def test_every_system_says_what_its_scores_measure():
    """Two kinds of score never share their words."""
    offered = [import_module(f"{chapter}.systems").SCORES for chapter in module.CHAPTERS]
    means = {name: meaning for scores in offered for name, meaning in scores.items()}
    assert len(means) == sum(map(len, offered)), "two chapters have a system of the same name"
    assert means["BM25"] != means["MiniLM"] == means["two towers"]
    assert means["fusion"] == means["two towers + BM25"] != means["reranked fusion"]
    assert "order alone" in means["learned ranker"]


def test_what_a_look_begins_with_and_may_lack(catalogue):
    """Products of outfits that have an embedding, and every level of the categories of all items."""
    paths = {"p1": "Home > Lamps", "p2": "Home > Rugs > Wool"}
    pairs = pd.DataFrame({"a_id": ["p9", "p2", "p1"], "b_id": ["p2", "p0", "p3"], "label": [1, 1, 0]})
    products = catalogue.products.assign(title=["x" * 80, *catalogue.products["title"][1:]])
    known = SimpleNamespace(products=products, pairs=pairs)
    embeddings = ItemEmbeddings(np.eye(3, dtype=np.float32), ["p1", "p2", "p0"], "toy", pd.DataFrame())
    finder = SimpleNamespace(embeddings=embeddings, facts=SimpleNamespace(categories=paths | {"p8": "Garden"}))
    assert look_choices(finder, known) == [("rug number 2 (p2)", "p2"), ("… (p0)", "p0")]
    assert gap_categories(finder) == ["Home", "Home > Lamps", "Home > Rugs", "Home > Rugs > Wool"]
    bare = SimpleNamespace(products=products.assign(title=None), pairs=pairs)
    assert look_choices(finder, bare) == [("p2 (p2)", "p2"), ("p0 (p0)", "p0")]
