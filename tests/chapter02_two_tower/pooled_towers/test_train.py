"""The pooled towers against their naive twins: one text at a time, one triple at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from chapter02_two_tower.batches import Batch
from chapter02_two_tower.losses import triplet_loss
from chapter02_two_tower.pooled_towers import data as pooled_data
from chapter02_two_tower.pooled_towers import train as pooled
from chapter02_two_tower.pooled_towers.data import Pool, TokenTable, load_token_table, make_pool, validation_pool
from chapter02_two_tower.pooled_towers.model import (
    GRUTower,
    MeanTower,
    PooledArchitecture,
    PooledTowers,
    untrained_mean,
)
from chapter02_two_tower.pooled_towers.train import PooledConfig, batch_triplet_loss, heaviest_tokens, train_towers
from common.catalogue import Catalogue
from common.errors import CourseError

THINGS = ("lamp", "rug", "mug", "desk", "vase")
COLOURS = ("red", "blue", "green", "black")
WORDS = ["[UNK]", *THINGS, *COLOURS, "ruby", "azure", "leafy", "ebony"]
JARGON = dict(zip(COLOURS, WORDS[-4:], strict=True))


@pytest.fixture(scope="module")
def table():
    """A vocabulary of a few words with random vectors: nothing about a word can be known but by training."""
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    matrix = torch.randn(len(WORDS), 24, generator=torch.Generator().manual_seed(0))
    return TokenTable(matrix, tokenizer, 0)


@pytest.fixture
def tokens():
    return [[1, 5], [3, 2, 8, 8, 1], [0], [7, 6, 5, 4, 3, 2, 1], [2, 9]]


def naive_mean(tower, ids):
    total = sum(tower.log_weight[at].exp() * tower.table[at] for at in ids)
    vector = tower.projection(total / total.norm())
    return vector / vector.norm()


def naive_gru(tower, ids):
    """The recurrence written out: one token at a time, then the same backwards."""
    rows = tower.table[ids]
    rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    inputs, size = tower.projection(rows), tower.gru.hidden_size
    means = []
    for suffix, order in (("", 1), ("_reverse", -1)):
        w_in, w_state, b_in, b_state = (getattr(tower.gru, f"{n}_l0{suffix}") for n in
                                        ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))  # fmt: skip
        state, states = torch.zeros(size), []
        for x in list(inputs)[::order]:
            a, b = w_in @ x + b_in, w_state @ state + b_state
            reset, update = torch.sigmoid(a[:size] + b[:size]), torch.sigmoid(a[size:-size] + b[size:-size])
            new = torch.tanh(a[-size:] + reset * b[-size:])
            state = (1 - update) * new + update * state
            states.append(state)
        means.append(torch.stack(states).mean(0))
    vector = torch.cat(means)
    return vector / vector.norm()


@pytest.mark.parametrize(("kind", "naive"), [(MeanTower, naive_mean), (GRUTower, naive_gru)])
def test_a_batch_is_what_its_texts_are_one_by_one_gradients_included(table, tokens, kind, naive):
    torch.manual_seed(1)
    tower = kind(table.matrix, 6)
    if kind is MeanTower:
        torch.nn.init.normal_(tower.log_weight)
    target = torch.randn(len(tokens), 6)
    gradients = []
    for vectors in (tower(tokens), torch.stack([naive(tower, ids) for ids in tokens])):
        gradients.append(torch.autograd.grad((vectors * target).sum(), list(tower.parameters())))
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(tokens)))
        torch.testing.assert_close(vectors, torch.stack([naive(tower, ids) for ids in tokens]))
    for fast, slow in zip(*gradients, strict=True):
        assert slow.abs().sum() > 0
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def test_order_matters_to_the_gru_and_not_to_the_mean(table):
    torch.manual_seed(0)
    mean, gru = MeanTower(table.matrix, 8), GRUTower(table.matrix, 8)
    there, back = [[1, 2, 3]], [[3, 2, 1]]
    torch.testing.assert_close(mean(there), mean(back))
    assert (gru(there) * gru(back)).sum() < 0.999


def some_batch(rows, products, dimension=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.nn.functional.normalize(torch.randn(n, dimension, generator=generator)) for n in (rows, products)]
    known = torch.rand(rows, products, generator=generator) < 0.2
    positives = torch.randint(products, (rows,), generator=generator)
    weights = torch.tensor([1.0, 0.9] * rows)[:rows]
    batch = Batch([""] * rows, [""] * products, positives, torch.full((rows, 0), -1), known, weights, [0] * rows)
    return *(v.requires_grad_() for v in vectors), batch


@pytest.mark.parametrize("margin", [0.2, 0.6])
def test_the_loss_of_a_batch_is_that_of_its_broken_triples(margin):
    queries, products, batch = some_batch(7, 11)
    triples = []
    for row in range(7):
        for column in range(11):
            own = batch.positives[row]
            if column == own or batch.known[row, column]:
                continue
            if queries[row] @ products[column] - queries[row] @ products[own] + margin > 0:
                triples.append((row, int(own), column))
    assert 10 < len(triples) < 7 * 10, "some triples must keep the margin and some must not"
    row, own, column = (list(part) for part in zip(*triples, strict=True))
    naive = triplet_loss(queries[row], products[own], products[column], weights=batch.weights[row], margin=margin)
    fast = batch_triplet_loss(queries, products, batch, margin)
    torch.testing.assert_close(fast, naive)
    for a, b in zip(
        torch.autograd.grad(fast, (queries, products)), torch.autograd.grad(naive, (queries, products)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_batch_without_a_broken_triple_has_loss_and_gradient_zero():
    vectors = torch.eye(3).requires_grad_()
    own, known = torch.full((3, 0), -1), torch.eye(3).bool()
    batch = Batch([""] * 3, [""] * 3, torch.arange(3), own, known, torch.ones(3), [0] * 3)
    loss = batch_triplet_loss(vectors, vectors, batch, 0.5)
    loss.backward()
    assert loss == 0 and (vectors.grad == 0).all()


def shop():
    """Things in colours. Shoppers say "ruby", the catalogue says "red": only training can tell."""
    products = pd.DataFrame(
        [(f"{colour}-{thing}", f"{colour} {thing}") for colour in COLOURS for thing in THINGS],
        columns=["product_id", "title"],
    )
    queries, judgements = [], []
    for colour in COLOURS:
        for at, thing in enumerate(THINGS):
            query = f"{colour}?{thing}"
            split = "val" if (at + COLOURS.index(colour)) % 5 == 0 else "train"
            queries.append((query, f"{JARGON[colour]} {thing}", split))
            judgements += [(query, f"{colour}-{thing}", 3), (query, f"{colour}-{THINGS[at - 1]}", 0)]
    return Catalogue.from_tables(
        "things",
        products=products,
        queries=pd.DataFrame(queries, columns=["query_id", "query", "split"]),
        judgements=pd.DataFrame(judgements, columns=["query_id", "product_id", "grade"]),
    )


def training_data(catalogue):
    rows = catalogue.judgements.merge(catalogue.queries).merge(catalogue.products[["product_id", "title"]])
    rows = rows.assign(product_text=rows["title"], label=(rows["grade"] >= 2).astype(int), weight=1.0, stage=1)
    pairs = {split: part for split, part in rows.groupby("split")}
    relevant = rows.loc[rows["grade"] > 0, ["query_id", "product_id"]]
    return SimpleNamespace(training_pairs=pairs["train"], val_pairs=pairs["val"], relevant=relevant)


@pytest.fixture(scope="module")
def things():
    catalogue = shop()
    data = training_data(catalogue)
    return catalogue, data, validation_pool(catalogue, data, size=1_000, queries=1_000, seed=0)


SMALL = {"dimension": 16, "batch_size": 8, "epochs": 60, "pairs": 1_000, "learning_rate": 1e-2, "profile": "pocket"}


@pytest.mark.parametrize("kind", ["mean", "gru"])
def test_training_learns_what_shoppers_call_a_colour(things, table, monkeypatch, kind):
    _, data, pool = things
    monkeypatch.setattr(pooled, "load_token_table", lambda: table)
    towers, history = train_towers(kind, PooledConfig(**SMALL), data, pool)
    before = pool.measure(*(lambda texts: untrained_mean(table, texts, 8),) * 2)["nDCG@10"].mean()
    after = pool.measure(towers.embed_queries, towers.embed_products)["nDCG@10"].mean()
    assert history["step"].tolist() == [2 * epoch for epoch in range(1, 61)]
    assert history["loss"].iloc[-5:].mean() < history["loss"].iloc[0] / 2
    assert after == pytest.approx(history["nDCG@10"].max()), "the best epoch is kept"
    assert after > before + 0.1


def test_the_same_seed_gives_the_same_towers_and_another_one_does_not(things, table, monkeypatch):
    _, data, pool = things
    monkeypatch.setattr(pooled, "load_token_table", lambda: table)
    config = SMALL | {"epochs": 2}
    vectors = []
    for seed in (0, 0, 1):
        torch.rand(seed + 3)  # whatever was drawn before does not matter
        towers, _ = train_towers("mean", PooledConfig(**config, seed=seed), data, pool)
        vectors.append(towers.embed_queries(["ruby lamp"]))
    assert (vectors[0] == vectors[1]).all() and not (vectors[0] == vectors[2]).all()


def test_a_loss_that_is_no_number_stops_with_advice(things, table, monkeypatch):
    _, data, pool = things
    monkeypatch.setattr(pooled, "load_token_table", lambda: table)
    config = PooledConfig(**(SMALL | {"learning_rate": float("inf")}))
    with pytest.raises(CourseError, match="lower --learning-rate"):
        train_towers("gru", config, data, pool)


def test_token_weights_name_what_the_tower_listens_to(table):
    towers = PooledTowers(PooledArchitecture(dimension=4), table)
    with torch.no_grad():
        towers.query.log_weight[3], towers.query.log_weight[5] = 2.0, -2.0
    heavy, light = heaviest_tokens(towers, table, "query", count=1)
    assert (heavy, light) == ([WORDS[3]], [WORDS[5]])


@pytest.mark.parametrize("kind", ["mean", "gru"])
def test_saved_towers_come_back_and_damaged_ones_are_refused(table, tmp_path, kind):
    architecture = PooledArchitecture(kind=kind, dimension=4, query_length=2)
    towers = PooledTowers(architecture, table, seed=3)
    towers.save(tmp_path / "towers")
    again = PooledTowers.load(tmp_path / "towers", table)
    texts = ["red lamp mug", "", "desk"]
    assert again.architecture == architecture
    assert (again.embed_queries(texts) == towers.embed_queries(texts)).all()
    assert (again.embed_products(texts) == towers.embed_products(texts)).all()
    assert (towers.embed_queries(texts)[0] == towers.embed_queries(["red lamp"])[0]).all(), "query_length is 2"
    weights = tmp_path / "towers" / "model.safetensors"
    assert weights.stat().st_size < 10_000, "the pretrained table is not saved again"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(CourseError, match="train them again"):
        PooledTowers.load(tmp_path / "towers", table)
    other = PooledTowers(PooledArchitecture(kind=kind, dimension=6), table)
    other.save(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(weights)
    with pytest.raises(CourseError, match="train them again"):
        PooledTowers.load(tmp_path / "towers", table)


@pytest.mark.parametrize(("change", "message"), [({"kind": "lstm"}, "mean, gru"), ({"dimension": 7}, "even number")])
def test_an_impossible_architecture_is_refused(table, change, message):
    with pytest.raises(CourseError, match=message):
        PooledTowers(PooledArchitecture(**change), table)


def test_the_packaged_table_holds_minilms_tokens():
    table = load_token_table()
    assert table.matrix.shape == (30_522, 384) and table.words([table.unknown]) == ["[UNK]"]
    assert table.words(table.tokenise(["Waterproof jackets"], 8)[0]) == ["water", "##proof", "jackets"]
    assert table.tokenise(["", "a b c d"], 2) == [[table.unknown], table.tokenise(["a b"], 9)[0]]
    mean = untrained_mean(table, ["red lamp"], 8)[0]
    own = table.matrix[table.tokenise(["red lamp"], 8)[0]].mean(0).numpy()
    np.testing.assert_allclose(mean, own / np.linalg.norm(own), atol=1e-6)


def test_a_pool_holds_every_graded_product_and_as_many_others_as_asked(things):
    catalogue, data, whole = things
    assert len(whole.product_ids) == 20 and set(whole.queries["query_id"]) == set(data.val_pairs["query_id"])
    small = validation_pool(catalogue, data, size=7, queries=2, seed=0)
    relevant = small.judgements.loc[small.judgements["grade"] > 0, "product_id"]
    assert len(small.queries) == 2 and len(small.product_ids) == 7 and set(relevant) <= set(small.product_ids)
    assert small.product_texts == [text.replace("-", " ") for text in small.product_ids]
    other = validation_pool(catalogue, data, size=7, queries=2, seed=1)
    assert (small.product_ids, small.queries["query_id"].tolist()) != (
        other.product_ids,
        other.queries["query_id"].tolist(),
    )
    with pytest.raises(CourseError, match="no judged query"):
        make_pool(catalogue, whole.queries, whole.judgements.iloc[:0], size=5, queries=5, seed=0)
    with pytest.raises(CourseError, match="no judged query"):
        pooled_data.pool_of_test_queries(catalogue, size=5, queries=5, seed=0)


def test_made_up_queries_are_measured_by_the_product_they_were_made_from(things):
    catalogue, data, _ = things
    made = data.val_pairs.assign(query_id="catalogue-" + data.val_pairs["query_id"])
    pool = validation_pool(catalogue, SimpleNamespace(val_pairs=made), size=99, queries=99, seed=0)
    positives = made[made["label"] == 1]
    assert set(zip(pool.judgements["query_id"], pool.judgements["product_id"], strict=True)) == set(
        zip(positives["query_id"], positives["product_id"], strict=True)
    )
    assert set(pool.judgements["grade"]) == {3}


def test_a_pool_ranks_by_cosine():
    queries = pd.DataFrame({"query_id": ["q"], "query": ["east"]})
    judgements = pd.DataFrame({"query_id": ["q"], "product_id": ["b"], "grade": [3]})
    places = {"east": (1, 0), "north": (0, 1), "north-east": (0.6, 0.8)}
    pool = Pool(queries, ["a", "b", "c"], ["north", "north-east", "east"], judgements)

    def embed(texts):
        return np.array([places[text] for text in texts], dtype=np.float32)

    assert pool.measure(embed, embed)["MRR"].item() == pytest.approx(1 / 2)


class Shoppers:
    """An encoder that knows what shoppers call a colour: stands in for MiniLM, which takes seconds to start."""

    def encode(self, texts, desc=None):
        words = [[word for word in JARGON if word in text or JARGON[word] in text] for text in texts]
        words = [
            [*found, *(thing for thing in THINGS if thing in text)] for found, text in zip(words, texts, strict=True)
        ]
        vectors = np.array([[name in found for name in (*COLOURS, *THINGS)] for found in words], dtype=np.float32)
        return SimpleNamespace(vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_the_step_keeps_towers_and_figures(table, tmp_path, monkeypatch, artifacts_root):
    catalogue = shop().save(tmp_path / "things")
    data = training_data(catalogue)
    run = SimpleNamespace(name="things/prepare_data/1")
    monkeypatch.setattr(pooled, "load_training_data", lambda _: SimpleNamespace(run=run, **vars(data)))
    monkeypatch.setattr(pooled, "load_token_table", lambda: table)
    monkeypatch.setattr(pooled, "load_text_encoder", lambda **_: Shoppers())
    config = PooledConfig(catalogue=str(catalogue.folder), batch_size=8, epochs=2, dimension=8)
    result = pooled.main(config)
    assert list(result.validation) == ["token average, untrained", "mean tower", "GRU tower", "MiniLM, untuned"]
    pool = validation_pool(catalogue, data, size=5_000, queries=500, seed=0)
    for kind, name in pooled.SYSTEMS.items():
        towers = result.towers[kind]
        measured = pool.measure(towers.embed_queries, towers.embed_products)["nDCG@10"]
        best = result.history[result.history["kind"] == kind]["nDCG@10"].max()
        assert measured.mean() == pytest.approx(best) == result.validation[name]["nDCG@10"].mean()
    assert (result.validation["MiniLM, untuned"]["nDCG@10"] == 1).all()
    assert (result.validation["token average, untrained"]["nDCG@10"] < 1).any()
    averages = pooled.means(result.validation)
    assert averages.loc["mean tower", "MRR"] == pytest.approx(result.validation["mean tower"]["MRR"].mean())
    assert pooled.main(config).run.name == result.run.name, "nothing is trained twice"
    with pytest.raises(CourseError, match="no judged query"):
        pooled.test_scores(result, catalogue)
    tested = catalogue.queries.assign(split=catalogue.queries["split"].replace("val", "test"))
    tables = {name: getattr(catalogue, name) for name in ("products", "judgements")}
    scores = pooled.test_scores(result, Catalogue.from_tables("things", queries=tested, **tables))
    assert {name: len(rows) for name, rows in scores.items()} == dict.fromkeys(result.validation, len(pool.queries))
