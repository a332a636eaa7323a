"""Training tables: right rows by the grades, nothing of the evaluation in them, and no known relevant negative."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from chapter01_baseline import reindex
from chapter01_baseline.keyword import KeywordSearcher, keyword_text
from chapter02_two_tower import prepare_data
from chapter02_two_tower.prepare_data import PrepareConfig, draw_negatives, main, make_tables
from chapter02_two_tower.query_words import products_with_words, query_key
from chapter02_two_tower.training_data import (
    DTYPES,
    HARD_DTYPES,
    TABLES,
    TrainingData,
    draw_summary,
    known_relevant,
    load_training_data,
    summary,
)
from common.artifacts import Artifacts
from common.catalogue import Catalogue, load_catalogue, normalise_query
from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact
from common.index import DenseIndex

NOUNS = ["mug", "lamp", "rug", "desk", "vase", "fork", "sofa", "tent", "bowl", "coat"]
COLOURS = ["red", "blue", "green", "black", "white", "grey"]


class WordEncoder:
    """Texts that share words are near, and no two are equally near: enough of an encoder to rank by."""

    encoder_id = "words"

    def encode(self, texts, *, desc=None):
        vectors = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = 0.1 * np.random.default_rng(list(text.encode())).random(64)
            for word in query_key(text):
                vectors[row, sum(map(ord, word)) * 7 % 64] += 1
        return Embeddings(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), self.encoder_id)


def indices_of(catalogue):
    encoder = WordEncoder()
    texts = catalogue.products["title"].fillna("").tolist()
    index = DenseIndex.build(encoder.encode(texts), catalogue.products["product_id"].tolist())
    keyword = KeywordSearcher(catalogue.products["product_id"].tolist(), keyword_text(catalogue.products))
    return SimpleNamespace(encoder=encoder, dense=SimpleNamespace(index=index), keyword=keyword)


def shop(queries=(), judgements=(), products=None, **tables):
    """60 products "red mug 7" and the like, with the given queries (id, words, split) and judgements (query, product,
    grade)."""
    products = products or [
        {"product_id": f"p{at:02d}", "title": f"{COLOURS[at // 10]} {NOUNS[at % 10]}"} for at in range(60)
    ]
    return Catalogue.from_tables(
        "test",
        products=pd.DataFrame(products),
        queries=pd.DataFrame(list(queries), columns=["query_id", "query", "split"]),
        judgements=pd.DataFrame(list(judgements), columns=["query_id", "product_id", "grade"]),
        **tables,
    )


def judged_shop(with_val=True):
    """A query a noun and split; the six products of the noun have grades 3, 3, 2, 1, 0 and no judgement."""
    splits = ["train"] * 6 + ["val" if with_val else "train"] * 2 + ["test"] * 2
    queries = [(f"q{at}", noun, split) for at, (noun, split) in enumerate(zip(NOUNS, splits, strict=True))]
    grades = (3, 3, 2, 1, 0)
    return shop(queries, [(f"q{at}", f"p{c}{at}", grade) for at in range(10) for c, grade in enumerate(grades)])


def tables_of(catalogue, **config):
    return make_tables(catalogue, indices_of(catalogue), PrepareConfig(**config))


def wordings(table):
    return set(table["query"].map(normalise_query))


def test_rows_follow_from_the_grades():
    tables = tables_of(judged_shop())
    for name in TABLES:
        assert tables[name].dtypes.astype(str).to_dict() == (HARD_DTYPES if name == "hard_negatives" else DTYPES), name
    rows = tables["training_pairs"].query("query_id == 'q0' and neg_type != 'random'").set_index("product_id")
    expected = {
        "p00": (1, 3, 1.0, 1),
        "p10": (1, 3, 1.0, 1),
        "p20": (1, 2, 0.9, 1),
        "p30": (1, 1, 0.6, 3),
        "p40": (0, 0, 1.0, 2),
    }
    assert {p: tuple(rows.loc[p, ["label", "grade", "weight", "stage"]]) for p in rows.index} == expected
    assert rows["neg_type"].fillna("positive").to_dict() == {
        p: "judged" if p == "p40" else "positive" for p in rows.index
    }
    assert (rows["product_text"] == [f"{COLOURS[int(p[1])]} mug" for p in rows.index]).all()
    assert set(tables["training_pairs"]["query_id"]) == {f"q{at}" for at in range(6)}
    assert set(tables["val_pairs"]["query_id"]) == {"q6", "q7"} and set(tables["test_pairs"]["query_id"]) == {
        "q8",
        "q9",
    }
    assert len(tables["test_pairs"]) == 10 and not tables["test_pairs"]["neg_type"].eq("random").any()
    for name, split in (("training_pairs", "train"), ("val_pairs", "val"), ("test_pairs", "test")):
        assert set(tables[name]["split"]) == {split}


@pytest.mark.parametrize("use_complements", [True, False])
def test_negatives_are_never_known_to_be_relevant(use_complements):
    tables = tables_of(judged_shop(), use_complements=use_complements, random_per_positive=4)
    relevant = {f"q{at}": {f"p{c}{at}" for c in range(4)} for at in range(10)}
    assert known_relevant(tables["relevant"]) == relevant
    negatives = pd.concat([tables[name] for name in TABLES]).query("label == 0")
    assert not any(p in relevant[q] for q, p in zip(negatives["query_id"], negatives["product_id"], strict=True))
    assert tables["training_pairs"]["stage"].eq(3).any() == use_complements
    random = tables["training_pairs"].query("neg_type == 'random'")
    assert (random.groupby("query_id").size() == 12).all() and random["query_id"].nunique() == 6
    assert not random.duplicated(["query_id", "product_id"]).any() and random["grade"].isna().all()


def test_hard_negatives_are_the_nearest_that_are_left():
    catalogue = judged_shop()
    tables, indices = tables_of(catalogue, hard_per_query=10, hard_top=30), indices_of(catalogue)
    hard = tables["hard_negatives"]
    assert set(hard["query_id"]) == {f"q{at}" for at in range(6)} and set(hard["split"]) == {"train"}
    found = indices.dense.index.search_vectors(indices.encoder.encode(NOUNS[:6]), 30)
    for row in range(6):
        ranked = [(p, place) for place, (p, _) in enumerate(found.row(row), start=1)]
        expected = [(p, place) for p, place in ranked if p not in {f"p{c}{row}" for c in range(4)}][:10]
        mine = hard[hard["query_id"] == f"q{row}"]
        assert list(zip(mine["product_id"], mine["rank"], strict=True)) == expected
    judged = hard[hard["grade"].notna()]
    assert set(zip(judged["query_id"], judged["product_id"], strict=True)) == {(f"q{at}", f"p4{at}") for at in range(6)}


def test_the_truth_that_only_the_evaluation_knows_changes_nothing():
    plain = judged_shop()
    knowing = replace(plain, truth=pd.DataFrame({"query_id": ["q0"], "product_id": ["p50"], "grade": [3]}))
    tables, again = tables_of(plain), tables_of(knowing)
    assert all(tables[name].equals(again[name]) for name in tables)


def test_the_same_seed_gives_the_same_tables():
    catalogue = judged_shop(with_val=False)
    one, same, other = tables_of(catalogue), tables_of(catalogue), tables_of(catalogue, seed=1)
    assert all(one[name].equals(same[name]) for name in one)
    assert not one["training_pairs"].equals(other["training_pairs"])


def test_training_queries_with_words_from_outside_the_split_are_left_out(capsys):
    queries = [("q0", "Red  MUG", "train"), ("q1", "blue lamp", "train"), ("q2", "green rug", "train")]
    queries += [("q3", "red mug", None), ("q4", "rugs", "val"), ("q5", "sofa", "test")]
    judged = [("q0", "p00", 3), ("q1", "p11", 3), ("q2", "p22", 1), ("q4", "p02", 3), ("q5", "p06", 3)]
    tables = tables_of(shop(queries, judged))
    assert set(tables["training_pairs"]["query_id"]) == {"q1"}
    told = capsys.readouterr().err
    assert "1 training queries left out: their words stand outside" in told
    assert "1 training queries left out: they have no" in told


@pytest.mark.parametrize("share, held", [(0.1, 1), (0.25, 2), (0.5, 4)])
def test_without_validation_queries_a_share_of_the_training_queries_is_held_out(share, held):
    tables = tables_of(judged_shop(with_val=False), validation_share=share)
    train, val = wordings(tables["training_pairs"]), wordings(tables["val_pairs"])
    assert len(val) == held and len(train) == 8 - held and not train & val
    assert not (train | val) & wordings(tables["test_pairs"])
    assert set(tables["hard_negatives"]["query_id"]) <= set(tables["training_pairs"]["query_id"])


def test_wordings_that_say_the_same_are_held_out_together():
    queries = [(f"q{at}", f"{COLOURS[at % 5]} {'mugs' if at < 5 else 'MUG'}", "train") for at in range(10)]
    for seed in range(4):
        tables = tables_of(shop(queries, [(f"q{at}", f"p{at}0"[:3], 3) for at in range(6)] + [
            (f"q{at}", "p05", 3) for at in range(6, 10)
        ]), validation_share=0.4, seed=seed)  # fmt: skip
        train, val = ({query_key(query) for query in tables[name]["query"]} for name in ("training_pairs", "val_pairs"))
        assert len(val) == 2 and len(train) == 3 and not train & val


def evaluation_only():
    """What chorus_icecat is like: products, and judged queries that are all of the split val."""
    queries = [("q0", "Red  MUGS", "val"), ("q1", "lamp", "val"), ("q2", "vase blue", "val")]
    return shop(queries, [("q0", "p00", 3), ("q1", "p01", 3), ("q2", "p14", 2)])


def test_queries_for_evaluation_only_are_not_trained_on_nor_made_up():
    catalogue = evaluation_only()
    tables = tables_of(catalogue, catalogue_pairs=200)
    pairs = pd.concat([tables["training_pairs"], tables["val_pairs"]])
    assert pairs["query_id"].str.fullmatch(r"catalogue-\d{6}").all() and len(tables["test_pairs"]) == 0
    judged = catalogue.queries["query"]
    assert not wordings(pairs) & set(judged.map(normalise_query))
    assert not set(pairs["query"].map(query_key)) & set(judged.map(query_key))
    made = tables_of(shop(), catalogue_pairs=200)["training_pairs"]
    assert set(made["query"].map(query_key)) & set(judged.map(query_key)), "else the rule is tested on nothing"


def test_made_up_queries_have_one_id_a_wording_and_careful_negatives():
    catalogue = evaluation_only()
    tables = tables_of(catalogue, catalogue_pairs=200, validation_share=0.2)
    train, val = tables["training_pairs"], tables["val_pairs"]
    pairs = pd.concat([train, val])
    assert (pairs.groupby("query_id")["query"].nunique() == 1).all()
    assert (pairs.groupby("query")["query_id"].nunique() == 1).all()
    keys = [set(table["query"].map(query_key)) for table in (train, val)]
    assert not keys[0] & keys[1] and len(keys[1]) == round(0.2 * len(keys[0] | keys[1]))
    positives = pairs[pairs["label"] == 1]
    assert positives["grade"].isna().all() and (positives["weight"] == 1).all() and (positives["stage"] == 1).all()
    negatives = pd.concat([pairs[pairs["label"] == 0], tables["hard_negatives"]])
    beside = products_with_words(catalogue.products, negatives["query"].unique())
    assert not any(p in beside[query] for query, p in zip(negatives["query"], negatives["product_id"], strict=True))
    assert any(len(found) > 1 for found in beside.values()) and set(negatives["neg_type"]) == {"random", "hard"}


def test_hard_negatives_of_made_up_queries_stay_below_the_lowest_positive():
    catalogue = evaluation_only()
    tables, indices = tables_of(catalogue, catalogue_pairs=200, weak_labels=2), indices_of(catalogue)
    hard, index = tables["hard_negatives"], indices.dense.index
    positives = tables["training_pairs"].query("label == 1")
    several = 0
    for query, rows in positives[positives["query_id"].isin(hard["query_id"])].groupby("query"):
        scores = index.vectors @ indices.encoder.encode([query]).vectors[0]
        own = scores[np.isin(index.ids, rows["product_id"])]
        mined = hard[hard["query"] == query]["score"]
        assert mined.max() <= own.min() - 0.05 * abs(own.min()) + 1e-6
        several += own.min() < 0.9 * own.max()
    assert several, "else lowest and highest would be one rule"


def test_keyword_search_is_the_weak_teacher_of_made_up_queries():
    catalogue = evaluation_only()
    plain, taught = (tables_of(catalogue, catalogue_pairs=60, weak_labels=n)["training_pairs"] for n in (0, 3))
    positives = [table[table["label"] == 1] for table in (plain, taught)]
    assert positives[0].groupby("query_id").size().mean() < positives[1].groupby("query_id").size().mean()
    keyword = indices_of(catalogue).keyword
    for query, rows in positives[1].groupby("query"):
        found = {product_id for product_id, _ in keyword.search([query], 3).row(0)}
        assert found <= set(rows["product_id"])
    assert not wordings(taught) & set(catalogue.queries["query"].map(normalise_query))


def test_made_up_pairs_join_judged_ones_when_asked_for():
    tables = tables_of(judged_shop(), catalogue_pairs=50)
    ids = tables["training_pairs"]["query_id"]
    assert {f"q{at}" for at in range(6)} < set(ids) and ids.str.startswith("catalogue-").any()
    assert not tables["val_pairs"]["query_id"].str.startswith("catalogue-").any()
    made = tables["training_pairs"][ids.str.startswith("catalogue-")]
    assert not set(made["query"].map(query_key)) & {query_key(noun) for noun in NOUNS}


def test_products_without_text_are_neither_positives_nor_negatives():
    catalogue = judged_shop()
    products = catalogue.products.assign(
        title=catalogue.products["title"].mask(catalogue.products["product_id"] == "p00")
    )
    tables = tables_of(replace(catalogue, products=products))
    assert all("p00" not in set(tables[name]["product_id"]) for name in TABLES)
    assert "p10" in set(tables["training_pairs"]["product_id"])


def test_a_query_to_which_everything_is_relevant_has_no_negatives(capsys):
    products = [{"product_id": f"p{at}", "title": f"mug {at}"} for at in range(4)]
    queries = [("q0", "mug", "train"), ("q1", "mug one", "train"), ("q2", "mug two", "val")]
    all_of = [("q0", f"p{at}", 1 + at % 3) for at in range(4)]
    some = [("q1", "p1", 3), ("q2", "p2", 3)]
    tables = tables_of(shop(queries, all_of + some, products=products))
    negatives = pd.concat([tables["training_pairs"], tables["hard_negatives"]]).query("label == 0")
    assert set(negatives["query_id"]) == {"q1"} and "q0" in set(tables["training_pairs"]["query_id"])
    assert "1 train queries have no random negatives" in capsys.readouterr().err
    with pytest.raises(CourseError, match="every product is relevant"):
        tables_of(shop(queries, all_of + some[1:], products=products))


def test_nothing_to_learn_from_is_an_error():
    untitled = [{"product_id": f"p{at}", "title": "12 34"} for at in range(3)]
    with pytest.raises(CourseError, match="add titles"):
        tables_of(shop(products=untitled))
    with pytest.raises(CourseError, match="no judged training queries"):
        tables_of(evaluation_only(), catalogue_pairs=0)
    with pytest.raises(CourseError, match="one training query only"):
        tables_of(shop([("q0", "mug", "train")], [("q0", "p00", 3)]))


@pytest.mark.parametrize(
    "field, value",
    [
        ("random_per_positive", 0),
        ("random_per_positive", 5),
        ("hard_per_query", 9),
        ("hard_per_query", 21),
        ("hard_top", 5),
        ("validation_share", 0.0),
        ("validation_share", 0.9),
        ("catalogue_pairs", -1),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(CourseError, match=field):
        main(PrepareConfig(**{field: value}))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_drawn_negatives_are_distinct_open_and_as_many_as_there_are(data):
    ids = [f"p{at}" for at in range(data.draw(st.integers(1, 40)))]
    subset = st.sets(st.sampled_from(ids), max_size=len(ids))
    positives = {f"q{at}": {ids[0], *data.draw(subset)} for at in range(data.draw(st.integers(1, 3)))}
    excluded = {query: frozenset([*found, *data.draw(subset)]) for query, found in positives.items()}
    per_positive = data.draw(st.integers(1, 4))
    goals = pd.DataFrame(
        [(query, p) for query, found in positives.items() for p in found], columns=["query_id", "product_id"]
    )
    drawn = draw_negatives(goals, excluded, ids, per_positive, np.random.default_rng(0))
    for query, found in positives.items():
        mine = drawn[drawn["query_id"] == query]["product_id"].tolist()
        open_ids = set(ids) - excluded[query]
        assert len(mine) == len(set(mine)) == min(per_positive * len(found), len(open_ids))
        assert set(mine) <= open_ids


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(catalogue, artifacts, data) of a small pocket shop, with a real index of chapter 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_ARTIFACTS", str(tmp_path_factory.mktemp("prepared")))
        small = load_catalogue("pocket_shop", size=450, queries_per_kind=5, photos=False)
        config = PrepareConfig(catalogue=str(small.folder))
        with pytest.raises(MissingArtifact, match=r"python -m chapter01_baseline\.reindex"):
            main(config)
        reindex.main(reindex.ReindexConfig(catalogue=str(small.folder), max_length=32))
        artifacts = Artifacts.for_catalogue(small)
        with pytest.raises(MissingArtifact, match=r"python -m chapter02_two_tower\.prepare_data"):
            load_training_data(artifacts)
        yield small, artifacts, main(config)


@pytest.mark.slow
def test_the_pocket_shop_leaks_nothing(prepared):
    small, _, data = prepared
    split = dict(zip(small.queries["query_id"], small.queries["split"], strict=True))
    for name, own in (("training_pairs", "train"), ("hard_negatives", "train"), ("val_pairs", "val")):
        assert {split[query] for query in getattr(data, name)["query_id"]} == {own}, name
    evaluated = set(small.queries[small.queries["split"] != "train"]["query"].map(normalise_query))
    assert not wordings(data.training_pairs) & evaluated and not wordings(data.hard_negatives) & evaluated
    judged = data.training_pairs[data.training_pairs["grade"].notna()]
    known = small.judgements.merge(judged, on=["query_id", "product_id"])
    assert len(known) == len(judged) and (known["grade_x"] == known["grade_y"]).all()


def test_tables_come_back_as_they_were_made_and_are_not_made_twice(prepared, monkeypatch):
    small, artifacts, data = prepared
    again = main(PrepareConfig(catalogue=str(small.folder)))
    assert again.run.name == data.run.name and again.run.manifest["inputs"].keys() == {"reindex"}
    expected = make_tables(small, reindex.load_indices(artifacts, small), PrepareConfig())
    for name, table in expected.items():
        pd.testing.assert_frame_equal(getattr(again, name), table)
    other = main(PrepareConfig(catalogue=str(small.folder), use_complements=False))
    assert other.run.name != data.run.name and not other.training_pairs["stage"].eq(3).any()
    main(PrepareConfig(catalogue=str(small.folder)))


def test_the_summary_counts_every_row_once(prepared):
    *_, data = prepared
    table = summary(data)
    assert table["pairs"].sum() == sum(len(getattr(data, name)) for name in (*TABLES, "notes"))
    row = table.query("split == 'train' and stage == 1 and label == 1").iloc[0]
    goals = data.training_pairs.query("stage == 1 and label == 1")
    assert (row["pairs"], row["queries"]) == (len(goals), goals["query_id"].nunique())
    assert row["pairs_a_query"] == pytest.approx(len(goals) / goals["query_id"].nunique(), abs=0.05)
    axes = draw_summary(data, Figure().subplots())
    assert sum(bar.get_width() for bar in axes.patches) == table["pairs"].sum()


def test_a_summary_of_one_split_can_be_drawn():
    data = TrainingData(None, **tables_of(evaluation_only(), catalogue_pairs=30))
    axes = draw_summary(data, Figure().subplots())
    assert sum(bar.get_width() for bar in axes.patches) == summary(data)["pairs"].sum()


def test_the_command_prints_the_summary(prepared, capsys):
    from common.cli import run_step

    small, _, data = prepared
    run_step(prepare_data.print_summary, ["--catalogue", str(small.folder)])
    printed = capsys.readouterr().out
    assert all(str(pairs) in printed for pairs in summary(data)["pairs"])
    with pytest.raises(SystemExit) as stop:
        run_step(prepare_data.print_summary, ["--catalogue", str(small.folder), "--hard-per-query", "3"])
    assert stop.value.code == 2 and "hard_per_query is 3" in capsys.readouterr().err
