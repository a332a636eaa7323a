"""BM25: the tokenizer's promises, and the index against the formula written out in plain Python."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter01_baseline.keyword import KeywordSearcher, keyword_text, singular, tokenize
from common.errors import CourseError

WORDS = ["phone", "case", "red", "usb", "cable", "5", "v", "lamp", "desk", "oak"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("5 V", ["5", "v"]),
        ("5V 128GB", ["5", "v", "128", "gb"]),
        ("5.5-inch", ["5.5", "inch"]),
        ("USB-C", ["usbc", "usb", "c"]),
        ("tn-2110", ["tn2110", "tn", "2110"]),
        ("006R90321", ["006r90321"]),
        ("ps4 3D", ["ps4", "3d"]),
        ("1,000 mAh", ["1000", "mah"]),
        ("1,5 l", ["1", "5", "l"]),
        ("Men's Phones", ["men", "phone"]),
        ("Süßer Körper", ["susser", "korper"]),
        ("Core™2 Duo®", ["core", "2", "duo"]),
        ("ＵＳＢ", ["usb"]),
        ("سماعة", ["سماعة"]),
        ("猫耳机", ["猫", "耳", "机", "猫耳", "耳机"]),
        ("LED灯", ["led", "灯"]),
        ("🎧 - _ ™", []),
        ("", []),
    ],
)
def test_tokenize(text, tokens):
    assert tokenize(text) == tokens


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("phones", "phone"),
        ("batteries", "battery"),
        ("watches", "watch"),
        ("dresses", "dress"),
        ("dishes", "dish"),
        ("boxes", "box"),
        ("hoodies", "hoodie"),
        ("ties", "tie"),
        ("shoes", "shoe"),
        ("mice", "mice"),
    ],
)
def test_plural_and_singular_become_the_same_token(plural, one):
    assert singular(plural) == singular(one)


@pytest.mark.parametrize("word", ["glass", "bus", "gps", "ios", "virus", "x5s"])
def test_singular_leaves_what_is_no_plural(word):
    assert singular(word) == word


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_tokenize_any_text(text):
    tokens = tokenize(text)
    assert all(token and not token.isspace() for token in tokens)
    assert tokenize(text.upper().lower()) == tokenize(text.upper())


def naive_bm25(texts, query, k1, b):
    """Lucene's BM25, from the formula: idf = ln(1 + (N - df + 0.5) / (df + 0.5)), no (k1 + 1) in the numerator."""
    documents = [Counter(tokenize(text)) for text in texts]
    average = sum(sum(d.values()) for d in documents) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for token in tokenize(query):
            df = sum(token in other for other in documents)
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            tf = document[token]
            score += idf * tf / (tf + k1 * (1 - b + b * sum(document.values()) / average)) if tf else 0.0
        scores.append(score)
    return scores


def random_texts(rng, n):
    return [" ".join(rng.choice(WORDS, size=rng.integers(0, 9))) for _ in range(n)]


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75), (0.0, 0.0), (2.0, 1.0)])
def test_scores_are_those_of_the_formula(k1, b):
    rng = np.random.default_rng(7)
    texts = random_texts(rng, 40)
    ids = [f"p{i:02d}" for i in rng.permutation(40)]
    searcher = KeywordSearcher(ids, texts, k1=k1, b=b)
    for query in ["red phone case", "phone phone lamp", "5V", "unknown oak", "unknown"]:
        scores = dict(zip(ids, naive_bm25(texts, query, k1, b), strict=True))
        row = searcher.search([query], 40).row(0)
        assert {i for i, _ in row} == {i for i, score in scores.items() if score > 0}
        assert [score for _, score in row] == pytest.approx(
            sorted([s for s in scores.values() if s > 0])[::-1], abs=1e-5
        )
        assert all(score == pytest.approx(scores[i], abs=1e-5) for i, score in row)


def test_column_sums_are_those_of_bm25s():
    rng = np.random.default_rng(1)
    searcher = KeywordSearcher([f"p{i}" for i in range(30)], random_texts(rng, 30))
    query = ["phone", "red", "oak"]
    np.testing.assert_allclose(
        searcher.term_scores(dict.fromkeys(query, 1)), searcher.bm25.get_scores(query), rtol=1e-6, atol=1e-7
    )


def test_allowed_and_exclude_equal_filtering_the_whole_ranking():
    rng = np.random.default_rng(3)
    ids = [f"p{i:02d}" for i in range(50)]
    searcher = KeywordSearcher(ids, random_texts(rng, 50))
    queries = ["red phone", "oak desk lamp", "usb cable"]
    allowed = set(rng.choice(ids, 25, replace=False)) | {"not a product"}
    exclude = [set(rng.choice(ids, 10, replace=False)), {"p01", "no product"}, set()]
    hits = searcher.search(queries, 5, allowed=allowed, exclude=exclude)
    whole = searcher.search(queries, 50)
    for row in range(3):
        kept = [(i, s) for i, s in whole.row(row) if i in allowed and i not in exclude[row]]
        assert hits.row(row) == kept[:5]
    assert searcher.search(queries, 5, allowed=[]).row(0) == []


def test_ties_go_by_product_id_whatever_the_order_of_input():
    texts = dict.fromkeys(["c", "a", "d", "b"], "red lamp") | {"z": "red red lamp lamp"}
    for order in (list("cadbz"), list("zbdac")):
        searcher = KeywordSearcher(order, [texts[i] for i in order], b=0.0)
        assert [i for i, _ in searcher.search(["red"], 4).row(0)] == ["z", "a", "b", "c"]


def test_empty_queries_and_empty_texts_are_never_hits():
    searcher = KeywordSearcher(["a", "b"], ["", "red"])
    assert searcher.search(["", "🎧", "blue", "red"], 3).ids.tolist() == [[None] * 3] * 3 + [["b", None, None]]
    assert KeywordSearcher(["a"], [""]).search(["red"], 2).row(0) == []
    assert searcher.search([], 3).ids.shape == (0, 3)


def test_saved_index_answers_alike(tmp_path):
    rng = np.random.default_rng(5)
    searcher = KeywordSearcher([f"p{i}" for i in range(30)], [*random_texts(rng, 29), "猫 über"], k1=1.2, b=0.75)
    searcher.save(tmp_path / "keyword")
    loaded = KeywordSearcher.load(tmp_path / "keyword")
    queries = ["red phone", "猫", "uber", "5 V"]
    before, after = searcher.search(queries, 30), loaded.search(queries, 30)
    assert (before.ids == after.ids).all() and (before.scores == after.scores).all()
    for file in (tmp_path / "keyword").glob("*.npy"):
        np.load(file, allow_pickle=False)
    assert not [f for f in (tmp_path / "keyword").iterdir() if f.suffix not in {".npy", ".json"}]


def test_load_refuses_what_is_not_a_whole_index_of_this_tokenizer(tmp_path):
    with pytest.raises(CourseError, match="build it again"):
        KeywordSearcher.load(tmp_path / "missing")
    KeywordSearcher(["a", "b"], ["red", "blue"]).save(tmp_path / "index")
    with pytest.raises(CourseError, match="tokenizer"):
        KeywordSearcher.load(tmp_path / "index", tokenize=str.split)
    description = json.loads((tmp_path / "index/keyword.json").read_text())
    (tmp_path / "index/keyword.json").write_text(json.dumps(description | {"product_ids": ["a"]}))
    with pytest.raises(CourseError, match=r"keyword\.json"):
        KeywordSearcher.load(tmp_path / "index")
    (tmp_path / "index/data.csc.index.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(CourseError, match="build it again"):
        KeywordSearcher.load(tmp_path / "index")


def test_bad_input_is_named():
    with pytest.raises(CourseError, match="duplicates"):
        KeywordSearcher(["a", "a"], ["x", "y"])
    with pytest.raises(CourseError, match="2 product ids for 1 texts"):
        KeywordSearcher(["a", "b"], ["x"])
    with pytest.raises(CourseError, match="k1"):
        KeywordSearcher(["a"], ["x"], b=1.5)
    with pytest.raises(CourseError, match="k must be"):
        KeywordSearcher(["a"], ["x"]).search(["x"], 0)


def test_keyword_text_repeats_the_title_and_drops_attribute_names():
    columns = ["product_id", "title", "brand", "colour", "material", "category_path", "description", "attributes"]
    attributes = json.dumps({"bluetooth": False, "waterproof": True, "screen": "IPS", "size": 5.0, "ports": ["HDMI"]})
    products = pd.DataFrame(
        [
            ["a", "Lamp", "Acme", None, None, "Home > Lamps", "A lamp.", attributes],
            ["b", None, None, None, None, None, None, None],
        ],
        columns=columns,
    )
    text, empty = keyword_text(products)
    assert empty == ""
    assert Counter(tokenize(text)) == Counter(tokenize("lamp lamp lamp acme home lamp a lamp waterproof ips 5 hdmi"))
