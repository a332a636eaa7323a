"""The service's answers, each beside what the searcher says when it is asked alone."""

from __future__ import annotations

import asyncio
import io

import pytest
from PIL import Image

from chapter04_catalogue_reranker import own_product
from common.errors import CourseError
from course.service import service as service_module
from course.service.answers import (
    GOES_WITH,
    MOST_CATEGORIES,
    MOST_HITS,
    NotBuilt,
    UnknownProduct,
    UnusablePicture,
)
from course.service.filters import Filters, allowed_ids


def run(*questions):
    async def ask():
        return await asyncio.gather(*questions, return_exceptions=True)

    return asyncio.run(ask())


def one(question):
    (answer,) = run(question)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def png(colour: str = "#c03030", size: tuple[int, int] = (60, 60)) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", size, colour).save(made, "PNG")
    return made.getvalue()


def pairs(answer) -> list[tuple[str, float]]:
    return [(hit.product.product_id, hit.score) for hit in answer.hits]


@pytest.mark.parametrize("remember", [0, 1_000])
def test_questions_asked_at_once_are_answered_as_if_asked_alone(toy_service, tmp_path, remember):
    service = toy_service(tmp_path / "toy", remember=remember)
    filters = [Filters(), Filters(brand="corbo"), Filters(category="Kitchen & Dining", price_max=40)]
    asked = [
        (f"{colour} {thing}", system, k, chosen)
        for colour in ("red", "blue", "red and green")
        for thing in ("mug", "lamp")
        for system in service.systems
        for k in (1, 7)
        for chosen in filters
    ]
    answers = run(*(service.search(q, system=name, k=k, filters=chosen) for q, name, k, chosen in asked))
    for (query, name, k, chosen), answer in zip(asked, answers, strict=True):
        allowed = allowed_ids(service.shop.catalogue.products, chosen)
        alone = service.shop.systems[name].search([query], k, allowed=allowed).row(0)
        assert [product_id for product_id, _ in pairs(answer)] == [product_id for product_id, _ in alone]
        assert [score for _, score in pairs(answer)] == pytest.approx([score for _, score in alone], abs=1e-6)
        assert [hit.rank for hit in answer.hits] == list(range(1, len(alone) + 1))
        assert answer.system == name and answer.score_means == service.score_means(name)
        assert bool(answer.note) == (len(alone) < k)
    health = service.health()
    assert health["searches"] == len(asked) and health["batches"] < len(asked) and health["waiting"] == 0
    assert (health["embedding_cache"]["hits"] > 0) == bool(remember)


def test_the_strongest_system_answers_unless_another_is_named(service):
    assert one(service.search("red mug")).system == service.systems[-1] == "MiniLM"


def test_filters_are_what_they_say(service):
    products = service.shop.catalogue.products
    assert allowed_ids(products, Filters()) is None
    by_path = allowed_ids(products, Filters(category="Kitchen & Dining"))
    assert by_path == {*products.loc[products["category_path"].str.startswith("Kitchen & Dining >"), "product_id"]}
    assert allowed_ids(products, Filters(category="Kitchen")) == frozenset()  # a level is a whole name
    assert allowed_ids(products, Filters(brand="NØRD & SØN")) == {
        *products.loc[products["brand"] == "Nørd & Søn"].product_id
    }
    fits = allowed_ids(products, Filters(price_min=7, price_max=10))
    assert fits == {"p0002", "p0003", "p0005"}  # both ends count, and p0004 has no price
    assert "p0004" not in allowed_ids(products, Filters(price_max=1e9))


def test_an_empty_filter_result_says_so(service):
    answer = one(service.search("red mug", filters=Filters(brand="nobody")))
    assert answer.hits == [] and "filters" in answer.note
    assert "Only 5 of 10" in one(service.search("mug", filters=Filters(price_max=10.0), system="MiniLM")).note


@pytest.mark.parametrize(
    ("query", "options", "words"),
    [
        ("", {}, "empty"),
        (" \n", {}, "empty"),
        ("a" * 2_001, {}, "2,001 characters"),
        ("mug", {"k": 0}, "at least 1"),
        ("mug", {"k": -1}, "at least 1"),
        ("mug", {"k": 10**9}, f"at most {MOST_HITS}"),
        ("mug", {"system": "none such"}, "no system"),
    ],
)
def test_bad_questions_are_refused_in_words(service, query, options, words):
    with pytest.raises(CourseError, match=words):
        one(service.search(query, **options))


def test_what_is_not_built_says_what_to_run(service, empty_service):
    with pytest.raises(NotBuilt, match=r"not built: run python -m chapter02_two_tower\.reindex"):
        one(service.search("mug", system="two towers"))
    questions = (
        empty_service.search("mug"),
        empty_service.search("mug", system="BM25"),
        empty_service.search_picture(png()),
        empty_service.similar("p0001"),
        empty_service.complete_look(["p0001"]),
        empty_service.categories(title="mug"),
    )
    for answer in run(*questions):
        assert isinstance(answer, NotBuilt) and "not built: run python -m" in str(answer)
    for part in (empty_service.scoreboard, empty_service.constellation):
        with pytest.raises(NotBuilt, match="not built: run"):
            part()
    assert empty_service.product("p0001").title == "Red kettle 1"
    assert empty_service.health()["systems"] == 0


def test_pictures_find_pictures_of_their_colour(service):
    colours = {"#c03030": "red", "#308040": "green", "#3050a0": "blue"}
    answers = run(*(service.search_picture(png(colour), k=4) for colour in colours))
    for answer, colour in zip(answers, colours.values(), strict=True):
        assert {hit.product.colour for hit in answer.hits} == {colour}
        assert len(answer.hits) == 4
        assert sum(chance for _, chance in answer.categories) == pytest.approx(1)


@pytest.mark.parametrize("data", [b"", b"no picture", png()[:40]])
def test_what_is_no_picture_is_refused(service, data):
    with pytest.raises(UnusablePicture):
        one(service.search_picture(data))
    with pytest.raises(UnusablePicture):
        one(service.categories(title="mug", picture=data))


def test_a_product_is_never_its_own_neighbour(service):
    everyone = service.shop.catalogue.products["product_id"].tolist()
    for product_id, answer in zip(everyone, run(*(service.similar(one, k=100) for one in everyone)), strict=True):
        assert {found for found, _ in pairs(answer)} == {*everyone} - {product_id}


def test_a_look_and_the_categories_of_a_product(service):
    answer = one(service.complete_look(["p0001"], gap_category="Home", k=3))
    assert [hit.product.category_path for hit in answer.hits] == ["Home > Lighting > Lamps"] * 3
    assert answer.score_means == service.shop.look_means == GOES_WITH
    ranked = one(service.categories(title="a mug", picture=png(), candidates=["A > B", "C"], k=1))
    assert ranked.ranking == [("A > B", pytest.approx(2 / 3))]
    assert ranked.text_share == 0.4 and len(ranked.neighbours) == 3
    with pytest.raises(CourseError, match="at most 50"):
        one(service.complete_look(["p0001"] * 51))
    with pytest.raises(CourseError, match="pool"):
        one(service.complete_look(["p0001"], pool=10**6))


def test_an_unknown_product_is_unknown_everywhere(service):
    questions = (service.similar("../p0001"), service.complete_look(["nobody"]), service.thumbnail("nobody"))
    assert all(isinstance(answer, UnknownProduct) for answer in run(*questions))
    with pytest.raises(UnknownProduct):
        service.product("p0001\x00")


def test_thumbnails_are_made_anew_and_small(service):
    for side, made in ((32, 96), (96, 96), (97, 120), (1024, 120)):  # the picture itself has 120 pixels
        picture = Image.open(io.BytesIO(one(service.thumbnail("p0000", side))))
        assert picture.format == "JPEG" and max(picture.size) == made
    assert service._thumbnail.cache_info().currsize == 3
    with pytest.raises(UnknownProduct, match="no picture"):
        one(service.thumbnail("p0003"))
    for side in (0, 31, 10**9):
        with pytest.raises(CourseError, match="side"):
            one(service.thumbnail("p0000", side))


def test_chapter_4_takes_as_much_as_is_promised():
    assert service_module.LONGEST_TEXT == own_product.LONGEST_TEXT
    assert MOST_CATEGORIES == own_product.MOST


def test_as_many_categories_as_chapter_4_ranks_may_be_asked_for(service):
    paths = [f"A > {number}" for number in range(MOST_CATEGORIES + 1)]
    assert len(one(service.categories(title="a mug", candidates=paths, k=MOST_CATEGORIES)).ranking) == MOST_CATEGORIES
    with pytest.raises(CourseError, match=f"k is {MOST_CATEGORIES + 1}; at most {MOST_CATEGORIES} category paths"):
        one(service.categories(title="a mug", candidates=paths, k=MOST_CATEGORIES + 1))


def test_a_closed_service_has_answered_what_waited(service):
    async def ask():
        waiting = [asyncio.ensure_future(service.search(f"mug {number}", system="BM25")) for number in range(20)]
        await asyncio.sleep(0)
        await service.close()
        return [len((await answer).hits) for answer in waiting]

    assert min(asyncio.run(ask())) > 0
