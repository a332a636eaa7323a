"""The chapter's steps on a small shop: reindex, choose, evaluate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from chapter01_baseline import choose, evaluate, reindex
from chapter01_baseline.choose import Choices, choose_on, evaluation_judgements, judged_queries
from chapter01_baseline.cross_validate import FOLDS, cross_validated_hits
from chapter01_baseline.fusion import choose_weight
from chapter01_baseline.reranker import CrossEncoderReranker, rerank_texts
from chapter01_baseline.systems import RERANKED, SCORES, first_stages, systems
from common.artifacts import Artifacts, RunFolder
from common.catalogue import Catalogue
from common.errors import CourseError, MissingArtifact
from common.scoreboard import COLUMNS
from common.search import hits_from_rows
from common.trec import read_trec_run

pytestmark = pytest.mark.slow


def test_indices_come_back_as_they_were_built_and_are_not_built_twice(built):
    shop, artifacts = built
    before = artifacts.current("chapter01_baseline", "reindex").name
    indices = reindex.main(reindex.ReindexConfig(catalogue=str(shop.folder), max_length=32))
    assert indices.run.name == before and indices.product_ids == shop.products["product_id"].tolist()
    assert indices.embeddings.vectors.shape == (450, 384)
    text = shop.products["title"].iloc[7]
    assert indices.dense.search([text], 450).ids.shape == (1, 450)
    again = reindex.main(reindex.ReindexConfig(catalogue=str(shop.folder), max_length=16))
    assert again.run.name != before
    reindex.main(reindex.ReindexConfig(catalogue=str(shop.folder), max_length=32))
    choose.main(choose.ChooseConfig(catalogue=str(shop.folder)))


def test_without_indices_the_error_names_the_command(built, tmp_path):
    shop, _ = built
    with pytest.raises(MissingArtifact, match=r"python -m chapter01_baseline\.reindex"):
        systems(Artifacts.for_catalogue(shop, root=tmp_path), shop)


def test_choices_are_the_best_on_validation_queries(built):
    _, artifacts = built
    choices = choose.load_choices(artifacts)
    curve = choices.curves["fusion"].set_index("weight")["nDCG@10"]
    assert curve[choices.fusion_weight] == curve.max()
    assert set(choices.curves) == {"fusion", "rm3", "rocchio", "feedback_fusion"}
    for name, switch in (("rm3", "weight"), ("rocchio", "beta")):
        table = choices.curves[name]
        assert table[switch].iloc[0] == 0 and getattr(choices, name)[switch] in table[switch].to_numpy()


def test_choices_never_see_a_test_query(built, monkeypatch):
    shop, _ = built
    seen = []
    monkeypatch.setattr(choose, "choose_on", lambda queries, *_: (seen.append(set(queries["split"])), ({}, {}))[1])
    monkeypatch.setattr(choose, "load_choices", lambda _: None)
    choose.main(choose.ChooseConfig(catalogue=str(shop.folder), gains="esci"))
    assert seen == [{"val"}]
    monkeypatch.undo()
    choose.main(choose.ChooseConfig(catalogue=str(shop.folder)))


@pytest.fixture(scope="module")
def result(built):
    shop, _ = built
    return evaluate.main(evaluate.EvaluateConfig(catalogue=str(shop.folder)))


def test_the_scoreboard_has_a_row_a_system_and_metric(built, result):
    shop, artifacts = built
    board = result.scoreboard
    built_names = list(first_stages(reindex.load_indices(artifacts, shop), choose.load_choices(artifacts)))
    assert list(board["system"].unique()) == built_names and [*built_names, *RERANKED.values()] == list(SCORES)
    assert not board.duplicated(["system", "metric"]).any() and "nDCG@10" in set(board["metric"])
    assert not board["metric"].str.startswith("Judged").any(), "nothing is unjudged under the full truth"
    assert (board["ci_low"] <= board["value"]).all() and (board["value"] <= board["ci_high"]).all()
    assert set(board["n_queries"]) == {len(judged_queries(shop, "test"))} and set(board["split"]) == {"test"}
    for name, scores in result.per_query.items():
        mean = board[(board["system"] == name) & (board["metric"] == "nDCG@10")]["value"].item()
        assert scores["nDCG@10"].mean() == pytest.approx(mean)


def test_claims_are_corrected_for_their_number(result):
    claims = result.comparisons
    assert {"system", "against", "difference", "p", "p_holm"} <= set(claims.columns)
    assert (claims["p_holm"] >= claims["p"]).all()
    for row in claims.itertuples():
        difference = result.per_query[row.system]["nDCG@10"].mean() - result.per_query[row.against]["nDCG@10"].mean()
        assert row.difference == pytest.approx(difference)


def test_the_saved_run_scores_as_the_scoreboard_says(built, result):
    from common.evaluation import evaluate as score

    shop, _ = built
    queries = judged_queries(shop, "test")
    hits = read_trec_run(result.run.path / "fusion.trec", queries["query_id"].tolist())
    again = score(hits, queries, evaluation_judgements(shop), metrics=["nDCG@10"])
    assert np.allclose(again["nDCG@10"], result.per_query["fusion"]["nDCG@10"])


def test_cross_validation_chooses_without_the_query_it_searches(built, monkeypatch):
    from chapter01_baseline import cross_validate

    shop, artifacts = built
    indices, queries = reindex.load_indices(artifacts, shop), judged_queries(shop, "val")
    asked, chosen_on = [], []

    def spy(outside, *rest):
        chosen_on.append(set(outside["query_id"]))
        return choose_on(outside, *rest)

    monkeypatch.setattr(cross_validate, "choose_on", spy)
    hits = cross_validated_hits(queries, indices, None, seed=0)
    asked = [set(queries["query_id"]) - outside for outside in chosen_on]
    assert len(asked) == FOLDS and set.union(*asked) == set(queries["query_id"])
    assert sum(map(len, asked)) == len(queries)
    # What needs no choice is what it is without folds.
    plain = indices.keyword.search(queries["query"].tolist(), 200)
    assert (hits["BM25"].ids == plain.ids).all()
    # And a fold's fusion is the fusion with the weight chosen on the other folds.
    settings, _ = choose_on(queries[~queries["query_id"].isin(asked[0])], indices)
    fusion = first_stages(indices, Choices(run=indices.run, curves={}, **settings))["fusion"]
    rows = np.flatnonzero(queries["query_id"].isin(asked[0]))
    assert (hits["fusion"].ids[rows] == fusion.search(queries["query"].iloc[rows].tolist(), 200).ids).all()


class LongerIsBetter:
    """Stands in for a cross-encoder: the logit is the length of the product's text."""

    def score(self, pairs):
        return np.array([len(text) for _, text in pairs], dtype=np.float32)


def test_a_fold_of_the_cross_validation_reranks_with_what_was_chosen_on_the_others(built):
    shop, artifacts = built
    indices, queries = reindex.load_indices(artifacts, shop), judged_queries(shop, "val")
    stand_in = {"scorer": LongerIsBetter(), "product_texts": rerank_texts(shop), "depth": 10}
    found = cross_validated_hits(queries, indices, CrossEncoderReranker(indices.dense, **stand_in), seed=3)
    in_fold = np.random.default_rng(3).permutation(len(queries)) % FOLDS == 2
    inside, outside = queries[in_fold], queries[~in_fold]
    settings, _ = choose_on(outside, indices)
    fusion = first_stages(indices, Choices(run=indices.run, curves={}, **settings))["fusion"]
    words = outside["query"].tolist()
    top = fusion.search(words, 10)
    longest_first = CrossEncoderReranker(fusion, **stand_in).score(words, top)
    weight, _ = choose_weight([top, longest_first], outside["query_id"].tolist(), evaluation_judgements(shop))
    by_hand = CrossEncoderReranker(fusion, weight=weight, **stand_in).search(inside["query"].tolist(), 200)
    rows = np.flatnonzero(in_fold)
    assert (found["reranked fusion"].ids[rows] == by_hand.ids).all()
    assert (found["reranked fusion"].scores[rows] == by_hand.scores).all()


def test_a_retrained_lender_makes_the_evaluation_anew(built, tmp_path, monkeypatch):
    shop, _ = built
    lender = Catalogue.from_tables("lender", products=shop.products.head(3)).save(tmp_path / "lender")
    lent = []

    def search(queries, indices, reranker, **_):
        lent.append(reranker)
        return {"reranked fusion": indices.keyword.search(queries["query"].tolist(), 200)}

    monkeypatch.setattr(evaluate, "cross_validated_hits", search)
    monkeypatch.setattr(evaluate, "load_rerankers", lambda _, __, theirs: {"any": theirs.current(*rerank).name})
    rerank = ("chapter01_baseline", "rerank")
    config = evaluate.EvaluateConfig(str(shop.folder), split="val", borrow_cross_encoder=str(lender.folder))
    with pytest.raises(MissingArtifact, match=r"lender@.*\n.*python -m chapter01_baseline\.rerank"):
        evaluate.main(config)
    for trainings in (1, 2):
        with Artifacts.for_catalogue(lender).new_run(*rerank, config={"training": trainings}) as folder:
            (folder / "model").mkdir()
        first, again = evaluate.main(config), evaluate.main(config)
        assert first.run.name == again.run.name and len(lent) == trainings
        assert first.run.manifest["inputs"]["borrowed_rerank"] == lent[-1]
    assert lent[0] != lent[1]
    assert "rerank" not in first.run.manifest["inputs"], "the catalogue has none of its own"


def test_a_cross_encoder_is_borrowed_for_validation_queries_only(built):
    shop, _ = built
    config = evaluate.EvaluateConfig(str(shop.folder), split="test", borrow_cross_encoder="pocket_shop")
    with pytest.raises(CourseError, match="not for split 'test'; add --split val, or leave out --borrow-cross-encoder"):
        evaluate.main(config)


def test_an_evaluation_of_ids_with_blanks_is_saved_and_read(tmp_path):
    from common.evaluation import evaluate as score

    queries = pd.DataFrame({"query_id": ["my query", "100%"], "query": ["red mug", "blue mug"], "split": "val"})
    judgements = pd.DataFrame({"query_id": queries["query_id"], "product_id": ["red mug.jpg", "%20"], "grade": 3})
    hits = hits_from_rows([(["red mug.jpg", "%20"], [2.0, 1.0]), (["%20"], [0.5])], 2)
    per_query = {"BM25": score(hits, queries, judgements)}
    board = pd.DataFrame({column: ["BM25"] for column in COLUMNS})
    evaluate.save_evaluation(tmp_path, board, per_query, pd.DataFrame(), {"BM25": hits})
    result = evaluate.EvaluateResult(RunFolder(tmp_path, {}), pd.DataFrame(), per_query, pd.DataFrame())
    again = evaluate.saved_hits(result, "BM25")
    assert (again.ids == hits.ids).all() and (again.scores == hits.scores).all()


def test_without_judgements_everything_is_searched_and_nothing_measured(built, tmp_path):
    shop, _ = built
    bare = Catalogue.from_tables("bare", products=shop.products.head(30)).save(tmp_path / "bare")
    source = str(bare.folder)
    reindex.main(reindex.ReindexConfig(catalogue=source, max_length=32))
    choices = choose.main(choose.ChooseConfig(catalogue=source))
    assert choices.fusion_weight == 0.5 and not choices.curves
    found = systems(Artifacts.for_catalogue(bare), bare)["fusion"].search(["rug"], 5)
    assert found.ids[0, 0] is not None
    with pytest.raises(CourseError, match="no judged queries of split 'test'"):
        evaluate.main(evaluate.EvaluateConfig(catalogue=source))


def test_by_kind_is_the_mean_of_each_kind(built, result):
    shop, _ = built
    queries = judged_queries(shop, "test")
    table = evaluate.by_kind(result.per_query, queries)
    mugs = queries[queries["kind"] == "brand"]["query_id"]
    assert table.loc["brand", "BM25"] == pytest.approx(result.per_query["BM25"].loc[mugs, "nDCG@10"].mean())
    assert isinstance(table, pd.DataFrame) and set(table.index) == set(queries["kind"])
