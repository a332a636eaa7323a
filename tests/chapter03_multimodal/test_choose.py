"""The pictures' share: counted again by hand, chosen on validation queries and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chapter01_baseline import choose as chapter01_choose
from chapter01_baseline.choose import DEFAULTS, evaluation_judgements, judged_queries, load_choices
from chapter01_baseline.reindex import load_indices
from chapter02_two_tower.reindex import load_towers
from chapter03_multimodal import choose
from chapter03_multimodal.choose import (
    HEADLINE,
    SHARES,
    WITHOUT_JUDGEMENTS,
    ChooseConfig,
    choose_share,
    load_joint_towers,
    load_picture_choices,
    main,
)
from chapter03_multimodal.joint import joint_towers, pictures_of_all
from chapter03_multimodal.reindex import load_pictures
from common.artifacts import Artifacts
from common.errors import CourseError, MissingArtifact
from common.evaluation import evaluate
from common.search import hits_from_scores

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def both(thread):
    """Towers and pictures."""
    catalogue, artifacts = thread
    return load_towers(artifacts, catalogue), load_pictures(artifacts)


@pytest.fixture
def few_shares(monkeypatch):
    monkeypatch.setattr(choose, "SHARES", (0.0, 0.3, 0.6, 1.0))


def figure(hits, catalogue):
    queries = judged_queries(catalogue, "val")
    return evaluate(hits, queries, evaluation_judgements(catalogue), metrics=[HEADLINE])[HEADLINE].mean()


def test_the_curve_is_what_two_added_searches_reach_and_its_best_is_chosen(thread, both):
    catalogue, artifacts = thread
    found, (towers, pictures) = load_picture_choices(artifacts), both
    curve = found.curve.set_index("share")[HEADLINE]
    assert tuple(curve.index) == SHARES and SHARES[0] == 0 and SHARES[-1] == 1
    assert found.share == curve.index[curve == curve.max()].min()
    assert curve.nunique() > 3
    words, ids = judged_queries(catalogue, "val")["query"].tolist(), catalogue.products["product_id"].tolist()
    assert curve[0.0] == pytest.approx(figure(towers.dense.search(words, 10), catalogue))
    by_text = towers.encoder.encode(words).vectors @ towers.embeddings.vectors.T
    by_picture = pictures.encoder.encode(words).vectors @ pictures_of_all(ids, pictures).T
    for share in (0.35, 1.0):
        hits = hits_from_scores((1 - share) * by_text + share * by_picture, ids, 10)
        assert curve[share] == pytest.approx(figure(hits, catalogue), abs=2e-3)


def test_of_equal_shares_the_smaller_is_chosen(thread, both, few_shares, monkeypatch):
    monkeypatch.setattr(choose, "evaluate", lambda *_, **__: {HEADLINE: np.array([0.5])})
    share, curve = choose_share(*both, judged_queries(thread[0], "val"))
    assert share == 0.0 and curve[HEADLINE].tolist() == [0.5] * 4


def test_the_grades_of_test_queries_do_not_matter_and_those_of_validation_do(thread, both, few_shares):
    catalogue, (towers, pictures) = thread[0], both
    queries = judged_queries(catalogue, "val")
    share, curve = choose_share(towers, pictures, queries)
    for split, same in (("test", True), ("train", True), ("val", False)):
        rows = catalogue.truth["query_id"].isin(catalogue.split_queries(split)["query_id"])
        truth = catalogue.truth.copy()
        truth.loc[rows, "product_id"] = truth.loc[rows, "product_id"].to_numpy()[::-1]
        changed = replace(catalogue, truth=truth)
        assert rows.any() and not truth.equals(catalogue.truth)
        found, other = choose_share(replace(towers, catalogue=changed), pictures, judged_queries(changed, "val"))
        assert other.equals(curve) == same
        if same:
            assert found == share


def test_no_query_but_those_of_validation_is_seen(thread, tmp_path, monkeypatch):
    seen = []

    def spy_share(towers, pictures, queries, gains):
        seen.append(("share", gains, {*queries["split"]}))
        return 0.4, load_picture_choices(thread[1]).curve

    def spy_rest(queries, indices, gains):
        seen.append((indices.encoder.share, gains, {*queries["split"]}))
        return DEFAULTS, {}

    monkeypatch.setattr(choose, "choose_share", spy_share)
    monkeypatch.setattr(chapter01_choose, "choose_on", spy_rest)
    pointer = thread[1].folder / "chapter03_multimodal" / "choose" / "current.json"
    before = pointer.read_bytes()
    main(ChooseConfig(catalogue=str(thread[0].folder), gains="esci"))
    pointer.write_bytes(before)
    assert seen == [("share", "esci", {"val"}), (0.4, "esci", {"val"})]


def test_the_rest_is_chosen_for_the_joint_vectors(thread):
    catalogue, artifacts = thread
    found, ours = load_picture_choices(artifacts), load_joint_towers(artifacts, catalogue)
    assert "share_curve" not in found.rest.curves and set(found.rest.curves) == set(load_choices(artifacts).curves)
    curve = found.rest.curves["fusion"].set_index("weight")[HEADLINE]
    assert curve[found.rest.fusion_weight] == curve.max()
    # Weight 0 is BM25 alone, weight 1 the joint vectors alone.
    words = judged_queries(catalogue, "val")["query"].tolist()
    assert curve[1.0] == pytest.approx(figure(ours.dense.search(words, 200), catalogue))
    assert curve[0.0] == pytest.approx(figure(load_indices(artifacts, catalogue).keyword.search(words, 200), catalogue))


def test_the_joint_index_holds_the_chosen_share(thread, both):
    catalogue, artifacts = thread
    share, ours = load_picture_choices(artifacts).share, load_joint_towers(artifacts, catalogue)
    encoder, embeddings = joint_towers(*both, share)
    assert ours.encoder.encoder_id == encoder.encoder_id == ours.embeddings.encoder_id
    np.testing.assert_array_equal(ours.embeddings.vectors, embeddings.vectors)
    assert (ours.dense.index.kind, ours.hnsw.index.kind) == ("flat", "hnsw")
    hits = ours.dense.search(["green rug"], 5)
    scores = encoder.encode(["green rug"]).vectors[0] @ embeddings.vectors.T
    np.testing.assert_allclose(hits.scores[0], np.sort(scores)[::-1][:5], atol=1e-5)
    assert (ours.hnsw.search(["green rug"], 5).ids == hits.ids).all()
    swapped = ours.as_indices(load_indices(artifacts, catalogue))
    assert swapped.encoder is ours.encoder and swapped.dense is ours.dense


def test_a_joint_index_of_other_parts_is_refused_with_the_command(thread, both):
    run = load_picture_choices(thread[1]).rest.run
    with pytest.raises(CourseError, match=r"other towers or pictures.*\n.*python -m chapter03_multimodal\.choose"):
        choose._joint_of(run.path / "joint", *both, 0.123)


def test_it_is_chosen_once(thread):
    catalogue, artifacts = thread
    name = load_picture_choices(artifacts).rest.run.name
    assert main(ChooseConfig(catalogue=str(catalogue.folder))).rest.run.name == name


def test_without_judged_queries_the_defaults_are_taken(unasked):
    catalogue, artifacts = unasked
    found = load_picture_choices(artifacts)
    assert found.share == WITHOUT_JUDGEMENTS and found.curve.empty and list(found.curve) == ["share", HEADLINE]
    assert found.rest.fusion_weight == DEFAULTS["fusion_weight"] and not found.rest.curves
    assert load_joint_towers(artifacts, catalogue).encoder.share == WITHOUT_JUDGEMENTS


def test_without_choices_the_error_names_the_command(thread, tmp_path):
    with pytest.raises(MissingArtifact, match=r"python -m chapter03_multimodal\.choose"):
        load_picture_choices(Artifacts.for_catalogue(thread[0], root=tmp_path))
