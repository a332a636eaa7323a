"""Check the step, its searcher and its feature study on a toy shop, whose features need no model."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from chapter04_catalogue_reranker.search_ranker import learned_ranker
from chapter04_catalogue_reranker.search_ranker.feature_study import (
    CHAPTERS,
    READ,
    TRAP,
    WITHOUT,
    draw_ablation,
    draw_importances,
)
from chapter04_catalogue_reranker.search_ranker.learned_ranker import (
    RankerConfig,
    inputs_of,
    load_ranker,
    load_result,
    main,
)
from chapter04_catalogue_reranker.search_ranker.query_features import GROUPS, PICTURES, START_DEPTH
from chapter04_catalogue_reranker.systems import BEST, systems
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import CourseError, MissingArtifact
from common.evaluation import evaluate
from common.search import Searcher
from tests.chapter04_catalogue_reranker.ranker_world import toy_features, toy_shop

QUERIES = ["red lamp", "chair, but not blue"]


@pytest.fixture(scope="module")
def world(reranker_root, tmp_path_factory):
    """Return catalogue and artifacts; features come from guesses, not from runs."""
    catalogue = toy_shop().save(tmp_path_factory.mktemp("toy") / "catalogue")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_ranker.QueryFeatures, "load", lambda artifacts, found: toy_features(found))
        patch.setattr(learned_ranker, "inputs_of", lambda artifacts: {})
        yield catalogue, Artifacts.for_catalogue(catalogue)


def config(catalogue: Catalogue, **changes) -> RankerConfig:
    small = {"trees": 40, "leaves": (4, 7), "start_weights": (1.0,), "threads": 1, "min_data_in_leaf": 5}
    small |= {"unjudged_below": 5}
    return RankerConfig(**({"catalogue": str(catalogue.folder)} | small | changes))


@pytest.fixture(scope="module")
def result(world):
    return main(config(world[0]))


@pytest.fixture(scope="module")
def ranker(world, result):
    return systems(world[1], world[0])[BEST]


def test_it_beats_the_system_that_it_starts_from(result):
    table = result.validation
    assert table["ranker"].mean() > table["start"].mean() + 0.02
    assert table["ranker"].mean() >= table["ranker_out_of_fold"].mean() > table["start"].mean()
    assert table["ranker"].mean() == pytest.approx(result.choices["nDCG@10"].max())
    assert {*table["kind"]} == {"attribute", "negation"} and len(result.choices) == 2


def test_what_was_chosen_is_what_is_saved(result, ranker):
    best = result.choices.loc[result.choices["nDCG@10"].idxmax()]
    assert result.settings["trees"] == best["trees"] == ranker.booster.num_trees()
    assert (result.settings["leaves"], result.settings["start_weight"]) == (best["leaves"], best["start_weight"])
    groups = ranker.features.of(QUERIES).groups
    assert result.settings["columns"] == [name for name in groups if groups[name] in READ]
    assert not any("towers" in name for name in result.settings["columns"])


def test_a_search_gives_the_figure_that_validation_gave(world, result, ranker):
    queries = world[0].split_queries("val")
    hits = ranker.search(queries["query"].tolist(), 10)
    found = evaluate(hits, queries, world[0].truth, metrics=["nDCG@10"])["nDCG@10"]
    np.testing.assert_allclose(found, result.validation["ranker"], rtol=1e-6)


def test_the_hits_are_in_the_order_of_start_and_trees(ranker):
    assert isinstance(ranker, Searcher)
    table = ranker.features.of(QUERIES)
    scores = ranker.start_weight * table.starts[PICTURES] + ranker.booster.predict(
        table.values[ranker.columns].to_numpy()
    )
    hits = ranker.search(QUERIES, 5)
    for row in range(len(QUERIES)):
        mine = [
            (score, ranker.features.product_ids[p])
            for score, p, r in zip(scores, table.product, table.row, strict=True)
            if r == row
        ]
        expected = sorted(mine, key=lambda one: (-np.float32(one[0]), one[1]))[:5]
        assert hits.ids[row].tolist() == [product_id for _, product_id in expected]


def test_behind_the_candidates_follow_the_other_hits_of_the_start(world, ranker):
    few = learned_ranker.LearnedRanker(
        toy_features(world[0], depth=2), ranker.booster, ranker.columns, start_weight=1.0, threads=1
    )
    candidates = len(few.features.of(QUERIES[:1]).row)
    found = [product_id for product_id, _ in few.search(QUERIES[:1], 48).row(0)]
    started = few.features.searchers["text + image + BM25 + feedback"].search(QUERIES[:1], START_DEPTH)
    rest = [product_id for product_id, _ in started.row(0) if product_id not in found[:candidates]]
    assert 0 < candidates < len(found) and found[candidates:] == rest


def test_allowed_excluded_and_empty(ranker):
    ids = ranker.features.product_ids.tolist()
    hits = ranker.search(QUERIES, 48, allowed=ids[:20], exclude=[ids[:5], []])
    assert {product_id for product_id, _ in hits.row(0)} <= {*ids[5:20]}
    assert {product_id for product_id, _ in hits.row(1)} <= {*ids[:20]}
    assert ranker.search([""], 3).row(0) == [] and ranker.search([], 3).ids.shape == (0, 3)
    with pytest.raises(CourseError, match="k must be"):
        ranker.search(QUERIES, 0)


def test_importances_and_permutations_are_of_the_columns_that_are_read(result):
    assert result.importances["gain"].sum() == pytest.approx(1) and result.importances["gain"].is_monotonic_decreasing
    assert {*result.importances["group"]} <= {*READ} < {*GROUPS}
    assert result.permutation["group"].tolist() == [*READ] and result.permutation["drop"].max() > 0.01


def test_every_ablation_is_there_and_the_whole_is_the_ranker(result):
    table = result.ablations.set_index("name")
    assert [*table.index] == [*CHAPTERS, *WITHOUT, TRAP]
    assert table.loc["chapters 1 to 4", "nDCG@10"] == pytest.approx(result.validation["ranker"].mean())
    assert table.loc["chapters 1 to 4", "start"] == pytest.approx(result.validation["start"].mean())
    assert table.loc["chapter 1", "start_system"] == "fusion + feedback"


def test_the_same_settings_are_not_trained_again_and_others_are(world, result):
    assert main(config(world[0])).run.name == result.run.name
    assert main(config(world[0], trees=20)).run.name != result.run.name


def test_pictures_name_what_they_draw(result):
    axes = Figure().subplots(1, 2)
    draw_importances(axes[0], result.importances, most=5)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == result.importances["feature"][:5].tolist()
    draw_ablation(axes[1], result.ablations)
    assert [label.get_text() for label in axes[1].get_yticklabels()] == result.ablations["name"].tolist()
    widths = [bar.get_width() for bar in axes[1].patches[: len(result.ablations)]]
    np.testing.assert_allclose(widths, result.ablations["nDCG@10"])


@pytest.mark.parametrize("trees", [0, 30])
def test_trees_come_in_stages(world, trees):
    with pytest.raises(CourseError, match="multiple of 20"):
        main(config(world[0], trees=trees))


@pytest.mark.parametrize("split", ["train", "val"])
def test_without_judged_queries_the_error_says_of_which_split(world, split, tmp_path):
    tables = world[0].tables
    left = tables["queries"][tables["queries"]["split"] != split]
    kept = {name: tables[name][tables[name]["query_id"].isin(left["query_id"])] for name in ("judgements", "truth")}
    bare = Catalogue.from_tables("bare", products=tables["products"], queries=left, **kept).save(tmp_path / "bare")
    with pytest.raises(CourseError, match=f"no judged queries of split '{split}'"):
        main(config(bare))


def test_a_ranker_of_other_runs_is_refused(world, result, monkeypatch):
    other = type("Run", (), {"name": "another"})()
    monkeypatch.setattr(learned_ranker, "inputs_of", lambda artifacts: {"towers": other})
    with pytest.raises(CourseError, match=r"towers.*\n.*python -m chapter04.*\.search_ranker\.learned_ranker"):
        load_ranker(world[1], world[0])


def test_without_a_run_the_error_names_the_command(world, tmp_path):
    nowhere = Artifacts.for_catalogue(world[0], root=tmp_path)
    with pytest.raises(MissingArtifact, match=r"python -m chapter04_catalogue_reranker\.search_ranker\.learned_ranker"):
        load_result(nowhere)
    with pytest.raises(MissingArtifact, match=r"python -m chapter01_baseline\.reindex"):
        inputs_of(nowhere)
