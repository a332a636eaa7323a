"""The step on toy shops in the layout of the real ones: what is trained on, chosen on and measured on; the rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from chapter03_multimodal.categories.head import Head
from chapter03_multimodal.categories.metrics import macro_f1
from chapter03_multimodal.clip import load_clip, save_clip
from chapter03_multimodal.encoder import load_clip_encoder
from chapter03_multimodal.outfits import cross_validation
from chapter03_multimodal.outfits.compatibility import CompatibilityConfig
from chapter03_multimodal.outfits.cross_validation import cross_validate
from chapter03_multimodal.outfits.embeddings import ItemEmbeddings
from chapter03_multimodal.outfits.metrics import FROZEN, Questions
from chapter03_multimodal.outfits.pair_data import PairData
from chapter03_multimodal.outfits.pairs import ItemFacts, clean_pairs, product_folds
from chapter03_multimodal.prepare_data import load_multimodal_data
from chapter03_multimodal.retrieval import FINE_TUNED, ZERO_SHOT
from chapter03_multimodal.studies import grocery_photos, real_photos
from chapter03_multimodal.studies.grocery_photos import grocery_pairs, linear_probe, prompt_name
from chapter03_multimodal.studies.real_photos import (
    SCRATCH,
    RealPhotosConfig,
    load_real_photos,
    main,
    measure_compatibility,
    training_config,
    with_random_weights,
)
from common.artifacts import Artifacts
from common.atomic import write_json
from common.catalogue import Catalogue, load_catalogue
from common.errors import CourseError
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


@pytest.fixture(scope="module")
def grocery(tmp_path_factory, tiny_clip):
    """What `main` made of the toy shop, its config, artifacts and catalogue."""
    with pytest.MonkeyPatch.context() as patch:
        home = write_grocery_store(tmp_path_factory.mktemp("home"), CLASSES, photos)
        patch.setenv("COURSE_DATA_HOME", str(home))
        patch.setenv("COURSE_ARTIFACTS", str(tmp_path_factory.mktemp("grocery")))
        config = RealPhotosConfig(encoder=str(tiny_clip), epochs=2, batch_size=12, held_out=0.3, seed=5)
        result = main(config)
        catalogue = load_catalogue("grocery_store")
        yield result, config, Artifacts.for_catalogue(catalogue), catalogue


def test_there_is_a_row_for_each_model_and_figure(grocery):
    result, *_ = grocery
    board = result.board
    assert tuple(board.columns) == COLUMNS
    ranks = ("R@1", "R@5", "R@10", "MRR")
    metrics = [f"{way} to photo {metric}" for way in ("text", "name") for metric in (*ranks, "MAP")]
    metrics += [f"photo to {way} {metric}" for way in ("text", "iconic") for metric in ranks]
    metrics += [
        f"{level} {metric} ({way})"
        for level in ("fine", "coarse")
        for way in ("prompts", "linear probe")
        for metric in ("top-1", "top-5", "macro-F1")
    ]
    for system in (SCRATCH, ZERO_SHOT, FINE_TUNED):
        assert board.loc[board["system"] == system, "metric"].tolist() == metrics
    assert len(board) == 3 * len(metrics)
    assert board["value"].between(board["ci_low"], board["ci_high"]).all() and board["value"].between(0, 1).all()
    assert {*board["source"]} == {"grocery_store"} and {*board["split"]} == {"val"}


def test_a_class_without_photos_is_no_query_and_still_an_answer(grocery):
    board = grocery[0].board.set_index(["system", "metric"])
    counts = board.loc[ZERO_SHOT, "n_queries"]
    assert counts["text to photo MRR"] == counts["name to photo MRR"] == 3  # of four classes
    assert counts["photo to iconic MRR"] == counts["photo to text MRR"] == counts["fine macro-F1 (prompts)"] == 6


def test_the_figures_are_those_of_plain_loops(grocery):
    result, config, _, catalogue = grocery
    encoder = load_clip_encoder(config.encoder)
    shown = [name for name in catalogue.products["product_id"] if name.startswith("val/")]
    files = [catalogue.image_path(name) for name in shown]
    photos = dict(zip(shown, encoder.encode_images(files).vectors, strict=True))
    iconic, texts = {}, {}
    for name, *_ in CLASSES:
        iconic[name] = encoder.encode_images([catalogue.image_path(f"iconic/{name}")]).vectors[0]
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
    values = result.board.set_index(["system", "metric"])["value"][ZERO_SHOT]
    assert values["photo to iconic MRR"] == pytest.approx(np.mean(to_iconic))
    assert values["text to photo MRR"] == pytest.approx(np.mean(to_photo))


def test_two_models_were_trained_and_the_start_was_not(grocery, tiny_clip):
    run = grocery[0].run.path
    logs = {name: read_log(run / f"{name}.jsonl") for name in ("from_scratch", "fine_tuned")}
    for log in logs.values():
        assert log["epoch"].max() == 2 and log["loss"].notna().any()
    digests = {load_clip(folder).digest for folder in (tiny_clip, run / "from_scratch", run / "fine_tuned")}
    assert len(digests) == 3
    assert load_clip(run / "from_scratch").config == load_clip(tiny_clip).config


def test_nothing_is_made_twice(grocery, monkeypatch):
    result, config, artifacts, *_ = grocery
    monkeypatch.setattr(real_photos, "fine_tune", None)
    assert main(config).run.name == result.run.name == load_real_photos(artifacts).run.name


def test_a_training_that_was_finished_before_a_kill_is_kept(grocery, monkeypatch):
    _, config, artifacts, *_ = grocery
    done = []

    def fine_tune(config, work, clip, data):
        done.append(work.name)
        if done == ["from_scratch", "fine_tuned"]:
            raise KeyboardInterrupt
        save_clip(clip, work / "best")
        (work / "log.jsonl").write_text("")
        write_json(work / "best.json", {})

    monkeypatch.setattr(real_photos, "fine_tune", fine_tune)
    config = replace(config, seed=1)
    with pytest.raises(KeyboardInterrupt):
        main(config)
    result = main(config)
    assert done == ["from_scratch", "fine_tuned", "fine_tuned"]
    assert not list((artifacts.folder / "chapter03_multimodal" / "unfinished").iterdir())
    # Untrained, "fine-tuned" is the start.
    values = result.board.set_index(["system", "metric"])["value"]
    pd.testing.assert_series_equal(values[FINE_TUNED], values[ZERO_SHOT])


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


def test_new_weights_are_other_weights_of_the_same_model(tiny_clip, tmp_path):
    start = load_clip(tiny_clip)
    before = torch.random.get_rng_state()
    fresh = [with_random_weights(start, tmp_path / f"{n}", seed) for n, seed in enumerate((1, 1, 2))]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert fresh[0].digest == fresh[1].digest != fresh[2].digest
    assert all(clip.config == start.config and clip.digest != start.digest for clip in fresh)


def test_both_models_are_trained_alike_but_for_the_rate(tiny_clip):
    config = RealPhotosConfig(encoder=str(tiny_clip))
    scratch, tuned = (training_config(config, system) for system in (SCRATCH, FINE_TUNED))
    assert scratch.learning_rate == config.scratch_rate and tuned.learning_rate == config.fine_tuning_rate
    assert replace(scratch, learning_rate=tuned.learning_rate) == tuned


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
    assert list(found) == ["compatibility, frozen encoder", "compatibility, head"]
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


def test_luma_has_rows_of_both_systems(tmp_path, tiny_clip, artifacts_root, monkeypatch):
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
    assert result.board.groupby("system").size().to_dict() == {
        "compatibility, frozen encoder": 3,
        "compatibility, head": 3,
    }
    assert {*result.board["source"]} == {"luma"} and {*result.board["split"]} == {"cross-validated"}
    monkeypatch.setattr(real_photos, "measure_compatibility", None)
    again = main(RealPhotosConfig(catalogue=str(folder), encoder=str(tiny_clip)))
    assert again.run.name == result.run.name
