"""Reranking: the order of the final ranking, the choice of training pairs, and a training run of a tiny network."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from chapter01_baseline.cross_encoder import from_sentence_encoder, load_cross_encoder, save_cross_encoder
from chapter01_baseline.keyword import KeywordSearcher
from chapter01_baseline.pair_scorer import PairScorer
from chapter01_baseline.rerank import (
    CrossEncoderReranker,
    RerankConfig,
    load_rerankers,
    new_cross_encoder,
    rerank_texts,
    resolved,
    run,
    train_cross_encoder,
    training_pairs,
)
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import CourseError
from common.search import hits_from_rows

COLOURS = ["red", "blue", "green", "black"]
THINGS = ["lamp", "sofa", "desk", "mug"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """A network this small is slower on several threads than on one, by far when other programs use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class LongerIsBetter:
    """Stands in for a cross-encoder: the logit is the length of the product's text."""

    def score(self, pairs):
        return np.array([len(text) for _, text in pairs], dtype=np.float32)


class Fixed:
    """Ranks the same products for every query."""

    def __init__(self, scores):
        self.scores = scores

    def search(self, queries, k, *, allowed=None, exclude=None):
        rows = []
        for row, query in enumerate(queries):
            out = exclude[row] if exclude is not None else ()
            ids = [i for i in self.scores if query and i not in out and (allowed is None or i in allowed)]
            rows.append((ids, [self.scores[i] for i in ids]))
        return hits_from_rows(rows, k)


TEXTS = {"a": "x", "b": "xx", "c": "xxx", "d": "xxxx", "e": "xxxxx"}
FIRST = Fixed({"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0})


def reranker(**settings) -> CrossEncoderReranker:
    return CrossEncoderReranker(FIRST, LongerIsBetter(), TEXTS, **settings)


def test_only_the_first_hits_are_reordered_and_the_rest_follows():
    assert reranker(depth=3).search(["q"], 5).ids.tolist() == [["c", "b", "a", "d", "e"]]
    assert reranker(depth=3).search(["q"], 2).ids.tolist() == [["c", "b"]]
    assert reranker(depth=5).search(["q"], 9).ids.tolist() == [["e", "d", "c", "b", "a", None, None, None, None]]
    scores = reranker(depth=3).search(["q"], 5).scores[0]
    assert (np.diff(scores) < 0).all() and scores[2] >= 0 > scores[3]


def test_weight_0_is_the_first_stage_and_between_them_the_interpolation():
    assert (reranker(weight=0.0, depth=3).search(["q"], 5).ids == FIRST.search(["q"], 5).ids).all()
    model = LongerIsBetter()
    first = Fixed({"a": 5.0, "b": 4.5, "c": 1.0})
    hits = CrossEncoderReranker(first, model, {"a": "x" * 2, "b": "x" * 9, "c": "x" * 10}, weight=0.25).search(["q"], 3)
    expected = {"a": 0.75 * 1 + 0.25 * 0, "b": 0.75 * 3.5 / 4 + 0.25 * 7 / 8, "c": 0.75 * 0 + 0.25 * 1}
    assert dict(hits.row(0)) == pytest.approx(expected) and hits.ids.tolist() == [["b", "a", "c"]]
    with pytest.raises(CourseError, match="weight"):
        reranker(weight=1.1)


def test_filters_reach_the_first_stage_and_empty_rows_stay_empty():
    hits = reranker(depth=2).search(["q", ""], 4, allowed={"a", "c", "d", "e"}, exclude=[{"a"}, set()])
    assert hits.ids.tolist() == [["d", "c", "e", None], [None] * 4]
    assert reranker().search([], 3).ids.shape == (0, 3)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    products = [(f"{c}-{t}", f"{c} {t}") for c in COLOURS for t in THINGS]
    queries = [(f"q{i}", text, "train" if i % 2 else "val") for i, (_, text) in enumerate(products)]
    judgements = [
        (f"q{i}", product_id, 3 if product_id == own else 1 if product_id.split("-")[1] == own.split("-")[1] else 0)
        for i, (own, _) in enumerate(products)
        for product_id, _ in products[:12]
    ]
    return Catalogue.from_tables(
        "tiny",
        products=pd.DataFrame(products, columns=["product_id", "title"]),
        queries=pd.DataFrame(queries, columns=["query_id", "query", "split"]),
        judgements=pd.DataFrame(judgements, columns=["query_id", "product_id", "grade"]),
    )


@pytest.fixture(scope="module")
def first(catalogue) -> KeywordSearcher:
    return KeywordSearcher(catalogue.products["product_id"].tolist(), catalogue.products["title"].tolist())


def test_training_pairs_come_from_training_queries_only_with_their_grades(catalogue, first):
    pairs = training_pairs(catalogue, first, queries=100, products_per_query=4, seed=0)
    train = set(catalogue.queries.loc[catalogue.queries["split"] == "train", "query_id"])
    assert set(pairs["query_id"]) == train and not pairs.duplicated(["query_id", "product_id"]).any()
    assert (pairs.groupby("query_id").size() == 4).all()
    assert (pairs[pairs["grade"] >= 2].groupby("query_id").size() <= 2).all()
    grades = catalogue.judgements.set_index(["query_id", "product_id"])["grade"]
    keys = pd.MultiIndex.from_frame(pairs[["query_id", "product_id"]])
    assert (pairs["grade"].to_numpy() == grades.reindex(keys).to_numpy()).all()


def test_training_pairs_are_seeded_and_limited(catalogue, first):
    settings = {"queries": 5, "products_per_query": 3}
    pairs = training_pairs(catalogue, first, **settings, seed=1)
    assert pairs["query_id"].nunique() == 5
    pd.testing.assert_frame_equal(pairs, training_pairs(catalogue, first, **settings, seed=1))
    assert not pairs.equals(training_pairs(catalogue, first, **settings, seed=2))


def test_unjudged_products_fill_up_only_from_below_the_top_20():
    ids = [f"p{i:02d}" for i in range(60)]
    catalogue = Catalogue.from_tables(
        "flat",
        products=pd.DataFrame({"product_id": ids, "title": "lamp"}),
        queries=pd.DataFrame({"query_id": ["q"], "query": ["lamp"], "split": ["train"]}),
        judgements=pd.DataFrame({"query_id": ["q", "q"], "product_id": ["p00", "p25"], "grade": [3, 0]}),
    )
    first = KeywordSearcher(ids, ["lamp"] * 60)
    pairs = training_pairs(catalogue, first, queries=1, products_per_query=8, seed=0).set_index("product_id")
    assert len(pairs) == 8 and pairs.loc["p00", "grade"] == 3 and pairs["grade"].sum() == 3
    assert set(pairs.index) - {"p00", "p25"} <= set(ids[20:50])


def test_a_catalogue_without_judged_training_queries_is_an_error(catalogue, first):
    products = catalogue.products
    bare = Catalogue.from_tables("bare", products=products)
    with pytest.raises(CourseError, match="no judged queries of split 'train'"):
        training_pairs(bare, first, queries=5, products_per_query=4, seed=0)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory) -> str:
    from transformers import BertConfig, BertModel, BertTokenizerFast, set_seed

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *THINGS]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    set_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return str(folder)


def test_training_learns_and_is_repeatable(tiny_bert, catalogue, first, capsys):
    texts = rerank_texts(catalogue)
    pairs = training_pairs(catalogue, first, queries=100, products_per_query=6, seed=0)
    settings = {"epochs": 8, "queries_per_step": 2, "learning_rate": 3e-3, "seed": 3}
    histories, scores = [], []
    for _ in range(2):
        model = new_cross_encoder(tiny_bert, max_length=16, seed=3)
        histories.append(train_cross_encoder(model, pairs, texts, **settings))
        scores.append(PairScorer(model, "torch").score([("red lamp", "red lamp"), ("red lamp", "blue sofa")]))
    assert list(histories[0].columns) == ["step", "loss"]
    assert histories[0]["loss"].iloc[-1] < histories[0]["loss"].iloc[0]
    pd.testing.assert_frame_equal(histories[0], histories[1])
    np.testing.assert_array_equal(scores[0], scores[1])
    assert capsys.readouterr().out == ""


def test_run_saves_a_model_that_ranks_alike_after_loading(tiny_bert, catalogue, first, tmp_path):
    from safetensors import safe_open
    from sentence_transformers.cross_encoder import CrossEncoder

    artifacts = Artifacts.for_catalogue(catalogue, "smoke", root=tmp_path)
    config = resolved(RerankConfig(profile="smoke", model=tiny_bert, depth=6, max_length=16))
    result = run(config, catalogue, {"words": first}, artifacts)
    assert 0 <= result.weights["words"] <= 1 and list(result.curves.columns) == ["weight", "nDCG@10", "first"]
    assert result.pairs == 64 and result.seconds > 0 and len(result.history)
    with safe_open(result.run.path / "model/model.safetensors", "pt") as tensors:
        assert "classifier.weight" in tensors.keys()  # noqa: SIM118 (not a dict)
    loaded = load_rerankers({"words": first}, catalogue, artifacts)["words"]
    assert (loaded.weight, loaded.depth) == (result.weights["words"], 6)
    model = CrossEncoder(str(result.run.path / "model"), max_length=16)
    pairs = [("red lamp", "red lamp"), ("green mug", "blue sofa")]
    expected = model.predict(pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(loaded.scorer.score(pairs), expected, atol=0.01)
    assert json.loads((result.run.path / "rerank.json").read_text())["depth"] == 6


def test_our_head_is_the_cosine_of_the_two_segments_means(tiny_bert):
    model = from_sentence_encoder(tiny_bert, max_length=16)
    pairs = [("red lamp", "blue sofa"), ("desk", "green mug black desk")]
    for pair, score in zip(pairs, model.predict(pairs, activation_fn=torch.nn.Identity()).reshape(-1), strict=True):
        features = model.preprocess([pair])
        with torch.no_grad():
            vectors = model[0](dict(features))["token_embeddings"][0]
        segments = features["token_type_ids"][0].tolist()
        means = [
            torch.stack([v for v, s in zip(vectors, segments, strict=True) if s == part]).mean(0) for part in (0, 1)
        ]
        assert score == pytest.approx(20 * float(torch.nn.functional.cosine_similarity(*means, dim=0)), abs=1e-4)


def test_our_head_starts_without_a_foreign_segment_and_trains_all_but_the_token_embeddings(tiny_bert):
    model = from_sentence_encoder(tiny_bert, max_length=16)
    weights = model[0].auto_model.embeddings.token_type_embeddings.weight
    assert torch.equal(weights[0], weights[1])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and all(".embeddings." in name for name in frozen)


def test_our_head_survives_saving_and_runs_on_every_engine(tiny_bert, tmp_path):
    model = from_sentence_encoder(tiny_bert, max_length=16)
    with torch.no_grad():
        model[0].auto_model.encoder.layer[0].output.dense.weight.mul_(5)
    save_cross_encoder(model, tmp_path / "model")
    pairs = [("red lamp", "red lamp " * n) for n in range(1, 7)] + [("desk", "")]
    expected = model.predict(pairs, activation_fn=torch.nn.Identity()).reshape(-1)
    loaded = load_cross_encoder(tmp_path / "model", max_length=16)
    np.testing.assert_allclose(
        loaded.predict(pairs, activation_fn=torch.nn.Identity()).reshape(-1), expected, atol=1e-5
    )
    for engine in ("torch", "openvino"):
        np.testing.assert_allclose(PairScorer(loaded, engine).score(pairs), expected, atol=0.3)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_pair_scorer_agrees_with_the_model_one_pair_at_a_time(tiny_bert, engine):
    model = new_cross_encoder(tiny_bert, max_length=16, seed=1)
    with torch.no_grad():  # else all logits are nearly equal, and any order would pass
        for parameter in model.parameters():
            parameter.mul_(8)
    scorer = PairScorer(model, engine)
    pairs = [("red lamp", "red lamp " * n) for n in range(1, 45)] + [("desk", ""), ("red lamp", "red lamp ")]
    expected = [float(model.predict(pair, activation_fn=torch.nn.Identity())) for pair in pairs]
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(scorer.score(pairs), expected, atol=0.05)
    assert scorer.score(pairs)[0] == scorer.score(pairs)[-1] and scorer.score([]).shape == (0,)
    assert engine in scorer.reason and next(model.parameters()).dtype == torch.float32


def test_profiles_fill_in_what_was_not_chosen(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "full")
    assert resolved(RerankConfig()).model == "cross-encoder/ms-marco-MiniLM-L6-v2"
    config = resolved(RerankConfig(profile="pocket", epochs=7))
    assert (config.profile, config.model, config.epochs) == ("pocket", "all-MiniLM-L6-v2", 7)
    assert None not in vars(config).values()
