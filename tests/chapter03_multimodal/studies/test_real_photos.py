"""The step on toy shops in the layout of the real ones: what is trained on, chosen on and measured on; the rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from chapter03_multimodal.categories.head import Head
from chapter03_multimodal.categories.metrics import macro_f1
from chapter03_multimodal.clip import LITE0_MINILM, load_clip, resized
from chapter03_multimodal.encoder import ClipEncoder, load_clip_encoder
from chapter03_multimodal.outfits import cross_validation
from chapter03_multimodal.outfits.compatibility import CompatibilityConfig
from chapter03_multimodal.outfits.cross_validation import cross_validate
from chapter03_multimodal.outfits.embeddings import ItemEmbeddings
from chapter03_multimodal.outfits.metrics import FROZEN, Questions
from chapter03_multimodal.outfits.pair_data import PairData
from chapter03_multimodal.outfits.pairs import ItemFacts, clean_pairs, product_folds
from chapter03_multimodal.prepare_data import load_multimodal_data
from chapter03_multimodal.studies import grocery_photos, real_photos
from chapter03_multimodal.studies.grocery_photos import grocery_pairs, linear_probe, prompt_name
from chapter03_multimodal.studies.real_photos import (
    FEATURES,
    RealPhotosConfig,
    kinds_of_vectors,
    load_real_photos,
    main,
    measure_compatibility,
    model_to_measure,
    name_of,
    train_on,
)
from chapter03_multimodal.studies.real_shop import FINE_TUNED, LIT
from common.artifacts import Artifacts
from common.atomic import write_json
from common.catalogue import Catalogue, load_catalogue
from common.devices import choose_placement
from common.errors import CourseError, MissingArtifact
from common.scoreboard import COLUMNS
from common.training_log import read_log
from tests.chapter03_multimodal.grocery import draw, write_grocery_store

pytestmark = pytest.mark.slow

CLASSES = [
    ("Green-Apple", 0, "Apple", 0, "Fruit/Apple/Green-Apple", (60, 200, 60)),
    ("Pink-Lady", 1, "Apple", 0, "Fruit/Apple/Pink-Lady", (220, 90, 120)),
    ("Leek", 2, "Leek", 1, "Vegetables/Leek", (120, 220, 180)),
    ("Yellow-Onion", 3, "Onion", 2, "Vegetables/Onion/Yellow-Onion", (220, 200, 60)),
]


def photos(split: str, name: str) -> range:
    """Of each class 8 training photos; the first class has no validation photo, the others have two."""
    return range({"train": 8, "val": 2 if name != CLASSES[0][0] else 0, "test": 1}[split])


SIDE = 32


@pytest.fixture(scope="module")
def grocery(tmp_path_factory):
    """What `main` made of the toy shop, its config, artifacts and catalogue."""
    with pytest.MonkeyPatch.context() as patch:
        home = write_grocery_store(tmp_path_factory.mktemp("home"), CLASSES, photos)
        patch.setenv("COURSE_DATA_HOME", str(home))
        patch.setenv("COURSE_ARTIFACTS", str(tmp_path_factory.mktemp("grocery")))
        config = RealPhotosConfig(encoder=LITE0_MINILM, side=SIDE, epochs=2, batch_size=12, held_out=0.3, seed=5)
        result = main(config)
        catalogue = load_catalogue("grocery_store")
        yield result, config, Artifacts.for_catalogue(catalogue), catalogue


def vectors_of(clip, catalogue, names):
    """Return the vectors of photos and of iconic pictures as an encoder computes them."""
    encoder = ClipEncoder(clip, choose_placement("torch"))
    return encoder.encode_images([catalogue.image_path(name) for name in names]).vectors


def test_there_is_a_row_for_each_model_and_figure(grocery):
    result, *_ = grocery
    board = result.board
    assert tuple(board.columns) == COLUMNS
    ranks = ("R@1", "R@5", "R@10", "MRR")
    metrics = [f"{way} to photo {metric}" for way in ("text", "name") for metric in (*ranks, "MAP")]
    metrics += [f"photo to {way} {metric}" for way in ("text", "iconic") for metric in ranks]
    classes = [
        f"{level} {metric} ({way})"
        for level in ("fine", "coarse")
        for way in ("prompts", "linear probe")
        for metric in ("top-1", "top-5", "macro-F1")
    ]
    found = {system: rows["metric"].tolist() for system, rows in board.groupby("system", sort=False)}
    probes = [metric for metric in classes if "probe" in metric]
    assert found == {FEATURES: probes, LITE0_MINILM: metrics + classes, FINE_TUNED: metrics + classes}
    assert board["value"].between(board["ci_low"], board["ci_high"]).all() and board["value"].between(0, 1).all()
    assert {*board["source"]} == {"grocery_store"} and {*board["split"]} == {"val"}


def test_a_class_without_photos_is_no_query_and_still_an_answer(grocery):
    board = grocery[0].board.set_index(["system", "metric"])
    counts = board.loc[LITE0_MINILM, "n_queries"]
    assert counts["text to photo MRR"] == counts["name to photo MRR"] == 3  # of four classes
    assert counts["photo to iconic MRR"] == counts["photo to text MRR"] == counts["fine macro-F1 (prompts)"] == 6


@pytest.mark.parametrize("system", [LITE0_MINILM, FINE_TUNED])
def test_the_figures_are_those_of_plain_loops(grocery, system):
    result, *_, catalogue = grocery
    start = resized(load_clip(LITE0_MINILM), SIDE)
    clip = start if system == LITE0_MINILM else load_clip(result.run.path / "fine_tuned")
    encoder = ClipEncoder(clip, choose_placement("torch"))
    shown = [name for name in catalogue.products["product_id"] if name.startswith("val/")]
    photos = dict(zip(shown, vectors_of(clip, catalogue, shown), strict=True))
    iconic, texts = {}, {}
    for name, *_ in CLASSES:
        iconic[name] = vectors_of(clip, catalogue, [f"iconic/{name}"])[0]
        texts[name] = encoder.encode([f"This {name} is good to eat."]).vectors[0]
    classes = {product_id: product_id.split("/")[1].split("_")[0] for product_id in shown}
    to_iconic = []
    for product_id, photo in photos.items():
        ranking = sorted(iconic, key=lambda name, photo=photo: -float(photo @ iconic[name]))
        to_iconic.append(1 / (1 + ranking.index(classes[product_id])))
    to_photo = []
    for name, text in texts.items():
        ranking = sorted(photos, key=lambda product_id, text=text: -float(photos[product_id] @ text))
        places = [place for place, product_id in enumerate(ranking, start=1) if classes[product_id] == name]
        to_photo += [1 / places[0]] if places else []
    values = result.board.set_index(["system", "metric"])["value"][system]
    assert values["photo to iconic MRR"] == pytest.approx(np.mean(to_iconic))
    assert values["text to photo MRR"] == pytest.approx(np.mean(to_photo))


def test_only_the_projections_were_trained(grocery):
    run = grocery[0].run.path
    log = read_log(run / "fine_tuned.jsonl")
    assert log["epoch"].max() == 2 and log["loss"].notna().any()
    before, after = (clip.model.state_dict() for clip in (load_clip(LITE0_MINILM), load_clip(run / "fine_tuned")))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".")[1] for name in changed - {"logit_scale"}} == {"head", "proj"}


def test_nothing_is_made_twice(grocery, monkeypatch):
    result, config, artifacts, *_ = grocery
    monkeypatch.setattr(real_photos, "train_on", None)
    assert main(config).run.name == result.run.name == load_real_photos(artifacts).run.name


@pytest.mark.parametrize(("trained", "folder"), [("projections", "model"), ("last_blocks", "best")])
def test_a_training_that_was_finished_before_a_kill_is_kept(trained, folder, tmp_path, monkeypatch):
    write_json(tmp_path / "best.json", {})
    monkeypatch.setattr(real_photos, "align", None)
    monkeypatch.setattr(real_photos, "fine_tune", None)
    assert train_on(RealPhotosConfig(trained=trained), None, None, tmp_path, tmp_path) == tmp_path / folder


def test_a_trained_tower_is_measured_with_what_it_sees_itself(grocery, monkeypatch):
    _, config, _, catalogue = grocery
    measured = {}
    measure = real_photos.measure_classes

    def kept(encoder, data, vectors, seed):
        measured[len(measured)] = data.pairs, vectors
        return measure(encoder, data, vectors, seed)

    monkeypatch.setattr(real_photos, "measure_classes", kept)
    run = main(replace(config, trained="last_blocks", epochs=1, learning_rate=1e-2)).run
    pairs, vectors = measured[1]
    tuned = load_clip(run.path / "fine_tuned")
    expected = vectors_of(tuned, catalogue, pairs["product_id"].tolist())
    np.testing.assert_allclose((vectors * expected).sum(axis=1), 1, atol=1e-3)
    assert not np.allclose(vectors, measured[0][1], atol=1e-2)


def test_choices_are_made_on_training_photos(grocery):
    result, config, artifacts, catalogue = grocery
    data = load_multimodal_data(artifacts, catalogue)
    pairs = grocery_pairs(data, config.held_out, config.seed)
    pd.testing.assert_frame_equal(pairs, pd.read_parquet(result.run.path / "pairs.parquet"), check_dtype=False)
    kind = pairs["product_id"].str.split("/").str[0]
    assert pairs.loc[pairs["iconic"], "split"].eq("train").all() and pairs["iconic"].equals(kind == "iconic")
    assert pairs["iconic"].sum() == len(CLASSES)
    assert pairs.loc[kind == "val", "split"].eq("test").all() and pairs.loc[kind != "val", "split"].ne("test").all()
    assert not (kind == "test").any() and (data.pairs["split"] == "test").any()
    drawn = pairs.loc[kind == "train", "split"]
    assert {*drawn} == {"train", "val"} and 0.1 < (drawn == "val").mean() < 0.5
    assert not grocery_pairs(data, config.held_out, config.seed + 1)["split"].equals(pairs["split"])
    texts = pairs.set_index("product_id")["text"]
    assert texts["train/Pink-Lady_train_0"] == "Pink Lady. Fruit, Apple"
    assert not texts.str.contains("good to eat").any()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Fruit > Apple > Pink Lady", "pink lady apple"),
        ("Fruit > Melon > Watermelon", "watermelon"),
        ("Fruit > Lime", "lime"),
        ("Fruit > Apple", "apple"),
    ],
)
def test_a_fine_class_is_spoken_with_its_coarse_one(path, name):
    assert prompt_name(path) == name


def test_the_aligned_model_is_that_of_the_real_shop(tmp_path, artifacts_root, monkeypatch):
    products = pd.DataFrame({"product_id": ["p1"], "title": ["mug"]})
    shop = Catalogue.from_tables("fashion_products", products=products, folder=tmp_path).save(tmp_path / "saved")
    asked = []
    monkeypatch.setattr(real_photos, "load_catalogue", lambda name, profile: asked.append(name) or shop)
    config = RealPhotosConfig(encoder="aligned")
    with pytest.raises(MissingArtifact, match="no align yet for catalogue fashion_products"):
        model_to_measure(config)
    with Artifacts.for_catalogue(shop).new_run("chapter03_multimodal", "align", config={}) as run:
        (run / "model").mkdir()
    assert model_to_measure(config) == str(
        Artifacts.for_catalogue(shop).current("chapter03_multimodal", "align").path / "model"
    )
    assert asked == ["fashion_products"] * 2
    assert name_of(config) == LIT
    assert model_to_measure(RealPhotosConfig(encoder="runs/best")) == "runs/best"
    assert name_of(RealPhotosConfig(encoder="runs/best")) == "best"


def test_a_probe_tells_clusters_apart():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 100)
    vectors = (np.eye(4)[labels] + 0.1 * rng.normal(size=(400, 4))).astype(np.float32)
    probe = linear_probe(vectors[::2], labels[::2], vectors[1::2], labels[1::2])
    assert macro_f1(labels, probe.probabilities(vectors).argmax(axis=1)) > 0.98


def test_the_weight_decay_of_a_probe_is_chosen_on_held_out_pictures(monkeypatch):
    tried = {}

    def fit(vectors, labels, held_vectors, held_labels, *, fitting, seed):
        assert len(vectors) == 6 and len(held_vectors) == 4
        head = Head("linear", 2, 2)
        with torch.no_grad():  # only that of decay 1.0 is right
            head.layers.weight.copy_(torch.eye(2) if fitting.weight_decay == 1.0 else -torch.eye(2))
            head.layers.bias.zero_()
        return tried.setdefault(fitting.weight_decay, head)

    monkeypatch.setattr(grocery_photos, "fit", fit)
    labels, held = np.array([0, 1] * 3), np.array([0, 1] * 2)
    vectors = np.eye(2, dtype=np.float32)
    chosen = linear_probe(vectors[labels], labels, vectors[held], held)
    assert len(tried) == 3 and chosen is tried[1.0]


def test_other_shops_are_refused(tmp_path):
    draw(tmp_path / "p1.png", (0, 0, 0), 0)
    products = pd.DataFrame({"product_id": ["p1"], "title": ["mug"]})
    images = pd.DataFrame({"product_id": ["p1"], "path": ["p1.png"]})
    toy = Catalogue.from_tables("toy", products=products, images=images, folder=tmp_path).save(tmp_path / "saved")
    with pytest.raises(CourseError, match="toy is none of grocery_store, luma"):
        main(RealPhotosConfig(catalogue=str(toy.folder)))


def opposites() -> PairData:
    """40 products in lists of recommendations; what goes together looks different: one is odd, the other even."""
    items = [f"i{n:02d}" for n in range(40)]
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    vectors[:, 0] = np.where(np.arange(40) % 2, 3, -3)
    embeddings = ItemEmbeddings(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), items, "toy", pd.DataFrame())
    rows = [(items[a], items[b], f"related/{items[a]}") for a in range(0, 40, 2) for b in range(1, 40, 2)]
    table = pd.DataFrame(rows, columns=["a_id", "b_id", "outfit_id"])
    return PairData(embeddings, clean_pairs(table, items, {}), ItemFacts(dict.fromkeys(items, "A"), {}), {})


SMALL = CompatibilityConfig(hidden=32, out_dim=16, epochs=6, batch_size=64, dropout=0.0, learning_rate=5e-3)


def test_a_head_learns_what_cosines_get_wrong():
    data = opposites()
    found = measure_compatibility(data, SMALL)
    assert list(found) == ["frozen encoder", "head"]
    for table in found.values():
        assert table["metric"].tolist() == ["AUC", "AUC, one or both unseen", "FITB"]
        assert table["value"].between(table["ci_low"], table["ci_high"]).all()
    frozen, head = (table.set_index("metric")["value"] for table in found.values())
    assert (frozen < 0.2).all() and (head > 0.9).all()


def test_blanks_are_filled_by_the_heads_of_the_cross_validation_that_never_saw_the_products(monkeypatch):
    data, asked, known = opposites(), [], []
    train, draw_questions = cross_validation.train_head, cross_validation.draw_questions

    def trained(embeddings, pairs, *rest):
        known.append({*pairs["a_id"], *pairs["b_id"]})
        return train(embeddings, pairs, *rest)

    def drawn(*arguments, **options):
        asked.append(draw_questions(*arguments, **options).table)
        return Questions(asked[-1], 0)

    monkeypatch.setattr(cross_validation, "train_head", trained)
    monkeypatch.setattr(cross_validation, "draw_questions", drawn)
    answers = cross_validate(data, replace(SMALL, epochs=1), folds=4).answers
    fold_of = product_folds(data.embeddings.ids, data.facts, 4, SMALL.seed)
    assert len(asked) == len(known) == 4 and sum(len(table) > 0 for table in asked) > 1
    for fold, (table, seen) in enumerate(zip(asked, known, strict=True)):
        named = {item for column in ("context", "choices") for items in table[column] for item in items}
        assert {fold_of[item] for item in named} <= {fold} and not named & seen
    assert len(answers) == sum(map(len, asked))
    assert answers[[FROZEN, "head"]].isin([0, 1 / 4, 1 / 3, 1 / 2, 1]).all(axis=None)


def test_too_few_products_of_a_fold_to_ask_about_are_an_error(monkeypatch):
    monkeypatch.setattr(cross_validation, "draw_questions", lambda *_, **__: Questions(pd.DataFrame(), 0))
    with pytest.raises(CourseError, match="use fewer folds"):
        measure_compatibility(opposites(), replace(SMALL, epochs=1), folds=2)


def test_the_cosine_of_both_is_the_mean_of_the_cosines(tiny_clip):
    encoder, items = load_clip_encoder(str(tiny_clip)), ["a", "b", "c"]
    drawn = np.random.default_rng(0).normal(size=(3, encoder.dimension)).astype(np.float32)
    pictures = ItemEmbeddings(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), items, "toy", pd.DataFrame())
    kinds = kinds_of_vectors(pictures, {"b": "red mug", "a": "blue chair", "c": "lamp"}, encoder)
    texts = encoder.encode(["blue chair", "red mug", "lamp"]).vectors
    np.testing.assert_allclose(kinds["texts"].vectors, texts, atol=1e-6)
    assert kinds["pictures"] is pictures and all(kind.ids == items for kind in kinds.values())
    mean = (texts @ texts.T + pictures.vectors @ pictures.vectors.T) / 2
    np.testing.assert_allclose(kinds["both"].vectors @ kinds["both"].vectors.T, mean, atol=1e-6)


def test_luma_has_rows_of_both_systems_on_each_kind_of_vectors(tmp_path, tiny_clip, artifacts_root, monkeypatch):
    items = [f"p{n:02d}" for n in range(40)]
    for number, item in enumerate(items):
        draw(tmp_path / f"{item}.png", (40, 90, 200) if number % 2 else (200, 90, 40), number)
    products = pd.DataFrame({"product_id": items, "title": items, "category_path": "Men > Tops"})
    images = pd.DataFrame({"product_id": items, "path": [f"{item}.png" for item in items]})
    rows = [(items[a], items[b], 1, f"related/{items[a]}") for a in range(0, 40, 2) for b in range(1, 40, 2)]
    pairs = pd.DataFrame(rows, columns=["a_id", "b_id", "label", "outfit_id"])
    shop = Catalogue.from_tables("luma", products=products, images=images, pairs=pairs, folder=tmp_path)
    folder = shop.save(tmp_path / "saved").folder
    small = replace(SMALL, epochs=2)
    monkeypatch.setattr(real_photos, "CompatibilityConfig", lambda **facts: replace(small, **facts))
    result = main(RealPhotosConfig(catalogue=str(folder), encoder=str(tiny_clip)))
    assert tuple(result.board.columns) == COLUMNS
    systems = [
        f"{tiny_clip.name}, {system} on {kind}" for kind in ("pictures", "texts", "both") for system in (FROZEN, "head")
    ]
    assert result.board["system"].tolist() == [system for system in systems for _ in range(3)]
    assert {*result.board["source"]} == {"luma"} and {*result.board["split"]} == {"cross-validated"}
    monkeypatch.setattr(real_photos, "measure_compatibility", None)
    again = main(RealPhotosConfig(catalogue=str(folder), encoder=str(tiny_clip)))
    assert again.run.name == result.run.name
