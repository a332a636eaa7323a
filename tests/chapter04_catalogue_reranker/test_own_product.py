"""Ranked categories of a product of one's own against brute force, and what is said when something is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chapter04_catalogue_reranker import own_product, prepare_data, reindex
from chapter04_catalogue_reranker.encode import encode_categories, encode_products
from chapter04_catalogue_reranker.own_product import (
    LISTED,
    LONGEST_TEXT,
    MOST,
    MOST_CANDIDATES,
    TAXONOMY,
    Calibration,
    load_product_ranker,
    rank_product,
    read_calibration,
    text_gate,
)
from common import devices
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import CourseError, MissingArtifact
from tests.chapter04_catalogue_reranker import small_export as small

pytestmark = pytest.mark.slow

TITLE, DESCRIPTION = "Oak <b>table</b>", "A table of [bold] oak"


@pytest.fixture(scope="module", autouse=True)
def _in_float32() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "native_bfloat16", lambda: None)
        yield


@pytest.fixture(scope="module")
def catalogue(reranker_shop, tmp_path_factory) -> Catalogue:
    return small.small_shop(reranker_shop, tmp_path_factory.mktemp("own_product_shop"))


@pytest.fixture(scope="module")
def ranker(catalogue, tiny_text_encoder, tmp_path_factory):
    """An export of the small shop by a tiny model, not calibrated."""
    source, artifacts = str(catalogue.folder), Artifacts.for_catalogue(catalogue)
    prepare_data.main(prepare_data.PrepareDataConfig(catalogue=source, widen=0))
    architecture = small.tiny_architecture(tiny_text_encoder, tmp_path_factory.mktemp("own_product_towers"))
    small.pretend_training(artifacts, architecture)
    reindex.main(reindex.ReindexConfig(catalogue=source))
    return load_product_ranker(artifacts)


@pytest.fixture(scope="module")
def picture(catalogue, ranker) -> Path:
    return catalogue.image_path(ranker.export.products["product_id"][9])


def embedded(ranker, text: str, picture: Path | None) -> np.ndarray:
    return encode_products(ranker.model, [text], [picture]).fused[0]


def softmax(ranker, cosines: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return (float(ranker.model.scale.detach()) * torch.from_numpy(cosines) / temperature).softmax(dim=0).numpy()


# the answer


@pytest.mark.parametrize(("with_text", "with_picture"), [(True, True), (True, False), (False, True)])
def test_the_ranking_is_the_softmax_over_the_whole_taxonomy(ranker, picture, with_text, with_picture):
    texts = (TITLE, DESCRIPTION) if with_text else (None, "  ")
    text = f"Title: {TITLE} / Description: {DESCRIPTION}" if with_text else ""
    answer = rank_product(ranker, *texts, picture if with_picture else None, k=7)
    cosines = ranker.export.category_vectors.vectors @ embedded(ranker, text, picture if with_picture else None)
    best = np.argsort(-cosines, kind="stable")[:7]
    paths = ranker.export.categories["category_path"]
    assert [path for path, _ in answer.ranking] == paths[best].tolist() and answer.note == ""
    np.testing.assert_allclose([p for _, p in answer.ranking], softmax(ranker, cosines)[best], rtol=1e-3)


def test_probabilities_add_up_to_one_over_what_was_ranked(ranker):
    paths = ranker.export.categories["category_path"].tolist()
    assert len(paths) > MOST
    assert sum(p for _, p in rank_product(ranker, TITLE, candidates=paths[:MOST], k=MOST).ranking) == pytest.approx(1)
    assert sum(p for _, p in rank_product(ranker, TITLE, k=MOST).ranking) < 0.999


def test_candidates_are_ranked_among_themselves(ranker):
    known, new = ranker.export.categories["category_path"][5], "Zoo > Animals >  Elephants"
    paths = [known, "Zoo > Animals > Elephants", "Lamps"]
    cosines = encode_categories(ranker.model, paths) @ embedded(ranker, f"Title: {TITLE}", None)
    expected = sorted(zip(softmax(ranker, cosines), paths, strict=True), reverse=True)
    for candidates in ([known, new, "Lamps"], ["Lamps", new, known]):
        ranking = rank_product(ranker, TITLE, candidates=candidates).ranking
        assert [path for path, _ in ranking] == [path for _, path in expected]
        np.testing.assert_allclose([p for _, p in ranking], [p for p, _ in expected], rtol=1e-3)
    assert rank_product(ranker, TITLE, candidates=["Lamps"]).ranking == [("Lamps", 1.0)]
    assert len(rank_product(ranker, TITLE, candidates=paths, k=2).ranking) == 2


def test_the_nearest_products_are_those_of_brute_force(ranker, picture):
    answer = rank_product(ranker, TITLE, picture=picture, neighbours=5)
    cosines = ranker.export.fused.vectors @ embedded(ranker, f"Title: {TITLE}", picture)
    best = np.argsort(-cosines, kind="stable")[:5]
    products = ranker.export.products.iloc[best]
    assert [one for one, _ in answer.neighbours] == products["product_id"].tolist()
    np.testing.assert_allclose([cosine for _, cosine in answer.neighbours], cosines[best], atol=1e-5)


def test_a_product_of_the_catalogue_is_its_own_nearest(catalogue, ranker):
    product = catalogue.products.set_index("product_id").loc[ranker.export.products["product_id"][20]].fillna("")
    answer = rank_product(ranker, product["title"], product["description"], catalogue.image_path(product.name))
    assert answer.neighbours[0][1] == pytest.approx(1, abs=1e-4)
    assert product.name in [one for one, cosine in answer.neighbours if cosine > 0.9999]
    assert answer.ranking[0][0] == ranker.export.products["predicted_path"][20]
    assert answer.ranking[0][1] == pytest.approx(ranker.export.products["predicted_score"][20], rel=1e-3)


# text or picture


def test_shares_say_what_was_looked_at(ranker, picture):
    both = rank_product(ranker, TITLE, picture=picture).shares
    made = encode_products(ranker.model, [f"Title: {TITLE}"], [picture])
    g = text_gate(ranker.model, made.text, made.image)
    assert g.min() >= 0 and g.max() <= 1 and g.std() > 0.05
    mixed = g * made.text + (1 - g) * made.image
    np.testing.assert_allclose(mixed / np.linalg.norm(mixed), made.fused, atol=1e-5)
    assert both == pytest.approx({"text": float(g.mean()), "picture": float((1 - g).mean())}, abs=1e-6)
    assert rank_product(ranker, TITLE).shares == {"text": 1, "picture": 0}
    assert rank_product(ranker, picture=picture).shares == {"text": 0, "picture": 1}


def test_models_without_a_gate(ranker, picture, monkeypatch):
    architecture = ranker.model.architecture
    monkeypatch.setattr(ranker.model, "architecture", replace(architecture, fusion="mean"))
    assert rank_product(ranker, TITLE, picture=picture).shares == {"text": 0.5, "picture": 0.5}
    monkeypatch.setattr(ranker.model, "architecture", replace(architecture, inputs="image"))
    assert rank_product(ranker, TITLE, picture=picture).shares == {"text": 0, "picture": 1}
    with pytest.raises(CourseError, match="looks at the image alone"):
        rank_product(ranker, TITLE)
    monkeypatch.setattr(ranker.model, "architecture", replace(architecture, inputs="text"))
    with pytest.raises(CourseError, match="looks at the text alone"):
        rank_product(ranker, picture=picture)


# how sure


def test_below_the_threshold_the_answer_is_not_to_be_believed(ranker):
    top = rank_product(ranker, TITLE).ranking[0][1]
    for threshold, unsure in ((top - 1e-6, False), (top + 1e-6, True)):
        judged = replace(ranker, calibration={TAXONOMY: Calibration(threshold=threshold), LISTED: Calibration()})
        assert ("not sure" in rank_product(judged, TITLE).note) == unsure
        assert rank_product(judged, TITLE, candidates=["A", "B", "C"]).note == "", "they have a threshold of their own"


def test_probabilities_are_calibrated_by_the_temperature(ranker):
    judged = replace(ranker, calibration={TAXONOMY: Calibration(temperature=4.0), LISTED: Calibration()})
    cosines = ranker.export.category_vectors.vectors @ embedded(ranker, f"Title: {TITLE}", None)
    warm, plain = rank_product(judged, TITLE).ranking, rank_product(ranker, TITLE).ranking
    np.testing.assert_allclose([p for _, p in warm], sorted(softmax(ranker, cosines, 4.0))[::-1][:10], rtol=1e-3)
    assert [path for path, _ in warm] == [path for path, _ in plain] and warm[0][1] < plain[0][1]


def test_the_calibration_is_that_of_the_measurement(tmp_path, monkeypatch):
    artifacts = Artifacts("toy", "0", root=tmp_path)
    assert read_calibration(artifacts) == {TAXONOMY: Calibration(), LISTED: Calibration()}
    measured = {
        TAXONOMY: {"temperature": 1.5, "threshold": 0.7, "ece": 0.1},
        LISTED: {"temperature": 2.0, "threshold": None},
    }
    monkeypatch.setattr(own_product, "load_category_ranking", lambda _: SimpleNamespace(calibration=measured))
    assert read_calibration(artifacts) == {TAXONOMY: Calibration(1.5, 0.7), LISTED: Calibration(2.0, 1.0)}


# what cannot be asked


def test_bad_questions_are_course_errors(ranker, picture, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(picture.read_bytes()[:200])
    many = [f"A > {number}" for number in range(MOST_CANDIDATES + 1)]
    for ask, message in (
        (lambda: rank_product(ranker), "Nothing is given"),
        (lambda: rank_product(ranker, " ", "\n"), "Nothing is given"),
        (lambda: rank_product(ranker, TITLE, picture=broken), "picture cannot be used: .*damaged"),
        (lambda: rank_product(ranker, picture=tmp_path / "none.png"), "no such image file"),
        (lambda: rank_product(ranker, "a" * (LONGEST_TEXT + 1)), "20,001 characters"),
        (lambda: rank_product(ranker, TITLE, candidates=["A > B", "A>B"]), "candidate 'A > B' is there more than once"),
        (lambda: rank_product(ranker, TITLE, candidates=["A > > B"]), "has an empty name"),
        (lambda: rank_product(ranker, TITLE, candidates=[" "]), "has an empty name"),
        (lambda: rank_product(ranker, TITLE, candidates=many), f"at most {MOST_CANDIDATES}"),
        (lambda: rank_product(ranker, TITLE, k=0), "k must be a whole number of at least 1"),
        (lambda: rank_product(ranker, TITLE, k=MOST + 1), f"at most {MOST}"),
        (lambda: rank_product(ranker, TITLE, neighbours=2.5), "whole number"),
    ):
        with pytest.raises(CourseError, match=message):
            ask()


def test_without_an_export_the_command_is_named(catalogue, tmp_path):
    with pytest.raises(MissingArtifact, match=r"python -m chapter04_catalogue_reranker\.reindex"):
        load_product_ranker(Artifacts.for_catalogue(catalogue, root=tmp_path))


def test_asking_writes_nothing(catalogue, ranker, picture):
    root = Artifacts.for_catalogue(catalogue).root

    def files():
        return {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    before = files()
    rank_product(ranker, TITLE, DESCRIPTION, picture, candidates=["A", "B"])
    assert files() == before and len(before) > 20
