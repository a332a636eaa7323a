"""Prompt ensembles against their formula in loops, and the ranking of classes."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chapter03_multimodal.zero_shot import TEMPLATES, class_name, class_vectors, classify
from common.encoders import Embeddings
from common.errors import CourseError


class WordEncoder:
    """A text is the unit sum of the vectors of its words; a word's vector is drawn from its letters."""

    def encode(self, texts, *, desc=None):
        vectors = np.stack([self.vector(text) for text in texts])
        return Embeddings(vectors.astype(np.float32), "words")

    def vector(self, text):
        words = text.lower().replace(",", "").split()
        total = sum(np.random.default_rng(zlib.crc32(word.encode())).normal(size=24) for word in words)
        return total / np.linalg.norm(total)


def test_class_vectors_are_the_directions_of_the_mean_over_templates():
    encoder, names = WordEncoder(), ["boots", "red mugs", "lamps"]
    found = class_vectors(encoder, names, TEMPLATES)
    assert found.shape == (3, 24) and found.dtype == np.float32
    for name, vector in zip(names, found, strict=True):
        mean = np.mean([encoder.vector(template.format(name)) for template in TEMPLATES], axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_one_bare_template_is_the_text_itself():
    encoder = WordEncoder()
    np.testing.assert_allclose(class_vectors(encoder, ["boots"], ["{}"])[0], encoder.vector("boots"), atol=1e-6)


def test_a_name_with_braces_is_taken_as_it_is():
    encoder = WordEncoder()
    found = class_vectors(encoder, ["{0} caps"], ["a photo of {}"])[0]
    np.testing.assert_allclose(found, encoder.vector("a photo of {0} caps"), atol=1e-6)


@pytest.mark.parametrize(("names", "templates"), [([], ["{}"]), (["boots"], []), (["boots"], ["{}", "a photo"])])
def test_names_and_templates_are_needed(names, templates):
    with pytest.raises(CourseError, match=r"templates with \{\}"):
        class_vectors(WordEncoder(), names, templates)


def test_pictures_that_show_a_class_are_given_it():
    names = ["boots", "mugs", "lamps", "tents"]
    vectors = class_vectors(WordEncoder(), names)
    noise = np.random.default_rng(0).normal(size=(4, 24), scale=0.05)
    pictures = vectors + noise
    ranking = classify(pictures / np.linalg.norm(pictures, axis=1, keepdims=True), vectors, k=1)
    assert ranking.classes[:, 0].tolist() == [0, 1, 2, 3]
    assert (ranking.scores > 0.8).all()


@given(
    pictures=arrays(np.float32, (3, 4), elements=st.integers(-2, 2)),
    classes=arrays(np.float32, (5, 4), elements=st.integers(-2, 2)),
    k=st.integers(1, 7),
)
def test_ranking_equals_sorting_one_by_one(pictures, classes, k):
    ranking = classify(pictures, classes, k=k)
    for picture, order, scores in zip(pictures, ranking.classes, ranking.scores, strict=True):
        cosines = [float(picture @ vector) for vector in classes]
        expected = sorted(range(5), key=lambda at: (-cosines[at], at))[:k]
        assert order.tolist() == expected and scores.tolist() == [cosines[at] for at in expected]


def test_vectors_of_two_encoders_are_refused():
    with pytest.raises(CourseError, match="4 dimensions, those of the classes 5"):
        classify(np.zeros((2, 4)), np.zeros((3, 5)))


def test_the_name_of_a_category_is_its_last_level():
    assert class_name("Home > Garden > Chairs") == "chairs"
    assert class_name("Mugs") == "mugs"
