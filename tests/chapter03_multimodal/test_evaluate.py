"""The comparison with both earlier chapters, on the same queries or none, and the chapter's other figures beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from chapter01_baseline.choose import evaluation_judgements, judged_queries
from chapter01_baseline.evaluate import load_evaluation, saved_hits
from chapter02_two_tower import evaluate as evaluate_2
from chapter03_multimodal import retrieval
from chapter03_multimodal.categories import classifier as category_classifier
from chapter03_multimodal.categories.long_tail import INVERSE
from chapter03_multimodal.evaluate import CHAPTER, CLAIMS, EvaluateConfig, main
from chapter03_multimodal.outfits import compatibility, export_embeddings
from chapter03_multimodal.systems import BEST, CLIP, NAMES
from common.errors import CourseError, MissingArtifact
from common.evaluation import evaluate as score
from course.scoreboard import COLUMNS

OURS = [CLIP, *NAMES.values(), BEST]


@pytest.fixture(scope="module")
def result(thread):
    """Of the systems alone: the other steps have not been run, or are put aside while it is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chapter03_multimodal.evaluate.OTHERS", {})
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


@pytest.fixture(scope="module")
def others(thread, tiny_clip):
    """The chapter's other measurements, by step."""
    source, clip = str(thread[0].folder), str(tiny_clip)
    fitting = category_classifier.Fitting(epochs=2)
    heads = {"heads": ("linear",), "techniques": (INVERSE,), "weight_decays": (1.0,), "fitting": fitting}
    export_embeddings.main(export_embeddings.ExportConfig(catalogue=source, model=clip))
    small = {"hidden": 16, "out_dim": 8, "epochs": 1}
    return {
        "retrieval": retrieval.main(retrieval.RetrievalConfig(catalogue=source)),
        "categories.classifier": category_classifier.main(
            category_classifier.ClassifierConfig(catalogue=source, encoder=clip, **heads)
        ),
        "outfits.compatibility": compatibility.main(compatibility.CompatibilityConfig(catalogue=source, **small)),
    }


def test_the_other_measurements_are_added_once_their_steps_were_run(thread, result, others):
    found = main(EvaluateConfig(catalogue=str(thread[0].folder)))
    assert found.run.name != result.run.name
    steps = {"reindex", "choose", "baseline", "towers", "text_choices", *others}
    assert {*found.run.manifest["inputs"]} == steps
    board, ours = found.scoreboard, len(result.scoreboard)
    assert tuple(board.columns) == COLUMNS and not board.duplicated(["system", "metric"]).any()
    measured = ["metric", "value", "ci_low", "ci_high", "n_queries"]
    pd.testing.assert_frame_equal(board.iloc[:ours][measured], result.scoreboard[measured], check_dtype=False)
    added = board.iloc[ours:].set_index(["system", "metric"])
    assert added["value"].notna().any() and {*added["chapter"]} == {CHAPTER} and {*added["source"]} == {"thread"}
    assert {*added["split"]} == {"test"}
    for row in others["retrieval"].board.itertuples():
        assert added.loc[(row.system, row.metric.replace("_", " ")), "value"] == row.value
    held_out = others["outfits.compatibility"].held_out
    for row in held_out.itertuples():
        one = added.loc[(f"compatibility, {row.system}", row.metric)]
        assert (one["value"], one["ci_low"], one["n_queries"]) == (row.value, row.ci_low, row.n)
    classifier = others["categories.classifier"]
    technique = classifier.results.loc[classifier.results["chosen"], "technique"].iloc[0]
    names = {"plain": "classifier, plain cross-entropy", "chosen": f"classifier, {technique}"}
    for row in classifier.comparison.itertuples():
        for column, name in names.items():
            assert added.loc[(name, f"category {row.metric}"), "value"] == pytest.approx(getattr(row, column))
    count = len(others["retrieval"].board) + len(held_out) + 2 * len(classifier.comparison)
    assert len(added) == count
    assert main(EvaluateConfig(catalogue=str(thread[0].folder))).run.name == found.run.name


def test_without_judged_queries_the_other_figures_stand_alone(unasked):
    catalogue, artifacts = unasked
    source = str(catalogue.folder)
    with pytest.raises(CourseError, match="no judged test queries, and nothing else was measured on it; run retrieval"):
        main(EvaluateConfig(catalogue=source))
    with pytest.raises(MissingArtifact):
        load_evaluation(artifacts, CHAPTER)
    measured = retrieval.main(retrieval.RetrievalConfig(catalogue=source))
    found = main(EvaluateConfig(catalogue=source))
    assert {*found.scoreboard} == {*COLUMNS} and found.scoreboard["value"].tolist() == measured.board["value"].tolist()
    assert found.per_query == {} and found.comparisons.empty
    assert load_evaluation(artifacts, CHAPTER).run.name == found.run.name
