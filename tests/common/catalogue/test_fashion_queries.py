from __future__ import annotations

import itertools
import json

import pandas as pd
import pytest

from common.catalogue import fashion_page, load_catalogue
from common.catalogue.fashion_drafts import RELEVANT_RANGE
from common.catalogue.fashion_facts import fashion_facts
from common.catalogue.fashion_intents import Intent, Wish, make_intent, misses
from common.catalogue.fashion_products import load_intents
from common.catalogue.fashion_queries import draw_fashion_queries
from common.catalogue.fashion_uses import USES
from common.catalogue.fashion_words import (
    COLOURS,
    FAMILIES,
    GENDERS,
    MAKEUP,
    NEAR_COLOURS,
    NEAR_VALUES,
    NOUNS,
    SCENTS_AND_CARE,
    SEASONAL,
    SEASONS,
    USAGES,
)
from common.catalogue.text import normalise_query
from common.pocket_shop.queries import KINDS
from tests.common.catalogue.toy_fashion import write_fashion

UNDERWEAR = {"Bra", "Briefs", "Trunk", "Boxers", "Innerwear Vests", "Camisoles", "Shapewear", "Baby Dolls"}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fashion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_ARTIFACTS", str(folder / "artifacts"))
        return load_catalogue("fashion_products", data=str(write_fashion(folder / "shop")), queries=140)


def letters(words: str) -> str:
    return "".join(filter(str.isalnum, words.casefold()))


def naive_grade(intent: Intent, product: dict) -> int:
    """The rule of the grades once more, for one product, from the columns of the catalogue."""
    facts = json.loads(product["attributes"])
    title = letters(product["title"]) if isinstance(product["title"], str) else ""
    facts["colour"] = product["colour"] if isinstance(product["colour"], str) else None
    missed = nearly = 0
    for wish in intent.wishes:
        if wish.fact == "brand":
            met = any(title.startswith(letters(brand)) for brand in wish.values)
        else:
            met = facts.get(wish.fact) in wish.values
        if met and not wish.wanted:
            return 0
        pairs = {frozenset(pair) for pair in NEAR_VALUES.get(wish.fact, ())}
        near = not met and any(frozenset((facts.get(wish.fact), value)) in pairs for value in wish.values)
        nearly, missed = nearly + near, missed + (wish.wanted and not met and not near)
    if facts["type"] in intent.types:
        if missed + nearly == 0:
            return 3
        return {(0, 1): 2, (0, 2): 1, (1, 0): 1}.get((missed, nearly), 0)
    siblings = any(facts["type"] in family and set(family) & set(intent.types) for family in FAMILIES)
    return int(siblings and missed + nearly == 0)


def test_the_truth_is_what_the_attributes_say(catalogue):
    intents = load_intents(catalogue)
    found = {(row.query_id, row.product_id): row.grade for row in catalogue.truth.itertuples()}
    products = catalogue.products.to_dict("records")
    for query_id in catalogue.queries["query_id"]:
        intent = Intent.from_json(intents[query_id])
        for product in products:
            expected = naive_grade(intent, product)
            assert found.get((query_id, product["product_id"]), 0) == expected, (intent, product)
    assert set(catalogue.truth["grade"]) == {1, 2, 3}


def test_judgements_are_a_pool_with_true_grades(catalogue):
    both = catalogue.judgements.merge(catalogue.truth, how="left", on=["query_id", "product_id"])
    assert (both["grade_x"] == both["grade_y"].fillna(0)).all()
    assert set(catalogue.judgements["query_id"]) == set(catalogue.queries["query_id"])
    assert catalogue.judgements.groupby("query_id").size().max() <= 29


def test_no_query_is_about_a_product_that_is_set_aside(catalogue):
    assert set(catalogue.quarantine["table"]) == {"products", "images"}
    assert "18" not in set(catalogue.truth["product_id"])


def test_every_query_is_worth_asking(catalogue):
    grades = catalogue.truth.groupby("query_id")["grade"]
    assert (grades.max() == 3).all() and len(grades) == len(catalogue.queries)
    assert grades.apply(lambda of: (of >= 2).sum()).between(*RELEVANT_RANGE).all()


def test_words_and_meanings_are_asked_once_and_phrases_stay_in_one_split(catalogue):
    queries = catalogue.queries
    assert queries["query"].map(normalise_query).is_unique
    assert len(set(load_intents(catalogue).values())) == len(queries)
    uses = queries[queries["kind"] == "use-case"]
    assert len(uses) > 5
    for phrase, _, _ in USES:
        assert uses.loc[uses["query"].str.contains(phrase, regex=False), "split"].nunique() <= 1, phrase


def test_every_kind_is_there_and_stands_in_every_split(catalogue):
    counts = catalogue.queries.groupby(["kind", "split"]).size().unstack(fill_value=0)
    assert set(counts.index) == set(KINDS) and (counts.sum(axis=1) <= 20).all()
    assert (counts > 0).all(axis=None)


def test_the_same_seed_draws_the_same_queries(catalogue):
    facts = fashion_facts(catalogue.products)
    first, again, other = (draw_fashion_queries(facts, 70, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first[0], again[0])
    pd.testing.assert_frame_equal(first[1], again[1])
    assert set(first[0]["query"]) != set(other[0]["query"])


def test_a_small_catalogue_gives_what_it_can_and_says_how_many(catalogue, capsys, monkeypatch):
    monkeypatch.delenv("COURSE_QUIET", raising=False)
    facts = fashion_facts(catalogue.products).head(12)
    queries, truth = draw_fashion_queries(facts, 140, seed=0)
    assert 0 < len(queries) < 140 and set(truth["query_id"]) == set(queries["query_id"])
    assert f"12 products give {len(queries)} queries, not 140" in capsys.readouterr().err
    none, truth = draw_fashion_queries(facts.head(1), 7, seed=0)
    assert none.empty and truth.empty


def test_a_near_value_is_a_near_miss_in_both_directions():
    assert misses(Wish("colour", ("Blue",)), "Navy Blue") == misses(Wish("colour", ("Navy Blue",)), "Blue") == 0.5
    assert misses(Wish("gender", ("Men",)), "Unisex") == 0.5 and misses(Wish("gender", ("Men",)), "Women") == 1
    assert misses(Wish("colour", ("Blue",)), None) == 1 and misses(Wish("colour", ("Blue",), wanted=False), None) == 0
    assert misses(Wish("colour", ("Blue",), wanted=False), "Blue") == 2
    assert misses(Wish("colour", ("Blue",), wanted=False), "Navy Blue") == 0.5
    assert misses(Wish("colour", ("Blue",), wanted=False), "Red") == 0


def test_an_intent_is_read_back_and_ignores_the_order_of_wishes():
    wishes = [Wish("gender", ("Boys", "Girls")), Wish("colour", ("Red",), wanted=False)]
    intent = make_intent(("Tshirts",), wishes)
    assert intent == make_intent(("Tshirts",), wishes[::-1]) == Intent.from_json(intent.to_json())
    assert intent.in_words() == "type: Tshirts; not colour: Red; gender: Boys or Girls"


def test_no_word_means_two_things():
    words = [word for noun in NOUNS for word in (*noun.plain, *noun.shopper, *noun.jargon)]
    for table in (COLOURS, GENDERS, USAGES, SEASONS):
        words += [word for of_value in table.values() for word in of_value]
    words += [phrase for phrase, _, _ in USES]
    assert len(words) == len(set(words))
    assert all(noun.plain or noun.shopper or noun.jargon for noun in NOUNS)
    assert len({noun.types for noun in NOUNS}) == len(NOUNS)
    types = {name for noun in NOUNS for name in noun.types}
    for noun in NOUNS:
        assert not set(noun.shopper + noun.jargon) & {name.casefold() for name in types}


def test_no_noun_begins_a_word_of_the_course_for_another_thing():
    for noun, other in itertools.permutations(NOUNS, 2):
        begins = tuple(word + end for word in (*noun.plain, *noun.shopper, *noun.jargon) for end in " -")
        assert not [word for word in (*other.shopper, *other.jargon) if word.startswith(begins)], noun


def test_tables_speak_of_types_and_colours_that_are_asked_about():
    asked = {name for noun in NOUNS for name in noun.types} | {name for _, types, _ in USES for name in types}
    assert not asked & UNDERWEAR and not {name for family in FAMILIES for name in family} & UNDERWEAR
    assert asked >= SEASONAL | SCENTS_AND_CARE | MAKEUP
    assert set(COLOURS) - {"Multi"} - {one for pair in NEAR_COLOURS for one in pair} == set()


def test_the_page_says_what_each_sampled_query_asks_for(catalogue, capsys, monkeypatch):
    monkeypatch.setattr(fashion_page, "load_catalogue", lambda name, **parameters: catalogue)
    fashion_page.main(fashion_page.PageConfig(queries=140, sample=14))
    page = capsys.readouterr().out
    assert "| negation | a shopper's word |" in page and "| 1 | C, complement |" in page
    assert page.startswith("# The queries of fashion_products") and page.endswith(" |\n")
    assert "{" not in page and len(page.split("## 14 queries")[1].strip().splitlines()) == 14 + 4
    assert not any(title in page for title in catalogue.products["title"].dropna())
