"""Search by picture on the small shop against brute force, and what it says when something is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from chapter03_multimodal import prepare_data, reindex
from chapter03_multimodal.categories import classifier as category_classifier
from chapter03_multimodal.picture_search import COLUMNS, load_classify, load_picture_search, search_picture
from common.artifacts import Artifacts
from common.catalogue.images import open_image
from common.errors import CourseError, MissingArtifact

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(photo_shop, photo_shop_artifacts, tiny_clip):
    """The pictures' index and the classifier, built by their steps with the tiny CLIP."""
    source, clip = str(photo_shop.folder), str(tiny_clip)
    prepare_data.main(prepare_data.PrepareDataConfig(catalogue=source))
    reindex.main(reindex.ReindexConfig(catalogue=source, encoder=clip))
    category_classifier.main(
        category_classifier.ClassifierConfig(
            catalogue=source,
            encoder=clip,
            heads=("linear",),
            techniques=(),
            weight_decays=(1.0,),
            fitting=category_classifier.HeadTraining(epochs=2),
        )
    )
    return load_picture_search(photo_shop_artifacts, photo_shop)


@pytest.fixture
def pictured(shop):
    """The id of a product that has a picture."""
    return shop.searcher.index.ids[7]


def brute_force(shop, vector, k, without=()):
    index = shop.searcher.index
    scores = index.vectors @ vector
    order = sorted(range(len(scores)), key=lambda at: (-np.float32(scores[at]), index.ids[at]))
    return [(index.ids[at], scores[at]) for at in order if index.ids[at] not in without][:k]


@pytest.mark.parametrize("as_file", [True, False])
def test_a_picture_finds_what_looks_like_it_and_its_category(shop, photo_shop_artifacts, pictured, as_file):
    path = shop.catalogue.image_path(pictured)
    picture = path if as_file else Image.open(path)
    found = search_picture(shop, picture, 4)
    vector = shop.searcher.encoder.encode_images([open_image(path)]).vectors[0]
    expected = brute_force(shop, vector, 4)
    assert found.table.columns.tolist() == list(COLUMNS) and found.table["rank"].tolist() == [1, 2, 3, 4]
    assert found.table["product_id"].tolist() == [one for one, _ in expected]
    assert found.table["score"][0] == pytest.approx(1, abs=1e-3)
    assert pictured in found.table["product_id"][found.table["score"] > 0.999].tolist()
    classifier = category_classifier.load_classifier(photo_shop_artifacts)
    by_hand = sorted(zip(classifier.head.probabilities(vector[None])[0], classifier.classes, strict=True))[::-1][:3]
    assert [path for path, _ in found.categories] == [path for _, path in by_hand]
    np.testing.assert_allclose([p for _, p in found.categories], [p for p, _ in by_hand], rtol=1e-5)


def test_a_product_is_not_like_itself(shop, pictured):
    path = shop.catalogue.image_path(pictured)
    given, own = (search_picture(shop, picture, 50, product_id=pictured) for picture in (path, None))
    assert given.table.equals(own.table) and given.categories == own.categories
    assert pictured not in set(given.table["product_id"]) and len(given.table) == 50
    vector = shop.searcher.encoder.encode_images([open_image(path)]).vectors[0]
    expected = brute_force(shop, vector, 50, {pictured})
    assert given.table["product_id"].tolist() == [one for one, _ in expected]


def test_asking_writes_nothing(shop, photo_shop_artifacts, pictured):
    def files():
        return {path: path.stat().st_mtime_ns for path in photo_shop_artifacts.root.rglob("*")}

    before = files()
    search_picture(shop, shop.catalogue.image_path(pictured))
    assert files() == before and len(before) > 100


def test_bad_questions_are_course_errors(shop, pictured, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(shop.catalogue.image_path(pictured).read_bytes()[:300])
    bare = next(one for one in shop.catalogue.products["product_id"] if shop.catalogue.image_path(one) is None)
    for ask, message in (
        (lambda: search_picture(shop, None), "There is no picture"),
        (lambda: search_picture(shop, broken), "picture cannot be used: damaged"),
        (lambda: search_picture(shop, tmp_path / "none.png"), "no such image file"),
        (lambda: search_picture(shop, Image.new("RGB", (20_001, 1))), "longer than 20,000"),
        (lambda: search_picture(shop, None, product_id="nope"), "no product 'nope'"),
        (lambda: search_picture(shop, None, product_id=bare), "There is no picture"),
        (lambda: search_picture(shop, None, 0, product_id=pictured), "at least 1"),
    ):
        with pytest.raises(CourseError, match=message):
            ask()


def test_what_is_not_built_names_its_command(photo_shop, tmp_path):
    with pytest.raises(MissingArtifact, match=r"python -m chapter03_multimodal\.reindex"):
        load_picture_search(Artifacts.for_catalogue(photo_shop, root=tmp_path), photo_shop)


def test_alone_the_classifier_has_an_encoder_of_its_own(shop, photo_shop_artifacts, pictured):
    picture = Image.open(shop.catalogue.image_path(pictured))
    alone = load_classify(photo_shop_artifacts)
    assert alone([picture]) == shop.classify([picture])
