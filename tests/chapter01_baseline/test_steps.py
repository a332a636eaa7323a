"""The chapter's steps on a small shop: reindex, choose, evaluate, and what the demo prints."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from chapter01_baseline import choose, demo, evaluate, reindex
from chapter01_baseline.choose import Choices, choose_on, evaluation_judgements, judged_queries
from chapter01_baseline.cross_validate import FOLDS, cross_validated_hits
from chapter01_baseline.systems import first_stages, systems
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import CourseError, MissingArtifact
from common.trec import read_trec_run


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
    assert set(board["system"]) == set(
        first_stages(reindex.load_indices(artifacts, shop), choose.load_choices(artifacts))
    )
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


def test_without_judgements_everything_is_searched_and_nothing_scored(built, tmp_path):
    shop, _ = built
    bare = Catalogue.from_tables("bare", products=shop.products.head(30)).save(tmp_path / "bare")
    source = str(bare.folder)
    reindex.main(reindex.ReindexConfig(catalogue=source, max_length=32))
    choices = choose.main(choose.ChooseConfig(catalogue=source))
    assert choices.fusion_weight == 0.5 and not choices.curves
    found = systems(Artifacts.for_catalogue(bare), bare)["fusion"].search(["rug"], 5)
    assert found.ids[0, 0] is not None
    result = evaluate.main(evaluate.EvaluateConfig(catalogue=source))
    assert result.scoreboard.empty and result.per_query == {}


def test_the_demo_shows_products_and_survives_markup(built, capsys):
    shop, _ = built
    demo.main(demo.DemoConfig("a [bold]rug", catalogue=str(shop.folder), k=3))
    printed = capsys.readouterr().out
    assert "[bold]rug" in printed and "fusion" in printed
    with pytest.raises(CourseError, match="BM25, "):
        demo.main(demo.DemoConfig("rug", system="nonsense", catalogue=str(shop.folder)))


def test_the_demo_says_when_there_is_nothing(built):
    shop, _ = built
    from common.search import empty_hits

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(demo.result_table("", "BM25", empty_hits(1, 5), shop))
    assert "nothing found" in console.export_text()


def test_by_kind_is_the_mean_of_each_kind(built, result):
    shop, _ = built
    queries = judged_queries(shop, "test")
    table = evaluate.by_kind(result.per_query, queries)
    mugs = queries[queries["kind"] == "brand"]["query_id"]
    assert table.loc["brand", "BM25"] == pytest.approx(result.per_query["BM25"].loc[mugs, "nDCG@10"].mean())
    assert isinstance(table, pd.DataFrame) and set(table.index) == set(queries["kind"])
