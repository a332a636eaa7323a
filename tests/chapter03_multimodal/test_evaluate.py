"""The comparison with both earlier chapters on the same queries."""

from __future__ import annotations

import numpy as np
import pytest

from chapter01_baseline.choose import evaluation_judgements, judged_queries
from chapter01_baseline.evaluate import load_evaluation, saved_hits
from chapter02_two_tower import evaluate as evaluate_2
from chapter03_multimodal import retrieval
from chapter03_multimodal.evaluate import CHAPTER, CLAIMS, EvaluateConfig, main
from chapter03_multimodal.systems import BEST, CLIP, NAMES
from common.errors import CourseError, MissingArtifact
from common.evaluation import evaluate as score
from common.scoreboard import COLUMNS, read_scoreboard

OURS = [CLIP, *NAMES.values(), BEST]


@pytest.fixture(scope="module")
def result(thread):
    return main(EvaluateConfig(catalogue=str(thread[0].folder)))


@pytest.fixture(scope="module")
def earlier(thread):
    one, two = (load_evaluation(thread[1], chapter) for chapter in ("chapter01_baseline", "chapter02_two_tower"))
    return one.per_query | two.per_query


def test_the_board_has_the_course_s_columns_and_the_chapter_s_systems(thread, result, earlier):
    board = result.scoreboard
    assert tuple(board.columns) == COLUMNS
    assert list(dict.fromkeys(board["system"])) == OURS == list(result.per_query) and {*board["chapter"]} == {CHAPTER}
    assert not board.duplicated(["system", "metric"]).any() and {*board["split"]} == {"test"}
    assert {*board["metric"]} == {*load_evaluation(thread[1]).scoreboard["metric"]}
    for scores in result.per_query.values():
        assert scores.index.tolist() == earlier["MiniLM"].index.tolist()


def test_a_saved_run_scores_as_the_board_says(thread, result):
    queries, grades = judged_queries(thread[0], "test"), evaluation_judgements(thread[0])
    for name in (CLIP, "text + image + BM25 + feedback"):
        again = score(saved_hits(result, name), queries, grades, metrics=["nDCG@10", "R@50"])
        np.testing.assert_allclose(again, result.per_query[name][["nDCG@10", "R@50"]])
        row = result.scoreboard.query("system == @name and metric == 'nDCG@10'").iloc[0]
        assert row["value"] == pytest.approx(again["nDCG@10"].mean()) and row["n_queries"] == len(queries)


def test_every_claim_about_what_is_there_is_tested_query_by_query(result, earlier):
    everything = earlier | result.per_query
    there = [claim for claim in CLAIMS if claim[1] in everything]
    table = result.comparisons
    assert list(table[["system", "against", "metric"]].itertuples(index=False, name=None)) == there
    assert len(there) == len(CLAIMS) - 1, "nobody trained a reranker here"
    for row in table.itertuples():
        a, b = (everything[name][row.metric] for name in (row.system, row.against))
        assert row.difference == pytest.approx((a - b).mean()) and row.n_queries == len(a)
        assert row.relative == pytest.approx((a.mean() - b.mean()) / b.mean(), nan_ok=True)
    assert (table["p_holm"] >= table["p"]).all()


@pytest.mark.parametrize("changed", [{"split": "val"}, {"gains": "esci"}])
def test_what_chapter_1_did_not_evaluate_is_refused(thread, result, changed):
    source = str(thread[0].folder)
    (name, value), *_ = changed.items()
    with pytest.raises(CourseError, match=f"{name} is .*, not {value}") as refusal:
        main(EvaluateConfig(catalogue=source, **changed))
    assert f"python -m chapter01_baseline.evaluate --catalogue {source}" in str(refusal.value)
    assert load_evaluation(thread[1], CHAPTER).run.name == result.run.name


def test_what_chapter_2_did_not_evaluate_is_refused(thread, result):
    catalogue, artifacts = thread
    pointer = artifacts.folder / "chapter02_two_tower" / "evaluate" / "current.json"
    before, found = pointer.read_bytes(), load_evaluation(artifacts, "chapter02_two_tower")
    said, inputs = found.run.manifest["config"], {"reindex": artifacts.current("chapter02_two_tower", "reindex")}
    with artifacts.new_run("chapter02_two_tower", "evaluate", config=said | {"gains": "esci"}, inputs=inputs) as folder:
        evaluate_2.save_evaluation(folder, found.scoreboard, found.per_query, found.comparisons, {})
    with pytest.raises(CourseError, match=r"gains is esci, not linear(.|\n)*python -m chapter02_two_tower\.evaluate"):
        main(EvaluateConfig(catalogue=str(catalogue.folder)))
    pointer.write_bytes(before)


def test_without_judged_queries_the_error_says_what_can_be_measured(unasked):
    catalogue, artifacts = unasked
    with pytest.raises(CourseError, match=r"unasked has no judged queries(.|\n)*chapter03_multimodal\.retrieval"):
        main(EvaluateConfig(catalogue=str(catalogue.folder)))
    with pytest.raises(MissingArtifact):
        load_evaluation(artifacts, CHAPTER)
    rows = read_scoreboard(retrieval.main(retrieval.RetrievalConfig(catalogue=str(catalogue.folder))).run.path)
    assert {*rows["source"]} == {"unasked"} and rows["value"].notna().all()
