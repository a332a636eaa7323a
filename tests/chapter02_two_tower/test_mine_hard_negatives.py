"""Mining against its naive twin (loops and a full sort), and against sentence-transformers on the same vectors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from chapter02_two_tower import mine_hard_negatives as mining
from chapter02_two_tower import nearest
from chapter02_two_tower.mine_hard_negatives import RULES, MineConfig, draw_scores, hard_negatives_of, mine
from chapter02_two_tower.training_data import HARD_DTYPES, TrainingData, as_rows
from common.artifacts import Artifacts
from common.catalogue import Catalogue, product_text
from common.errors import CourseError, MissingArtifact


def naive(
    queries,
    products,
    product_ids,
    query_ids,
    relevant,
    positives,
    *,
    top,
    keep,
    absolute_margin,
    relative_margin,
    margin_from,
    sampling,
    seed,
):
    """Each rule as it is said: one query, one candidate at a time."""
    rng = np.random.default_rng(seed)
    rows, skipped = [], dict.fromkeys(RULES, 0)
    for query, query_id in zip(queries, query_ids, strict=True):
        scores = [np.float32(sum(a * b for a, b in zip(query, product, strict=True))) for product in products]
        ranked = sorted(range(len(products)), key=lambda at, scores=scores: (-scores[at], at))[:top]
        lots = rng.random(len(ranked))
        goals = [scores[product_ids.index(p)] for p in positives[query_id] if p in product_ids]
        goal = (min if margin_from == "lowest" else max)(goals, default=None)
        left = []
        for place, at in enumerate(ranked):
            if product_ids[at] in {*relevant.get(query_id, ()), *positives[query_id]}:
                skipped["relevant"] += 1
            elif absolute_margin is not None and scores[at] + np.float32(absolute_margin) > goal:
                skipped["absolute_margin"] += 1
            elif relative_margin is not None and scores[at] > goal - abs(goal) * np.float32(relative_margin):
                skipped["relative_margin"] += 1
            else:
                left.append((place, at))
        order = sorted(left, key=lambda pair, lots=lots: lots[pair[0]]) if sampling == "random" else left
        kept = sorted(order[:keep])
        skipped["beyond_keep"] += len(left) - len(kept)
        rows += [(query_id, product_ids[at], float(scores[at]), place + 1) for place, at in kept]
    return rows, skipped


# Vectors of small whole numbers: their products are exact, so equal scores are equal in both ways of counting, and
# there are many of them.
NUMBERS = st.integers(-2, 2)


@st.composite
def cases(draw):
    n_queries, n_products, size = draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(1, 3))
    queries, products = draw(_matrix(n_queries, size)), draw(_matrix(n_products, size))
    product_ids, query_ids = [f"p{at}" for at in range(n_products)], [f"q{at}" for at in range(n_queries)]
    some = st.lists(st.sampled_from([*product_ids, "elsewhere"]), max_size=5)
    certain = st.sampled_from(product_ids)
    margin = st.sampled_from([None, 0.0, 0.25, 0.5])
    return {
        "queries": queries,
        "products": products,
        "product_ids": product_ids,
        "query_ids": query_ids,
        "relevant": {query: draw(some) for query in query_ids if draw(st.booleans())},
        "positives": {query: [draw(certain), *draw(some)] for query in query_ids},
        "top": draw(st.integers(1, 14)),
        "keep": draw(st.integers(1, 6)),
        "absolute_margin": draw(margin),
        "relative_margin": draw(margin),
        "margin_from": draw(st.sampled_from(["lowest", "highest"])),
        "sampling": draw(st.sampled_from(["top", "random"])),
        "seed": draw(st.integers(0, 5)),
    }


def _matrix(rows, columns):
    row = st.lists(NUMBERS, min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows).map(lambda m: np.array(m, dtype=np.float32))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_mining_is_its_naive_twin(case):
    mined = mine(**case)
    rows, skipped = naive(**case)
    assert list(mined.negatives.itertuples(index=False, name=None)) == rows
    assert dict(zip(mined.skipped["rule"], mined.skipped["count"], strict=True)) == skipped
    looked_at = len(case["query_ids"]) * min(case["top"], len(case["product_ids"]))
    assert len(rows) + sum(skipped.values()) == looked_at
    assert len(mined.scores["kept"]) == len(rows)
    assert all(len(mined.scores[rule]) == count for rule, count in skipped.items())


@settings(max_examples=60, deadline=None)
@given(cases())
def test_what_is_relevant_never_comes_out(case):
    mined = mine(**case)
    for row in mined.negatives.itertuples():
        assert row.product_id not in {*case["relevant"].get(row.query_id, ()), *case["positives"][row.query_id]}
    assert mined.negatives.groupby("query_id").size().le(case["keep"]).all()


def some_vectors(n_queries=60, n_products=400, size=16, seed=0):
    """Queries near their positives: unit vectors, one to three positives a query."""
    rng = np.random.default_rng(seed)
    products = rng.standard_normal((n_products, size)).astype(np.float32)
    products /= np.linalg.norm(products, axis=1, keepdims=True)
    positives, queries = {}, []
    for at in range(n_queries):
        chosen = rng.choice(n_products, rng.integers(1, 4), replace=False)
        positives[f"q{at}"] = [f"p{one}" for one in chosen]
        queries.append(products[chosen].mean(axis=0) + 0.1 * rng.standard_normal(size))
    queries = np.array(queries, dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries, products, [f"p{at}" for at in range(n_products)], [*positives], positives


def test_blocks_of_queries_change_nothing(monkeypatch):
    queries, products, product_ids, query_ids, positives = some_vectors()
    whole = mine(queries, products, product_ids, query_ids, {}, positives)
    monkeypatch.setattr(nearest, "SCORES_AT_ONCE", 7 * len(products))
    parts = mine(queries, products, product_ids, query_ids, {}, positives)
    pd.testing.assert_frame_equal(whole.negatives, parts.negatives)
    assert len(whole.negatives) > 100


@pytest.mark.parametrize("margins", [{}, {"relative_margin": 0.3}, {"absolute_margin": 0.2}], ids=str)
def test_the_negatives_are_those_of_sentence_transformers(margins):
    import torch
    from datasets import Dataset
    from sentence_transformers import util

    queries, products, product_ids, query_ids, positives = some_vectors()
    vectors = dict(zip([*query_ids, *product_ids], [*queries, *products], strict=True))

    class FixedModel:
        device = torch.device("cpu")
        similarity, similarity_pairwise = staticmethod(util.cos_sim), staticmethod(util.pairwise_cos_sim)

        def encode_query(self, texts, **_):
            return np.stack([vectors[text] for text in texts])

        encode_document = encode_query

    pairs = [(query, product) for query in query_ids for product in positives[query]]
    theirs = util.mine_hard_negatives(
        Dataset.from_dict({"query": [q for q, _ in pairs], "product": [p for _, p in pairs]}),
        FixedModel(),
        corpus=product_ids,
        range_max=50 - max(map(len, positives.values())),
        num_negatives=10,
        sampling_strategy="top",
        output_format="labeled-pair",
        verbose=False,
        **margins,
    )
    expected = {(row["query"], row["product"]) for row in theirs if row["label"] == 0}
    settings_ = {"absolute_margin": None, "relative_margin": None, "margin_from": "lowest"} | margins
    mined = mine(queries, products, product_ids, query_ids, {}, positives, top=50, keep=10, **settings_)
    assert set(zip(mined.negatives["query_id"], mined.negatives["product_id"], strict=True)) == expected
    assert len(expected) == len(mined.negatives) > 100


def test_the_margin_is_measured_as_in_training_unless_told_otherwise():
    from chapter02_two_tower.train_config import TrainConfig

    queries, products, product_ids, query_ids, positives = some_vectors()
    arguments = [queries, products, product_ids, query_ids, {}, positives]
    plain = mine(*arguments).negatives
    pd.testing.assert_frame_equal(plain, mine(*arguments, margin_from=TrainConfig.margin_from).negatives)
    assert len(plain) > len(mine(*arguments, margin_from="lowest").negatives)
    assert MineConfig.margin_from == TrainConfig.margin_from == "highest"


def test_random_sampling_depends_on_the_seed_only_and_keeps_the_order_of_ranks():
    arguments = some_vectors()
    first = mine(*arguments[:4], {}, arguments[4], sampling="random", seed=1).negatives
    pd.testing.assert_frame_equal(first, mine(*arguments[:4], {}, arguments[4], sampling="random", seed=1).negatives)
    other = mine(*arguments[:4], {}, arguments[4], sampling="random", seed=2).negatives
    assert not first.equals(other)
    assert first.groupby("query_id")["rank"].apply(lambda ranks: ranks.is_monotonic_increasing).all()


def test_bad_input_is_named():
    queries, products, product_ids, query_ids, positives = some_vectors(5, 20)
    good = [queries, products, product_ids, query_ids, {}, positives]
    broken = queries.copy()
    broken[2, 1] = np.nan
    for place, value, message in (
        (0, broken, "query vector is not finite"),
        (0, queries[:3], "5 query ids for vectors"),
        (1, products[:, :4], "16 dimensions, products 4"),
        (2, ["p0"] * 20, "19 product ids are repeated"),
        (5, positives | {"q3": ["elsewhere"]}, "1 queries have no positive.*'q3'"),
    ):
        with pytest.raises(CourseError, match=message):
            mine(*good[:place], value, *good[place + 1 :])
    for wrong in ({"keep": 0}, {"top": 0}, {"sampling": "best"}, {"margin_from": "mean"}):
        with pytest.raises(CourseError, match=next(iter(wrong))):
            mine(*good, **wrong)
    without = mine(*good[:5], {}, relative_margin=None)
    assert len(without.negatives) == 5 * 15, "without a margin no positive is needed"


@pytest.fixture
def data():
    """Two training queries over six products: q0 has a positive, a complement and a product judged irrelevant."""
    rows = [("q0", "mug", "p0", 1, 3, 1), ("q0", "mug", "p1", 1, 1, 3), ("q0", "mug", "p2", 0, 0, 2)]
    rows += [("q1", "lamp", "p3", 1, 2, 1)]
    frame = pd.DataFrame(rows, columns=["query_id", "query", "product_id", "label", "grade", "stage"])
    frame = frame.assign(weight=1.0, split="train", product_text="text")
    relevant = frame[frame["label"] == 1][["query_id", "product_id"]].astype("str")
    pairs = as_rows(frame[frame["stage"] != 3])  # complements are not used here, and are no negatives for that
    nothing = pairs.iloc[:0]
    hard = as_rows(frame.iloc[:0], HARD_DTYPES)
    return TrainingData(None, pairs, nothing, nothing, hard, pd.DataFrame(), relevant)


def test_mined_rows_are_rows_of_the_table(data):
    texts = {f"p{at}": f"text of p{at}" for at in range(6)}
    vectors = np.eye(6, 4, dtype=np.float32)
    table, mined = hard_negatives_of(
        data, vectors[[0, 3]], ["q0", "q1"], vectors, [*texts], texts, relative_margin=None, top=6, keep=20
    )
    assert table.dtypes.astype(str).to_dict() == HARD_DTYPES
    assert set(table[table["query_id"] == "q0"]["product_id"]) == {"p2", "p3", "p4", "p5"}
    assert set(table[table["query_id"] == "q1"]["product_id"]) == {"p0", "p1", "p2", "p4", "p5"}
    assert (table["neg_type"] == "hard").all() and (table["label"] == 0).all() and (table["stage"] == 2).all()
    assert table["product_text"].tolist() == [texts[product_id] for product_id in table["product_id"]]
    assert set(table[table["query_id"] == "q1"]["query"]) == {"lamp"}
    known = table[table["grade"].notna()]
    assert known[["query_id", "product_id", "grade"]].values.tolist() == [["q0", "p2", 0]]
    assert len(mined.negatives) == len(table)


def test_the_histograms_show_every_score_once():
    mined = mine(*some_vectors()[:4], {}, some_vectors()[4], relative_margin=0.3)
    axes = draw_scores(mined, Figure().subplots())
    shown = {text.get_text() for text in axes.get_legend().get_texts()}
    assert shown == {f"{name.replace('_', ' ')} ({len(s):,})" for name, s in mined.scores.items() if len(s)}
    nothing = {name: scores[:0] for name, scores in mined.scores.items()}
    assert draw_scores(mining.Mined(mined.negatives, mined.skipped, nothing), Figure().subplots()).get_legend() is None


def test_mining_is_cached_by_towers_and_data(artifacts_root, data, monkeypatch):
    products = [{"product_id": f"p{at}", "title": f"thing {at}"} for at in range(6)]
    shop = Catalogue.from_tables("test", products=pd.DataFrame(products)).save(artifacts_root / "shop")
    artifacts, config = Artifacts.for_catalogue(shop), MineConfig(catalogue=str(shop.folder), relative_margin=None)
    with pytest.raises(MissingArtifact, match=r"python -m chapter02_two_tower\.prepare_data"):
        mining.main(config)
    with artifacts.new_run("chapter02_two_tower", "prepare_data", config={}) as folder:
        for name in ("training_pairs", "val_pairs", "test_pairs", "hard_negatives", "notes", "relevant"):
            getattr(data, name).to_parquet(folder / f"{name}.parquet", index=False)
    with pytest.raises(MissingArtifact, match=r"python -m chapter02_two_tower\.train"):
        mining.main(config)
    model = pytest.importorskip("chapter02_two_tower.model")
    asked = []

    class Tower:
        def embed(self, texts, *, desc=None):
            asked.append(list(texts))
            return np.eye(len(texts), 6, dtype=np.float32)

    class Towers:
        query = product = Tower()

    monkeypatch.setattr(model.TwoTowerModel, "load", lambda folder: Towers() if folder.name == "best" else None)
    for trainings in (1, 2):
        with artifacts.new_run("chapter02_two_tower", "train", config={"training": trainings}) as folder:
            (folder / "best").mkdir()
        first, again = mining.main(config), mining.main(config)
        assert first.run.name == again.run.name and len(asked) == 2 * trainings
        pd.testing.assert_frame_equal(first.hard_negatives, again.hard_negatives)
    assert asked[0] == ["mug", "lamp"] and asked[1] == product_text(shop.products)
    assert first.hard_negatives.dtypes.astype(str).to_dict() == HARD_DTYPES and len(first.hard_negatives) > 0
    assert first.mined.skipped["count"].sum() + len(first.mined.negatives) == 2 * 6
    assert set(first.mined.scores) == {"positives", "kept", *RULES}
