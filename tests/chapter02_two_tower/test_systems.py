"""What is chosen for the towers and what the chapter offers, against fusion by hand."""

from __future__ import annotations

import numpy as np
import pytest

from chapter01_baseline import choose as chapter01_choose
from chapter01_baseline.choose import DEFAULTS, load_choices
from chapter01_baseline.fusion import convex_fusion
from chapter02_two_tower import choose, reindex
from chapter02_two_tower.systems import ABLATIONS, NAMES, ablations, systems
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import MissingArtifact

QUERIES = ["red rug", "desk lamp", "water bottle"]


@pytest.fixture(scope="module")
def chosen(shop):
    source = str(shop[0].folder)
    towers = reindex.main(reindex.ReindexConfig(catalogue=source))
    return towers, choose.main(choose.ChooseConfig(catalogue=source))


def test_the_choices_are_the_best_of_their_curves_and_not_chapter_1s(shop, chosen):
    _, artifacts = shop
    _, choices = chosen
    assert choices.run.name.split("/")[-3:-1] == ["chapter02_two_tower", "choose"]
    assert choose.load_choices(artifacts, "chapter02_two_tower").fusion_weight == choices.fusion_weight
    assert load_choices(artifacts).run.name != choices.run.name
    curve = choices.curves["fusion"].set_index("weight")["nDCG@10"]
    assert curve[choices.fusion_weight] == curve.max()
    # Weight 0 is BM25 alone, in both chapters; weight 1 is the encoder, another in each.
    before = load_choices(artifacts).curves["fusion"].set_index("weight")["nDCG@10"]
    assert before[0.0] == curve[0.0] and before[1.0] != curve[1.0]
    # The feedback from words has nothing to do with the towers.
    assert choices.rm3 == load_choices(artifacts).rm3


def test_no_test_query_is_seen(shop, chosen, monkeypatch):
    seen = []
    spy = lambda queries, *_: (seen.append(set(queries["split"])), ({}, {}))[1]  # noqa: E731
    monkeypatch.setattr(chapter01_choose, "choose_on", spy)
    monkeypatch.setattr(choose, "load_choices", lambda *_: None)
    choose.main(choose.ChooseConfig(catalogue=str(shop[0].folder), gains="esci"))
    assert seen == [{"val"}]
    monkeypatch.undo()
    choose.main(choose.ChooseConfig(catalogue=str(shop[0].folder)))


def test_the_systems_are_the_towers_alone_and_fused_as_chosen(shop, chosen):
    catalogue, artifacts = shop
    towers, choices = chosen
    found = systems(artifacts, catalogue)
    assert list(found) == list(NAMES.values())
    vectors = towers.dense.search(QUERIES, 200)
    assert (found["two towers"].search(QUERIES, 200).ids == vectors.ids).all()
    words = reindex.load_both(artifacts, catalogue)[0].keyword.search(QUERIES, 200)
    by_hand = convex_fusion([words, vectors], 10, weight=choices.fusion_weight)
    fused = found["two towers + BM25"].search(QUERIES, 10)
    assert (fused.ids == by_hand.ids).all()
    np.testing.assert_allclose(fused.scores, by_hand.scores)


def test_the_ablations_are_the_other_models_and_the_graph(shop, chosen):
    towers, _ = chosen
    found = ablations(towers)
    assert set(found) == {"two towers, HNSW", *ABLATIONS.values()}
    assert found["two towers, HNSW"] is towers.hnsw
    best = towers.dense.search(QUERIES, 10).scores
    for name in ABLATIONS.values():
        assert not np.allclose(found[name].search(QUERIES, 10).scores, best)


def test_without_choices_the_error_names_the_command(shop, tmp_path):
    with pytest.raises(MissingArtifact, match=r"python -m chapter01_baseline\.reindex"):
        systems(Artifacts.for_catalogue(shop[0], root=tmp_path), shop[0])


def test_without_judgements_the_defaults_are_taken(shop, run_chapter01, pretend_training, tmp_path):
    bare = Catalogue.from_tables("bare", products=shop[0].products.head(30)).save(tmp_path / "bare")
    artifacts = Artifacts.for_catalogue(bare)
    run_chapter01(bare)
    pretend_training(artifacts, ["best"])
    reindex.main(reindex.ReindexConfig(catalogue=str(bare.folder)))
    choices = choose.main(choose.ChooseConfig(catalogue=str(bare.folder)))
    assert choices.fusion_weight == DEFAULTS["fusion_weight"] and not choices.curves
    assert systems(artifacts, bare)["two towers + BM25"].search(["rug"], 5).ids[0, 0] is not None
