"""The types of a real shop on toy vectors: the label, the nearest photos, the choice, and what the tables say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from chapter03_multimodal import prepare_data
from chapter03_multimodal.categories import head
from chapter03_multimodal.categories.examples import Examples
from chapter03_multimodal.categories.head import HeadTraining, Trial
from chapter03_multimodal.categories.long_tail import ADJUSTED, EFFECTIVE, INVERSE, PLAIN, Technique
from chapter03_multimodal.categories.metrics import compare_over_draws, macro_f1
from chapter03_multimodal.studies import real_types
from chapter03_multimodal.studies.real_types import (
    CLASSIFIERS,
    RealTypesConfig,
    choose_three,
    load_real_types,
    main,
    measure,
    nearest_photos,
    scores,
    type_examples,
)
from common.artifacts import Artifacts
from common.catalogue import load_catalogue
from common.errors import CourseError
from common.scoreboard import COLUMNS
from tests.common.catalogue.toy_fashion import write_fashion

CONFIG = RealTypesConfig(
    techniques=(INVERSE, ADJUSTED), weight_decays=(0.3, 1.0), fitting=HeadTraining(epochs=3, batch_size=16)
)


def examples(seed: int = 0) -> Examples:
    """Noisy vectors of five types, the first with ten times the photos of the fourth; training lacks the fifth."""
    rng, sizes = np.random.default_rng(seed), np.array([40, 20, 10, 4])
    labels = np.concatenate([np.repeat(np.arange(4), sizes), np.tile(np.arange(4), 24), [4, 4]])
    splits = ["train"] * sizes.sum() + ["val"] * 48 + ["test"] * 50
    middles = np.random.default_rng(9).normal(size=(5, 6))
    vectors = (middles[labels] + 1.5 * rng.normal(size=(len(labels), 6))).astype(np.float32)
    table = pd.DataFrame({"label": labels, "split": splits, "category_path": np.array(list("abcde"))[labels]})
    return Examples(table, vectors, list("abcd"), {})


GROUPS = np.repeat(np.arange(25), 2).astype(str)


# the nearest photos


@pytest.mark.parametrize("block", [1, 3, 512])
def test_the_nearest_photo_of_each_class_is_found(block, monkeypatch):
    monkeypatch.setattr(real_types, "BLOCK", block)
    rng = np.random.default_rng(0)
    ours, theirs, labels = rng.normal(size=(7, 5)), rng.normal(size=(20, 5)), rng.permutation(np.arange(20) % 4)
    found = nearest_photos(ours, (theirs, labels))
    for row, one in enumerate(ours):
        for kind in range(4):
            cosines = [one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in theirs[labels == kind]]
            assert found[row, kind] == pytest.approx(max(cosines))


def test_a_photo_is_nearest_to_itself_and_an_empty_one_to_none():
    vectors = np.array([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    near = nearest_photos(vectors, (vectors[:2], np.array([0, 1])))
    assert near.tolist() == [[1, 0], [0, 1], [0, 0]]


def test_a_weight_moves_the_prediction_and_no_weight_leaves_it():
    sure = SimpleNamespace(probabilities=lambda _: np.array([[0.9, 0.1, 0.0]], dtype=np.float32))
    trial, near = Trial(sure, Technique(), {}), np.array([[0.2, 0.8, 0.9]])
    plain, mixed = (scores(trial, np.zeros((1, 2)), near, weight)[0] for weight in (0.0, 10.0))
    np.testing.assert_allclose(np.exp(plain), [0.9, 0.1, 0.0], atol=1e-6)
    assert plain.argmax() == 0 and mixed.argmax() == 1
    assert mixed[1] == pytest.approx(np.log(0.1) + 8)


# the choice


def trial(technique: str, macro: float, top: float, value: float | None = None) -> Trial:
    return Trial(SimpleNamespace(), Technique(technique, value), {"macro-F1": macro, "top-1": top})


def test_plain_is_the_best_without_neighbours_and_the_others_lose_little_against_it():
    trials = [
        trial(PLAIN, 0.50, 0.70),
        trial(PLAIN, 0.90, 0.90),  # with neighbours
        trial(PLAIN, 0.52, 0.68),
        trial(INVERSE, 0.60, 0.65),
        trial(ADJUSTED, 0.57, 0.66, 1.0),
        trial(INVERSE, 0.95, 0.60),  # with neighbours, and loses too much
    ]
    weights = [0, 8, 0, 0, 0, 8]
    assert choose_three(trials, weights, 0.02) == {"plain": 2, "technique": 4, "chosen": 1}
    assert choose_three(trials, weights, 0.03) == {"plain": 2, "technique": 3, "chosen": 1}
    assert choose_three(trials, weights, 0.08) == {"plain": 2, "technique": 3, "chosen": 5}
    assert choose_three(trials[:1] + trials[5:], [0, 8], 0.02) == {"plain": 0, "technique": 0, "chosen": 0}


def test_every_technique_has_the_same_grid(monkeypatch):
    tried, fit = [], head.fit

    def spy(vectors, labels, val_vectors, val_labels, technique, kind, fitting, seed):
        tried.append((technique, kind, fitting.weight_decay))
        return fit(vectors, labels, val_vectors, val_labels, technique, kind, fitting, seed)

    monkeypatch.setattr(head, "fit", spy)
    config = replace(CONFIG, techniques=RealTypesConfig().techniques, heads=("linear", "mlp"))
    found = measure(examples(), GROUPS, config)["validation"]
    assert len({*tried}) == len(tried) == 13 * 2 * 2 and {*Counter(one for one, *_ in tried).values()} == {4}
    assert {one.value for one, *_ in tried if one.name == EFFECTIVE} == {0.9, 0.99, 0.999}
    assert len(found) == 4 * len(tried)
    assert not found.duplicated(["technique", "value", "head", "weight_decay", "weight"]).any()


def test_labels_of_test_decide_nothing():
    shop, other = examples(), examples()
    test = other.table["split"] == "test"
    other.table.loc[test, "label"] = np.random.default_rng(1).permutation(other.table.loc[test, "label"])
    one, two = (measure(which, GROUPS, CONFIG) for which in (shop, other))
    pd.testing.assert_frame_equal(one["validation"], two["validation"])
    assert not one["figures"].equals(two["figures"])


# the tables


def test_the_tables_say_the_same_as_counting():
    shop = examples()
    tables = measure(shop, GROUPS, CONFIG)
    found, labels = tables["per_class"].set_index("type"), shop.of_split("test")[1]
    assert found["train"].tolist() == [40, 20, 10, 4, 0] and found["n"].tolist() == [12, 12, 12, 12, 2]
    assert found["bucket"].tolist() == ["head", "middle", "tail", "tail", "absent"]
    assert (found.loc["e", [*CLASSIFIERS]] == 0).all()
    figures = tables["figures"].set_index(["classifier", "metric"])
    for name in ("technique", "chosen"):
        row = figures.loc[(name, "macro-F1")]
        assert row["chosen"] == pytest.approx(found[name].mean())
        assert row["plain"] == pytest.approx(found["plain"].mean())
    buckets = tables["buckets"].set_index(["classifier", "bucket"])
    assert buckets.loc[("chosen", "tail"), "macro-F1"] == pytest.approx(found.loc[["c", "d"], "chosen"].mean())
    assert buckets["classes"].tolist() == [1, 1, 2] * 3
    wrong = tables["confusions"]
    assert wrong["n"].is_monotonic_decreasing and (wrong["type"] != wrong["predicted"]).all()
    assert 1 - wrong["n"].sum() / len(labels) == pytest.approx(figures.loc[("chosen", "top-1"), "chosen"])
    assert wrong.loc[wrong["type"] == "e", "share"].sum() == pytest.approx(1)


def test_groups_are_drawn_whole():
    rng = np.random.default_rng(0)
    labels, plain, chosen = rng.integers(0, 4, (3, 40))
    groups = np.array([f"g{number:02}" for number in rng.integers(0, 12, 40)])
    row = compare_over_draws(labels, plain[None], chosen[None], groups=groups, seed=5, rounds=60).iloc[0]
    names, gains = sorted({*groups}), []
    for drawn in np.random.default_rng(5).integers(0, len(names), (60, len(names))):
        rows = [at for number in drawn for at in range(40) if groups[at] == names[number]]
        gains.append(macro_f1(labels[rows], chosen[rows]) - macro_f1(labels[rows], plain[rows]))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(np.quantile(gains, [0.025, 0.975])))
    alone = compare_over_draws(labels, plain[None], chosen[None], groups=np.arange(40), seed=5, rounds=60)
    pd.testing.assert_frame_equal(alone, compare_over_draws(labels, plain[None], chosen[None], seed=5, rounds=60))


# the label


def test_a_type_is_one_class_wherever_it_is_filed(monkeypatch):
    rows = [("a", "Apparel > Topwear > Belts", "train"), ("b", "Accessories > Belts > Belts", "train")]
    rows += [("c", "Footwear > Shoes > Heels", "train"), ("d", "Footwear > Shoes > Heels", "val")]
    rows += [("e", "Accessories > Bags > Rucksacks", "test"), ("f", None, "test"), ("g", rows[0][1], "test")]
    pairs = pd.DataFrame(rows, columns=["product_id", "category_path", "split"])
    pairs = pairs.assign(path=pairs["product_id"] + ".jpg", group_id="group " + pairs["product_id"])
    data = SimpleNamespace(pairs=pairs, catalogue=SimpleNamespace(folder="photos"))

    def features(clip, paths, cache):
        return np.arange(2 * len(paths), dtype=np.float32).reshape(-1, 2), np.array([p.stem != "d" for p in paths])

    monkeypatch.setattr(real_types, "picture_features", features)
    found, groups = type_examples(data, None, None)
    assert found.classes == ["Belts", "Heels"] and found.names() == ["Belts", "Heels", "Rucksacks"]
    assert found.table["product_id"].tolist() == list("abceg") and found.table["label"].tolist() == [0, 0, 1, 2, 0]
    assert found.vectors[:, 0].tolist() == [0, 2, 4, 8, 10] and found.left_out == {
        "no category": 1,
        "unusable picture": 1,
    }
    assert groups.tolist() == ["group e", "group g"]


# the step


def test_from_the_files_to_the_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path / "home"))
    write_fashion(tmp_path / "home" / "fashion-products", "zip")
    source = str(load_catalogue("fashion_products", queries=20).folder)
    prepare_data.main(prepare_data.PrepareDataConfig(catalogue=source, profile="smoke", text="title"))

    def features(clip, paths, cache):
        return np.random.default_rng(0).normal(size=(len(paths), 4)).astype(np.float32), np.ones(len(paths), dtype=bool)

    monkeypatch.setattr(real_types, "picture_features", features)
    monkeypatch.setattr(real_types, "load_clip", lambda name: SimpleNamespace(digest=name))
    config = replace(CONFIG, catalogue=source, profile="smoke")
    result = main(config)
    board = result.board
    assert tuple(board.columns) == COLUMNS and not board.duplicated(["system", "metric"]).any()
    assert {*board["system"]} == {*CLASSIFIERS.values()} and {*board["split"]} == {"test"}
    values = board.set_index(["system", "metric"])["value"]
    for metric in ("macro-F1", "top-1"):
        gain = values[CLASSIFIERS["chosen"], f"type {metric}"] - values[CLASSIFIERS["plain"], f"type {metric}"]
        assert values[CLASSIFIERS["chosen"], f"gain in type {metric}"] == pytest.approx(gain)
    monkeypatch.setattr(real_types, "measure", None)
    artifacts = Artifacts.for_catalogue(load_catalogue(source), "smoke")
    assert main(config).run.name == result.run.name == load_real_types(artifacts).run.name


def test_the_head_alone_is_always_tried():
    with pytest.raises(CourseError, match="must contain 0"):
        main(replace(CONFIG, weights=(8.0,)))
