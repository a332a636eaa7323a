"""The shop as a whole: its size, its determinism, its splits, and what its tables promise."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from common.catalogue import product_text
from common.errors import CourseError
from common.pocket_shop.outfits import go_together
from common.pocket_shop.queries import KINDS
from common.pocket_shop.shop import build_catalogue, load_facts, load_intents
from common.pocket_shop.vocabulary import BRANDS, COLOURS, FEATURES, MATERIALS, PALETTES, leaves


def test_it_is_as_large_as_promised(shop):
    assert len(shop.products) >= 4_000 and len(BRANDS) >= 40
    assert load_facts(shop)["leaf"].nunique() >= 100
    assert {path.count(" > ") + 1 for path in shop.products["category_path"].dropna()} == {3, 4}
    assert set(shop.queries["kind"]) == set(KINDS) and len(shop.queries) >= 1_000
    assert len(shop.split_queries("test")) >= 250
    assert set(shop.split_queries("test")["kind"].value_counts()) == {45}
    assert 20 <= len(shop.judgements) / len(shop.queries) <= 30


def test_the_tail_is_long(shop):
    counts = load_facts(shop)["leaf"].value_counts()
    assert counts.iloc[0] > 20 * counts.iloc[-1]
    assert counts.iloc[: len(counts) // 5].sum() > 0.45 * len(shop.products)


def test_most_queries_have_between_5_and_40_relevant_products(shop):
    relevant = shop.truth[shop.truth["grade"] >= 2].groupby("query_id").size().reindex(shop.queries["query_id"])
    assert relevant.between(5, 40).mean() > 0.9 and relevant.min() >= 2
    assert shop.truth[shop.truth["grade"] == 3]["query_id"].nunique() == len(shop.queries)


def test_the_same_seed_gives_the_same_shop_and_another_seed_another(tmp_path):
    digests = []
    for number, seed in enumerate((3, 3, 4)):
        (tmp_path / str(number)).mkdir()
        parameters = {"size": 450, "queries_per_kind": 2, "photos": False}
        digests.append(build_catalogue(tmp_path / str(number), seed=seed, **parameters).digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_tiny_shop_is_refused(tmp_path):
    with pytest.raises(CourseError, match="at least 400"):
        build_catalogue(tmp_path, size=20)


def test_queries_share_neither_words_nor_wishes(shop):
    assert shop.queries["query"].str.casefold().is_unique
    assert len({intent.to_json() for intent in load_intents(shop).values()}) == len(shop.queries)


def test_a_use_case_stands_in_one_split_only(shop):
    asked = shop.queries[shop.queries["kind"] == "use-case"]
    phrases = [phrase for leaf in leaves() for phrase, _ in leaf.uses]
    splits_of = {p: set(asked.loc[asked["query"].str.contains(p, regex=False), "split"]) for p in phrases}
    assert all(len(splits) <= 1 for splits in splits_of.values())


def test_variants_of_a_product_stand_in_one_split(shop):
    assert (shop.products.groupby("group_id")["split"].nunique() == 1).all()
    assert shop.products["group_id"].nunique() < len(shop.products)


def test_judgements_agree_with_the_truth(shop):
    truth = shop.truth.set_index(["query_id", "product_id"])["grade"]
    keys = list(zip(shop.judgements["query_id"], shop.judgements["product_id"], strict=True))
    assert (truth.reindex(keys).fillna(0).to_numpy() == shop.judgements["grade"].to_numpy()).all()
    assert set(shop.judgements["grade"]) == {0, 1, 2, 3}


def test_what_the_text_does_not_tell_stands_in_no_column(shop):
    facts = load_facts(shop)
    for fact in ("colour", "material"):
        silent = ~facts[f"tells_{fact}"].to_numpy()
        assert shop.products[fact][silent].isna().all() and shop.products[fact][~silent].notna().any()
    assert shop.products["brand"].notna().equals(facts["tells_brand"])


def test_a_told_colour_is_written_in_the_text(shop):
    facts = load_facts(shop)
    names = list(COLOURS)
    texts = product_text(shop.products)
    told = np.flatnonzero(facts["tells_colour"])[:500]
    for row in told:
        words = [word.lower() for word in COLOURS[names[facts["colour"].iat[row]]].catalogue]
        assert any(word in texts[row].lower() for word in words)


def test_the_vocabulary_refers_only_to_itself():
    assert {m for leaf in leaves() for m in leaf.materials} <= set(MATERIALS)
    assert {f for leaf in leaves() for f in leaf.features} == set(FEATURES)
    assert all(feature is None or feature in leaf.features for leaf in leaves() for _, feature in leaf.uses)
    assert {key for leaf in leaves() for key in leaf.complements} <= {leaf.key for leaf in leaves()}
    assert {leaf.palette for leaf in leaves()} <= set(PALETTES)
    assert all(set(palette) <= set(COLOURS) for palette in PALETTES.values())


def test_variants_of_a_group_have_different_colours(shop):
    facts = load_facts(shop)
    sizes = facts.groupby("group")["colour"].agg(["nunique", "size"])
    assert (sizes["nunique"] == sizes["size"]).all()


def test_pairs_follow_the_rule_within_one_split(small_shop):
    facts = load_facts(small_shop)
    row = {product_id: number for number, product_id in enumerate(facts["product_id"])}
    split = small_shop.products.set_index("product_id")["split"]
    assert set(small_shop.pairs["label"]) == {0, 1}
    for pair in small_shop.pairs.itertuples():
        assert go_together(facts, row[pair.a_id], row[pair.b_id]) == bool(pair.label)
        assert split[pair.a_id] == split[pair.b_id] == pair.split


def test_every_product_has_one_true_category_among_at_most_nine(small_shop):
    candidates = small_shop.category_candidates
    per_product = candidates.groupby("product_id")
    assert (per_product["is_true"].sum() == 1).all() and per_product.size().max() <= 9
    assert set(candidates["product_id"]) == set(small_shop.products["product_id"])
    true = candidates[candidates["is_true"]].set_index("product_id")["category_path"]
    named = small_shop.products.dropna(subset=["category_path"]).set_index("product_id")["category_path"]
    assert (true.reindex(named.index) == named).all()
    places = candidates.loc[candidates["is_true"], "position"]
    assert places.nunique() > 5, "the true category must not stand at a fixed place"


def test_photos_and_captions_are_there(small_shop):
    assert small_shop.images["product_id"].is_unique
    assert 0.9 < len(small_shop.images) / len(small_shop.products) < 1
    assert all((small_shop.folder / path).is_file() for path in small_shop.images["path"])
    assert len(small_shop.captions) == len(small_shop.products)


@pytest.mark.slow
def test_a_million_products_in_two_minutes_and_two_gigabytes(tmp_path):
    script = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from common.memory import peak_memory
        from common.pocket_shop.shop import build_catalogue
        started = time.perf_counter()
        shop = build_catalogue(Path({str(tmp_path)!r}), size=1_000_000, photos=False, queries_per_kind=0)
        print(len(shop.products), time.perf_counter() - started, peak_memory() / 1e9)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    count, seconds, gigabytes = map(float, done.stdout.split())
    assert count == 1_000_000 and seconds < 120 and gigabytes < 2
