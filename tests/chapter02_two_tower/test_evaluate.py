"""The comparison with chapter 1: same queries or none, figures that can be counted again by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from chapter01_baseline import cross_validate
from chapter01_baseline import evaluate as baseline
from chapter01_baseline.choose import evaluation_judgements, judged_queries
from chapter01_baseline.evaluate import load_evaluation, saved_hits
from chapter02_two_tower import choose, evaluate, reindex
from chapter02_two_tower.evaluate import CLAIMS, JUDGED_ONLY, EvaluateConfig, unseen_recall, wins_and_losses
from chapter02_two_tower.systems import ABLATIONS, NAMES
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import CourseError
from common.evaluation import evaluate as score
from common.search import Hits, hits_from_rows

pytestmark = pytest.mark.slow

OURS = {*NAMES.values(), "two towers, HNSW", *ABLATIONS.values()}


def steps(source: str) -> None:
    reindex.main(reindex.ReindexConfig(catalogue=source))
    choose.main(choose.ChooseConfig(catalogue=source))


@pytest.fixture(scope="module")
def result(shop):
    source = str(shop[0].folder)
    steps(source)
    return evaluate.main(EvaluateConfig(catalogue=source))


def test_the_scoreboard_is_the_chapters_own_on_chapter_1s_queries(shop, result):
    board, theirs = result.scoreboard, load_evaluation(shop[1])
    assert set(board["chapter"]) == {"chapter02_two_tower"} and set(board["system"]) == OURS
    assert list(board.columns) == list(theirs.scoreboard.columns)
    assert set(board["metric"]) == set(theirs.scoreboard["metric"]), "under the full truth no metric is added"
    assert not board.duplicated(["system", "metric"]).any()
    for scores in result.per_query.values():
        assert scores.index.tolist() == theirs.per_query["MiniLM"].index.tolist()
    assert not OURS & set(theirs.per_query), "chapter 1's evaluation stays as it was"


def test_a_saved_run_scores_as_the_scoreboard_says(shop, result):
    queries = judged_queries(shop[0], "test")
    for name in ("two towers, HNSW", "two towers + BM25"):
        again = score(saved_hits(result, name), queries, evaluation_judgements(shop[0]), metrics=["nDCG@10", "R@50"])
        np.testing.assert_allclose(again, result.per_query[name][["nDCG@10", "R@50"]])


def test_every_claim_about_what_is_there_is_tested_and_said_in_three_ways(shop, result):
    everything = load_evaluation(shop[1]).per_query | result.per_query
    there = [claim for claim in CLAIMS if claim[1] in everything and claim[2] != JUDGED_ONLY]
    table = result.comparisons
    assert list(table[["system", "against", "metric"]].itertuples(index=False, name=None)) == there
    assert (table["p_holm"] >= table["p"]).all() and (table["p_holm"] > table["p"]).any()
    for row in table.itertuples():
        a, b = (everything[name][row.metric].mean() for name in (row.system, row.against))
        assert row.difference == pytest.approx(a - b)
        assert row.relative == pytest.approx((a - b) / b, nan_ok=True)
        if row.metric.startswith("R@"):
            assert row.recovered == pytest.approx((a - b) / (1 - b))
        else:
            assert np.isnan(row.recovered)


@pytest.mark.parametrize("changed", [{"split": "val"}, {"gains": "esci"}])
def test_an_evaluation_of_something_else_is_refused(shop, result, changed):
    with pytest.raises(CourseError, match=next(iter(changed.values()))) as refusal:
        evaluate.main(EvaluateConfig(catalogue=str(shop[0].folder), **changed))
    name, value = next(iter(changed.items()))
    assert f"python -m chapter01_baseline.evaluate --catalogue {shop[0].folder}" in str(refusal.value)
    assert f"--{name} {value}" in str(refusal.value)
    assert load_evaluation(shop[1], "chapter02_two_tower").run.name == result.run.name


def test_other_queries_and_newer_indices_are_refused(shop, result):
    catalogue, artifacts = shop
    config, queries = EvaluateConfig(catalogue=str(catalogue.folder)), judged_queries(catalogue, "test")
    with pytest.raises(CourseError, match="other queries"):
        evaluate.earlier_scores(artifacts, catalogue, queries.head(3), config)
    inputs = {"reindex": artifacts.current("chapter01_baseline", "choose")}
    before = load_evaluation(artifacts)
    with artifacts.new_run("chapter01_baseline", "evaluate", config=before.run.manifest["config"], inputs=inputs) as f:
        baseline.save_evaluation(f, before.scoreboard, before.per_query, before.comparisons, {})
    with pytest.raises(CourseError, match="built anew"):
        evaluate.earlier_scores(artifacts, catalogue, queries, config)
    baseline.main(baseline.EvaluateConfig(catalogue=str(catalogue.folder)))
    assert set(evaluate.earlier_scores(artifacts, catalogue, queries, config)) == set(before.per_query)


@pytest.fixture(scope="module")
def holes(shop, run_chapter01, pretend_training, tmp_path_factory):
    """The shop without its truth, evaluated on validation queries: what a public source with holes looks like."""
    whole = shop[0]
    judged = whole.judgements[whole.judgements["query_id"].isin(whole.split_queries("val")["query_id"])]
    tables = {"products": whole.products, "queries": whole.split_queries("val"), "judgements": judged}
    catalogue = Catalogue.from_tables("holes", **tables).save(tmp_path_factory.mktemp("holes") / "catalogue")
    run_chapter01(catalogue, split="val")
    pretend_training(Artifacts.for_catalogue(catalogue), ["best"])
    steps(str(catalogue.folder))
    return catalogue, Artifacts.for_catalogue(catalogue)


def test_on_validation_queries_the_folds_are_chapter_1s_and_unjudged_products_are_taken_out(holes, monkeypatch):
    catalogue, artifacts = holes
    queries = judged_queries(catalogue, "val")
    original, chosen_on = cross_validate.choose_on, []

    def spy(outside, *rest):
        chosen_on.append(outside["query_id"].tolist())
        return original(outside, *rest)

    monkeypatch.setattr(cross_validate, "choose_on", spy)
    found = evaluate.main(EvaluateConfig(catalogue=str(catalogue.folder), split="val"))
    ours, chosen_on[:] = list(chosen_on), []
    indices = reindex.load_both(artifacts, catalogue)[0]
    cross_validate.cross_validated_hits(queries, indices, None, seed=0)
    assert ours == chosen_on and len(ours) == cross_validate.FOLDS

    judged = {query: set(rows) for query, rows in catalogue.judgements.groupby("query_id")["product_id"]}
    for result, system in ((found, "two towers + BM25"), (load_evaluation(artifacts), "fusion")):
        hits, rows = saved_hits(result, system), []
        for row, query_id in enumerate(queries["query_id"]):
            kept = [(i, value) for i, value in hits.row(row) if i in judged[query_id]]
            rows.append(([i for i, _ in kept], [value for _, value in kept]))
        by_hand = score(hits_from_rows(rows, 200), queries, catalogue.judgements, metrics=["nDCG@10"])["nDCG@10"]
        everything = evaluate.earlier_scores(artifacts, catalogue, queries, EvaluateConfig(split="val"))
        np.testing.assert_allclose((everything | found.per_query)[system][JUDGED_ONLY], by_hand)
        assert (by_hand > result.per_query[system]["nDCG@10"]).any(), "nothing was unjudged"
    claims = found.comparisons[found.comparisons["metric"] == JUDGED_ONLY]
    assert claims["against"].tolist() == ["MiniLM", "fusion"]


def test_folds_of_another_seed_are_refused(holes):
    with pytest.raises(CourseError, match="seed is 0, not 1"):
        evaluate.main(EvaluateConfig(catalogue=str(holes[0].folder), split="val", seed=1))


def table(**values):
    return pd.DataFrame({"nDCG@10": values}).rename_axis("query_id")


def test_wins_and_losses_are_the_largest_of_each():
    queries = pd.DataFrame({"query_id": list("vwxyz"), "query": list("VWXYZ"), "kind": "brand"})
    a, b = table(z=0.5, y=0.9, x=0.2, w=0.1, v=0.3), table(v=0.2, w=0.8, x=0.2, y=0.1, z=0.7)
    found = wins_and_losses(a, b, queries, n=1)
    assert found["query"].tolist() == ["Y", "W"]
    assert found["difference"].tolist() == pytest.approx([0.8, -0.7])
    assert (found["a"] - found["b"]).tolist() == found["difference"].tolist()
    # An equal query is neither, and no query is both.
    assert wins_and_losses(a, b, queries, n=9)["query"].tolist() == ["Y", "V", "Z", "W"]


def test_unseen_recall_counts_each_group_by_itself():
    hits = Hits(np.array([["p1", "p3", "p9"], ["p2", "p9", "p8"]], dtype=object), np.float32([[3, 2, 1], [3, 2, 1]]))
    grades = pd.DataFrame(
        [("q1", "p1", 3), ("q1", "p2", 2), ("q1", "p3", 3), ("q1", "p9", 1), ("q2", "p2", 3), ("q3", "p1", 3)],
        columns=["query_id", "product_id", "grade"],
    )
    found = unseen_recall({"towers": hits}, ["q1", "q2"], grades, trained={"p1", "p2", "p9"}, k=3)
    rows = {group: (recall, n) for _, group, recall, n in found.itertuples(index=False, name=None)}
    # Seen: q1 finds p1 of {p1, p2}, q2 finds p2. Unseen: q1 finds p3; q2 has none and does not count.
    assert rows == {"seen": (0.75, 2), "unseen": (1.0, 1)}
    nothing = unseen_recall({"towers": hits}, ["q1", "q2"], grades, trained=set(), k=1)
    assert nothing["products"].tolist() == ["unseen"] and nothing["R@1"].tolist() == pytest.approx([2 / 3])


def test_without_judged_queries_the_error_says_so(shop, tmp_path):
    bare = Catalogue.from_tables("bare", products=shop[0].products.head(30)).save(tmp_path / "bare")
    with pytest.raises(CourseError, match="catalogue bare has no judged queries of split 'test'"):
        evaluate.main(EvaluateConfig(catalogue=str(bare.folder)))
