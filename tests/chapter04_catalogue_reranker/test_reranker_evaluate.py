"""Check the comparison with all earlier chapters, whose evaluations are made of guesses here."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from chapter01_baseline.choose import judged_queries
from chapter01_baseline.evaluate import (
    load_evaluation,
    save_evaluation,
    saved_hits,
    score_all,
    search_all,
    to_scoreboard,
)
from chapter03_multimodal.systems import BEST as BEST_BEFORE
from chapter04_catalogue_reranker import evaluate
from chapter04_catalogue_reranker.evaluate import CHAPTER, CLAIMS, EARLIER, EvaluateConfig, main
from chapter04_catalogue_reranker.search_ranker import learned_ranker
from chapter04_catalogue_reranker.systems import BEST
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import CourseError, MissingArtifact
from common.evaluation import evaluate as score
from common.scoreboard import COLUMNS
from tests.chapter04_catalogue_reranker.ranker_world import Guesses, toy_shop

THEIRS = (("fusion", "fusion + feedback", "reranked fusion"), ("two towers + BM25 + feedback",), (BEST_BEFORE,))


def evaluated(catalogue: Catalogue, artifacts: Artifacts, chapter: str, names: tuple[str, ...], **said) -> None:
    """Write an evaluation of guesses under these names, as the chapter's own step would."""
    config = EvaluateConfig(catalogue=str(catalogue.folder), **said)
    with artifacts.new_run(chapter, "reindex", config={}):
        pass
    inputs = {"reindex": artifacts.current(chapter, "reindex")}
    queries = judged_queries(catalogue, config.split)
    with artifacts.new_run(chapter, "evaluate", config=config, inputs=inputs) as folder:
        searchers = {name: Guesses(catalogue, len(name)) for name in names}
        hits, seconds = search_all(searchers, queries)
        scores = score_all(hits, queries, catalogue, config.gains)
        save_evaluation(
            folder, to_scoreboard(scores, seconds, catalogue, config, chapter), scores, pd.DataFrame(), hits
        )


@pytest.fixture(scope="module")
def world(reranker_root, tmp_path_factory):
    """Return catalogue and artifacts; the ranker is one more guess, with a run of its own."""
    catalogue = toy_shop().save(tmp_path_factory.mktemp("toy") / "catalogue")
    artifacts = Artifacts.for_catalogue(catalogue)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "systems", lambda artifacts, found: {BEST: Guesses(found, 99)})
        for chapter, names in zip(EARLIER, THEIRS, strict=True):
            evaluated(catalogue, artifacts, chapter, names)
        with artifacts.new_run(CHAPTER, learned_ranker.STEP, config={}):
            pass
        yield catalogue, artifacts


@pytest.fixture(scope="module")
def result(world):
    return main(EvaluateConfig(catalogue=str(world[0].folder)))


def test_the_board_has_the_course_s_columns_and_the_ranker(world, result):
    board = result.scoreboard
    assert tuple(board.columns) == COLUMNS and {*board["system"]} == {BEST} == {*result.per_query}
    assert {*board["chapter"]} == {CHAPTER} and {*board["split"]} == {"test"}
    assert {*board["metric"]} == {*load_evaluation(world[1], EARLIER[0]).scoreboard["metric"]}


def test_a_saved_run_scores_as_the_board_says(world, result):
    queries = judged_queries(world[0], "test")
    again = score(saved_hits(result, BEST), queries, world[0].truth, metrics=["nDCG@10", "R@50"])
    np.testing.assert_allclose(again, result.per_query[BEST][["nDCG@10", "R@50"]])
    row = result.scoreboard.query("metric == 'nDCG@10'").iloc[0]
    assert row["value"] == pytest.approx(again["nDCG@10"].mean()) and row["n_queries"] == len(queries)


def test_every_claim_about_what_is_there_is_tested_query_by_query(world, result):
    theirs = {name: one for chapter in EARLIER for name, one in load_evaluation(world[1], chapter).per_query.items()}
    there = [claim for claim in CLAIMS if claim[1] in theirs]
    table = result.comparisons
    assert list(table[["system", "against", "metric"]].itertuples(index=False, name=None)) == there
    assert len(there) == len(CLAIMS) - 1, "nobody reranked the fusion with feedback here"
    for row in table.itertuples():
        difference = result.per_query[BEST][row.metric] - theirs[row.against][row.metric]
        assert row.difference == pytest.approx(difference.mean())
    assert (table["p_holm"] >= table["p"]).all()


def test_the_ranker_is_compared_with_the_best_before_and_with_the_cross_encoder():
    against = {other for system, other, metric in CLAIMS if (system, metric) == (BEST, "nDCG@10")}
    assert {BEST_BEFORE, "reranked fusion", "reranked fusion + feedback"} <= against


def test_nothing_is_measured_twice_and_a_new_ranker_is(world, result):
    source = str(world[0].folder)
    assert main(EvaluateConfig(catalogue=source)).run.name == result.run.name
    with world[1].new_run(CHAPTER, learned_ranker.STEP, config={"another": True}):
        pass
    again = main(EvaluateConfig(catalogue=source))
    assert again.run.name != result.run.name
    np.testing.assert_allclose(again.scoreboard["value"], result.scoreboard["value"])


@pytest.mark.parametrize("chapter", EARLIER)
def test_what_a_chapter_did_not_evaluate_in_the_same_way_is_refused(world, result, chapter):
    catalogue, artifacts = world
    names = THEIRS[EARLIER.index(chapter)]
    evaluated(catalogue, artifacts, chapter, names, gains="esci")
    with pytest.raises(CourseError, match=rf"gains is esci, not linear(.|\n)*python -m {chapter}\.evaluate"):
        main(EvaluateConfig(catalogue=str(catalogue.folder)))
    evaluated(catalogue, artifacts, chapter, names)


def test_without_judged_queries_the_error_says_what_can_be_measured(world, tmp_path):
    bare = Catalogue.from_tables("bare", products=world[0].products).save(tmp_path / "bare")
    with pytest.raises(CourseError, match=r"no judged queries of split 'test'(.|\n)*category_ranking(.|\n)*real_text"):
        main(EvaluateConfig(catalogue=str(bare.folder)))


def test_an_untrained_ranker_is_named(world):
    catalogue, artifacts = world
    pointer = artifacts.folder / CHAPTER / learned_ranker.STEP / "current.json"
    before = pointer.read_bytes()
    pointer.unlink()
    with pytest.raises(MissingArtifact, match=r"python -m chapter04_catalogue_reranker\.search_ranker\.learned_ranker"):
        main(EvaluateConfig(catalogue=str(catalogue.folder)))
    pointer.write_bytes(before)
