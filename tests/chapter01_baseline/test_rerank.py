"""Reranking: the order of the final ranking, the choice of training pairs, and a training run of a tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from chapter01_baseline import rerank
from chapter01_baseline.cross_encoder import (
    from_sentence_encoder,
    load_cross_encoder,
    new_cross_encoder,
    save_cross_encoder,
)
from chapter01_baseline.keyword import KeywordSearcher
from chapter01_baseline.pair_scorer import PairScorer
from chapter01_baseline.rerank import PROFILE_DEFAULTS, RerankConfig, list_net_loss, score_lists, train_cross_encoder
from chapter01_baseline.reranker import CrossEncoderReranker, load_rerankers, rerank_texts
from chapter01_baseline.training_lists import GradedList, graded_lists, training_pairs
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.devices import Placement
from common.errors import CourseError
from common.profiles import with_profile_defaults
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


def test_training_learns_silently(tiny_bert, catalogue, first, capsys):
    pairs = training_pairs(catalogue, first, queries=100, products_per_query=6, seed=0)
    config = RerankConfig(epochs=8, queries_per_step=2, learning_rate=3e-3, seed=3)
    model = new_cross_encoder(tiny_bert, max_length=16, seed=3)
    history = train_cross_encoder(model, graded_lists(pairs, rerank_texts(catalogue)), config)
    assert list(history.columns) == ["step", "loss"] and history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert capsys.readouterr().out == ""


def ragged_lists() -> list[GradedList]:
    """Lists of 1 to 7 products, so that batches are padded and the last one of an epoch is short."""
    rng = np.random.default_rng(0)

    def text(words: int) -> str:
        return " ".join(rng.choice(COLOURS + THINGS, words))

    lengths = [*range(1, 8), 4]
    return [GradedList(text(2), [text(1 + i % 5) for i in range(n)], rng.integers(0, 4, n).tolist()) for n in lengths]


def trained_by_the_library(model, lists, config, folder, bfloat16):
    """Train with sentence-transformers' own trainer; return the history."""
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import ListNetLoss

    steps = config.epochs * -(-len(lists) // config.queries_per_step)
    columns = {"query": [one.query for one in lists], "products": [one.texts for one in lists]}
    columns["label"] = [[2.0 * grade for grade in one.grades] for one in lists]
    settings = {"num_train_epochs": config.epochs, "per_device_train_batch_size": config.queries_per_step}
    settings |= {"learning_rate": config.learning_rate, "warmup_steps": max(1, steps // 10), "seed": config.seed}
    settings |= {"logging_steps": min(10, steps), "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    arguments = CrossEncoderTrainingArguments(str(folder), use_cpu=True, bf16=bfloat16, **settings)
    data, loss = Dataset.from_dict(columns), ListNetLoss(model)
    trainer = CrossEncoderTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
    trainer.train()
    return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_loop_takes_the_steps_of_the_library_s_trainer(tiny_bert, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(rerank, "choose_placement", lambda _: Placement("cpu", "torch", precision, "for the test"))
    config, lists = RerankConfig(epochs=4, queries_per_step=3, learning_rate=3e-3, seed=5), ragged_lists()
    ours, theirs = (new_cross_encoder(tiny_bert, max_length=16, seed=3) for _ in range(2))
    assert any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in ours.modules())
    history = train_cross_encoder(ours, lists, config)
    expected = trained_by_the_library(theirs, lists, config, tmp_path, precision == "bfloat16")
    assert list(history.itertuples(index=False, name=None)) == expected and len(expected) == 1
    for (name, weight), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name


def test_the_loss_is_the_cross_entropy_of_the_two_softmaxes(tiny_bert):
    batch = ragged_lists()[:3]
    with torch.no_grad():
        scores = score_lists(new_cross_encoder(tiny_bert, max_length=16, seed=1).eval(), batch)
    assert [len(own) for own in scores] == [1, 2, 3]
    losses = [
        -(torch.softmax(2.0 * torch.tensor(one.grades), 0) * torch.log_softmax(own, 0)).sum()
        for own, one in zip(scores, batch, strict=True)
    ]
    assert list_net_loss(scores, batch).item() == pytest.approx(float(torch.stack(losses).mean()), abs=1e-6)


def test_the_notebook_s_loop_takes_the_module_s_steps(tiny_bert):
    """The cell runs as it is, on toy data; it asserts itself that its mean loss is the first of the module's log."""
    notebook = json.loads(Path(rerank.__file__).with_name("04_a_second_stage.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if "training-loop" in c["metadata"].get("tags", ())]
    assert len(cells) == 1 and len(cells[0].splitlines()) <= 20
    config, lists = RerankConfig(epochs=1, queries_per_step=2, seed=3), ragged_lists()
    trained, model = (new_cross_encoder(tiny_bert, max_length=16, seed=3) for _ in range(2))
    history = train_cross_encoder(trained, lists, config)
    given = vars(rerank) | {"config": config, "model": model, "lists": lists, "steps": 4, "history": history}
    exec(cells[0], given)
    assert len(given["losses"]) == history["step"].iloc[0] == 4
    for (name, weight), other in zip(trained.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    with pytest.raises(AssertionError):
        exec(cells[0], given)  # the model is trained by now


@pytest.mark.slow
def test_run_saves_a_model_that_ranks_alike_after_loading(tiny_bert, catalogue, first, tmp_path):
    from safetensors import safe_open
    from sentence_transformers.cross_encoder import CrossEncoder

    artifacts = Artifacts.for_catalogue(catalogue, "smoke", root=tmp_path)
    config = with_profile_defaults(
        RerankConfig(profile="smoke", model=tiny_bert, depth=6, max_length=16), PROFILE_DEFAULTS
    )
    with artifacts.new_run("chapter01_baseline", "rerank", config=config) as folder:
        rerank.train_and_choose(folder, config, catalogue, {"words": first})
    result = rerank.load_result(artifacts)
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


@pytest.mark.slow
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
